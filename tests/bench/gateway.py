"""What a decision costs: latency and CPU of a request through the real Envoy, and who spends it.

Every case of a section runs at the same time as the others, idle, and is measured in turn, forwards and then backwards:
a neighbour who comes or goes meanwhile hits all of them alike. Look at the ratios.

A point counts only if the books are right: the ledger must get what Envoy let in, no unit more, and no unit less than
was answered. CPU is that of the processes until everything they were asked for is in the ledger.

    python -m bench.gateway          = python -m bench --only transports
"""

import functools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from bench import cases
from bench.cases import Farebox, Gateway, wait_for
from bench.cpu import cpu_s
from bench.figures import Figure, Row, merged
from bench.load import Ask, put_load
from bench.table import show_row
from faults.load import Load, Question

WARM_UP_CONNECTIONS = 16
STRANGERS_A_SECOND = 25_000  # more than are asked for
FIRST_CONNECTIONS = 8  # more would wait for the portal longer than Envoy waits


@dataclass(frozen=True)
class Plan:
    """How long and how much."""

    seconds: int = 3  # of one pass over one point
    passes: int = 2
    warm_up_s: int = 2
    connections: tuple[int, ...] = (1, 16, 64, 256)
    transports: tuple[str, ...] = ("grpcio", "h2")
    accounts: int = 10_000
    keys: int = 100_000
    lone_accounts: int = 2_000  # with a single key; 0: their memory is not measured
    starts: int = 3


@dataclass(frozen=True)
class Case:
    name: str
    gateway: Gateway
    ask: Callable[[], Ask]


def transports(plan: Plan) -> tuple[tuple[Row, ...], tuple[Figure, ...]]:
    """Envoy alone; each transport with a plugin that decides nothing; Farebox on each."""
    with ExitStack() as stack:
        found = [Case("Envoy alone", stack.enter_context(cases.alone()), lambda: Ask("/healthz"))]
        for transport in plan.transports:
            nothing = stack.enter_context(cases.noop(transport))
            found.append(Case(f"{transport}, decides nothing", nothing, lambda: cases.ask(cases.COUNT, ("any",))))
        for transport in plan.transports:
            whole = stack.enter_context(cases.farebox(transport))
            found.append(Case(f"Farebox on {transport}", whole, _by_the_buyer(whole, cases.COUNT)))
        return in_turn("transports", found, plan.connections, plan), ()


def routes(plan: Plan) -> tuple[tuple[Row, ...], tuple[Figure, ...]]:
    """What is metered, who asks, and who is refused; at 64 connections, on h2."""
    with ExitStack() as stack:
        one = stack.enter_context(cases.farebox())
        two = stack.enter_context(cases.farebox(workers=2))
        crowded = stack.enter_context(cases.farebox())
        keys = crowded.many(plan.accounts)
        first = first_requests(crowded, keys)
        spent = used_up(one)
        found = [
            Case("count", one, _by_the_buyer(one, cases.COUNT)),
            Case("count, 2 workers", two, _by_the_buyer(two, cases.COUNT)),
            Case(f"count, {plan.accounts} accounts", crowded, lambda: cases.ask(cases.COUNT, keys)),
            Case("bytes", one, _by_the_buyer(one, cases.BYTES)),
            Case("tokens, JSON", one, _by_the_buyer(one, cases.CHAT_JSON)),
            Case("tokens, SSE in one piece", one, _by_the_buyer(one, cases.CHAT_SSE)),
            Case("tokens, SSE in pieces", one, _by_the_buyer(one, cases.CHAT_PIECES)),
            Case("tokens, SSE with cut-off", one, _by_the_buyer(one, cases.CHAT_GUARDED)),
            Case("refused: quota used up", one, lambda: cases.refused((spent,), 403)),
            Case("refused: one unknown key", one, lambda: cases.refused(cases.strangers(1), 401)),
            Case(
                "refused: ever new unknown keys",
                one,
                lambda: cases.refused(cases.strangers(STRANGERS_A_SECOND * plan.seconds), 401),
            ),
        ]
        rows = in_turn("routes", found, (64,), plan)
    return rows, first


def first_requests(gateway: Farebox, keys: Sequence[str]) -> tuple[Figure, ...]:
    """What it takes until new accounts are known: the plugin asks the portal for each one's usage so far."""
    parts = {"plugin": gateway.plugin, "portal": gateway.portal}
    before = {name: cpu_s(pid) for name, pid in parts.items()}
    seconds = ask_once(gateway, keys)
    spent = [(name, (cpu_s(pid) - before[name]) * 1e3 / len(keys)) for name, pid in parts.items()]
    what = f"first request of each of {len(keys)} accounts"
    return (
        Figure("routes", what, len(keys) / seconds, "a second"),
        *(Figure("routes", f"{what}, CPU of the {name}", cpu_ms, "ms") for name, cpu_ms in spent),
    )


def in_turn(section: str, found: Sequence[Case], connections: Iterable[int], plan: Plan) -> tuple[Row, ...]:
    """Every case at every number of connections, each pass in the opposite order of the one before."""
    for case in found:
        put_load(case.gateway.envoy.url, case.ask(), WARM_UP_CONNECTIONS, plan.warm_up_s)
    for gateway in {id(case.gateway): case.gateway for case in found}.values():
        if isinstance(gateway, Farebox):
            gateway.rest()
    rows: list[Row] = []
    for count in connections:
        for number in range(plan.passes):
            for case in found if number % 2 == 0 else reversed(found):
                rows.append(measure(section, case, count, plan.seconds))
                show_row(rows[-1])
    return merged(rows)


def measure(section: str, case: Case, connections: int, seconds: int) -> Row:
    """Load, then wait until the ledger has it all."""
    gateway, ask = case.gateway, case.ask()
    pids = (gateway.envoy.pid, gateway.plugin, gateway.valkey, gateway.portal)
    ledger = gateway.ledger() if isinstance(gateway, Farebox) else {}
    stats = gateway.envoy.stats("http.gateway.")
    cpu = [cpu_s(pid) for pid in pids]
    keeper_s = cpu_s(gateway.keeper, descendants=False)
    answered = put_load(gateway.envoy.url, ask, connections, seconds)
    assert answered.requests, f"{case.name}: no request was answered"
    fault = ""
    if isinstance(gateway, Farebox):
        served = answered.requests - answered.failed if ask.expected < 400 else 0
        # Envoy lets some in when their client has left already: it is asked again until the ledger agrees.
        let_in = functools.partial(_gained, gateway, stats, "ext_authz.farebox.ok")
        gained = gateway.drained(ledger, ask.units, served, let_in)
        fault = books(ask.units, served, let_in(), gained)
    spent = [(cpu_s(pid) - before) * 1e6 / answered.requests for pid, before in zip(pids, cpu, strict=True)]
    envoy_us, plugin_us, valkey_us, portal_us = spent
    return Row(
        section=section,
        case=case.name,
        connections=connections,
        requests=answered.requests,
        rps=answered.requests / answered.seconds,
        p50_ms=answered.p50_ms,
        p99_ms=answered.p99_ms,
        envoy_us=envoy_us,
        plugin_us=plugin_us,
        keeper_us=(cpu_s(gateway.keeper, descendants=False) - keeper_s) * 1e6 / answered.requests,
        valkey_us=valkey_us,
        portal_us=portal_us,
        messages=_gained(gateway, stats, "ext_proc.stream_msgs_sent") / answered.requests,
        failed=answered.failed,
        fault=fault,
    )


def books(units: Mapping[str, int], served: int, let_in: int, gained: Mapping[str, int]) -> str:
    """What is wrong with the ledger; "" if nothing. ``gained``: meter -> units that came in."""
    wrong = []
    for meter, found in gained.items():
        each = units.get(meter, 0)
        if not served * each <= found <= let_in * each:
            wrong.append(f"{found} {meter} are booked, not {served * each} to {let_in * each}")
    return ", ".join(wrong)


def ask_once(gateway: Farebox, keys: Sequence[str]) -> float:
    """One request with each key, again for those that were not served; how many seconds that took."""
    seconds, left = 0.0, list(keys)
    while left:
        with Load(gateway.envoy.url, _each(left), connections=FIRST_CONNECTIONS) as load:
            load.wait()
        served = {answer.question.api_key for answer in load.answers if answer.status == 200}
        assert served, f"no key of {len(left)} works"
        seconds += max(answer.answered_at for answer in load.answers) - min(answer.asked_at for answer in load.answers)
        left = [key for key in left if key not in served]
    return seconds


def _each(keys: Sequence[str]) -> Callable[[int], Question | None]:
    return lambda number: Question(cases.COUNT.route.path, keys[number]) if number < len(keys) else None


def used_up(gateway: Farebox) -> str:
    """The key of somebody who has nothing left."""
    buyer = gateway.provider.a_buyer(gateway.provider.a_plan({"api_requests": 1}))
    wait_for(lambda: gateway.provider.call(buyer, cases.COUNT.route.path).status_code == 403, "a quota was not used up")
    return buyer.api_key


def _gained(gateway: Gateway, before: Mapping[str, int], name: str) -> int:
    name = f"http.gateway.{name}"
    return gateway.envoy.stats(name).get(name, 0) - before.get(name, 0)


def _by_the_buyer(gateway: Farebox, answer: cases.Answer) -> Callable[[], Ask]:
    return lambda: cases.ask(answer, (gateway.buyer.api_key,))


if __name__ == "__main__":
    from bench.__main__ import main

    main(["--only", "transports", *sys.argv[1:]])

"""One seed: clients, two gateways and an upstream around the real protocol code, with everything failing; then peace,
and the accounts are checked.

The upstream is the oracle. It knows which requests were let through, so what was admitted is not asked of the code
under test. While the world runs, every request that is let through must fit every limit in force at its decision (I1).
When all faults have ended and the sweeper has closed what they left open:

    I1   neither what was let through nor the ledger exceeds a limit that was always in force
    I3   each request that was let through is in the ledger once, with what it used; or, where its end was never
         reported, at its hold, flagged
    I9   nothing is in the ledger that no worker let in
    I6   Valkey's counters equal the ledger, and there is no hold
    I2   filling up from there reaches a limit exactly
"""

import asyncio
from collections import Counter as Tally
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

from builders.plugin import Asker
from farebox.v1 import layout
from farebox.v1.rid import make_rid
from farebox_plugin.admission import Admitted, Decision, Refused
from farebox_plugin.records import Call, Grant, Settlement
from farebox_plugin.terms import Policy
from sim.host import ORPHAN_AFTER_S, Chronicle, Keeper, Worker
from sim.link import Faults, Killed, Server, virtual_ms
from sim.portal import Portal, fields_of

GATEWAYS = ("g0", "g1")
WORKERS = 2
ENVOY_WAITS_S = 0.5
CROSSINGS = 6
ACCOUNTS = ("a0", "a1")
POLICIES = (
    Policy("one", {"calls": 1}),
    Policy("three", {"calls": 3}),
    Policy("text", {"calls": 1, "tokens": "usage.totalTokens"}, reserve={"tokens": "5"}),
)


def is_stormy(seed: int) -> bool:
    """Each tenth world: emptied all the time, on a network that is slow rather than broken. Rebuilds cross everything,
    and one another."""
    return seed % 10 == 4


@dataclass
class LetIn:
    """A request that reached the upstream."""

    account: str
    at_ms: int
    held: dict[str, int]
    used: dict[str, int]  # what it really uses; nothing: its status is not billed


@dataclass
class World:
    """Everything of one seed. `violations` is empty when the protocol holds."""

    seed: int
    server: Server
    folder: Path
    steps: int = 100
    violations: list[str] = field(default_factory=list)
    counts: Tally[str] = field(default_factory=Tally)

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        # Some worlds have a good network and some a bad one.
        bad = self.random.choice((0.0, 0.005, 0.03))
        self.faults = Faults(lost=bad, late=bad, unheard=bad)
        if is_stormy(self.seed):
            self.faults = Faults(lost=0.0, late=0.08, unheard=0.0, slow=0.12)
        self.limits = {account: self._draw_limits() for account in ACCOUNTS}
        self.portal = Portal(self.server, self.random, self.limits, GATEWAYS)
        self.chronicle = Chronicle()
        self.let_in: dict[str, LetIn] = {}
        self._reports: dict[object, list[str]] = {}  # what the others of a report on its way to a worker are
        self.keepers: dict[str, Keeper] = {}
        self._is_calm = self._is_over = False
        self._boot = 0
        self._streams = count(1)
        self._clients: set[asyncio.Task[None]] = set()

    def _draw_limits(self) -> dict[str, int]:
        draw = self.random.choice
        return {
            "total.calls": draw((5, 20, 60)),
            "window.calls": draw((3, 10, 40, 1000)),
            "total.tokens": draw((10, 60, 1000)),
            "extra.calls": draw((5, 20, 60)),
        }

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._unhandled)
        publishing = asyncio.ensure_future(self.portal.keep_published())
        for gateway in GATEWAYS:
            (self.folder / gateway).mkdir()
            self._start_keeper(gateway)
        for _ in range(self.steps):
            await asyncio.sleep(0.08 * self.random.random())
            self._step()
            if self.violations:
                break
        else:
            await self._calm_down()
            self._check_ledger()
            self._check_counters()
            if is_stormy(self.seed):
                await self._cross_rebuilds()
            for account in ACCOUNTS:
                await self._fill_up(account)
        publishing.cancel()
        self._end()

    # What happens.

    def _step(self) -> None:
        """The next thing: mostly a few requests, sometimes a fault."""
        draw = self.random.random()
        if draw < 0.75:
            for _ in range(self.random.choice((1, 1, 2, 4))):
                self._spawn(self._client())
            return
        kinds: dict[str, int] = {
            "kill_worker": 12, "kill_keeper": 2, "flush": 2, "restart": 1, "save": 6, "fail_over": 2, "server": 3,
            "portal": 6, "change": 6, "change_plan": 3, "drop": 6, "cut": 2, "deafen": 3, "storm": 2,
        }  # fmt: skip
        if is_stormy(self.seed):
            kinds |= {"storm": 30, "flush": 10, "change_plan": 10}
        kind = self.random.choices(list(kinds), list(kinds.values()))[0]
        if draw < 0.75 + self._fault_rate:
            self.counts[kind] += 1
            getattr(self, f"_{kind}")()

    @property
    def _fault_rate(self) -> float:
        return (0.02, 0.08, 0.2)[self.seed % 3]

    def _kill_worker(self) -> None:
        worker = self._any_worker()
        if worker is None:
            return
        how = self.random.choice(("", "before", "torn", "after", "after"))
        if how:
            worker.process.dies_at_append = how
        else:
            worker.process.kill()

    def _kill_keeper(self) -> None:
        keeper = self._any_keeper()
        if not keeper.process.is_alive:
            return
        how = self.random.choice(("", "", "torn", "after"))
        if how:
            keeper.process.dies_at_append = how
        else:
            keeper.process.kill()

    def _keeper_died(self, keeper: Keeper) -> None:
        """Its workers see the end of their pipe and leave; a new one may be there before they have."""
        if self._is_over:
            return
        loop = asyncio.get_running_loop()
        for worker in keeper.workers.values():
            loop.call_later(0.3 * self.random.random(), worker.process.kill)
        loop.call_later(0.1 + self.random.random(), self._start_keeper, keeper.gateway)

    def _start_keeper(self, gateway: str) -> None:
        self._boot += 1
        keeper = Keeper(
            gateway, self._boot, WORKERS, self.server, self.portal, self.random, self.faults, self.folder / gateway,
            self.chronicle, lambda fault: self._violate("crash", repr(fault)),
        )  # fmt: skip
        keeper.process.died.append(lambda: self._keeper_died(keeper))
        self.keepers[gateway] = keeper

    def _any_keeper(self) -> Keeper:
        return self.keepers[self.random.choice(GATEWAYS)]

    def _flush(self) -> None:
        self.server.flush()

    def _storm(self) -> None:
        """Emptied again and again, and plans change meanwhile: while some rebuild, others have rebuilt already."""
        loop = asyncio.get_running_loop()
        for _ in range(5):
            loop.call_later(self.random.random(), self.server.flush)
            loop.call_later(self.random.random(), self._change_plan)

    def _deafen(self) -> None:
        self._any_keeper().link.deafen(self.random.choice((0.5, 3.0)) * self.random.random())

    def _restart(self) -> None:
        self.server.stop()
        self.server.start()

    def _save(self) -> None:
        self.server.save()

    def _fail_over(self) -> None:
        self.server.fail_over()

    def _server(self) -> None:
        self.server.stop()
        asyncio.get_running_loop().call_later(2.0 * self.random.random(), self.server.start)

    def _portal(self) -> None:
        self.portal.is_up = False
        asyncio.get_running_loop().call_later(self.random.choice((0.5, 4.0)) * self.random.random(), self._portal_up)

    def _portal_up(self) -> None:
        self.portal.is_up = True

    def _change(self) -> None:
        self.portal.change(self.random.choice(ACCOUNTS), plan=False)

    def _change_plan(self) -> None:
        self.portal.change(self.random.choice(ACCOUNTS), plan=True)

    def _drop(self) -> None:
        worker = self._any_worker()
        if worker is not None:
            worker.link.drop()

    def _cut(self) -> None:
        worker = self._any_worker()
        if worker is not None:
            worker.link.cut(self.random.choice((1.0, 8.0)) * self.random.random())

    # Envoy and its clients.

    def _any_worker(self, gateway: str = "", other_than: Worker | None = None) -> Worker | None:
        """A live worker of this gateway, by default of any; the other one, if there is another."""
        keepers = [self.keepers[gateway]] if gateway else self.keepers.values()
        live = [each for keeper in keepers for each in keeper.workers.values() if each.process.is_alive]
        return self.random.choice([each for each in live if each is not other_than] or live or [None])  # type: ignore[list-item]

    async def _client(self) -> None:
        account, policy = self.random.choice(ACCOUNTS), self.random.choice(POLICIES)
        await self._request(account, policy)

    async def _request(self, account: str, policy: Policy) -> Decision | None:
        """One request through a gateway's Envoy, which asks a second worker when the first does not answer."""
        gateway = self.random.choice(GATEWAYS)
        at_ms = virtual_ms()
        call = Call(make_rid(at_ms, str(next(self._streams))), at_ms, policy.key, "key", None, b"")
        decision, asked, tries = None, None, 0
        for _ in range(2):
            tries += 1
            asked = self._any_worker(gateway, other_than=asked)
            if asked is None:
                await asyncio.sleep(0.05)
                continue
            decision = await self._ask(asked, call, account, policy)
            if decision is not None:
                break
        self.counts["none" if decision is None else _name(decision)] += 1
        if isinstance(decision, Admitted):
            self._spawn(self._upstream(gateway, call, account, policy, decision, tries))
        return decision

    async def _ask(self, worker: Worker, call: Call, account: str, policy: Policy) -> Decision | None:
        """One try of a Check; None: no answer in time, or the worker died."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Decision | None] = loop.create_future()
        is_abandoned = False

        def arrive(decision: Decision | None) -> None:
            if not answer.done():
                answer.set_result(decision)

        def answered(decision: Decision) -> None:
            if worker.process.is_alive:
                loop.call_later(self._latency_s(), arrive, decision)

        worker.process.died.append(lambda: loop.call_later(self._latency_s(), arrive, None))
        await asyncio.sleep(self._latency_s())
        if worker.process.is_alive:
            self._spawn(worker.check(call, account, policy, Asker(answered, lambda: is_abandoned)))
        try:
            async with asyncio.timeout(ENVOY_WAITS_S):
                return await answer
        except TimeoutError:
            await asyncio.sleep(self._latency_s())
            is_abandoned = True
            return None

    async def _upstream(
        self, gateway: str, call: Call, account: str, policy: Policy, decision: Admitted, tries: int
    ) -> None:
        """It is let in. Its end reaches some worker of the gateway, perhaps two, perhaps none."""
        held = {meter: 5 if isinstance(rule, str) else rule for meter, rule in policy.meters.items()}
        used = {meter: self.random.randint(0, 5) if meter == "tokens" else units for meter, units in held.items()}
        status = 200 if self._is_calm else self.random.choice((200, 200, 200, 500))
        used = {meter: units for meter, units in used.items() if units} if status == 200 else {}
        self.let_in[call.rid] = LetIn(account, call.admitted_at_ms, held, used)
        for counter in decision.terms.counters:
            # At the second try it may have been admitted already, under the plan before.
            if tries > 1 and "/extra." in counter.field:
                continue
            if 0 <= counter.limit < self._let_in_on(account, counter.field):
                self._violate("I1", f"{account} {counter.field} over {counter.limit}")
        terms = decision.terms
        grant = Grant(call.rid, account, terms.subscription, terms.key, policy.key)
        await asyncio.sleep(self.random.choice((0.02, 0.3, 1.5)) * self.random.random())
        reports = 1 if self._is_calm else self.random.choice((1,) * 17 + (2, 2, 0))
        for _ in range(reports):
            await asyncio.sleep(0.3 * self.random.random())
            worker = self._any_worker(gateway)
            if worker is not None:
                await self._report(worker, grant, status, used)

    async def _report(self, worker: Worker, grant: Grant, status: int, used: dict[str, int]) -> None:
        """An end reaches a worker with others of which the same is told, as Envoy's access log gathers them."""
        like = (worker.process.name, grant[1:5], status, tuple(used.items()))
        if like in self._reports:
            self._reports[like].append(grant.rid)
            return
        self._reports[like] = []
        await asyncio.sleep(0.1 * self.random.random())
        settlement = Settlement(grant, status, used, alike=self._reports.pop(like))
        if worker.process.is_alive:
            worker.settlements.settle([settlement])

    def _let_in_on(self, account: str, counter: str) -> int:
        """Units on a counter, of all that was let in: what is known of their use, else their hold."""
        total = 0
        for rid, each in self.let_in.items():
            if each.account == account:
                units = each.held
                if rid in self.chronicle.ended:
                    event = self.chronicle.ended[rid]
                    units = {} if event is None else {meter.meter: meter.quantity for meter in event.meters}
                for meter, quantity in units.items():
                    if counter in fields_of(account, meter, each.at_ms, self.limits[account]):
                        total += quantity
        return total

    def _latency_s(self) -> float:
        return self.random.random() * (0.4 if self.random.random() < self.faults.slow else 0.004)

    # The end, and the accounts.

    async def _calm_down(self) -> None:
        """No more faults; everything comes back up; what was left open is closed by the plugin itself."""
        self._is_calm = self.portal.is_up = self.portal.is_smooth = True
        self.faults.lost = self.faults.late = self.faults.unheard = self.faults.slow = 0.0
        await asyncio.sleep(6.0)  # delayed restarts and late commands are over
        for process in self._processes():
            process.link.heal()
            process.process.dies_at_append = ""
        await asyncio.sleep(ORPHAN_AFTER_S + 4.0)
        await self._come_to_rest()

    async def _come_to_rest(self) -> None:
        while self._clients:
            await asyncio.wait(list(self._clients))
        for _ in range(40):
            if self._is_quiet():
                return
            await asyncio.sleep(1.0)
        self._violate("stuck", "the plugin did not come to rest")

    def _processes(self) -> list[Any]:
        return [part for keeper in self.keepers.values() for part in (keeper, *keeper.workers.values())]

    def _is_quiet(self) -> bool:
        return all(
            keeper.index.open_count == 0 and keeper.index.unshipped_count == 0 for keeper in self.keepers.values()
        ) and all(process.settlements.is_idle for process in self._processes())

    async def _cross_rebuilds(self) -> None:
        """Nothing fails any more but the server's memory: requests cross rebuilds, and rebuilds one another."""
        for _ in range(CROSSINGS):
            self.faults.slow = 0.12
            flushes = self.random.choice((1, 1, 4))
            for number in range(60):
                if number >= 40 and flushes:
                    self.server.flush()
                    flushes -= 1
                    await asyncio.sleep(0.06 * self.random.random())
                self._spawn(self._client())
                await asyncio.sleep(0.004 * self.random.random())
            self.faults.slow = 0.0
            await asyncio.sleep(3.0)  # the sweeper looks twice a second, and what it says is on its way for a second
            await self._come_to_rest()
            self._check_counters()

    def _check_ledger(self) -> None:
        ledger: dict[str, dict[str, int]] = {}
        for (_, rid, meter), quantity in self.portal.rows.items():
            ledger.setdefault(rid, {})[meter] = quantity
            if rid not in self.chronicle.allowed:
                self._violate("I9", f"{rid} was charged and never let in")
        for rid, each in self.let_in.items():
            flags = self.portal.flags.get((each.account, rid), ())
            owed = each.held if "ambiguous" in flags else each.used
            if rid not in self.chronicle.ended:
                self._violate("I3", f"{rid} has no end")
            elif ledger.get(rid, {}) != owed:
                self._violate("I3", f"{rid} owes {owed}, the ledger has {ledger.get(rid)} {flags}")
            self.counts["ambiguous"] += "ambiguous" in flags
        for account, quotas in self.limits.items():
            counters = {
                (quota, counter)
                for each in self.let_in.values()
                for quota in quotas
                if not quota.startswith("extra.")
                for counter in fields_of(account, quota.partition(".")[2], each.at_ms, {quota: 0})
            }
            for quota, counter in sorted(counters):
                units = max(self._let_in_on(account, counter), self.portal.total(account, counter))
                if units > quotas[quota]:
                    self._violate("I1", f"{account} {counter}: {units} of {quotas[quota]}")

    def _check_counters(self) -> None:
        for account in ACCOUNTS:
            state = _hash(self.server.execute("HGETALL", layout.counters(account)))
            if state.get("gen") != self.server.generation:
                continue  # the next request rebuilds it
            self.counts["compared"] += 1
            holds = _hash(self.server.execute("HGETALL", layout.holds(account)))
            open_holds = [rid for rid, hold in holds.items() if not hold.startswith("!")]
            self.counts["tombstones_left"] += len(holds) - len(open_holds)
            if open_holds:
                self._violate("I6", f"{account} still holds {open_holds}")
            for quota in self.portal.document(account).subscriptions[0].quotas:
                prefix = layout.counter_field(f"{account}-sub", quota.id, 0)[:-1]
                ours = {name: int(units) for name, units in state.items() if name.startswith(prefix)}
                wanted = self._ledger_counters(account, quota.id)
                for name in sorted(ours.keys() | wanted.keys()):
                    if ours.get(name, 0) != wanted.get(name, 0):
                        self._violate("I6", f"{account} {name}: {ours.get(name)} in Valkey, ledger {wanted.get(name)}")

    def _ledger_counters(self, account: str, quota: str) -> dict[str, int]:
        names = {
            name
            for each in self.let_in.values()
            for meter in ("calls", "tokens")
            for name in fields_of(account, meter, each.at_ms, {quota: 0})
        }
        return {name: total for name in names if (total := self.portal.total(account, name))}

    async def _fill_up(self, account: str) -> None:
        """Nothing fails any more: requests are let in until a limit is reached, and then it is reached exactly."""
        for _ in range(sum(self.limits[account].values())):
            decision = await self._request(account, POLICIES[0])
            if isinstance(decision, Admitted):
                continue
            if decision is None or decision.refusal.code != "quota_exceeded":
                self._violate("I2", f"{account}: {decision and decision.refusal.detail}")
                return
            assert decision.terms is not None
            assert decision.committed is not None
            reached = zip(decision.terms.counters, decision.committed, strict=True)
            for counter, committed in reached:
                really = max(self._let_in_on(account, counter.field), self._charged_on(account, counter.field))
                is_full = committed == counter.limit or (committed > counter.limit and "/extra." in counter.field)
                if committed == really and is_full:
                    return
            self._violate(
                "I2", f"{account}: refused at {decision.committed} of {[c.limit for c in decision.terms.counters]}"
            )
            return
        self._violate("I2", f"{account} is never refused")

    def _charged_on(self, account: str, counter: str) -> int:
        """Units on a counter by the spools' word, holds of open requests included; let in or not."""
        total = 0
        for rid in self.chronicle.ended.keys() | self.let_in.keys():
            event = self.chronicle.ended.get(rid)
            if event is not None and event.account_id == account:
                used, at_ms = {meter.meter: meter.quantity for meter in event.meters}, event.admitted_at_ms
            elif rid not in self.chronicle.ended and self.let_in[rid].account == account:
                used, at_ms = self.let_in[rid].held, self.let_in[rid].at_ms
            else:
                continue
            for meter, quantity in used.items():
                if counter in fields_of(account, meter, at_ms, self.limits[account]):
                    total += quantity
        return total

    def _end(self) -> None:
        self._is_over = True
        self.counts["retired"] += self.portal.retired
        for keeper in self.keepers.values():
            self.counts["behind"] += keeper.peers.counts["behind"]
            self.counts["answered"] += keeper.peers.counts["answered"]
        for process in self._processes():
            if process.link.faults_seen:
                self._violate("script", str(process.link.faults_seen[0]))
            process.process.kill()

    def _violate(self, what: str, words: str) -> None:
        self.violations.append(f"{what}: {words}")

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)

    def _unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not isinstance(context.get("exception"), Killed):
            self._violate("crash", f"{context['message']}: {context.get('exception')!r}")


def _name(decision: Decision) -> str:
    return decision.refusal.code if isinstance(decision, Refused) else "allowed"


def _hash(raw: Any) -> dict[str, str]:
    pairs = raw.items() if isinstance(raw, dict) else zip(raw[::2], raw[1::2], strict=True)
    return {name.decode(): value.decode() for name, value in pairs}

"""Ledger + spools -> admission state: the pure part by tables, the whole on a real Valkey."""

import asyncio
from pathlib import Path

import pytest

from builders.plugin import DAY_MS, START_MS, Part, a_part, an_account, ask, code
from farebox.v1 import layout
from farebox.v1.entitlements_pb2 import Account
from farebox.v1.usage_pb2 import AccountState, CounterValue, UsageEvent
from farebox_plugin.keeper.index import OpenRequest
from farebox_plugin.keeper.rebuild import admission_state
from farebox_plugin.records import Grant, Unavailable
from farebox_plugin.terms import held_units
from rig.valkey import Valkey

FIELD = layout.counter_field("sub1", "api_requests.P1M", START_MS)
NEXT_FIELD = layout.counter_field("sub1", "api_requests.P1M", START_MS + 30 * DAY_MS)


def ledger(*used: int) -> AccountState:
    values = [CounterValue(subscription_id="sub1", quota_id="api_requests.P1M", period_start_ms=START_MS, used=each)
              for each in used]  # fmt: skip
    return AccountState(counters=values)


def event(rid: str, units: int, at_ms: int = START_MS + 5, **fields: str) -> UsageEvent:
    message = UsageEvent(rid=rid, account_id="acct1", subscription_id="sub1", admitted_at_ms=at_ms)
    message.meters.add(meter=fields.get("meter", "api_requests"), quantity=units)
    message.subscription_id = fields.get("subscription", "sub1")
    return message


def open_request(rid: str, units: int, *, is_allowed: bool) -> OpenRequest:
    grant = Grant(rid, "acct1", "sub1", "key1", "default")
    return OpenRequest(grant, f"w0;{FIELD}|api_requests|{units}", 0.0, {"w0": is_allowed})


@pytest.mark.parametrize(
    ("state", "unshipped", "opened", "counters", "holds"),
    [
        (ledger(), [], [], {}, {}),
        (ledger(7), [], [], {FIELD: 7}, {}),
        (ledger(7), [event("a", 2), event("b", 3)], [], {FIELD: 12}, {}),
        (ledger(), [event("a", 2, START_MS + 30 * DAY_MS)], [], {NEXT_FIELD: 2}, {}),
        (ledger(), [event("a", 2, meter="unknown"), event("b", 2, subscription="gone")], [], {}, {}),
        (ledger(1), [], [(4, True)], {FIELD: 5}, {"5-0": f"w0;{FIELD}|api_requests|4"}),
        (ledger(1), [], [(4, False)], {FIELD: 5}, {"5-0": f"?w0;{FIELD}|api_requests|4"}),
    ],
)
def test_committed_is_ledger_and_unshipped_and_open(
    state: AccountState,
    unshipped: list[UsageEvent],
    opened: list[tuple[int, bool]],
    counters: dict[str, int],
    holds: dict[str, str],
) -> None:
    requests = [open_request(f"5-{n}", units, is_allowed=allowed) for n, (units, allowed) in enumerate(opened)]
    found = admission_state(an_account(), state, unshipped, requests)
    assert found.counters == counters
    assert found.holds == holds


def test_a_suspects_hold_still_reads_as_a_hold() -> None:
    assert held_units(f"?w0;{FIELD}|api_requests|4") == {FIELD: ("api_requests", 4)}


async def test_two_rebuilders_at_once_load_once(valkey: Valkey, tmp_path: Path) -> None:
    async with a_part(valkey, tmp_path / "s", "w0") as one, a_part(valkey, tmp_path / "s", "w1") as other:
        await one.publish(an_account())
        other.ledger.accounts = one.ledger.accounts
        other.ledger.state = one.ledger.state = ledger(4)
        await asyncio.gather(one.rebuilder.load("acct1"), other.rebuilder.load("acct1"))
        assert one.rebuilder.rebuilt_count + other.rebuilder.rebuilt_count == 1
        assert await one.counter() == {"api_requests": 4}


async def test_an_account_that_is_loaded_is_not_rebuilt(part: Part) -> None:
    """Between the reading of the spools and LOAD it would be admitted from, and then reset to before that."""
    await part.publish(an_account())
    document = await part.rebuilder.load("acct1")
    assert await part.rebuilder.load("acct1") == document
    assert part.rebuilder.rebuilt_count == 1
    assert await part.link.ask("EXISTS", layout.rebuild_token("acct1")) == 0
    await part.link.ask("DEL", layout.account("acct1"))  # somebody's hand: without its document it is not loaded
    assert await part.rebuilder.load("acct1") == document
    assert part.rebuilder.rebuilt_count == 2


async def test_a_rebuild_that_lost_its_token_changes_nothing(part: Part) -> None:
    await part.publish(an_account())
    part.ledger.state = ledger(4)
    slow = part.ledger.account_state

    async def overtaken(account: str, gateway: str):  # type: ignore[no-untyped-def]
        answer = await slow(account, gateway)
        await part.link.ask("DEL", layout.rebuild_token("acct1"))
        return answer

    part.ledger.account_state = overtaken  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        await part.rebuilder.load("acct1")
    assert await part.counter() == {}


async def test_a_rebuild_never_puts_an_older_document_over_a_newer_one(part: Part) -> None:
    await part.publish(an_account(limit=10, version=2))
    part.ledger.accounts["acct1"] = an_account(limit=99, version=1)
    with pytest.raises(Unavailable):
        await part.rebuilder.load("acct1")
    assert Account.FromString(await part.link.ask("GET", layout.account("acct1"))).version == 2


async def test_rate_limits_outlive_a_rebuild(part: Part) -> None:
    await part.publish(an_account(limit=100, rate=(2, 600_000)))
    assert [code(await ask(part)) for _ in range(3)] == ["allowed", "allowed", "rate_limited"]
    await part.link.ask("HDEL", layout.counters("acct1"), "gen")
    assert code(await ask(part)) == "rate_limited"
    assert part.rebuilder.rebuilt_count == 2


async def test_a_crashed_rebuild_of_our_own_is_taken_over_and_a_strangers_is_waited_for(part: Part) -> None:
    await part.publish(an_account())
    await part.link.ask("SET", layout.rebuild_token("acct1"), "host/crashed", "PX", 60_000)
    await part.rebuilder.load("acct1")
    await part.link.ask("HDEL", layout.counters("acct1"), "gen")
    await part.link.ask("SET", layout.rebuild_token("acct1"), "elsewhere/x", "PX", 300)
    await part.rebuilder.load("acct1")
    assert part.rebuilder.rebuilt_count == 2


def test_usage_counts_on_the_stage_in_which_it_was_admitted() -> None:
    account = an_account()
    at = START_MS + DAY_MS
    stage = account.subscriptions[0].stages.add(from_ms=at, plan_key="pro", concurrency_limit=9)
    stage.quotas.add(id="api_requests.P1W", meter="api_requests", limit=9, hard=True, resets_ms=[at, at + 7 * DAY_MS])
    weekly = layout.counter_field("sub1", "api_requests.P1W", at)
    late = open_request(f"{at:x}-1", 4, is_allowed=True)
    found = admission_state(account, ledger(), [event("a", 2, at - 1), event("b", 3, at)], [late])
    assert found.counters == {FIELD: 2, weekly: 7, layout.concurrency_field("sub1"): 1}


def test_an_open_request_is_held_on_the_counters_of_todays_plan() -> None:
    """A plan that got another quota on the meter counts what was let in under the plan before, too."""
    account = an_account()
    resets = [START_MS, START_MS + DAY_MS, START_MS + 2 * DAY_MS]
    account.subscriptions[0].quotas.add(
        id="api_requests.P1D", meter="api_requests", limit=3, hard=True, resets_ms=resets
    )
    daily = layout.counter_field("sub1", "api_requests.P1D", START_MS)
    found = admission_state(account, ledger(), [], [open_request("5-0", 2, is_allowed=True)])
    assert found.counters == {FIELD: 2, daily: 2}
    assert held_units(found.holds["5-0"]) == {FIELD: ("api_requests", 2), daily: ("api_requests", 2)}


def test_two_quotas_of_one_counter_count_once() -> None:
    """A phase began anew within the period, and a later plan goes on with all of it: before that, both are one."""
    account = an_account()
    anew = START_MS + 10 * DAY_MS
    end = START_MS + 30 * DAY_MS
    del account.subscriptions[0].quotas[:]
    for resets in ([START_MS, anew, end], [START_MS, end]):
        account.subscriptions[0].quotas.add(id="api_requests.P1M", meter="api_requests", limit=-1, resets_ms=resets)
    since = layout.counter_field("sub1", "api_requests.P1M", anew)
    early, late = open_request(f"{anew - 1:x}-1", 10, is_allowed=True), open_request(f"{anew:x}-2", 20, is_allowed=True)
    found = admission_state(account, ledger(), [event("a", 2, anew - 1), event("b", 3, anew)], [early, late])
    assert found.counters == {FIELD: 2 + 3 + 10 + 20, since: 3 + 20}
    assert held_units(found.holds[late.grant.rid]).keys() == {FIELD, since}
    assert found.holds[early.grant.rid].count(FIELD) == 1

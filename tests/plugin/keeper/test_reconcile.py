"""The reconciler finds one unit, blames nobody in passing, and puts right what it finds."""

from typing import Any

import pytest

from builders.plugin import DAY_MS, START_MS, Part, a_call_of, an_account, ask, settled
from farebox.v1 import layout
from farebox.v1.usage_pb2 import AccountState, CounterValue
from farebox_plugin.keeper.peers import Peers
from farebox_plugin.keeper.rebuild import AdmissionState
from farebox_plugin.keeper.reconcile import Drift, Look, Reconciler, drifts
from farebox_plugin.records import Grant, Settlement

FIELD = layout.counter_field("sub1", "api_requests.P1M", START_MS)
HOLD = f"w0;{FIELD}|api_requests|3"


@pytest.mark.parametrize(
    ("counters", "holds", "truth", "ended", "found"),
    [
        ({}, {}, ({}, {}), {}, []),
        ({FIELD: 7}, {}, ({FIELD: 7}, {}), {}, []),
        ({FIELD: 0}, {}, ({}, {}), {}, []),
        ({FIELD: 8}, {}, ({FIELD: 7}, {}), {}, [Drift(FIELD, 7, 8)]),
        ({}, {}, ({FIELD: 7}, {}), {}, [Drift(FIELD, 7, 0)]),
        ({FIELD: 1}, {}, ({}, {}), {}, [Drift(FIELD, 0, 1)]),
        ({FIELD: 3}, {"r": HOLD}, ({FIELD: 3}, {"r": HOLD}), {}, []),
        # Its end is in the spool (1 unit), its SETTLE on the way: 3 are still held.
        ({FIELD: 3}, {"r": HOLD}, ({FIELD: 1}, {}), {"r": {"api_requests": 1}}, []),
        ({FIELD: 3}, {"r": HOLD}, ({FIELD: 0}, {}), {"r": {}}, []),
        # Nobody knows of it: a leak.
        ({FIELD: 3}, {"r": HOLD}, ({FIELD: 0}, {}), {}, [Drift("hold r", 0, 1), Drift(FIELD, 0, 3)]),
        ({FIELD: 0}, {}, ({FIELD: 3}, {"r": HOLD}), {}, [Drift("hold r", 1, 0), Drift(FIELD, 3, 0)]),
        # An intent: refused, or not admitted yet. Held or not, it is none of a leak.
        ({FIELD: 7}, {}, ({FIELD: 10}, {"r": "?" + HOLD}), {}, []),
        ({FIELD: 10}, {"r": HOLD}, ({FIELD: 10}, {"r": "?" + HOLD}), {}, []),
        ({FIELD: 8}, {}, ({FIELD: 10}, {"r": "?" + HOLD}), {}, [Drift(FIELD, 7, 8)]),
        # A period long gone is nobody's business.
        ({layout.counter_field("sub1", "api_requests.P1M", 5): 9}, {}, ({}, {}), {}, []),
    ],
)
def test_what_differs(
    counters: dict[str, int], holds: dict[str, str], truth: Any, ended: dict[str, Any], found: list[Drift]
) -> None:
    assert list(drifts(Look("g", counters, holds), AdmissionState(*truth), ended, {FIELD})) == found


def reconciler(part: Part) -> Reconciler:
    peers = Peers(part.link, part.index, "host")
    return Reconciler(part.link, part.index, peers, part.ledger, part.rebuilder)  # type: ignore[arg-type]


async def test_one_unit_of_drift_is_found_and_repaired(part: Part) -> None:
    await part.publish(an_account(limit=100))
    for stream in range(4000, 4005):
        await ask(part, stream=stream)
    look = reconciler(part)
    assert (await look.reconcile("acct1", repair=False)).result == "right"
    await part.link.ask("HINCRBY", layout.counters("acct1"), FIELD, -1)
    finding = await look.reconcile("acct1", repair=False)
    assert (finding.result, finding.drifts) == ("drift", (Drift(FIELD, 5, 4),))
    assert (await look.reconcile("acct1", repair=True)).result == "repaired"
    assert (await look.reconcile("acct1", repair=False)).result == "right"
    assert await part.counter() == {"api_requests": 5}


async def test_settling_in_passing_is_no_drift(part: Part) -> None:
    await part.publish(an_account(limit=100))
    await ask(part, stream=4010, units=5)
    grant = Grant(a_call_of(4010).rid, "acct1", "sub1", "key1", "default")
    part.settlements.settle([Settlement(grant, 200, {"api_requests": 2})])  # in the spool; its SETTLE has not left yet
    assert (await reconciler(part).reconcile("acct1", repair=False)).result == "right"
    await settled(part)
    assert (await reconciler(part).reconcile("acct1", repair=False)).result == "right"


async def test_what_only_a_later_plan_counts_is_no_drift_before_it_begins(part: Part) -> None:
    account = an_account(limit=100)
    at = START_MS + 300 * DAY_MS
    stage = account.subscriptions[0].stages.add(from_ms=at, plan_key="pro")
    resets = [START_MS, at, at + DAY_MS]  # fresh: what was used in the first of them counts nowhere
    stage.quotas.add(id="api_requests.P1D", meter="api_requests", limit=9, hard=True, resets_ms=resets)
    await part.publish(account)
    await ask(part, stream=4030)
    of_ledger = CounterValue(subscription_id="sub1", quota_id="api_requests.P1D", period_start_ms=START_MS, used=7)
    part.ledger.state = AccountState(counters=[of_ledger])
    finding = await reconciler(part).reconcile("acct1", repair=False)
    assert (finding.result, finding.drifts) == ("right", ())


async def test_a_hold_that_nobody_knows_is_removed(part: Part) -> None:
    await part.publish(an_account(limit=100))
    await ask(part, stream=4020)
    await part.link.ask("HSET", layout.holds("acct1"), "leaked", HOLD)
    await part.link.ask("HINCRBY", layout.counters("acct1"), FIELD, 3)
    finding = await reconciler(part).reconcile("acct1", repair=True)
    assert (finding.result, len(finding.drifts)) == ("repaired", 2)
    assert await part.counter() == {"api_requests": 1}
    assert list(await part.holds()) == [a_call_of(4020).rid]


async def test_an_account_of_another_generation_is_left_to_its_next_request(part: Part) -> None:
    await part.publish(an_account(limit=100))
    assert (await reconciler(part).reconcile("acct1", repair=True)).result == "unloaded"


async def test_every_account_in_the_store_is_found(part: Part) -> None:
    for number in range(30):
        await part.publish(an_account(id=f"acct{number}"))
    assert sorted([account async for account in reconciler(part).accounts()]) == sorted(f"acct{n}" for n in range(30))


async def test_only_accounts_in_use_are_due(part: Part) -> None:
    await part.publish(an_account(limit=100))
    await ask(part, stream=4030)
    part.index.catch_up(0.0)
    assert part.index.take_touched() == ["acct1"]
    part.index.catch_up(0.0)
    assert part.index.take_touched() == []

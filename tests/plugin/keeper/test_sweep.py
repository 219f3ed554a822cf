import asyncio

import pytest

from builders.plugin import Part, a_call_of, an_account, ask, code, settled
from farebox.v1 import layout
from farebox.v1.usage_pb2 import UsageEvent
from farebox_plugin.keeper import sweep
from farebox_plugin.keeper.sweep import INTENT_GRACE_S, Sweeper
from farebox_plugin.spool import ALLOWED, CLOSED, INTENT, SETTLED, VOID, SpoolReader, record


def sweeper(part: Part, live: set[str]) -> Sweeper:
    part.index.catch_up(now())
    return Sweeper(part.index, part.settlements, lambda: live, orphan_after_s=60)


def now() -> float:
    return asyncio.get_running_loop().time()


def events(part: Part) -> list[UsageEvent]:
    frames = SpoolReader(part.folder, "w0").read()
    return [UsageEvent.FromString(r.body) for frame in frames for r in frame.records if r.kind == SETTLED]


async def test_a_request_whose_end_nobody_reported_is_charged_at_its_hold_once_and_flagged(part: Part) -> None:
    await part.publish(an_account(limit=10))
    await ask(part, stream=3000, units=3)
    look = sweeper(part, {"w0"})
    look.sweep(now() + 59)
    assert events(part) == []
    look.sweep(now() + 61)
    part.index.catch_up(now())
    look.sweep(now() + 62)
    (event,) = events(part)
    assert [(m.meter, m.quantity) for m in event.meters] == [("api_requests", 3)]
    assert list(event.flags) == ["ambiguous"]
    assert event.admitted_at_ms == a_call_of(3000).admitted_at_ms
    assert look.counts == {"ambiguous": 1}
    await settled(part)
    assert await part.counter() == {"api_requests": 3}


@pytest.mark.parametrize(("live", "given_back"), [({"w0"}, False), (set(), True)])
async def test_an_intent_without_an_outcome_is_given_back_only_if_its_worker_is_dead(
    part: Part, live: set[str], given_back: bool
) -> None:
    await part.publish(an_account(limit=1))
    # The worker died between the script and its own record: the hold is in Valkey, the spool has the intent alone.
    assert code(await ask(part, stream=3001)) == "allowed"
    frames = SpoolReader(part.folder, "w0").read()
    kept = [r for frame in frames for r in frame.records if r.kind == INTENT]
    file = next(part.folder.glob("w0.*.seg"))
    file.write_bytes(b"")
    part.spool._size = 0
    part.spool.append([record(INTENT, *kept[-1].fields())])
    look = sweeper(part, live)
    look.sweep(now() + INTENT_GRACE_S - 0.5)
    await settled(part)
    assert await part.counter() == {"api_requests": 1}
    look.sweep(now() + 50)
    await settled(part)
    assert await part.counter() == {"api_requests": 0 if given_back else 1}
    assert events(part) == []


async def test_an_intent_that_another_worker_let_in_is_not_given_back(part: Part) -> None:
    await part.publish(an_account(limit=1))
    await ask(part, stream=3002)
    part.spool.append([record(ALLOWED, "acct1", a_call_of(3002).rid)])
    look = sweeper(part, set())
    look.sweep(now() + 30)
    await settled(part)
    assert await part.counter() == {"api_requests": 1}


async def test_what_a_dead_worker_had_settled_is_told_to_valkey_again(part: Part) -> None:
    await part.publish(an_account(limit=10))
    await ask(part, stream=3003, units=5)
    event = UsageEvent(rid=a_call_of(3003).rid, account_id="acct1", subscription_id="sub1")
    event.meters.add(meter="api_requests", quantity=2)
    from farebox_plugin.spool import settled_record

    part.spool.append([settled_record(event.SerializeToString())])  # and then it died
    look = sweeper(part, set())
    look.worker_died(now())
    await settled(part)
    assert await part.counter() == {"api_requests": 2}
    assert len(events(part)) == 1, "what is in a spool is not written again"


async def test_a_refusal_that_crossed_a_rebuild_is_given_back(part: Part) -> None:
    await part.publish(an_account(limit=10))
    assert code(await ask(part)) == "allowed"
    hold = next(iter((await part.holds()).values()))
    part.spool.append([record(INTENT, "acct1", "sub1", "key1", "default", hold, "5-1")])
    await part.link.ask("HDEL", layout.counters("acct1"), "gen")
    await part.rebuilder.load("acct1")  # sees the intent, but not yet that it was refused
    assert await part.counter() == {"api_requests": 2}
    part.spool.append([record(CLOSED, "acct1", "5-1")])
    look = sweeper(part, {"w0"})
    look.sweep(now())
    await settled(part)
    assert await part.counter() == {"api_requests": 1}


async def test_what_a_worker_gave_up_is_given_back_when_it_died_before_it_could(part: Part) -> None:
    await part.publish(an_account(limit=10))
    assert code(await ask(part, stream=3004)) == "allowed"
    part.spool.append([record(CLOSED, "acct1", a_call_of(3004).rid)])  # Envoy had left; and then the worker died
    look = sweeper(part, set())
    look.worker_died(now())
    await settled(part)
    assert await part.counter() == {"api_requests": 0}


async def test_a_new_keeper_repeats_what_the_dead_may_not_have_told(
    part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "PREDECESSORS_LEAVE_S", 0.0)
    await part.publish(an_account(limit=10))
    await ask(part, stream=3005)
    part.spool.append([record(VOID, "acct1", a_call_of(3005).rid)])
    running = asyncio.ensure_future(sweeper(part, set()).run())
    await asyncio.sleep(0.05)
    await settled(part)
    running.cancel()
    assert await part.counter() == {"api_requests": 0}

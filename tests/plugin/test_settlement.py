"""Settling against a real Valkey: the spool first, then the hold, exactly once."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.plugin import Part, a_call_of, an_account, ask, code, settled
from farebox.v1.usage_pb2 import UsageEvent
from farebox_plugin import settlement as settlement_module
from farebox_plugin.records import Grant, Settlement
from farebox_plugin.settlement import TOMBSTONE_S, serialized_event
from farebox_plugin.spool import SETTLED, SpoolReader
from rig.valkey import Valkey


def settlement(stream: int, units: int = 1, **fields: object) -> Settlement:
    grant = Grant(a_call_of(stream).rid, "acct1", "sub1", "key1", "default")
    return Settlement(grant, 200, {"api_requests": units} if units else {}, **fields)  # type: ignore[arg-type]


def events(part: Part) -> list[UsageEvent]:
    frames = SpoolReader(part.folder, "w0").read()
    return [UsageEvent.FromString(r.body) for frame in frames for r in frame.records if r.kind == SETTLED]


@pytest.mark.parametrize(("held", "used"), [(1, 1), (5, 2), (2, 9), (5, 0), (0, 3)])
async def test_the_counter_ends_at_what_was_used_whatever_was_held(part: Part, held: int, used: int) -> None:
    await part.publish(an_account(limit=100))
    await ask(part, stream=100 + held * 10 + used, units=held)
    part.settlements.settle([settlement(100 + held * 10 + used, used)])
    await settled(part)
    assert (await part.counter()).get("api_requests", 0) == used


async def test_a_settlement_repeated_any_number_of_times_settles_once(part: Part) -> None:
    await part.publish(an_account(limit=100))
    await ask(part, stream=200, units=5)
    for _ in range(3):
        part.settlements.settle([settlement(200, 2)])
        await settled(part)
    assert await part.counter() == {"api_requests": 2}


async def test_one_turn_settles_a_request_once_however_often_it_is_told(part: Part) -> None:
    await part.publish(an_account(limit=100))
    for stream in (210, 211, 212):
        await ask(part, stream=stream, units=5)
    part.settlements.settle([settlement(210, 2), settlement(211, 2), settlement(210, 2), settlement(212, 7)])
    part.settlements.settle([settlement(211, 2), settlement(212, 0)])
    part.settlements.take_back(a_call_of(210).rid, "acct1")
    await settled(part)
    assert await part.counter() == {"api_requests": 2 + 2 + 7}


async def test_requests_alike_are_settled_each_even_where_they_are_more_than_one_call_takes(
    part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settlement_module, "BATCH_MAX", 3)
    await part.publish(an_account(limit=100))
    streams = range(220, 228)
    for stream in streams:
        await ask(part, stream=stream, units=5)
    rids = [a_call_of(stream).rid for stream in streams]
    part.settlements.settle([settlement(210), settlement(220, 2, alike=[*rids[1:], rids[2]], flags=("aborted",))])
    await settled(part)
    assert await part.counter() == {"api_requests": 2 * 8}
    assert all(mark.startswith("!") for mark in (await part.holds()).values())
    assert (part.settlements.counts["settled"], part.settlements.counts["aborted"]) == (10, 9)


@given(
    status=st.integers(0, 599),
    units=st.integers(1, (1 << 63) - 1),
    dimensions=st.dictionaries(st.text(max_size=9), st.text(max_size=200), max_size=3),
    flags=st.lists(st.sampled_from(["aborted", "estimated"]), max_size=2),
    alike=st.lists(st.text(max_size=300), max_size=3),
)
def test_the_event_put_together_by_hand_is_that_of_the_message(
    status: int, units: int, dimensions: dict[str, str], flags: list[str], alike: list[str]
) -> None:
    grant = Grant("1a2b3c-77", "a", "s", "k", "p")
    made = Settlement(grant, status, {"m": units}, tuple(flags), dimensions, alike=alike)
    expected = UsageEvent(
        rid="1a2b3c-77", account_id="a", subscription_id="s", key_id="k", policy="p", admitted_at_ms=0x1A2B3C,
        status=status, dimensions=dimensions, flags=flags, alike=alike,
    )  # fmt: skip
    expected.meters.add(meter="m", quantity=units)
    assert UsageEvent.FromString(serialized_event(made, (("m", units),))) == expected


async def test_the_event_says_everything_that_billing_needs(part: Part) -> None:
    await part.publish(an_account(limit=100))
    await ask(part, stream=201)
    part.settlements.settle([settlement(201, 3, flags=("aborted",), dimensions={"model": "m"})])
    (event,) = events(part)
    assert (event.rid, event.account_id, event.subscription_id, event.key_id) == (
        a_call_of(201).rid, "acct1", "sub1", "key1",
    )  # fmt: skip
    assert event.admitted_at_ms == a_call_of(201).admitted_at_ms
    assert [(m.meter, m.quantity) for m in event.meters] == [("api_requests", 3)]
    assert (event.status, list(event.flags), dict(event.dimensions)) == (200, ["aborted"], {"model": "m"})
    await settled(part)


async def test_nothing_owed_is_a_void_and_no_event(part: Part) -> None:
    await part.publish(an_account(limit=1))
    await ask(part, stream=202)
    part.settlements.settle([settlement(202, 0)])
    await settled(part)
    assert events(part) == []
    assert part.records()[-1][0] == b"V"
    assert code(await ask(part)) == "allowed"


async def test_usage_is_in_the_spool_before_settle_returns_and_reaches_a_store_that_was_away(
    part: Part, valkey: Valkey
) -> None:
    await part.publish(an_account(limit=100))
    await ask(part, stream=203, units=5)
    valkey.kill9()
    part.settlements.settle([settlement(203, 2)])
    assert len(events(part)) == 1
    await asyncio.sleep(0.3)
    valkey.start()
    await settled(part)
    assert await part.counter() == {"api_requests": 2}


async def test_a_settlement_after_a_flushed_store_rebuilds_first_and_counts_once(part: Part) -> None:
    await part.publish(an_account(limit=100))
    await ask(part, stream=204, units=5)
    await part.link.ask("FLUSHALL")
    await part.publish(an_account(limit=100))
    part.settlements.settle([settlement(204, 2)])
    await settled(part)
    assert await part.counter() == {"api_requests": 2}


async def test_tombstones_are_removed_and_open_holds_are_not(part: Part) -> None:
    await part.publish(an_account(limit=100))
    await ask(part, stream=205)
    await ask(part, stream=206)
    part.settlements.settle([settlement(205)])
    await settled(part)
    assert (await part.holds())[a_call_of(205).rid].startswith("!")
    async with asyncio.timeout(TOMBSTONE_S + 5):
        while a_call_of(205).rid in await part.holds():  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert list(await part.holds()) == [a_call_of(206).rid]

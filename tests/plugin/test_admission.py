"""Admission against a real Valkey: what the script decides, what the spool says about it, and what an outage does."""

import asyncio

from builders.plugin import Part, a_call_of, a_part, an_account, ask, code, settled
from farebox.v1 import layout
from farebox_plugin.admission import Refused
from farebox_plugin.records import Grant, Settlement
from farebox_plugin.terms import held_units
from rig.valkey import Valkey


async def test_a_quota_of_ten_lets_ten_in(part: Part) -> None:
    await part.publish(an_account(limit=10))
    decisions = [await ask(part) for _ in range(12)]
    assert [code(decision) for decision in decisions] == ["allowed"] * 10 + ["quota_exceeded"] * 2
    refusal = decisions[-1].refusal  # type: ignore[union-attr]
    assert (refusal.limit, refusal.used, refusal.meter) == (10, 10, "api_requests")
    assert await part.counter() == {"api_requests": 10}


async def test_two_hundred_at_once_on_a_quota_of_a_hundred(part: Part) -> None:
    await part.publish(an_account(limit=100))
    decisions = await asyncio.gather(*(ask(part) for _ in range(200)))
    assert [code(decision) for decision in decisions].count("allowed") == 100


async def test_requests_that_come_together_are_decided_in_their_order(part: Part) -> None:
    """One group for the script: it reads and writes once, and still decides one after the other."""
    await part.publish(an_account(limit=13, rate=(100, 60_000)))
    assert code(await ask(part)) == "allowed"  # the account is loaded
    together = [ask(part, stream=4100 + n) for n in range(4)] + [ask(part, stream=4200 + n, units=5) for n in range(3)]
    decisions = await asyncio.gather(*together)
    assert [code(decision) for decision in decisions] == ["allowed"] * 5 + ["quota_exceeded"] * 2
    assert [decision.committed for decision in decisions[:5]] == [[2], [3], [4], [5], [10]]  # type: ignore[union-attr]
    assert [decision.rate_left for decision in decisions[:5]] == [98, 97, 96, 95, 94]  # type: ignore[union-attr]
    assert await part.counter() == {"api_requests": 10}
    assert sorted((await part.holds()).values())[-1].endswith("|api_requests|5")


async def test_a_group_takes_repeated_closed_and_suspect_requests_each_for_what_it_is(
    part: Part, valkey: Valkey
) -> None:
    async with a_part(valkey, part.folder, "w1") as other:
        await part.publish(an_account(limit=5))
        other.ledger.accounts = part.ledger.accounts
        for stream in (4301, 4302, 4303):
            assert code(await ask(part, stream=stream)) == "allowed"
        part.settlements.take_back(a_call_of(4302).rid, "acct1")
        await settled(part)
        # What a rebuild makes of a bare intent: it counts, until the request itself comes again.
        hold = next(hold for hold in (await part.holds()).values() if hold.startswith("w0;"))
        await part.link.ask("HSET", layout.holds("acct1"), a_call_of(4304).rid, "?" + hold)
        counters = layout.counters("acct1")
        await part.link.ask("HINCRBY", counters, hold.split(";")[1].split("|")[0], 1)
        assert await part.counter() == {"api_requests": 3}
        asked = [ask(other, stream=stream) for stream in (4301, 4302, 4303, 4304, 4305, 4306, 4307)]
        decisions = await asyncio.gather(*asked)
        await settled(other)
        holds = await part.holds()
    assert [code(decision) for decision in decisions] == [
        "allowed", "metering_unavailable", "allowed", "allowed", "allowed", "allowed", "quota_exceeded",
    ]  # fmt: skip
    assert await part.counter() == {"api_requests": 5}
    owners = {stream: holds[a_call_of(stream).rid].partition(";")[0] for stream in (4301, 4303, 4304, 4305, 4306)}
    assert owners == {4301: "w0+w1", 4303: "w0+w1", 4304: "w1", 4305: "w1", 4306: "w1"}


async def test_two_workers_share_one_limit(part: Part, valkey: Valkey) -> None:
    async with a_part(valkey, part.folder, "w1") as other:
        await part.publish(an_account(limit=100))
        other.ledger.accounts = part.ledger.accounts
        asked = [ask(one) for _ in range(100) for one in (part, other)]
        decisions = await asyncio.gather(*asked)
    assert [code(decision) for decision in decisions].count("allowed") == 100


async def test_a_repeated_check_is_counted_once_also_by_another_worker(part: Part, valkey: Valkey) -> None:
    async with a_part(valkey, part.folder, "w1") as other:
        await part.publish(an_account(limit=1))
        other.ledger.accounts = part.ledger.accounts
        assert [code(await ask(one, stream=900)) for one in (part, part, other)] == ["allowed"] * 3
        assert code(await ask(part)) == "quota_exceeded"
        assert await part.counter() == {"api_requests": 1}


async def test_several_units_are_all_or_nothing(part: Part) -> None:
    await part.publish(an_account(limit=10))
    assert [code(await ask(part, units=units)) for units in (6, 6, 4, 1)] == [
        "allowed", "quota_exceeded", "allowed", "quota_exceeded",
    ]  # fmt: skip


async def test_a_check_that_costs_nothing_is_refused_where_nothing_is_left(part: Part) -> None:
    await part.publish(an_account(limit=1))
    assert [code(await ask(part, units=units)) for units in (0, 1, 0)] == ["allowed", "allowed", "quota_exceeded"]


async def test_a_rate_limit_refuses_the_burst_and_says_when_to_come_back(part: Part) -> None:
    await part.publish(an_account(limit=1000, rate=(5, 60_000)))
    decisions = [await ask(part) for _ in range(7)]
    assert [code(decision) for decision in decisions] == ["allowed"] * 5 + ["rate_limited"] * 2
    assert [decision.rate_left for decision in decisions[:5]] == [4, 3, 2, 1, 0]  # type: ignore[union-attr]
    assert decisions[5].refusal.retry_after_s == 12  # type: ignore[union-attr]
    assert await part.counter() == {"api_requests": 5}, "a request that the rate refuses takes no quota"


async def test_a_new_version_of_the_account_acts_on_the_next_request(part: Part) -> None:
    await part.publish(an_account(limit=10))
    assert code(await ask(part)) == "allowed"
    part.directory.invalidated = lambda keys: None  # type: ignore[method-assign]  # the push is lost
    revoked = an_account(limit=10, version=2)
    del revoked.keys[:]
    await part.publish(revoked)
    assert code(await ask(part)) == "invalid_api_key"


async def test_a_server_that_lost_its_memory_is_rebuilt_before_it_is_believed(part: Part) -> None:
    await part.publish(an_account(limit=10))
    for _ in range(10):
        assert code(await ask(part)) == "allowed"
    await part.link.ask("FLUSHALL")
    await part.publish(an_account(limit=10))
    assert code(await ask(part)) == "quota_exceeded"
    assert await part.counter() == {"api_requests": 10}
    assert len(await part.holds()) == 10


async def test_the_spool_tells_every_outcome_in_order(part: Part) -> None:
    await part.publish(an_account(limit=1))
    await ask(part)
    first = await part.holds()
    await ask(part)
    kinds = [(kind, fields[-1] in first) for kind, fields in part.records()]
    # The first request was not loaded yet, and asked twice.
    assert kinds == [(b"I", True), (b"I", True), (b"A", True), (b"I", False), (b"C", False)]


async def test_an_answer_that_nobody_waits_for_any_more_is_taken_back(part: Part) -> None:
    await part.publish(an_account(limit=1))
    assert code(await ask(part, abandoned=True)) == "metering_unavailable"
    await settled(part)
    assert await part.counter() == {"api_requests": 0}
    assert code(await ask(part)) == "allowed"


async def test_a_request_that_two_workers_were_asked_about_in_vain_holds_nothing(part: Part, valkey: Valkey) -> None:
    async with a_part(valkey, part.folder, "w1") as other:
        await part.publish(an_account(limit=1))
        other.ledger.accounts = part.ledger.accounts
        decisions = await asyncio.gather(
            ask(part, stream=910, abandoned=True),
            ask(other, stream=910, abandoned=True),
            ask(part, stream=910, abandoned=True),
        )
        assert {code(decision) for decision in decisions} == {"metering_unavailable"}
        await settled(part)
        await settled(other)
        assert await part.counter() == {"api_requests": 0}
        assert code(await ask(part)) == "allowed"


async def test_of_two_workers_asked_the_one_that_answers_keeps_the_hold(part: Part, valkey: Valkey) -> None:
    async with a_part(valkey, part.folder, "w1") as other:
        await part.publish(an_account(limit=1))
        other.ledger.accounts = part.ledger.accounts
        decisions = await asyncio.gather(ask(part, stream=911, abandoned=True), ask(other, stream=911))
        assert [code(decision) for decision in decisions] == ["metering_unavailable", "allowed"]
        await settled(part)
        assert await part.counter() == {"api_requests": 1}
        assert code(await ask(part)) == "quota_exceeded"


async def test_a_check_repeated_while_the_first_is_on_its_way_is_one_request(part: Part) -> None:
    await part.publish(an_account(limit=5))
    decisions = await asyncio.gather(*(ask(part, stream=912) for _ in range(4)))
    assert [code(decision) for decision in decisions] == ["allowed"] * 4
    assert await part.counter() == {"api_requests": 1}
    assert [kind for kind, _ in part.records()].count(b"A") == 1


async def test_who_gave_up_cannot_take_the_hold_of_the_worker_that_was_asked_next(part: Part, valkey: Valkey) -> None:
    async with a_part(valkey, part.folder, "w1") as other:
        await part.publish(an_account(limit=1))
        other.ledger.accounts = part.ledger.accounts
        assert code(await ask(part, stream=901)) == "allowed"
        assert code(await ask(other, stream=901)) == "allowed"
        part.settlements.take_back(a_call_of(901).rid, "acct1")
        await settled(part)
        assert await part.counter() == {"api_requests": 1}
        assert code(await ask(part)) == "quota_exceeded"


async def test_a_store_that_does_not_answer_in_time_is_unavailable_and_nothing_is_counted(
    valkey: Valkey, part: Part
) -> None:
    async with a_part(valkey, part.folder, "w1", timeout_s=0.1) as quick:
        await part.publish(an_account(limit=10))
        quick.ledger.accounts = part.ledger.accounts
        assert code(await ask(quick)) == "allowed"
        valkey.freeze()
        decisions = await asyncio.gather(*(ask(quick) for _ in range(5)))
        valkey.thaw()
        assert {code(decision) for decision in decisions} == {"metering_unavailable"}
        assert all(isinstance(each, Refused) and each.refusal.retry_after_s for each in decisions)
        await settled(quick)
        assert await part.counter() == {"api_requests": 1}


async def test_a_dead_store_is_unavailable_and_comes_back_with_its_counters(valkey: Valkey, part: Part) -> None:
    await part.publish(an_account(limit=2))
    assert code(await ask(part)) == "allowed"
    valkey.kill9()
    assert code(await ask(part)) == "metering_unavailable"
    valkey.start()
    while not part.link.is_up:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await part.publish(an_account(limit=2))
    assert [code(await ask(part)) for _ in range(2)] == ["allowed", "quota_exceeded"]


async def test_a_settled_request_cannot_be_admitted_again(part: Part) -> None:
    await part.publish(an_account(limit=5))
    assert code(await ask(part, stream=902)) == "allowed"
    rid = a_call_of(902).rid
    part.settlements.settle([Settlement(Grant(rid, "acct1", "sub1", "key1", "default"), 200, {"api_requests": 1})])
    await settled(part)
    assert code(await ask(part, stream=902)) == "metering_unavailable"
    assert await part.counter() == {"api_requests": 1}


async def test_a_spool_without_room_lets_nobody_in_and_says_so(part: Part) -> None:
    await part.publish(an_account(limit=10))
    part.spool._budget_bytes = 0
    assert code(await ask(part)) == "metering_unavailable"
    assert part.records() == []


async def test_a_request_that_crosses_a_change_of_plan_is_held_on_the_counters_of_the_new_one(part: Part) -> None:
    await part.publish(an_account(limit=10))
    assert code(await ask(part)) == "allowed"
    part.directory.invalidated = lambda keys: None  # type: ignore[method-assign]  # the push is lost
    changed = an_account(limit=20, version=2, concurrency=5)
    resets = changed.subscriptions[0].quotas[0].resets_ms
    changed.subscriptions[0].quotas.add(
        id="extra.P1M", meter="api_requests", limit=7, hard=True, resets_ms=[resets[0] + 1, *resets[1:]]
    )
    await part.publish(changed)
    assert code(await ask(part, stream=4400)) == "allowed"
    hold = (await part.holds())[a_call_of(4400).rid]
    assert [meter for meter, _ in held_units(hold).values()] == ["api_requests", "api_requests", layout.OPEN_REQUEST]
    assert (await part.counter())["extra"] == 1

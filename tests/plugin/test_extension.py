"""Holding in part, and more for a running response: the real scripts on a real Valkey."""

import asyncio

import pytest

from builders.plugin import DAY_MS, START_MS, Asker, Part, a_call_of, a_policy, a_ticket, an_account, settled
from farebox.v1.entitlements_pb2 import Account
from farebox_plugin.admission import Admitted, Decision
from farebox_plugin.directory import read_policy
from farebox_plugin.records import Grant, Settlement, Unavailable
from farebox_plugin.terms import Terms, hold_for
from rig.valkey import Valkey

CAPPED = a_policy("capped", {"api_requests": 1, "tokens": "usage.outputTokens"}, cut_off=True)
POLICY = read_policy(CAPPED)


async def admit(part: Part, stream: int, tokens: int) -> Decision:
    """One request under the policy `capped`, held at so many tokens."""
    call = a_call_of(stream)
    entry = part.directory.find_account("acct1") or part.directory.put_account(
        part.ledger.accounts["acct1"].SerializeToString()
    )
    terms = part.directory.terms_of(entry, "key1", POLICY, call.admitted_at_ms)
    assert isinstance(terms, Terms)
    answer: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
    hold = hold_for(terms, None, {"tokens": tokens})
    part.admission.submit(a_ticket(call, terms, hold, Asker(answer.set_result)))
    return await answer


def held(decision: Decision) -> int:
    assert isinstance(decision, Admitted)
    return decision.held["tokens"]


def grant(stream: int) -> Grant:
    return Grant(a_call_of(stream).rid, "acct1", "sub1", "key1", "capped")


def settle(part: Part, stream: int, tokens: int) -> None:
    part.settlements.settle([Settlement(grant(stream), 200, {"api_requests": 1, "tokens": tokens})])


async def test_the_last_one_is_held_at_what_is_left_and_nobody_comes_after_it(part: Part) -> None:
    await part.publish(an_account(limit=10, tokens=100))
    decisions = [await admit(part, 3000 + n, 40) for n in range(4)]
    assert [held(decision) for decision in decisions[:3]] == [40, 40, 20]
    assert decisions[3].refusal.meter == "tokens"  # type: ignore[union-attr]
    assert (await part.counter())["tokens"] == 100
    settle(part, 3002, 20)
    settle(part, 3001, 5)
    await settled(part)
    assert held(await admit(part, 3010, 40)) == 35


async def test_a_repeated_check_is_told_what_is_held_for_it(part: Part) -> None:
    await part.publish(an_account(limit=10, tokens=100))
    assert [held(await admit(part, 3020, 130)) for _ in range(2)] == [100, 100]


async def test_a_meter_with_two_limits_is_held_by_the_tighter_one(part: Part) -> None:
    account = with_daily_tokens(an_account(limit=10, tokens=100), 30)
    await part.publish(account)
    assert held(await admit(part, 3030, 50)) == 30
    settle(part, 3030, 30)
    await settled(part)
    assert await part.link.ask("HGET", "fb:{acct1}:c", f"v:sub1/tokens.P1M@{START_MS}") == b"30"


def with_daily_tokens(account: Account, limit: int) -> Account:
    account.subscriptions[0].quotas.add(
        id="tokens.P1D", meter="tokens", limit=limit, hard=True, resets_ms=[START_MS, START_MS + 30 * DAY_MS]
    )
    return account


async def test_what_has_a_fixed_price_is_never_held_in_part(part: Part) -> None:
    await part.publish(an_account(limit=0, tokens=100))
    decision = await admit(part, 3040, 10)
    assert decision.refusal.meter == "api_requests"  # type: ignore[union-attr]


async def test_more_is_held_while_there_is_more_and_the_rest_when_there_is_less(part: Part) -> None:
    await part.publish(an_account(limit=10, tokens=100))
    await admit(part, 3050, 10)
    extend = part.extensions.extend
    assert await extend(grant(3050), POLICY, {"tokens": (11, 50)}) == {"api_requests": 1, "tokens": 50}
    assert await extend(grant(3050), POLICY, {"tokens": (51, 500)}) == {"api_requests": 1, "tokens": 100}
    assert await extend(grant(3050), POLICY, {"tokens": (101, 500)}) is None
    assert (await part.counter())["tokens"] == 100
    settle(part, 3050, 60)
    await settled(part)
    assert (await part.counter())["tokens"] == 60


async def test_asking_again_for_the_same_adds_nothing(part: Part) -> None:
    await part.publish(an_account(limit=10, tokens=100))
    await admit(part, 3060, 10)
    for _ in range(3):
        await part.extensions.extend(grant(3060), POLICY, {"tokens": (11, 50)})
    assert (await part.counter())["tokens"] == 50


async def test_nothing_is_added_to_what_is_settled(part: Part) -> None:
    await part.publish(an_account(limit=10, tokens=100))
    await admit(part, 3070, 10)
    settle(part, 3070, 7)
    await settled(part)
    assert await part.extensions.extend(grant(3070), POLICY, {"tokens": (11, 50)}) is None
    assert (await part.counter())["tokens"] == 7


async def test_a_plan_that_changes_under_a_running_response_decides_from_then_on(part: Part) -> None:
    await part.publish(an_account(limit=10, tokens=100))
    await admit(part, 3080, 10)
    part.directory.invalidated = lambda keys: None  # type: ignore[method-assign]  # the push is lost
    await part.publish(an_account(limit=10, tokens=30, version=2))
    assert await part.extensions.extend(grant(3080), POLICY, {"tokens": (11, 50)}) == {"api_requests": 1, "tokens": 30}


async def test_a_rebuild_holds_as_much_as_was_promised(part: Part) -> None:
    await part.publish(an_account(limit=10, tokens=100))
    await admit(part, 3090, 10)
    await part.extensions.extend(grant(3090), POLICY, {"tokens": (11, 50)})
    await admit(part, 3091, 80)  # in part: 50
    await part.link.ask("FLUSHALL")
    await part.publish(an_account(limit=10, tokens=100))
    await part.rebuilder.load("acct1")
    assert (await part.counter())["tokens"] == 100
    assert await part.extensions.extend(grant(3090), POLICY, {"tokens": (51, 60)}) is None


async def test_a_store_that_is_away_is_not_a_refusal(part: Part, valkey: Valkey) -> None:
    await part.publish(an_account(limit=10, tokens=100))
    await admit(part, 3100, 10)
    valkey.kill9()
    with pytest.raises(Unavailable):
        await part.extensions.extend(grant(3100), POLICY, {"tokens": (11, 50)})


async def test_requests_at_once_are_limited_and_their_end_makes_room(part: Part) -> None:
    await part.publish(an_account(limit=10, tokens=100, concurrency=2))
    decisions = [await admit(part, 3110 + n, 1) for n in range(3)]
    assert decisions[2].refusal.code == "rate_limited"  # type: ignore[union-attr]
    assert decisions[2].refusal.retry_after_s == 1  # type: ignore[union-attr]
    await part.link.ask("FLUSHALL")
    await part.publish(an_account(limit=10, tokens=100, concurrency=2))
    assert (await admit(part, 3114, 1)).refusal.code == "rate_limited", "rebuilt with them"  # type: ignore[union-attr]
    settle(part, 3110, 1)
    await settled(part)
    assert isinstance(await admit(part, 3115, 1), Admitted)
    settle(part, 3111, 1)
    settle(part, 3115, 1)
    await settled(part)
    assert await part.link.ask("HGET", "fb:{acct1}:c", "n:sub1") == b"0"

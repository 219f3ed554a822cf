import pytest

from builders.plugin import DAY_MS, a_policy, an_account, now_ms
from farebox.v1.entitlements_pb2 import Account
from farebox_plugin.directory import read_account, read_policy
from farebox_plugin.records import Refusal
from farebox_plugin.terms import Policy, Terms, held_units, hold_for, terms


def terms_of(account: Account, policy: dict[str, int | str] | None = None, at: int | None = None, **fields: object):
    read = read_policy(a_policy(meters=policy, **fields))
    return terms(read_account(account), "key1", read, now_ms() if at is None else at)


def test_an_active_subscription_gets_its_quota() -> None:
    made = terms_of(an_account(limit=10))
    assert isinstance(made, Terms)
    (counter,) = made.counters
    assert (counter.meter, counter.limit, counter.quota) == ("api_requests", 10, 10)
    assert made.valid_from_ms <= now_ms() < made.valid_until_ms


def refused(made: object) -> str:
    assert isinstance(made, Refusal)
    return made.code


def test_a_key_that_the_account_no_longer_lists_is_revoked() -> None:
    account = an_account()
    del account.keys[:]
    assert refused(terms_of(account)) == "invalid_api_key"


def test_a_key_works_until_the_instant_of_its_expiry() -> None:
    account = an_account(expires_at_ms=now_ms() + 1000)
    assert isinstance(terms_of(account), Terms)
    assert terms_of(account).valid_until_ms == account.keys[0].expires_at_ms
    assert refused(terms_of(account, at=account.keys[0].expires_at_ms)) == "expired_api_key"
    assert isinstance(terms_of(account, at=account.keys[0].expires_at_ms - 1), Terms)


@pytest.mark.parametrize(
    ("steps", "code"),
    [
        ([], "no_active_subscription"),
        ([(1 << 50, "")], "no_active_subscription"),
        ([(0, ""), (1, "no_active_subscription")], "no_active_subscription"),
        ([(0, ""), (1, "payment_required")], "payment_required"),
    ],
)
def test_the_last_step_at_or_before_now_decides_access(steps: list[tuple[int, str]], code: str) -> None:
    account = an_account()
    del account.subscriptions[0].access[:]
    for from_ms, refusal in steps:
        account.subscriptions[0].access.add(from_ms=from_ms, refusal=refusal)
    assert refused(terms_of(account)) == code


def test_terms_end_where_access_changes() -> None:
    account = an_account()
    ends = now_ms() + 5000
    account.subscriptions[0].access.add(from_ms=ends, refusal="no_active_subscription")
    assert terms_of(account).valid_until_ms == ends


def test_a_meter_that_the_plan_does_not_grant_is_not_entitled() -> None:
    assert refused(terms_of(an_account(), {"tokens": 1})) == "not_entitled"


def test_a_required_feature_is_needed() -> None:
    assert refused(terms_of(an_account(), required_entitlements=["premium"])) == "not_entitled"
    assert isinstance(terms_of(an_account(features=("premium",)), required_entitlements=["premium"]), Terms)


def test_a_soft_limit_is_told_but_not_enforced() -> None:
    (counter,) = terms_of(an_account(limit=10, hard=False)).counters
    assert (counter.limit, counter.quota) == (-1, 10)


def test_limits_stack_on_one_meter() -> None:
    account = an_account(limit=100)
    start = now_ms() - 1000
    account.subscriptions[0].quotas.add(
        id="api_requests.P1D", meter="api_requests", limit=5, hard=True, resets_ms=[start, start + DAY_MS]
    )
    made = terms_of(account)
    assert [counter.limit for counter in made.counters] == [100, 5]
    assert made.valid_until_ms == start + DAY_MS


def test_quotas_that_share_a_counter_are_one_and_the_first_ones_limit_holds() -> None:
    account = an_account(limit=100)
    quota = account.subscriptions[0].quotas[0]
    account.subscriptions[0].quotas.add(id=quota.id, meter=quota.meter, limit=-1, resets_ms=quota.resets_ms)
    assert [counter.limit for counter in terms_of(account).counters] == [100]


def test_a_period_is_half_open() -> None:
    account = an_account()
    first, second, third = account.subscriptions[0].quotas[0].resets_ms
    fields = [terms_of(account, at=at).counters[0].field for at in (first, second - 1, second, third - 1)]
    assert fields[0] == fields[1] != fields[2] == fields[3]


def test_a_planned_change_acts_at_its_instant_without_anybody() -> None:
    account = an_account(limit=10, rate=(5, 1000), features=("old",), concurrency=3)
    first, second, _ = account.subscriptions[0].quotas[0].resets_ms
    at = first + DAY_MS
    stage = account.subscriptions[0].stages.add(from_ms=at, plan_key="pro", features=["new"])
    stage.quotas.add(id="api_requests.P1M", meter="api_requests", limit=99, hard=True, resets_ms=[first, at, second])
    stage.rate_limit.requests, stage.rate_limit.per_ms = 7, 1000
    before, behind = terms_of(account, at=at - 1), terms_of(account, at=at)
    assert (before.plan_key, before.valid_until_ms, before.emission_us) == ("free", at, 200_000)
    assert [counter.limit for counter in before.counters] == [10, 3]
    assert (behind.plan_key, behind.valid_from_ms, behind.emission_us) == ("pro", at, 142_857)
    assert [counter.limit for counter in behind.counters] == [99]
    assert before.counters[0].field != behind.counters[0].field, "the allowance is fresh: the period begins anew"
    assert not behind.holds_at(at - 1)
    assert not before.holds_at(at)
    assert refused(terms_of(account, at=at, required_entitlements=["old"])) == "not_entitled"
    assert isinstance(terms_of(account, at=at, required_entitlements=["new"]), Terms)
    assert isinstance(terms_of(account, at=at - 1, required_entitlements=["old"]), Terms)


def test_behind_the_published_horizon_the_last_period_goes_on() -> None:
    account = an_account()
    third = account.subscriptions[0].quotas[0].resets_ms[2]
    late, last = (terms_of(account, at=at).counters[0].field for at in (third + DAY_MS * 400, third - 1))
    assert late == last


def test_a_call_without_meters_has_no_counter() -> None:
    assert terms_of(an_account(), {}).counters == ()


@pytest.mark.parametrize(
    ("reserve", "max_tokens", "recent", "held"),
    [
        ({}, None, {}, 1),
        ({}, None, {"tokens": 70}, 70),
        ({"tokens": "request.maxTokens"}, 500, {"tokens": 70}, 500),
        ({"tokens": "request.maxTokens"}, None, {"tokens": 70}, 70),
        ({"tokens": "40"}, 500, {"tokens": 70}, 40),
    ],
)
def test_what_is_held_before_a_response_is_known(
    reserve: dict[str, str], max_tokens: int | None, recent: dict[str, int], held: int
) -> None:
    made = terms_of(an_account(tokens=1000), {"api_requests": 3, "tokens": "usage.outputTokens"}, reserve=reserve)
    assert hold_for(made, max_tokens, recent).units == {"api_requests": 3, "tokens": held}


def test_a_hold_reads_back_as_it_was_written() -> None:
    made = terms_of(an_account(tokens=1000), {"api_requests": 3, "tokens": "usage.outputTokens"})
    text = "w0;" + hold_for(made, None, {"tokens": 7}).text
    assert sorted(held_units(text).values()) == [("api_requests", 3), ("tokens", 7)]
    assert set(held_units(text)) == {counter.field for counter in made.counters}
    assert held_units("w0;") == {}


@pytest.mark.parametrize(
    ("status", "ranges", "expected"),
    [(200, ((200, 299),), True), (299, ((200, 299),), True), (300, ((200, 299),), False), (199, ((200, 299),), False),
     (404, ((200, 299), (404, 404)), True), (0, ((200, 299),), False), (200, (), False)],
)  # fmt: skip
def test_a_status_is_billable_within_its_ranges(status: int, ranges, expected: bool) -> None:
    assert Policy("p", {}, billable=ranges).is_billable(status) is expected

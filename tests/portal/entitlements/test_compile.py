from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine
from sqlmodel import Session

from builders.portal import (
    NOW,
    START,
    a_card,
    a_customer,
    a_feature,
    a_key,
    a_meter,
    a_plan,
    a_subscription,
)
from farebox.v1.entitlements_pb2 import Account
from farebox.v1.entitlements_pb2 import Policy as CompiledPolicy
from farebox_portal.catalog.tables import Policy
from farebox_portal.clock import from_ms, to_ms
from farebox_portal.customers.tables import Customer
from farebox_portal.db import transaction
from farebox_portal.entitlements.compile import (
    HORIZON,
    compile_account,
    compile_policies,
    counters_digest,
    recompile_at,
    resets_ms,
    serialized,
)
from farebox_portal.entitlements.facts import AccountFacts, read_facts
from farebox_portal.pricing.period import CADENCES, Period, period_at

DAY = timedelta(days=1)


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with transaction(engine) as session:
        a_meter(session)
        a_meter(session, "tokens")
        a_feature(session, meter_slug="api_requests")
        a_feature(session, "tokens", "tokens")
        a_feature(session, "premium")
        yield session


def facts(session: Session, customer: Customer) -> AccountFacts:
    return read_facts(session, [customer.id])[0]


def compiled(session: Session, customer: Customer, now: datetime = NOW) -> Account:
    return compile_account(facts(session, customer), now)


def test_a_plan_becomes_numbers(session: Session) -> None:
    customer = a_customer(session, entitlements_version=7)
    plan = a_plan(
        session,
        a_card(limit=100),
        a_card("tokens", limit=5000, soft=True),
        a_card("premium", entitlementTemplate={"type": "boolean"}),
        rate_limit={"requests": 10, "per": "minute"},
    )
    subscription = a_subscription(session, customer, plan)
    key = a_key(session, subscription, expires_at=NOW + DAY)
    account = compiled(session, customer)
    assert (account.id, account.customer_key, account.version) == (customer.id, "acme", 7)
    [sold] = account.subscriptions
    assert (sold.id, sold.plan_key) == (subscription.id, "free")
    assert [(step.from_ms, step.refusal) for step in sold.access] == [(to_ms(START), "")]
    assert (sold.rate_limit.requests, sold.rate_limit.per_ms) == (10, 60_000)
    assert [(q.id, q.meter, q.limit, q.hard, q.feature_key) for q in sold.quotas] == [
        ("api_requests.P1M", "api_requests", 100, True, "api_requests"),
        ("tokens.P1M", "tokens", 5000, False, "tokens"),
    ]
    assert list(sold.features) == ["api_requests", "premium", "tokens"]
    assert [(k.id, k.subscription_id, k.expires_at_ms) for k in account.keys] == [
        (key.id, subscription.id, to_ms(NOW + DAY))
    ]


@pytest.mark.parametrize(
    ("limit", "soft", "expected"), [(None, True, (-1, False)), (None, False, (-1, False)), (0, False, (0, True))]
)
def test_no_number_means_no_limit_and_zero_means_blocked(
    session: Session, limit: int | None, soft: bool, expected: tuple[int, bool]
) -> None:
    customer = a_customer(session)
    a_subscription(session, customer, a_plan(session, a_card(limit=limit, soft=soft)))
    quota = compiled(session, customer).subscriptions[0].quotas[0]
    assert (quota.limit, quota.hard) == expected


def test_a_limit_on_a_slice_of_a_meter_is_counted_but_not_enforced_on_all_of_it(session: Session) -> None:
    a_feature(session, "large_tokens", "tokens", filters={"model": "large"})
    customer = a_customer(session)
    a_subscription(session, customer, a_plan(session, a_card("large_tokens", limit=5)))
    quota = compiled(session, customer).subscriptions[0].quotas[0]
    assert (quota.meter, quota.limit, quota.hard) == ("tokens", -1, False)


@pytest.mark.parametrize(
    ("fields", "steps"),
    [
        ({}, [(START, "")]),
        ({"active_to": NOW + DAY}, [(START, ""), (NOW + DAY, "no_active_subscription")]),
        ({"active_from": NOW + DAY}, [(NOW + DAY, "")]),
        ({"active_to": START}, [(START, "no_active_subscription")]),
        ({"payment_status": "uncollectible"}, [(START, "payment_required")]),
        ({"payment_status": "failed"}, [(START, "")]),
    ],
)
def test_access_is_a_list_of_steps(session: Session, fields: dict[str, Any], steps: list[tuple[datetime, str]]) -> None:
    customer = a_customer(session)
    # Not called off for longer than ended subscriptions are kept.
    a_subscription(session, customer, a_plan(session), **fields)
    now = START + DAY if fields.get("active_to") == START else NOW
    access = compiled(session, customer, now).subscriptions[0].access
    assert [(from_ms(step.from_ms), step.refusal) for step in access] == steps


def test_revoked_keys_are_left_out_and_ended_things_are_kept_for_thirty_days(session: Session) -> None:
    customer = a_customer(session)
    plan = a_plan(session)
    recent = a_subscription(session, customer, plan, active_to=NOW - 29 * DAY)
    a_subscription(session, customer, plan, active_to=NOW - 30 * DAY)
    kept = a_key(session, recent, expires_at=NOW - 29 * DAY)
    a_key(session, recent, expires_at=NOW - 30 * DAY)
    a_key(session, recent, revoked_at=NOW)
    account = compiled(session, customer)
    assert [sold.id for sold in account.subscriptions] == [recent.id]
    assert [key.id for key in account.keys] == [kept.id]


def test_a_deleted_customer_has_nothing(session: Session) -> None:
    customer = a_customer(session, deleted_at=NOW)
    a_key(session, a_subscription(session, customer, a_plan(session)))
    account = compiled(session, customer)
    assert (list(account.subscriptions), list(account.keys)) == ([], [])


def test_the_same_facts_give_the_same_bytes_in_whatever_order_they_come(session: Session) -> None:
    customer = a_customer(session)
    for _ in range(5):
        a_key(session, a_subscription(session, customer, a_plan(session, a_card("tokens"), a_card(), key=f"p{_}")))
    one = facts(session, customer)
    other = AccountFacts(one.customer, one.subscriptions[::-1], one.keys[::-1], dict(reversed(one.features.items())))
    assert serialized(compile_account(one, NOW)) == serialized(compile_account(other, NOW))


@settings(deadline=None)
@given(
    st.datetimes(datetime(2020, 1, 1), datetime(2026, 1, 1)),  # noqa: DTZ001  (hypothesis wants them naive)
    st.sampled_from(CADENCES),
    st.timedeltas(timedelta(days=-400), timedelta(days=400)),
)
def test_boundaries_reach_from_the_period_before_to_the_horizon(
    anchor: datetime, cadence: str, since: timedelta
) -> None:
    # Whole milliseconds: what is finer does not travel.
    anchor = anchor.replace(microsecond=0, tzinfo=NOW.tzinfo)
    now = anchor + since
    found = [from_ms(ms) for ms in resets_ms(anchor, cadence, now)]
    current = period_at(anchor, cadence, now)
    assert Period(found[1], found[2]) == current
    assert found[0] == period_at(anchor, cadence, current.start - timedelta(microseconds=1)).start
    assert 3 <= len(found) <= 400
    assert found[-1] >= now + HORIZON or len(found) == 400
    assert found == sorted(set(found))


def test_a_phase_s_end_changes_the_allowances_and_asks_for_another_compilation(session: Session) -> None:
    phases = [
        {"key": "trial", "duration": "P14D", "rateCards": [a_card(limit=10)]},
        {"key": "full", "rateCards": [a_card(limit=1000)]},
    ]
    customer = a_customer(session)
    a_subscription(session, customer, a_plan(session, phases=phases), active_from=NOW - DAY)
    known = facts(session, customer)
    ends_at = NOW + 13 * DAY
    account = compile_account(known, NOW)
    assert account.subscriptions[0].quotas[0].limit == 10
    assert recompile_at(known, account, NOW) == ends_at
    assert compile_account(known, ends_at).subscriptions[0].quotas[0].limit == 1000


@pytest.mark.parametrize("cadence", CADENCES)
def test_a_document_is_compiled_again_long_before_its_boundaries_end(session: Session, cadence: str) -> None:
    customer = a_customer(session)
    a_subscription(session, customer, a_plan(session, a_card(billingCadence=cadence)))
    known = facts(session, customer)
    account = compile_account(known, NOW)
    again = recompile_at(known, account, NOW)
    assert again is not None
    last = from_ms(account.subscriptions[0].quotas[0].resets_ms[-1])
    assert NOW + 5 * DAY < again < last - 5 * DAY


def test_an_account_without_quotas_need_not_be_compiled_again(session: Session) -> None:
    customer = a_customer(session)
    known = facts(session, customer)
    assert recompile_at(known, compile_account(known, NOW), NOW) is None


def test_other_counters_have_another_digest_and_other_limits_or_a_later_horizon_do_not(session: Session) -> None:
    customer = a_customer(session)
    plan = a_plan(session, a_card(limit=10))
    subscription = a_subscription(session, customer, plan)

    def digest(now: datetime = NOW) -> str:
        known = facts(session, customer)
        return counters_digest(known, compile_account(known, now), now)

    before = digest()
    assert digest(NOW + 20 * DAY) == before
    a_key(session, subscription)
    assert digest() == before
    plan.phases = [{"key": "default", "rateCards": [a_card(limit=99, soft=True)]}]
    assert digest() == before
    plan.phases = [{"key": "default", "rateCards": [a_card(billingCadence="P1D")]}]
    by_day = digest()
    assert by_day != before
    subscription.billing_anchor = START + DAY
    assert digest() not in (before, by_day)


def a_policy(key: str, **document: Any) -> Policy:
    return Policy(key=key, document={"key": key} | document, created_at=NOW, updated_at=NOW)


def policies(*stored: Policy) -> dict[str, CompiledPolicy]:
    return {policy.key: policy for policy in compile_policies(stored).policies}


def test_a_route_without_a_policy_costs_one_request() -> None:
    default = policies()["default"]
    assert [(rule.meter, rule.fixed) for rule in default.meters] == [("api_requests", 1)]
    assert [(r.first, r.last) for r in default.meter_on_status] == [(200, 299)]
    assert not default.authenticate_only
    assert not default.allow_on_store_failure


def test_the_default_policy_can_be_replaced() -> None:
    assert [rule.meter for rule in policies(a_policy("default", meters={"calls": 2}))["default"].meters] == ["calls"]


def test_every_part_of_a_policy_document_is_compiled() -> None:
    chat = policies(
        a_policy(
            "chat",
            meters={"api_requests": 1, "checked": 0, "output_tokens": "usage.outputTokens"},
            dimensions={"model": "usage.model"},
            meterOnStatusCodes=["200-299", 404],
            requiredEntitlements=["premium"],
            reserve={"output_tokens": "request.maxTokens", "input_tokens": 50},
            onStoreFailure="allow",
            statusCodes={"quota_exceeded": 429},
        )
    )["chat"]
    assert [(rule.meter, rule.WhichOneof("quantity"), rule.fixed, rule.expression) for rule in chat.meters] == [
        ("api_requests", "fixed", 1, ""),
        ("checked", "fixed", 0, ""),
        ("output_tokens", "expression", 0, "usage.outputTokens"),
    ]
    assert dict(chat.dimensions) == {"model": "usage.model"}
    assert [(r.first, r.last) for r in chat.meter_on_status] == [(200, 299), (404, 404)]
    assert list(chat.required_entitlements) == ["premium"]
    assert dict(chat.reserve) == {"output_tokens": "request.maxTokens", "input_tokens": "50"}
    assert chat.allow_on_store_failure
    assert dict(chat.status_codes) == {"quota_exceeded": 429}
    assert not chat.authenticate_only


def test_a_policy_without_meters_only_authenticates() -> None:
    assert policies(a_policy("login"))["login"].authenticate_only


def test_policies_in_another_order_give_the_same_bytes() -> None:
    one, other = a_policy("a", meters={"x": 1, "y": 2}), a_policy("b", dimensions={"m": "usage.model", "n": "header:n"})
    assert serialized(compile_policies([one, other])) == serialized(compile_policies([other, one]))

"""Granting units over HTTP, and the balances that come of it, from the ledger."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlmodel import Session, select

from builders.portal import (
    NOW,
    START,
    a_batch,
    a_card,
    a_customer,
    a_feature,
    a_key,
    a_meter,
    a_plan,
    a_subscription,
    an_event,
)
from builders.portal_http import Portal
from farebox_portal.audit import AuditEntry
from farebox_portal.customers.tables import Customer
from farebox_portal.db import transaction
from farebox_portal.entitlements.compile import compile_account
from farebox_portal.entitlements.facts import read_facts
from farebox_portal.entitlements.state import account_states
from farebox_portal.entitlements.used import with_usage
from farebox_portal.subscriptions import lifecycle
from farebox_portal.subscriptions.tables import Subscription
from farebox_portal.usage.grant_rows import GrantRow
from farebox_portal.usage.granting import IN_FORCE_MAX
from farebox_portal.usage.ingest import apply_batch
from farebox_portal.usage.lag import LATE
from farebox_portal.usage.routes import router
from farebox_portal.usage.tables import GatewayRow

PERIOD = datetime(2026, 2, 28, tzinfo=UTC)
"""The usage period of NOW: anchored at 31 January, by the month."""
RESET = datetime(2026, 3, 31, tzinfo=UTC)


@pytest.fixture
def portal(tmp_path: Path, engine: Engine) -> Iterator[Portal]:
    with Portal(tmp_path, router, engine=engine) as portal:
        with transaction(portal.engine) as session:
            a_meter(session)
            a_meter(session, "tokens")
            a_feature(session, meter_slug="api_requests")
            a_feature(session, "tokens", "tokens")
            a_feature(session, "large_tokens", "tokens", filters={"model": "large"})
            a_feature(session, "premium")
            a_feature(session, "elsewhere", "tokens")
        yield portal


@pytest.fixture
def subscription(portal: Portal) -> Subscription:
    """100 requests a month, hard; tokens without a limit; 100 of the large model's, soft; and premium."""
    with transaction(portal.engine) as session:
        plan = a_plan(
            session,
            a_card(),
            a_card("tokens", limit=None, soft=True),
            a_card("large_tokens", soft=True),
            a_card("premium", entitlementTemplate={"type": "boolean"}),
        )
        row = a_subscription(session, a_customer(session), plan)
        a_key(session, row)
        return row


def path(subscription: Subscription, rest: str = "grants", feature: str = "api_requests") -> str:
    return f"/v1/subscriptions/{subscription.id}/entitlements/{feature}/{rest}"


def grant(portal: Portal, subscription: Subscription, amount: int = 50, **fields: Any) -> dict[str, Any]:
    feature = fields.pop("feature", "api_requests")
    answer = portal.post(path(subscription, feature=feature), json={"amount": amount, "priority": 2} | fields)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def use(portal: Portal, subscription: Subscription, units: int, at: datetime = NOW, **fields: Any) -> None:
    used = fields.pop("used", {"api_requests": units})
    with transaction(portal.engine) as session:
        event = an_event(subscription, f"r{at.timestamp()}{units}", at, fields.pop("dimensions", None), **used)
        apply_batch(session, a_batch(event), NOW)


def value(portal: Portal, subscription: Subscription, feature: str = "api_requests") -> dict[str, Any]:
    answer = portal.get(path(subscription, "value", feature))
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def limits(portal: Portal, subscription: Subscription) -> list[int]:
    """What the gateway gets: the limit of now, and of the stages ahead."""
    now = portal.clock.now()
    with transaction(portal.engine, read_only=True) as session:
        [facts] = with_usage(session, read_facts(session, [subscription.customer_id]), now)
    [sold] = compile_account(facts, now).subscriptions
    return [quota.limit for stage in (sold, *sold.stages) for quota in stage.quotas if quota.id == "api_requests.P1M"]


# --- making one ------------------------------------------------------------------------------------------------------


def test_a_grant_is_shown_as_it_was_made(portal: Portal, subscription: Subscription) -> None:
    made = grant(
        portal,
        subscription,
        priority=7,
        effectiveAt="2026-03-12T08:00:00.1239+02:00",
        expiration={"duration": "MONTH", "count": 2},
        maxRolloverAmount=20,
        minRolloverAmount=10,
        recurrence={"interval": "MONTH", "anchor": "2026-01-31T00:00:00Z"},
        metadata={"reason": "a kind gesture"},
    )
    assert made == {
        "id": made["id"],
        "subscriptionId": subscription.id,
        "featureKey": "api_requests",
        "amount": 50,
        "priority": 7,
        "effectiveAt": "2026-03-12T06:00:00.123000Z",
        "expiresAt": "2026-05-12T06:00:00.123000Z",
        "maxRolloverAmount": 20,
        "minRolloverAmount": 10,
        "recurrence": {"interval": "P1M", "anchor": "2026-01-31T00:00:00Z"},
        "metadata": {"reason": "a kind gesture"},
        "createdAt": "2026-03-10T12:00:00Z",
        "status": "scheduled",
    }
    listed = portal.get(path(subscription)).json()
    assert (listed["items"], listed["totalCount"]) == ([made], 1)
    assert portal.get(path(subscription, feature="tokens")).json()["items"] == []


def test_by_default_it_counts_from_now_on_and_does_not_expire(portal: Portal, subscription: Subscription) -> None:
    made = portal.post(path(subscription), json={"amount": 1}).json()
    assert (made["priority"], made["effectiveAt"], made["status"]) == (1, "2026-03-10T12:00:00Z", "active")
    assert {"expiresAt", "recurrence", "voidedAt"}.isdisjoint(made)


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"amount": 0}, "/amount"),
        ({"amount": -5}, "/amount"),
        ({"amount": 1 << 53}, "/amount"),
        ({"amount": 1.5}, "/amount"),
        ({"amount": "many"}, "/amount"),
        ({"amount": True}, "/amount"),
        ({"amount": None}, "/amount"),
        ({"priority": 0}, "/priority"),
        ({"priority": 256}, "/priority"),
        ({"minRolloverAmount": -1}, "/minRolloverAmount"),
        ({"minRolloverAmount": 6, "maxRolloverAmount": 5}, "/minRolloverAmount"),
        ({"effectiveAt": "2026-02-27T23:59:59Z"}, "/effectiveAt"),
        ({"effectiveAt": "2036-01-01T00:00:00Z"}, "/effectiveAt"),
        ({"effectiveAt": "2026-03-10T12:00:00"}, "/effectiveAt"),
        ({"expiresAt": "2026-03-10T12:00:00Z"}, "/expiresAt"),
        ({"effectiveAt": "2026-05-01T00:00:00Z", "expiresAt": "2026-04-01T00:00:00Z"}, "/expiresAt"),
        ({"expiresAt": "2027-01-01T00:00:00Z", "expiration": {"duration": "DAY", "count": 1}}, "/expiration"),
        ({"effectiveAt": "2026-03-01T00:00:00Z", "expiration": {"duration": "DAY", "count": 3}}, "/expiration"),
        ({"expiration": {"duration": "DECADE", "count": 1}}, "/expiration/duration"),
        ({"expiration": {"duration": "DAY", "count": 0}}, "/expiration/count"),
        ({"recurrence": {"interval": "WEEK"}}, "/recurrence/interval"),
        ({"recurrence": {"interval": "P1D"}}, "/recurrence/interval"),
        ({"recurrence": {"interval": "MONTH", "anchor": "0001-01-01T00:00:00Z"}}, "/recurrence/anchor"),
        ({"nonsense": 1}, "/nonsense"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_with_its_place(
    portal: Portal, subscription: Subscription, fields: dict[str, Any], place: str
) -> None:
    answer = portal.post(path(subscription), json={"amount": 5} | fields)
    assert answer.status_code == 422
    assert [fault["pointer"] for fault in answer.json()["errors"]] == [place]
    assert portal.get(path(subscription)).json()["items"] == []


@pytest.mark.parametrize("amount", ["NaN", "1e400", "1" * 5000])
def test_a_number_that_is_none_is_refused(portal: Portal, subscription: Subscription, amount: str) -> None:
    headers = {"Content-Type": "application/json"}
    answer = portal.post(path(subscription), content=f'{{"amount": {amount}}}', headers=headers)
    assert answer.status_code in (400, 422)
    assert portal.get(path(subscription)).json()["items"] == []


@pytest.mark.parametrize("interval", ["MONTH", "P3M", "YEAR"])
def test_it_may_recur_with_any_whole_number_of_usage_periods(
    portal: Portal, subscription: Subscription, interval: str
) -> None:
    assert grant(portal, subscription, recurrence={"interval": interval})["recurrence"]["anchor"]


@pytest.mark.parametrize(
    ("feature", "status", "code"),
    [
        ("premium", 409, "entitlement_not_metered"),
        ("elsewhere", 409, "entitlement_not_metered"),
        ("tokens", 409, "entitlement_unlimited"),
        ("unheard_of", 404, "feature_not_found"),
    ],
)
def test_where_nothing_can_be_added_nothing_is_granted(
    portal: Portal, subscription: Subscription, feature: str, status: int, code: str
) -> None:
    answer = portal.post(path(subscription, feature=feature), json={"amount": 5})
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_an_ended_subscription_and_one_that_there_is_not_take_no_grant(
    portal: Portal, subscription: Subscription
) -> None:
    with transaction(portal.engine) as session:
        session.get_one(Subscription, subscription.id).active_to = NOW
    assert portal.post(path(subscription), json={"amount": 5}).json()["code"] == "subscription_inactive"
    assert (
        portal.post("/v1/subscriptions/nobody/entitlements/api_requests/grants", json={"amount": 5}).status_code == 404
    )


def test_it_is_made_once_however_often_it_is_asked_for(portal: Portal, subscription: Subscription) -> None:
    ask = {"json": {"amount": 5}, "headers": {"Idempotency-Key": "gesture-1"}}
    first, second = (portal.post(path(subscription), **dict(ask)) for _ in range(2))
    assert first.json() == second.json()
    assert portal.get(path(subscription)).json()["totalCount"] == 1
    other = portal.post(path(subscription), json={"amount": 6}, headers={"Idempotency-Key": "gesture-1"})
    assert other.json()["code"] == "idempotency_key_reused"


def test_only_so_many_are_in_force_at_once(portal: Portal, subscription: Subscription) -> None:
    with transaction(portal.engine) as session:
        for number in range(IN_FORCE_MAX):
            ended = {"voided_at": NOW} if number == 0 else {}
            lapsed = {"effective_at": START} if number == 1 else {"effective_at": NOW}
            session.add(
                GrantRow(
                    id=f"g{number:03}",
                    subscription_id=subscription.id,
                    feature_key="api_requests",
                    amount=1,
                    priority=1,
                    rollover_min=0,
                    rollover_max=0,
                    created_at=NOW,
                    **lapsed,
                    **ended,
                )
            )
    for _ in range(2):
        grant(portal, subscription, 1)
    refused = portal.post(path(subscription), json={"amount": 1})
    assert (refused.status_code, refused.json()["code"]) == (409, "too_many_grants")


def test_only_an_operator_grants(portal: Portal, subscription: Subscription) -> None:
    for method in ("post", "get"):
        assert getattr(portal, method)(path(subscription), token=portal.plugin_token).status_code == 403
    assert portal.client.post(path(subscription), json={"amount": 1}).status_code == 401
    assert portal.client.get(path(subscription, "value")).status_code == 401


def test_who_granted_and_voided_it_is_in_the_audit_log(portal: Portal, subscription: Subscription) -> None:
    made = grant(portal, subscription)
    portal._send("DELETE", path(subscription, f"grants/{made['id']}"), None, {})
    with transaction(portal.engine, read_only=True) as session:
        entries = session.exec(select(AuditEntry).where(AuditEntry.object_id == made["id"])).all()
    assert [(entry.action, entry.actor) for entry in entries] == [
        ("entitlement_grant.create", "operator:admin"),
        ("entitlement_grant.change", "operator:admin"),
    ]
    assert set(entries[1].after or {}) == {"voided_at"}


def test_the_history_shows_how_the_balance_came_about(portal: Portal, subscription: Subscription) -> None:
    made = grant(portal, subscription, expiresAt="2026-03-10T18:00:00Z")
    use(portal, subscription, 30, NOW - timedelta(days=1))
    use(portal, subscription, 90, NOW + timedelta(hours=1))
    use(portal, subscription, 15, NOW + timedelta(hours=7))
    portal.clock.advance(timedelta(hours=8))
    now, ends = "2026-03-10T12:00:00Z", "2026-03-10T18:00:00Z"
    begins, resets = "2026-02-28T00:00:00Z", "2026-03-31T00:00:00Z"
    answer = portal.get(path(subscription, "history"))
    assert answer.json() == {
        "burnDown": [
            {"from": begins, "to": now, "usage": 30, "balanceAtStart": 100, "overageAtStart": 0,
             "grantsAtStart": {"issue": 100}},
            {"from": now, "to": ends, "usage": 90, "balanceAtStart": 120, "overageAtStart": 0,
             "grantsAtStart": {"issue": 70, made["id"]: 50}},
            {"from": ends, "to": resets, "usage": 15, "balanceAtStart": 0, "overageAtStart": 0,
             "grantsAtStart": {"issue": 0}},
        ]
    }  # fmt: skip
    assert value(portal, subscription)["overage"] == 15
    missing = portal.get(path(subscription, "history", "premium"))
    assert (missing.status_code, missing.json()["code"]) == (404, "entitlement_not_found")


# --- what comes of it ------------------------------------------------------------------------------------------------


def test_the_usage_document_the_value_and_the_gateway_say_the_same(portal: Portal, subscription: Subscription) -> None:
    made = grant(portal, subscription)
    use(portal, subscription, 120)
    expected = {
        "hasAccess": True, "balance": 30, "usage": 120, "overage": 0, "limit": 150, "resetsAt": "2026-03-31T00:00:00Z",
    }  # fmt: skip
    document = portal.get(f"/v1/subscriptions/{subscription.id}/usage").json()
    assert document["entitlements"]["api_requests"] == expected
    grants = [{"left": 0, "burnt": 100}, {"grantId": made["id"], "left": 30, "burnt": 20}]
    found = value(portal, subscription)
    assert sorted(found.pop("grants"), key=lambda one: one["left"]) == grants
    assert found == expected
    assert limits(portal, subscription) == [150, 100]


def test_what_a_gateway_loads_has_the_same_limit_and_the_counter_of_the_plan(
    portal: Portal, subscription: Subscription
) -> None:
    use(portal, subscription, 120)
    grant(portal, subscription)
    with transaction(portal.engine, read_only=True) as session:
        [found] = account_states(session, [subscription.customer_id], NOW, "host", NOW)
        [facts] = with_usage(session, read_facts(session, [subscription.customer_id]), NOW)
    assert found.account == compile_account(facts, NOW).SerializeToString(deterministic=True)
    assert [(counter.quota_id, counter.used) for counter in found.counters] == [("api_requests.P1M", 120)]


def test_a_feature_without_numbers_has_a_value_and_one_that_is_not_in_the_plan_has_none(
    portal: Portal, subscription: Subscription
) -> None:
    assert value(portal, subscription, "premium") == {"hasAccess": True, "grants": []}
    assert value(portal, subscription, "tokens")["grants"] == []
    missing = portal.get(path(subscription, "value", "elsewhere"))
    assert (missing.status_code, missing.json()["code"]) == (404, "entitlement_not_found")


def test_a_grant_of_a_slice_of_a_meter_counts_its_slice(portal: Portal, subscription: Subscription) -> None:
    grant(portal, subscription, feature="large_tokens")
    for model in ("large", "small"):
        use(portal, subscription, len(model), dimensions={"model": model}, used={"tokens": 120})
    found = value(portal, subscription, "large_tokens")
    assert (found["usage"], found["balance"], found["limit"]) == (120, 30, 150)
    assert limits(portal, subscription) == [100]


def test_a_voided_grant_gives_nothing_more_and_keeps_what_was_burnt(portal: Portal, subscription: Subscription) -> None:
    made, other = grant(portal, subscription), grant(portal, subscription, 5, priority=9)
    use(portal, subscription, 120, NOW - timedelta(minutes=1))
    assert value(portal, subscription)["balance"] == 35, "the first pays what was used beyond the plan's before"
    portal.clock.advance(timedelta(hours=1))
    before = version(portal, subscription)
    for _ in range(2):
        answer = portal._send("DELETE", path(subscription, f"grants/{made['id']}"), None, {})
        assert answer.status_code == 204
        portal.clock.advance(timedelta(hours=1))
    found = value(portal, subscription)
    assert (found["usage"], found["balance"], found["limit"]) == (120, 5, 125)
    assert version(portal, subscription) > before, "the gateway hears of it"
    listed = portal.get(path(subscription)).json()["items"]
    assert {one["id"]: one["status"] for one in listed} == {made["id"]: "voided", other["id"]: "active"}
    assert [one["voidedAt"] for one in listed if "voidedAt" in one] == ["2026-03-10T13:00:00Z"], "the first time counts"
    assert portal._send("DELETE", path(subscription, "grants/nobody"), None, {}).json()["code"] == "grant_not_found"
    wrong = path(subscription, f"grants/{other['id']}", "tokens")
    assert portal._send("DELETE", wrong, None, {}).status_code == 404


def version(portal: Portal, subscription: Subscription) -> int:
    with transaction(portal.engine, read_only=True) as session:
        return session.get_one(Customer, subscription.customer_id).entitlements_version


def test_what_rolls_over_is_there_a_minute_after_the_reset(portal: Portal, subscription: Subscription) -> None:
    grant(portal, subscription, maxRolloverAmount=40)
    use(portal, subscription, 120, NOW + timedelta(hours=1))
    for at, balance in ((RESET - timedelta(hours=1), 30), (RESET, 100), (RESET + LATE, 130)):
        portal.clock.instant = at
        assert value(portal, subscription)["balance"] == limits(portal, subscription)[0] - (120 if at < RESET else 0)
        assert value(portal, subscription)["balance"] == balance


def test_a_gateway_that_is_not_heard_of_may_have_more_usage(portal: Portal, subscription: Subscription) -> None:
    grant(portal, subscription, maxRolloverAmount=40)
    after = RESET + timedelta(hours=2)
    with transaction(portal.engine) as session:
        heard = RESET + timedelta(seconds=59)
        session.add(GatewayRow(name="g1", instance="i", boot="b", last_seen_at=heard))
    portal.clock.instant = after
    assert limits(portal, subscription)[0] == 100
    for change in ({"last_seen_at": RESET + LATE}, {"last_seen_at": RESET - timedelta(days=2)}, {"left_at": RESET}):
        with transaction(portal.engine) as session:
            session.get_one(GatewayRow, "g1").sqlmodel_update({"last_seen_at": RESET, "left_at": None} | change)
        assert limits(portal, subscription)[0] == 140
    assert value(portal, subscription)["limit"] == 140


def test_a_subscription_that_never_began_is_deleted_with_its_grants(portal: Portal, subscription: Subscription) -> None:
    with transaction(portal.engine) as session:
        row = session.get_one(Subscription, subscription.id)
        row.active_from = NOW + timedelta(days=10)
    made = grant(portal, subscription, effectiveAt="2026-03-22T00:00:00Z")
    with transaction(portal.engine) as session:
        lifecycle.delete(session, session.get_one(Subscription, subscription.id), NOW)
    with transaction(portal.engine, read_only=True) as session:
        assert session.get(GrantRow, made["id"]) is None


def test_of_many_grants_every_one_counts(portal: Portal, subscription: Subscription) -> None:
    for number in range(5):
        grant(portal, subscription, 1 << number, expiresAt=f"2026-03-1{number + 2}T00:00:00Z")
    assert limits(portal, subscription) == [131, 130, 128, 124, 116, 100, 100]
    with transaction(portal.engine, read_only=True) as session:
        rows: list[GrantRow] = list(Session.exec(session, select(GrantRow)).all())
    assert sum(row.amount for row in rows) == 31

"""Usage over HTTP, on the routers alone."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from builders.portal import (
    NOW,
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
from farebox_portal.db import transaction
from farebox_portal.subscriptions.tables import Subscription
from farebox_portal.usage.ingest import apply_batch
from farebox_portal.usage.routes import router


@pytest.fixture
def portal(tmp_path: Path, engine: Engine) -> Iterator[Portal]:
    with Portal(tmp_path, router, engine=engine) as portal:
        with transaction(portal.engine) as session:
            a_meter(session)
            a_meter(session, "tokens", group_by={"model": "$.model"})
            a_feature(session, meter_slug="api_requests")
            a_feature(session, "tokens", "tokens")
            a_feature(session, "premium")
        yield portal


def subscribe(portal: Portal, *cards: dict[str, Any], **fields: Any) -> Subscription:
    with transaction(portal.engine) as session:
        subscription = a_subscription(session, a_customer(session), a_plan(session, *cards), **fields)
        a_key(session, subscription)
    return subscription


def use(portal: Portal, subscription: Subscription, **used: int) -> None:
    with transaction(portal.engine) as session:
        apply_batch(session, a_batch(an_event(subscription, f"r{len(used)}{sum(used.values())}", **used)), NOW)


def test_the_usage_document_shows_what_is_left_of_each_feature(portal: Portal) -> None:
    subscription = subscribe(
        portal,
        a_card(limit=10),
        a_card("tokens", limit=100, soft=True),
        a_card("premium", entitlementTemplate={"type": "boolean"}),
    )
    use(portal, subscription, api_requests=10, tokens=130)
    answer = portal.get(f"/v1/subscriptions/{subscription.id}/usage")
    assert answer.status_code == 200
    resets = "2026-03-31T00:00:00Z"
    assert answer.json() == {
        "subscriptionId": subscription.id,
        "customerId": subscription.customer_id,
        "planKey": "free",
        "entitlements": {
            "api_requests": {
                "hasAccess": False, "balance": 0, "usage": 10, "overage": 0, "limit": 10, "resetsAt": resets,
            },
            "tokens": {
                "hasAccess": True, "balance": 0, "usage": 130, "overage": 30, "limit": 100, "resetsAt": resets,
            },
            "premium": {"hasAccess": True},
        },
        "paymentStatus": {"status": "not_required"},
    }  # fmt: skip
    assert portal.get(f"/v1/subscriptions/{subscription.id}/access").json() == answer.json()


def test_a_feature_that_is_a_slice_of_a_meter_shows_its_slice(portal: Portal) -> None:
    with transaction(portal.engine) as session:
        a_feature(session, "large_tokens", "tokens", filters={"model": "large"})
    subscription = subscribe(portal, a_card("large_tokens", limit=100))
    with transaction(portal.engine) as session:
        events = [an_event(subscription, model, NOW, {"model": model}, tokens=30) for model in ("large", "small")]
        apply_batch(session, a_batch(*events), NOW)
    document = portal.get(f"/v1/subscriptions/{subscription.id}/usage").json()
    assert document["entitlements"]["large_tokens"]["usage"] == 30


def test_usage_of_an_earlier_period_does_not_count(portal: Portal) -> None:
    subscription = subscribe(portal, a_card(limit=10))
    portal.clock.instant = NOW + timedelta(days=30)
    use(portal, subscription, api_requests=10)
    entitlement = portal.get(f"/v1/subscriptions/{subscription.id}/usage").json()["entitlements"]["api_requests"]
    assert entitlement["usage"] == 0
    assert entitlement["balance"] == 10
    assert entitlement["resetsAt"] == "2026-04-30T00:00:00Z"


def test_without_a_limit_there_is_usage_but_no_balance(portal: Portal) -> None:
    subscription = subscribe(portal, a_card(limit=None, soft=True))
    use(portal, subscription, api_requests=7)
    entitlement = portal.get(f"/v1/subscriptions/{subscription.id}/usage").json()["entitlements"]["api_requests"]
    assert entitlement == {"hasAccess": True, "usage": 7, "overage": 0, "resetsAt": "2026-03-31T00:00:00Z"}


@pytest.mark.parametrize(
    "fields",
    [{"active_to": NOW}, {"active_from": NOW + timedelta(days=1)}, {"payment_status": "uncollectible"}],
)
def test_nothing_is_accessible_in_a_subscription_that_is_not_active_or_not_paid(
    portal: Portal, fields: dict[str, Any]
) -> None:
    subscription = subscribe(portal, a_card(), a_card("premium", entitlementTemplate={"type": "boolean"}), **fields)
    document = portal.get(f"/v1/subscriptions/{subscription.id}/access").json()
    assert [one["hasAccess"] for one in document["entitlements"].values()] == [False, False]


def test_an_unknown_subscription_is_not_found(portal: Portal) -> None:
    for name in ("usage", "access"):
        answer = portal.get(f"/v1/subscriptions/nothing/{name}")
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"


def test_a_meter_is_queried_by_parameters_or_by_a_document_with_the_same_answer(portal: Portal) -> None:
    subscription = subscribe(portal)
    with transaction(portal.engine) as session:
        for n, model in enumerate(["small", "large", "large"]):
            event = an_event(subscription, f"r{n}", NOW + timedelta(days=n), {"model": model}, tokens=10**n)
            apply_batch(session, a_batch(event), NOW)
    asked = {"from": "2026-03-10T00:00:00Z", "to": "2026-03-14T00:00:00Z", "windowSize": "DAY"}
    params = [*asked.items(), ("groupBy", "model"), ("filterGroupBy[model]", "large"), ("subject", "acme")]
    by_parameters = portal.get("/v1/meters/tokens/query", params=params)
    body = asked | {"groupBy": ["model"], "filterGroupBy": {"model": ["large"]}, "subject": ["acme"]}
    by_document = portal.post("/v1/meters/tokens/query", json=body)
    assert by_parameters.status_code == 200
    assert by_parameters.json() == by_document.json()
    assert by_document.json()["data"] == [
        {
            "value": value,
            "windowStart": f"2026-03-{day}T00:00:00Z",
            "windowEnd": f"2026-03-{day + 1}T00:00:00Z",
            "groupBy": {"model": "large"},
        }
        for day, value in ((11, 10), (12, 100))
    ]


def test_a_meter_is_found_by_its_id_too_but_not_when_it_was_deleted(portal: Portal) -> None:
    with transaction(portal.engine) as session:
        kept, gone = a_meter(session, "kept"), a_meter(session, "gone", deleted_at=NOW)
    assert portal.get(f"/v1/meters/{kept.id}/query").json()["data"] == []
    assert portal.get(f"/v1/meters/{gone.id}/query").status_code == 404
    assert portal.get("/v1/meters/never/query").status_code == 404


def test_csv_is_sent_to_who_asks_for_it(portal: Portal) -> None:
    subscription = subscribe(portal)
    use(portal, subscription, tokens=5)
    params = {"from": "2026-03-10T00:00:00Z", "to": "2026-03-11T00:00:00Z"}
    answer = portal.get("/v1/meters/tokens/query", params=params, headers={"Accept": "text/csv"})
    assert answer.headers["content-type"].startswith("text/csv")
    assert answer.text.splitlines() == [
        "window_start,window_end,value",
        "2026-03-10T00:00:00Z,2026-03-11T00:00:00Z,5",
    ]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"from": "2026-03-10T00:00:00Z", "to": "2026-03-10T00:00:00Z"}, "/from"),
        ({"from": "1950-01-01T00:00:00Z"}, "/from"),
        ({"from": "2026-03-10T00:00:00"}, "/from"),
        ({"windowSize": "WEEK"}, "/windowSize"),
        ({"windowTimeZone": "Mars/Olympus"}, "/windowTimeZone"),
        ({"windowTimeZone": "../../etc/passwd"}, "/windowTimeZone"),
        ({"groupBy": ["colour"]}, "/groupBy/0"),
        ({"filterGroupBy": {"colour": ["red"]}}, "/filterGroupBy/colour"),
        ({"filterGroupBy": {"model": "large"}}, "/filterGroupBy/model"),
        ({"unknown": 1}, "/unknown"),
        ({"subject": ["x"] * 101}, "/subject"),
    ],
)
def test_a_wrong_question_is_refused_with_its_place(portal: Portal, body: dict[str, Any], pointer: str) -> None:
    answer = portal.post("/v1/meters/tokens/query", json=body)
    assert answer.status_code == 422
    assert [fault["pointer"] for fault in answer.json()["errors"]] == [pointer]


def test_only_the_operator_may_read_usage(portal: Portal) -> None:
    for path in ("/v1/subscriptions/x/usage", "/v1/subscriptions/x/access", "/v1/meters/tokens/query"):
        assert portal.client.get(path).status_code == 401
        assert portal.get(path, token=portal.plugin_token).status_code == 403

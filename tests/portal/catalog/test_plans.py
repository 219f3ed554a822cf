"""Plans over HTTP. What makes a document sound is tested without it, in test_plan_rules."""

from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient

from builders.documents import a_card, a_plan
from builders.documents import faults as faults_of
from farebox_portal.catalog.price_document import Price
from farebox_portal.clock import FrozenClock
from farebox_portal.pricing.documents import read_price

CARD = "/phases/0/rateCards/0"

TIERS = [
    {
        "upToAmount": "1000",
        "flatPrice": {"type": "flat", "amount": "9.990"},
        "unitPrice": None,
    },
    {"flatPrice": None, "unitPrice": {"type": "unit", "amount": 0.01}},
]
PRICES: list[dict[str, Any]] = [
    {"type": "flat", "amount": "99.00", "paymentTerm": "in_arrears"},
    {"type": "unit", "amount": "0.0010", "minimumAmount": "5", "maximumAmount": 1000},
    {"type": "tiered", "mode": "graduated", "tiers": TIERS},
    {"type": "tiered", "mode": "volume", "tiers": [{"upToAmount": 5, "unitPrice": 1}, {"unitPrice": "0.5"}]},
    {"type": "package", "amount": "10.00", "quantityPerPackage": "1000"},
    {"type": "dynamic", "multiplier": "1.2"},
]
A_METERED_CARD = {
    "type": "usage_based",
    "key": "api_requests",
    "name": "API requests",
    "description": "",
    "featureKey": "api_requests",
    "billingCadence": "P3M",
    "price": PRICES[2],
    "discounts": {"percentage": {"percentage": 12.5}, "usage": {"quantity": "100"}},
    "unitConfig": {"operation": "divide", "conversionFactor": "1000", "rounding": "ceiling", "displayUnit": "k"},
    "taxConfig": {"behavior": "exclusive", "stripe": {"code": "txcd_10000000"}},
    "entitlementTemplate": {
        "type": "metered",
        "issueAfterReset": 1000.0,
        "issueAfterResetPriority": 1,
        "isSoftLimit": True,
        "preserveOverageAtReset": False,
        "usagePeriod": "P2W",
        "metadata": {"b": None},
    },
    "metadata": {"our": {"own": [1, 2.5, None]}},
}
A_FREE_CARD = {
    "type": "flat_fee",
    "key": "premium",
    "name": "Premium (trial)",
    "featureKey": "premium",
    "billingCadence": None,
    "price": None,
    "entitlementTemplate": {"type": "boolean", "config": True},
}
A_FEE = {"type": "flat_fee", "key": "setup", "name": "Set-up", "billingCadence": None, "price": PRICES[0]}
AS_THE_OTHERS_WRITE_IT: dict[str, Any] = {
    "key": "starter",
    "name": "Starter",
    "description": "With every field that OpenMeter and Zuplo have",
    "currency": "KWD",
    "billingCadence": "P1M",
    "alignment": {"billablesMustAlign": True},
    "proRatingConfig": {"enabled": True, "mode": "prorate_prices"},
    "settlementMode": "credit_then_invoice",
    "defaultTaxConfig": {
        "behavior": "inclusive",
        "stripe": {"code": "txcd_10103001"},
        "taxCodeId": "01G65Z755AFWAKHE12NY0CQ9FH",
    },
    "metadata": {"zuplo_most_popular": "true", "isCustom": "false", "internal_id": 7, "nested": {"as": ["we", "like"]}},
    "phases": [
        {"key": "trial", "name": "Trial", "duration": "P2W", "rateCards": [A_FREE_CARD], "metadata": {"x": "y"}},
        {"key": "default", "name": "Default", "duration": None, "rateCards": [A_METERED_CARD, A_FEE]},
    ],
}


@pytest.mark.parametrize("document", [AS_THE_OTHERS_WRITE_IT, a_plan(key="pro", metadata={"a": 1})])
def test_a_plan_comes_back_as_it_was_sent(shop: TestClient, document: dict[str, Any]) -> None:
    document = document | {"rateLimit": {"requests": 5, "per": "minute"}, "concurrencyLimit": 3}
    theirs = {"status": "draft", "validationErrors": None, "paymentMethodRequired": True, "deletedAt": None}
    made = shop.post("/v1/plans", json=document | theirs).json()
    assert {name: made[name] for name in document} == document
    assert (made["version"], made["status"]) == (1, "draft")
    assert shop.get(f"/v1/plans/{made['id']}").json() == made


def test_a_plan_that_was_read_can_be_sent_again(shop: TestClient) -> None:
    made = shop.post("/v1/plans", json=AS_THE_OTHERS_WRITE_IT).json()
    again = shop.put(f"/v1/plans/{made['id']}", json=made).json()
    assert again == made
    assert shop.post(f"/v1/plans/{made['id']}/publish").status_code == 200
    published = shop.get("/v1/plans/starter").json()
    second = shop.post("/v1/plans", json=published).json()
    assert (second["version"], second["status"], second["phases"]) == (2, "draft", made["phases"])


@pytest.mark.parametrize("price", PRICES, ids=lambda price: f"{price['type']}-{price.get('mode')}")
def test_every_price_that_openapi_shows_is_taken(shop: TestClient, price: dict[str, Any]) -> None:
    Price.model_validate(price)
    assert read_price(price)[1] == []
    made = shop.post("/v1/plans", json=a_plan(a_card(price=price), key="pro")).json()
    assert made["phases"][0]["rateCards"][0]["price"] == price


def test_a_fault_anywhere_writes_nothing(shop: TestClient) -> None:
    before = shop.get("/v1/plans").json()
    document = a_plan(a_card(price={"type": "unit", "amount": "-1"}), key="pro", currency="XXX")
    assert list(faults_of(shop.post("/v1/plans", json=document))) == ["/currency", f"{CARD}/price/amount"]
    assert shop.get("/v1/plans").json() == before


def test_a_draft_can_be_replaced_and_deleted(shop: TestClient) -> None:
    draft = shop.post("/v1/plans", json=a_plan(key="pro")).json()
    replaced = shop.put(f"/v1/plans/{draft['id']}", json=a_plan(key="pro", name="Better")).json()
    assert (replaced["name"], replaced["version"], replaced["id"]) == ("Better", 1, draft["id"])
    other = shop.put(f"/v1/plans/{draft['id']}", json=a_plan(key="other", currency="EUR"))
    assert list(faults_of(other)) == ["/key", "/currency"]
    assert shop.delete(f"/v1/plans/{draft['id']}").status_code == 204
    assert shop.get(f"/v1/plans/{draft['id']}").status_code == 404


def test_fields_of_a_draft_can_be_changed_one_by_one(shop: TestClient) -> None:
    sent = a_plan(key="pro", description="Old", concurrencyLimit=3, metadata={"a": 1})
    draft = shop.post("/v1/plans", json=sent).json()
    path = f"/v1/plans/{draft['id']}"
    changed = shop.patch(path, json={"name": "New", "description": None, "concurrencyLimit": None}).json()
    assert "description" not in changed
    assert "concurrencyLimit" not in changed
    assert (changed["name"], changed["phases"], changed["metadata"]) == ("New", sent["phases"], {"a": 1})
    assert list(faults_of(shop.patch(path, json={"currency": "EUR"}))) == ["/currency"]
    assert list(faults_of(shop.patch(path, json={"phases": None, "size": 1}))) == ["/phases", "/size"]
    assert shop.get(path).json() == changed


def test_a_published_plan_never_changes(shop: TestClient) -> None:
    plan = shop.get("/v1/plans/free").json()
    assert shop.put(f"/v1/plans/{plan['id']}", json=a_plan(name="New")).json()["code"] == "plan_published"
    assert shop.patch(f"/v1/plans/{plan['id']}", json={"name": "New"}).json()["code"] == "plan_published"
    assert shop.delete(f"/v1/plans/{plan['id']}").json()["code"] == "plan_published"
    assert shop.post(f"/v1/plans/{plan['id']}/publish").json() == plan
    assert shop.get("/v1/plans/free").json() == plan


def test_a_post_of_the_same_key_is_the_next_version(shop: TestClient) -> None:
    second = shop.post("/v1/plans", json=a_plan(name="Two")).json()
    assert (second["version"], second["status"]) == (2, "draft")
    refused = shop.post("/v1/plans", json=a_plan())
    assert (refused.status_code, refused.json()["code"]) == (409, "plan_draft_exists")
    assert shop.get("/v1/plans/free").json()["version"] == 1, "on sale until the next one is published"
    for version in (1, 2):
        assert shop.get(f"/v1/plans/free?version={version}").json()["version"] == version
    assert shop.get("/v1/plans/free?version=3").status_code == 404
    assert shop.get(f"/v1/plans/{second['id']}?version=1").status_code == 404


def test_the_next_version_takes_the_place_of_the_one_on_sale(shop: TestClient, clock: FrozenClock) -> None:
    second = shop.post("/v1/plans", json=a_plan(name="Two")).json()
    clock.advance(timedelta(days=1))
    published = shop.post(f"/v1/plans/{second['id']}/publish").json()
    first = shop.get("/v1/plans/free?version=1").json()
    assert (first["status"], published["status"]) == ("archived", "active")
    assert first["effectiveTo"] == published["effectiveFrom"] == "2026-02-01T10:00:00Z"
    assert "effectiveTo" not in published
    assert shop.get("/v1/plans/free").json() == published


def test_the_currency_stays_the_same_over_all_versions(shop: TestClient) -> None:
    assert list(faults_of(shop.post("/v1/plans", json=a_plan(currency="EUR")))) == ["/currency"]
    draft = shop.post("/v1/plans", json=a_plan()).json()
    assert list(faults_of(shop.put(f"/v1/plans/{draft['id']}", json=a_plan(currency="EUR")))) == ["/currency"]


def test_an_archived_plan_stays_archived_since_when_it_was(shop: TestClient, clock: FrozenClock) -> None:
    plan = shop.get("/v1/plans/free").json()
    archived = shop.post(f"/v1/plans/{plan['id']}/archive").json()
    assert (archived["status"], archived["effectiveTo"]) == ("archived", archived["archivedAt"])
    clock.advance(timedelta(days=1))
    assert shop.post(f"/v1/plans/{plan['id']}/archive").json() == archived
    assert shop.post(f"/v1/plans/{plan['id']}/publish").json()["code"] == "plan_archived"


def test_a_draft_cannot_be_archived(shop: TestClient) -> None:
    draft = shop.post("/v1/plans", json=a_plan(key="pro")).json()
    assert shop.post(f"/v1/plans/{draft['id']}/archive").json()["code"] == "plan_is_draft"


def test_publishing_checks_the_plan_once_more(shop: TestClient) -> None:
    draft = shop.post("/v1/plans", json=a_plan(key="pro")).json()
    shop.post(f"/v1/plans/{shop.get('/v1/plans/free').json()['id']}/archive")
    assert shop.delete("/v1/features/api_requests").status_code == 204
    assert list(faults_of(shop.post(f"/v1/plans/{draft['id']}/publish"))) == [f"{CARD}/featureKey"]
    assert shop.get(f"/v1/plans/{draft['id']}").json()["status"] == "draft"


@pytest.mark.parametrize(("status", "keys"), [("draft", ["pro"]), ("active", ["free"]), ("archived", ["old"])])
def test_plans_are_listed_by_status(shop: TestClient, status: str, keys: list[str]) -> None:
    shop.post("/v1/plans", json=a_plan(key="pro"))
    old = shop.post("/v1/plans", json=a_plan(key="old")).json()["id"]
    shop.post(f"/v1/plans/{old}/publish")
    shop.post(f"/v1/plans/{old}/archive")
    assert [plan["key"] for plan in shop.get(f"/v1/plans?status={status}").json()["items"]] == keys
    assert {plan["status"] for plan in shop.get(f"/v1/plans?status={status}").json()["items"]} == {status}


@pytest.fixture
def four(shop: TestClient) -> TestClient:
    for key, currency in (("pro", "USD"), ("basic", "EUR"), ("team", "USD")):
        assert shop.post("/v1/plans", json=a_plan(key=key, currency=currency)).status_code == 201
    return shop


@pytest.mark.parametrize(
    ("query", "keys"),
    [
        ("", ["basic", "free", "pro", "team"]),
        ("?currency=EUR", ["basic"]),
        ("?key=pro", ["pro"]),
        ("?status=draft&currency=USD", ["pro", "team"]),
        ("?pageSize=2&page=2", ["pro", "team"]),
    ],
)
def test_plans_are_listed_by_what_is_asked(four: TestClient, query: str, keys: list[str]) -> None:
    assert [plan["key"] for plan in four.get(f"/v1/plans{query}").json()["items"]] == keys


def test_plans_are_listed_in_the_configured_order(four: TestClient) -> None:
    assert four.put("/v1/monetization-configuration", json={"planOrder": ["team", "free"]}).status_code == 200
    pages = [four.get(f"/v1/plans?pageSize=3&page={page}").json()["items"] for page in (1, 2)]
    assert [[plan["key"] for plan in page] for page in pages] == [["team", "free", "basic"], ["pro"]]

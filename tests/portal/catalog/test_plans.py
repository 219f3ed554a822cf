import copy
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from builders.documents import a_card, a_plan
from builders.documents import faults as faults_of
from farebox_portal.catalog.plans import faults

FEATURES = {"api_requests": "api_requests", "tokens": "tokens", "premium": None}
CARD = "/phases/0/rateCards/0"


def found(document: Any) -> dict[str, str]:
    return {fault["pointer"]: fault["detail"] for fault in faults(document, FEATURES)}


def with_card(**fields: Any) -> dict[str, Any]:
    return a_plan(a_card(**fields))


def phase(key: str, **fields: Any) -> dict[str, Any]:
    return {"key": key, "name": key, "rateCards": [a_card()]} | fields


@pytest.mark.parametrize(
    "document",
    [
        a_plan(),
        a_plan(description="x", metadata={"a": [1]}, rateLimit={"requests": 10, "per": "second"}),
        a_plan(rateLimit={"requests": 10, "per": "PT10S"}, proRatingConfig={"enabled": True}),
        a_plan(concurrencyLimit=5),
        a_plan(phases=[phase("trial", duration="P2W"), phase("full")]),
        a_plan({"type": "flat_fee", "key": "fee", "name": "Fee", "price": {"type": "flat", "amount": "49"}}),
        a_plan({"type": "flat_fee", "key": "fee", "name": "Fee", "billingCadence": None, "price": None}),
        with_card(price={"type": "unit", "amount": 0.01}),
        with_card(price={"type": "flat", "amount": "0", "paymentTerm": "in_arrears"}),
        with_card(entitlementTemplate={"type": "metered", "isSoftLimit": True}),
        with_card(entitlementTemplate={"type": "metered", "issueAfterReset": 0, "usagePeriod": "PT1H"}),
        with_card(entitlementTemplate={"type": "boolean"}),
        with_card(entitlementTemplate={"type": "static", "config": '{"value": 5}'}),
        with_card(billingCadence="P3M"),
        with_card(billingCadence="P1D"),
        a_plan(a_card(billingCadence="P1M"), billingCadence="P1Y"),
    ],
)
def test_a_sound_plan_has_no_faults(document: dict[str, Any]) -> None:
    assert found(document) == {}


@pytest.mark.parametrize(
    ("document", "pointer", "words"),
    [
        (a_plan(key="Free!"), "/key", "pattern"),
        (a_plan(name="  "), "/name", "at least 1"),
        (a_plan(currency="usd"), "/currency", "ISO 4217"),
        (a_plan(currency="XAU"), "/currency", "ISO 4217"),
        (a_plan(billingCadence="P2M"), "/billingCadence", "one of PT1H"),
        (a_plan(phases=[]), "/phases", "at least 1"),
        (a_plan(phases="x"), "/phases", "list"),
        (a_plan(phases=[7]), "/phases/0", "dictionary"),
        (a_plan(phases=[phase("a", rateCards=[])]), "/phases/0/rateCards", "at least 1"),
        (a_plan(phases=[phase("a", duration="P1M")]), "/phases/0/duration", "last phase"),
        (a_plan(phases=[phase("a"), phase("b")]), "/phases/0/duration", "required"),
        (a_plan(phases=[phase("a", duration="PT59M"), phase("b")]), "/phases/0/duration", "an hour"),
        (a_plan(phases=[phase("a", duration="month"), phase("b")]), "/phases/0/duration", "ISO 8601"),
        (a_plan(phases=[phase("a", duration="P1M"), phase("a")]), "/phases/1/key", "earlier"),
        (a_plan(a_card(), a_card()), "/phases/0/rateCards/1/key", "earlier"),
        (a_plan(rateLimit={"requests": 0, "per": "second"}), "/rateLimit/requests", "greater"),
        (a_plan(rateLimit={"requests": True, "per": "second"}), "/rateLimit/requests", "whole number"),
        (a_plan(concurrencyLimit=0), "/concurrencyLimit", "greater"),
        (a_plan(concurrencyLimit=True), "/concurrencyLimit", "whole number"),
        (a_plan(rateLimit={"requests": 1, "per": "day"}), "/rateLimit/per", "second, minute, hour"),
        (a_plan(rateLimit={"requests": 1, "per": "P1M"}), "/rateLimit/per", "between"),
        (a_plan(rateLimit={"requests": 1, "per": "PT0S"}), "/rateLimit/per", "between"),
        (a_plan(proRatingConfig={"enabled": True, "mode": "x"}), "/proRatingConfig/mode", "max_consumption_based"),
        (a_plan(taxes=1), "/taxes", "known field"),
        (with_card(type="free"), f"{CARD}/type", "flat_fee"),
        (with_card(featureKey="none", key="none"), f"{CARD}/featureKey", "no such feature"),
        (with_card(key="other"), f"{CARD}/key", "same as featureKey"),
        (with_card(featureKey=None), f"{CARD}/featureKey", "required beside an entitlementTemplate"),
        (with_card(billingCadence=None), f"{CARD}/billingCadence", "required"),
        (with_card(billingCadence="P1W"), f"{CARD}/billingCadence", "divide"),
        (a_plan(a_card(billingCadence="P2M")), f"{CARD}/billingCadence", "one of"),
        (with_card(price={"type": "tiered", "mode": "volume"}), f"{CARD}/price", "'flat', 'unit'"),
        (with_card(price={"amount": "1"}), f"{CARD}/price", "needs a type"),
        (with_card(price={"type": "unit"}), f"{CARD}/price/amount", "required"),
        (with_card(price={"type": "unit", "amount": "-1"}), f"{CARD}/price/amount", "0 or more"),
        (with_card(price={"type": "unit", "amount": "NaN"}), f"{CARD}/price/amount", "0 or more"),
        (with_card(price={"type": "unit", "amount": "1,5"}), f"{CARD}/price/amount", "decimal string"),
        (with_card(price={"type": "unit", "amount": True}), f"{CARD}/price/amount", "decimal string"),
        (with_card(price={"type": "unit", "amount": "1e16"}), f"{CARD}/price/amount", "15 digits"),
        (with_card(price={"type": "unit", "amount": "1e-16"}), f"{CARD}/price/amount", "15 digits"),
        (with_card(price={"type": "flat", "amount": 1, "paymentTerm": "later"}), f"{CARD}/price/paymentTerm", "in_adv"),
        (with_card(type="flat_fee", price={"type": "unit", "amount": 1}), f"{CARD}/price/type", "flat price"),
        (
            with_card(featureKey=None, entitlementTemplate=None, price={"type": "unit", "amount": 1}),
            f"{CARD}/featureKey",
            "price by usage",
        ),
        (
            with_card(
                key="premium", featureKey="premium", entitlementTemplate=None, price={"type": "unit", "amount": 1}
            ),
            f"{CARD}/featureKey",
            "feature with a meter",
        ),
        (with_card(key="premium", featureKey="premium"), f"{CARD}/featureKey", "metered entitlement"),
        (with_card(entitlementTemplate={"type": "metered"}), f"{CARD}/entitlementTemplate/issueAfterReset", "hard"),
        (
            with_card(entitlementTemplate={"type": "metered", "issueAfterReset": -1}),
            f"{CARD}/entitlementTemplate/issueAfterReset",
            "greater",
        ),
        (
            with_card(entitlementTemplate={"type": "metered", "issueAfterReset": 2**53}),
            f"{CARD}/entitlementTemplate/issueAfterReset",
            "less",
        ),
        (
            with_card(entitlementTemplate={"type": "metered", "issueAfterReset": 1, "usagePeriod": "P5D"}),
            f"{CARD}/entitlementTemplate/usagePeriod",
            "one of",
        ),
        (
            with_card(entitlementTemplate={"type": "static", "config": "{"}),
            f"{CARD}/entitlementTemplate/config",
            "JSON",
        ),
        ([], "", "dictionary"),
        (None, "", "dictionary"),
    ],
)
def test_each_rule_has_its_place(document: Any, pointer: str, words: str) -> None:
    faults_found = found(document)
    assert list(faults_found) == [pointer]
    assert words in faults_found[pointer]


def test_faults_of_shape_and_of_sense_come_together(shop: TestClient) -> None:
    document = a_plan(
        {"type": "flat_fee", "key": "a", "price": {"type": "volume"}},
        a_card(entitlementTemplate={"type": "metered"}),
        a_card(),
        currency="DM",
        phases2=[],
    )
    assert set(faults_of(shop.post("/v1/plans", json=document))) == {
        "/currency",
        "/phases2",
        f"{CARD}/name",
        f"{CARD}/price",
        "/phases/0/rateCards/1/entitlementTemplate/issueAfterReset",
        "/phases/0/rateCards/2/key",
    }


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda x: st.lists(x, max_size=3), max_leaves=5
)


@given(st.data())
def test_no_document_breaks_the_check(data: st.DataObject) -> None:
    """Any value in any place: refused or taken, never an exception."""
    document: Any = a_plan(a_card(price={"type": "unit", "amount": "1"}), rateLimit={"requests": 1, "per": "second"})
    places: list[tuple[Any, Any]] = []

    def walk(part: Any) -> None:
        for key in part if isinstance(part, dict) else range(len(part)):
            places.append((part, key))
            if isinstance(part[key], dict | list):
                walk(part[key])

    walk(document)
    part, key = data.draw(st.sampled_from(places))
    part[key] = data.draw(JSON | st.dictionaries(st.sampled_from(["type", "key"]), JSON))
    faults(document, FEATURES)


@pytest.mark.parametrize(
    ("sent", "stored"), [("0.010", "0.010"), (0.01, "0.01"), (49, "49"), (1e-7, "0.0000001"), ("1e2", "100")]
)
def test_amounts_are_kept_as_decimal_strings(shop: TestClient, sent: object, stored: str) -> None:
    document = a_plan(a_card(price={"type": "unit", "amount": sent}), key="pro")
    made = shop.post("/v1/plans", json=document).json()
    assert made["phases"][0]["rateCards"][0]["price"]["amount"] == stored


def test_a_plan_comes_back_as_it_was_sent(shop: TestClient) -> None:
    document = a_plan(key="pro", metadata={"a": 1}, rateLimit={"requests": 5, "per": "minute"})
    made = shop.post("/v1/plans", json=document).json()
    assert {name: made[name] for name in document} == document
    assert (made["version"], made["status"]) == (1, "draft")
    assert shop.get(f"/v1/plans/{made['id']}").json() == made


def test_a_draft_can_be_replaced_and_deleted(shop: TestClient) -> None:
    draft = shop.post("/v1/plans", json=a_plan(key="pro")).json()
    replaced = shop.put(f"/v1/plans/{draft['id']}", json=a_plan(key="pro", name="Better")).json()
    assert (replaced["name"], replaced["version"], replaced["id"]) == ("Better", 1, draft["id"])
    assert faults_of(shop.put(f"/v1/plans/{draft['id']}", json=a_plan(key="other"))) == {"/key": "cannot change"}
    assert shop.delete(f"/v1/plans/{draft['id']}").status_code == 204
    assert shop.get(f"/v1/plans/{draft['id']}").status_code == 404


def test_a_published_plan_never_changes(shop: TestClient) -> None:
    plan = shop.get("/v1/plans/free").json()
    changed = copy.deepcopy(a_plan(name="Changed"))
    assert shop.put(f"/v1/plans/{plan['id']}", json=changed).json()["code"] == "plan_published"
    assert shop.delete(f"/v1/plans/{plan['id']}").json()["code"] == "plan_published"
    assert shop.post(f"/v1/plans/{plan['id']}/publish").json() == plan
    assert shop.get("/v1/plans/free").json() == plan


def test_a_post_of_the_same_key_is_the_next_version(shop: TestClient) -> None:
    second = shop.post("/v1/plans", json=a_plan(name="Two")).json()
    assert (second["version"], second["status"]) == (2, "draft")
    refused = shop.post("/v1/plans", json=a_plan())
    assert (refused.status_code, refused.json()["code"]) == (409, "plan_draft_exists")
    assert shop.get("/v1/plans/free").json()["version"] == 1
    shop.post(f"/v1/plans/{second['id']}/publish")
    assert shop.get("/v1/plans/free").json()["version"] == 2
    assert [plan["status"] for plan in shop.get("/v1/plans?key=free").json()["items"]] == ["active", "active"]


def test_the_currency_stays_the_same_over_all_versions(shop: TestClient) -> None:
    assert list(faults_of(shop.post("/v1/plans", json=a_plan(currency="EUR")))) == ["/currency"]
    draft = shop.post("/v1/plans", json=a_plan()).json()
    assert list(faults_of(shop.put(f"/v1/plans/{draft['id']}", json=a_plan(currency="EUR")))) == ["/currency"]


def test_an_archived_plan_stays_archived(shop: TestClient) -> None:
    plan = shop.get("/v1/plans/free").json()
    assert shop.post(f"/v1/plans/{plan['id']}/archive").json()["status"] == "archived"
    assert shop.post(f"/v1/plans/{plan['id']}/archive").status_code == 200
    assert shop.post(f"/v1/plans/{plan['id']}/publish").json()["code"] == "plan_archived"


def test_a_draft_cannot_be_archived(shop: TestClient) -> None:
    draft = shop.post("/v1/plans", json=a_plan(key="pro")).json()
    assert shop.post(f"/v1/plans/{draft['id']}/archive").json()["code"] == "plan_is_draft"


def test_publishing_checks_the_plan_once_more(shop: TestClient) -> None:
    draft = shop.post("/v1/plans", json=a_plan(key="pro")).json()
    shop.delete("/v1/features/api_requests")
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

from typing import Any

import pytest

from builders.documents import a_card
from builders.portal import NOW
from farebox_portal.catalog.addon_rules import faults, offer_faults
from farebox_portal.catalog.plan_rules import FeatureFacts
from farebox_portal.catalog.tables import Addon, Plan

FEATURES = {
    "api_requests": FeatureFacts("COUNT"),
    "gpt_tokens": FeatureFacts("SUM", is_filtered=True),
    "premium": FeatureFacts(),
}
UNIT = {"type": "unit", "amount": "0.01"}


def a_document(*cards: Any, **fields: Any) -> dict[str, Any]:
    given = {"key": "more", "name": "More", "instanceType": "multiple", "rateCards": list(cards) or [a_card()]}
    return given | fields


def found(document: Any) -> dict[str, str]:
    return {fault["pointer"]: fault["detail"] for fault in faults(document, FEATURES)}


@pytest.mark.parametrize(
    "document",
    [
        a_document(),
        a_document(currency="EUR", description="x", metadata={"a": 1}, version=3, status="active", id="x"),
        a_document(a_card(billingCadence="P4W"), instanceType="single"),
        a_document({"type": "flat_fee", "key": "fee", "name": "Fee", "price": {"type": "flat", "amount": "1"}}),
    ],
    ids=["least", "all of it, as OpenMeter shows it", "any cadence: plans differ", "a one-time fee"],
)
def test_an_addon_that_is_sound_has_no_faults(document: dict[str, Any]) -> None:
    assert found(document) == {}


def test_every_fault_is_told_at_once_and_rate_cards_obey_the_rules_of_plans() -> None:
    hard_slice = a_card(key="gpt_tokens", featureKey="gpt_tokens")
    document = a_document(
        a_card(), a_card(), hard_slice, a_card(featureKey="nothing", key="nothing"), instanceType="some", currency="usd"
    )
    assert set(found(document)) == {
        "/instanceType",
        "/currency",
        "/rateCards/1/key",
        "/rateCards/2/entitlementTemplate/isSoftLimit",
        "/rateCards/3/featureKey",
    }


@pytest.mark.parametrize(
    "document", [None, [], "x", {}, {"rateCards": 5}, a_document(rateCards=[]), {"rateCards": [5]}]
)
def test_anything_else_is_refused_and_nothing_breaks(document: Any) -> None:
    assert faults(document, FEATURES)


# --- beside a plan ---------------------------------------------------------------------------------------------------


def static(config: str) -> dict[str, Any]:
    return a_card(key="premium", featureKey="premium", entitlementTemplate={"type": "static", "config": config})


def on_off() -> dict[str, Any]:
    return a_card(type="flat_fee", key="premium", featureKey="premium", entitlementTemplate={"type": "boolean"})


def metered(period: str | None = None) -> dict[str, Any]:
    return a_card(entitlementTemplate={"type": "metered", "issueAfterReset": 5, "usagePeriod": period})


def priced(**fields: Any) -> dict[str, Any]:
    return a_card(price=UNIT, **fields)


def bare(**fields: Any) -> dict[str, Any]:
    return a_card(entitlementTemplate=None, **fields)


def a_plan(*cards: dict[str, Any], **fields: Any) -> Plan:
    given: dict[str, Any] = {
        "id": "p",
        "key": "pro",
        "version": 1,
        "name": "Pro",
        "currency": "USD",
        "billing_cadence": "P1M",
        "phases": [{"key": "default", "name": "Default", "rateCards": list(cards)}],
        "created_at": NOW,
        "updated_at": NOW,
    }
    return Plan(**(given | fields))


def an_addon(*cards: dict[str, Any], **fields: Any) -> Addon:
    given = {"id": "a", "key": "more", "version": 1, "name": "More", "instance_type": "multiple", "currency": "USD"}
    return Addon(**(given | {"rate_cards": list(cards), "created_at": NOW, "updated_at": NOW} | fields))


def refused(plan: Plan, addon: Addon, phase: str = "default", most: int | None = None) -> dict[str, str]:
    return {fault["pointer"]: fault["detail"] for fault in offer_faults(plan, addon, phase, most)}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (metered(), metered()),
        (metered("P1M"), bare()),
        (metered("P1D"), metered("P1D")),
        (on_off(), on_off()),
        (static("1"), static("1")),
        (metered(), priced()),
        (priced(), metered()),
        (metered(), on_off()),
        (bare(type="flat_fee"), on_off() | {"key": "api_requests", "featureKey": "api_requests"}),
        (bare(featureKey=None), priced()),
    ],
    ids=[
        "limits add up",
        "one of them without limit",
        "by day both",
        "on and on",
        "the same value",
        "a price for what is included",
        "more of what has a price",
        "other features",
        "a fee that grants nothing",
        "a card of no feature",
    ],
)
def test_what_goes_together(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert refused(a_plan(ours), an_addon(theirs)) == {}


@pytest.mark.parametrize(
    ("ours", "theirs", "says"),
    [
        (priced(), priced(), "paid for twice"),
        (priced(), bare(price=UNIT), "paid for twice"),
        (static("1"), static("2"), "another value"),
        (static("1"), on_off(), "static already, and cannot be boolean"),
        (metered("P1D"), metered(), "allowed by P1D"),
        (metered("P1D"), bare(), "allowed by P1D"),
    ],
    ids=["two prices", "two prices, one grants nothing", "two values", "two kinds", "two periods", "a period unsaid"],
)
def test_what_does_not(ours: dict[str, Any], theirs: dict[str, Any], says: str) -> None:
    assert says in refused(a_plan(ours), an_addon(theirs))["/addon"]


def test_only_the_phases_count_in_which_it_may_be_bought() -> None:
    phases = [
        {"key": "trial", "name": "Trial", "duration": "P14D", "rateCards": [priced()]},
        {"key": "full", "name": "Full", "rateCards": [metered()]},
    ]
    plan = a_plan(phases=phases)
    assert refused(plan, an_addon(priced()), "full") == {}
    assert "in the phase 'trial' usage of 'api_requests'" in refused(plan, an_addon(priced()), "trial")["/addon"]


@pytest.mark.parametrize(
    ("addon", "phase", "most", "place"),
    [
        (an_addon(on_off(), currency="EUR"), "default", None, "/addon"),
        (an_addon(on_off(), instance_type="single"), "default", 1, "/maxQuantity"),
        (an_addon(bare(billingCadence="P4W")), "default", None, "/addon"),
        (an_addon(on_off()), "later", None, "/fromPlanPhase"),
    ],
    ids=["currency", "so many of a single one", "cadence", "phase"],
)
def test_an_offer_has_to_fit(addon: Addon, phase: str, most: int | None, place: str) -> None:
    assert set(refused(a_plan(metered()), addon, phase, most)) == {place}

from typing import Any

import pytest

from builders.documents import a_card, a_plan
from farebox_portal.catalog.plan_changes import Change, plan_changes

METERED = {"type": "metered", "issueAfterReset": 100}
A_PRICE = {"type": "unit", "amount": "0.10"}


def a_version(*cards: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return a_plan(*(cards or [a_card(price=A_PRICE)]), **fields)


def of_card(field: str, before: Any, after: Any) -> Change:
    return Change(field, before, after, phase="default", rate_card="api_requests")


@pytest.mark.parametrize(
    "after",
    [
        a_version(name="New", description="New", metadata={"a": 1}),
        a_version(a_card(price={"type": "unit", "amount": 0.1})),
        a_version(a_card(price=A_PRICE, name="Calls", description="x", metadata={"a": 1})),
        a_version(a_card(price=A_PRICE, discounts={"percentage": {"percentage": 0}}, taxConfig={})),
        a_version(
            a_card(
                price=A_PRICE,
                entitlementTemplate=METERED | {"issueAfterReset": 100.0, "isSoftLimit": False, "usagePeriod": "P1M"},
            )
        ),
    ],
)
def test_what_is_only_written_otherwise_is_no_change(after: dict[str, Any]) -> None:
    assert plan_changes(a_version(), after) == []


@pytest.mark.parametrize(
    ("after", "change"),
    [
        (a_version(billingCadence="P3M"), Change("billingCadence", "P1M", "P3M")),
        (a_version(concurrencyLimit=5), Change("concurrencyLimit", None, 5)),
        (
            a_version(rateLimit={"requests": 1, "per": "second"}),
            Change("rateLimit", None, {"requests": 1, "per": "second"}),
        ),
        (
            a_version(a_card(price={"type": "unit", "amount": "0.11"})),
            of_card(
                "price",
                {"type": "usage_based", "billingCadence": "P1M", "price": A_PRICE},
                {"type": "usage_based", "billingCadence": "P1M", "price": {"type": "unit", "amount": "0.11"}},
            ),
        ),
        (
            a_version(a_card(price=A_PRICE, discounts={"percentage": 10})),
            of_card(
                "price",
                {"type": "usage_based", "billingCadence": "P1M", "price": A_PRICE},
                {"type": "usage_based", "billingCadence": "P1M", "price": A_PRICE, "discounts": {"percentage": 10}},
            ),
        ),
        (
            a_version(a_card(price=A_PRICE, entitlementTemplate=METERED | {"issueAfterReset": 50})),
            of_card("entitlementTemplate", METERED, METERED | {"issueAfterReset": 50}),
        ),
        (
            a_version(a_card(price=A_PRICE, entitlementTemplate=METERED | {"isSoftLimit": True})),
            of_card("entitlementTemplate", METERED, METERED | {"isSoftLimit": True}),
        ),
        (
            a_version(a_card(price=A_PRICE, entitlementTemplate=METERED | {"usagePeriod": "P1D"})),
            of_card("entitlementTemplate", METERED, METERED | {"usagePeriod": "P1D"}),
        ),
        (
            a_version(a_card(price=A_PRICE, entitlementTemplate=None)),
            of_card("entitlementTemplate", METERED, None),
        ),
        (
            a_version(a_card(price=A_PRICE, taxConfig={"behavior": "inclusive"})),
            of_card("taxConfig", None, {"behavior": "inclusive"}),
        ),
    ],
)
def test_what_differs_is_named_with_both_sides(after: dict[str, Any], change: Change) -> None:
    assert plan_changes(a_version(), after) == [change]


def test_a_cadence_that_is_the_plans_own_changes_with_it() -> None:
    one_time = {"type": "flat_fee", "key": "api_requests", "name": "A", "featureKey": "api_requests"}
    card = one_time | {"entitlementTemplate": METERED}
    found = plan_changes(a_version(card), a_version(card, billingCadence="P1Y"))
    assert [change.field for change in found] == ["billingCadence", "entitlementTemplate"]


def test_cards_and_phases_come_and_go() -> None:
    premium = {"type": "flat_fee", "key": "premium", "name": "Premium", "price": None}
    trial = {"key": "trial", "name": "Trial", "duration": "P1W", "rateCards": [a_card()]}
    before = a_version(a_card(), premium)
    after = a_version(a_card(), phases=[trial, *a_version(a_card())["phases"]])
    gained, lost = Change("phase", None, trial, "trial"), Change("rateCard", premium, None, "default", "premium")
    assert plan_changes(before, after) == [lost, gained]
    longer = a_version(phases=[trial | {"duration": "P2W"}, *after["phases"][1:]])
    assert plan_changes(after, longer) == [Change("duration", "P1W", "P2W", "trial")]

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.documents import a_card, a_plan
from farebox_portal.catalog.plan_rules import FAULTS_MAX, FeatureFacts, faults
from farebox_portal.pricing.documents import TIERS_MAX

FEATURES = {
    "api_requests": FeatureFacts("COUNT"),
    "gpt_tokens": FeatureFacts("SUM", is_filtered=True),
    "peak": FeatureFacts("MAX"),
    "premium": FeatureFacts(),
}
CARD = "/phases/0/rateCards/0"


def found(document: Any) -> dict[str, str]:
    return {fault["pointer"]: fault["detail"] for fault in faults(document, FEATURES)}


def with_card(**fields: Any) -> dict[str, Any]:
    return a_plan(a_card(**fields))


def tiers(count: int) -> list[dict[str, Any]]:
    bounded = [{"upToAmount": str(number), "unitPrice": "0.01"} for number in range(1, count)]
    return [*bounded, {"unitPrice": "0.01"}]


def nested(levels: int) -> Any:
    value: Any = "x"
    for level in range(levels):
        value = {"a": value} if level % 2 else [value]
    return value


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
        with_card(price={"type": "tiered", "mode": "volume", "tiers": tiers(TIERS_MAX)}),
        with_card(price={"type": "package", "amount": "10", "quantityPerPackage": 1000, "maximumAmount": "99"}),
        with_card(price={"type": "dynamic"}, discounts={"percentage": {"percentage": 10}, "usage": {"quantity": 5}}),
        with_card(taxConfig={"behavior": "exclusive", "stripe": {"code": "txcd_10000000"}}),
        a_plan(defaultTaxConfig={"customInvoicing": {"code": "A"}}, settlementMode="credit_then_invoice"),
        a_plan(metadata={"a": nested(15)}),
        a_plan(metadata=None, description=None, alignment={"billablesMustAlign": True}),
        a_plan(metadata={"zuplo_private_plan": "true", "isCustom": True, "contactUrl": "mailto:a@example.com"}),
        a_plan(id="01J", version=7, status="active", effectiveFrom="x", validationErrors=[], createdAt=0),
        with_card(
            key="gpt_tokens",
            featureKey="gpt_tokens",
            entitlementTemplate={"type": "metered", "issueAfterReset": 5, "isSoftLimit": True},
            price={"type": "unit", "amount": "0.1"},
        ),
        a_plan({"type": "flat_fee", "key": "peak", "name": "P", "featureKey": "peak", "price": None}),
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
        (a_plan(settlementMode="credit_only"), "/settlementMode", "never makes an invoice"),
        (a_plan(settlementMode="x"), "/settlementMode", "must be credit_then_invoice"),
        (a_plan(defaultTaxConfig={"taxCodeId": "01K"}), "/defaultTaxConfig/taxCodeId", "say which it is"),
        (with_card(taxConfig={"taxCodeId": "01K"}), f"{CARD}/taxConfig/taxCodeId", "say which it is"),
        (a_plan(phases=[phase("a", duration="P10Y1D"), phase("b")]), "/phases/0/duration", "ten years"),
        (a_plan(phases=[phase("a", startAfter="P1M")]), "/phases/0/startAfter", "known field"),
        (a_plan(phases=[phase(f"p{n}") for n in range(21)]), "/phases", "at most 20"),
        (a_plan(*[a_card()] * 101), "/phases/0/rateCards", "at most 100"),
        (a_plan(metadata={"zuplo_private_plan": "yes"}), "/metadata/zuplo_private_plan", "true"),
        (a_plan(metadata={str(n): 1 for n in range(51)}), "/metadata", "at most 50"),
        (a_plan(metadata={"a": nested(16)}), "/metadata", "16 deep"),
        (with_card(**{"x" * 1000: 1}), CARD, "known field"),
        (with_card(type="free"), f"{CARD}/type", "flat_fee"),
        (with_card(featureKey="none", key="none"), f"{CARD}/featureKey", "no such feature"),
        (with_card(key="other"), f"{CARD}/key", "same as featureKey"),
        (with_card(featureKey=None), f"{CARD}/featureKey", "required beside an entitlementTemplate"),
        (with_card(billingCadence=None), f"{CARD}/billingCadence", "required"),
        (with_card(billingCadence="P1W"), f"{CARD}/billingCadence", "divide"),
        (a_plan(a_card(billingCadence="P2M")), f"{CARD}/billingCadence", "one of"),
        (with_card(price={"type": "tiered", "mode": "volume"}), f"{CARD}/price/tiers", "at least one tier"),
        (with_card(price={"type": "stairs"}), f"{CARD}/price/type", "one of flat, unit"),
        (with_card(price={"amount": "1"}), f"{CARD}/price/type", "one of flat, unit"),
        (with_card(price=5), f"{CARD}/price", "object or null"),
        (with_card(price={"type": "unit"}), f"{CARD}/price/amount", "required"),
        (with_card(price={"type": "unit", "amount": 1, "cap": 5}), f"{CARD}/price/cap", "field we know"),
        (
            with_card(price={"type": "tiered", "mode": "graduated", "tiers": tiers(10_000)}),
            f"{CARD}/price/tiers",
            "at most 1000",
        ),
        (
            with_card(price={"type": "tiered", "mode": "graduated", "tiers": [*tiers(3)[:1], *tiers(2)]}),
            f"{CARD}/price/tiers/1/upToAmount",
            "bound of another",
        ),
        (with_card(discounts={"percentage": -1}), f"{CARD}/discounts/percentage", "0 or more"),
        *(
            (
                with_card(
                    entitlementTemplate={"type": "metered", "issueAfterReset": 1, "issueAfterResetPriority": wrong}
                ),
                f"{CARD}/entitlementTemplate/issueAfterResetPriority",
                words,
            )
            for wrong, words in ((0, "greater"), (256, "less"), (True, "whole number"))
        ),
        (
            with_card(featureKey=None, entitlementTemplate={"type": "boolean"}),
            f"{CARD}/featureKey",
            "required beside an entitlementTemplate",
        ),
        (
            with_card(price={"type": "volume", "tiers": [{"unitPrice": 1}, {"unitPrice": 2}]}),
            f"{CARD}/price/tiers",
            "exactly one tier must be open",
        ),
        (
            with_card(price={"type": "graduated", "tiers": [{"upToAmount": 5, "unitPrice": 1}]}),
            f"{CARD}/price/tiers",
            "exactly one tier must be open",
        ),
        (with_card(price={"type": "package", "amount": 1}), f"{CARD}/price/quantityPerPackage", "required"),
        (with_card(price={"type": "dynamic", "multiplier": "-2"}), f"{CARD}/price/multiplier", "0 or more"),
        (
            with_card(price={"type": "unit", "amount": 1, "minimumAmount": 5, "maximumAmount": 4}),
            CARD,
            "minimum spend exceeds",
        ),
        (with_card(discounts={"percentage": 101}), f"{CARD}/discounts/percentage", "between 0 and 100"),
        (with_card(discounts={"usage": {"quantity": 1}}), f"{CARD}/discounts/usage", "price by usage"),
        (with_card(taxConfig={"stripe": {"code": "txcd_1"}}), f"{CARD}/taxConfig/stripe/code", "pattern"),
        (with_card(taxConfig={"behaviour": "inclusive"}), f"{CARD}/taxConfig/behaviour", "known field"),
        (with_card(unitConfig={"operation": "divide", "conversionFactor": 1000}), f"{CARD}/unitConfig", "by usage"),
        (with_card(granted=1), f"{CARD}/granted", "known field"),
        (with_card(price={"type": "unit", "amount": "-1"}), f"{CARD}/price/amount", "0 or more"),
        (with_card(price={"type": "unit", "amount": "NaN"}), f"{CARD}/price/amount", "decimal such"),
        (with_card(price={"type": "unit", "amount": "1,5"}), f"{CARD}/price/amount", "decimal such"),
        (with_card(price={"type": "unit", "amount": True}), f"{CARD}/price/amount", "decimal such"),
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
        (with_card(key="peak", featureKey="peak"), f"{CARD}/featureKey", "only SUM and COUNT"),
        (
            with_card(key="gpt_tokens", featureKey="gpt_tokens"),
            f"{CARD}/entitlementTemplate/isSoftLimit",
            "a slice of one",
        ),
        (
            with_card(key="peak", featureKey="peak", entitlementTemplate=None, price={"type": "unit", "amount": 1}),
            f"{CARD}/featureKey",
            "only SUM and COUNT",
        ),
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
        (
            with_card(entitlementTemplate={"type": "static", "config": "[" * 100_000}),
            f"{CARD}/entitlementTemplate/config",
            "JSON",
        ),
        (
            with_card(entitlementTemplate={"type": "metered", "issueAfterReset": 1, "isSoftLimit": "yes"}),
            f"{CARD}/entitlementTemplate/isSoftLimit",
            "boolean",
        ),
        ([], "", "dictionary"),
        (None, "", "dictionary"),
    ],
)
def test_each_rule_has_its_place(document: Any, pointer: str, words: str) -> None:
    faults_found = found(document)
    assert list(faults_found) == [pointer]
    assert words in faults_found[pointer]


def test_faults_of_shape_money_and_sense_come_together() -> None:
    document = a_plan(
        {"type": "flat_fee", "key": "a", "price": {"type": "volume"}},
        a_card(entitlementTemplate={"type": "metered"}),
        a_card(price={"type": "unit", "amount": "-1"}, billingCadence="P1W"),
        currency="DM",
        phases2=[],
    )
    assert list(found(document)) == [
        "/currency",
        f"{CARD}/name",
        "/phases2",
        "/phases/0/rateCards/2/key",
        f"{CARD}/price/tiers",
        "/phases/0/rateCards/1/entitlementTemplate/issueAfterReset",
        "/phases/0/rateCards/2/price/amount",
        "/phases/0/rateCards/2/billingCadence",
    ]


def test_an_answer_lists_so_many_faults_and_says_that_there_are_more() -> None:
    listed = faults(a_plan(**{f"x{n}": n for n in range(FAULTS_MAX)}), FEATURES)
    assert [fault["pointer"] for fault in listed] == [f"/x{n}" for n in range(FAULTS_MAX)]
    listed = faults(a_plan(**{f"x{n}": n for n in range(FAULTS_MAX + 1)}), FEATURES)
    assert len(listed) == FAULTS_MAX + 1
    assert listed[-1] == {"pointer": "", "detail": "has more faults; these are the first 200"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda x: st.lists(x, max_size=3),
    max_leaves=5,
)


@given(st.data())
def test_no_document_breaks_the_check(data: st.DataObject) -> None:
    """Any value in any place: refused or taken, never an exception."""
    price = {"type": "tiered", "mode": "volume", "tiers": tiers(2), "minimumAmount": "5"}
    card = a_card(
        price=price,
        discounts={"percentage": {"percentage": 10}, "usage": {"quantity": "5"}},
        unitConfig={"operation": "divide", "conversionFactor": 1000, "displayUnit": "kB"},
        taxConfig={"stripe": {"code": "txcd_10000000"}},
    )
    limits = {"requests": 1, "per": "second"}
    document: Any = a_plan(card, rateLimit=limits, metadata={"isCustom": True, "contactUrl": "https://example.com"})
    places: list[tuple[Any, Any]] = []

    def walk(part: Any) -> None:
        for key in part if isinstance(part, dict) else range(len(part)):
            places.append((part, key))
            if isinstance(part[key], dict | list):
                walk(part[key])

    walk(document)
    part, key = data.draw(st.sampled_from(places))
    part[key] = data.draw(JSON | st.dictionaries(st.sampled_from(["type", "key"]), JSON))
    for fault in faults(document, FEATURES):
        assert fault["detail"]
        assert fault["pointer"] == "" or fault["pointer"].startswith("/")

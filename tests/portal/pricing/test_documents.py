from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox_portal.pricing.card import RateCard
from farebox_portal.pricing.conversion import Conversion
from farebox_portal.pricing.documents import read_price, read_rate_card
from farebox_portal.pricing.period import CADENCES
from farebox_portal.pricing.price import Dynamic, Flat, Graduated, Package, Price, Unit, Volume
from farebox_portal.pricing.tiers import Tier

D = Decimal
TIERS = [
    {
        "upToAmount": "1000",
        "flatPrice": {"type": "flat", "amount": "5"},
        "unitPrice": {"type": "unit", "amount": "0.10"},
    },
    {"upToAmount": None, "unitPrice": {"type": "unit", "amount": "0.05"}, "flatPrice": None},
]
UNKNOWN_TYPE = "must be one of flat, unit, graduated, volume, package, dynamic, tiered, free"
ONE_OPEN = "exactly one tier must be open, without upToAmount"
TOO_LONG = "must have at most 15 digits before and 15 after the point"
READ = (Tier(D(1000), D(5), D("0.10")), Tier(None, D(0), D("0.05")))


def a_document(**fields: Any) -> dict[str, Any]:
    document = {
        "type": "usage_based",
        "key": "api_requests",
        "name": "API requests",
        "featureKey": "api_requests",
        "billingCadence": "P1M",
        "price": {"type": "unit", "amount": "0.01"},
    }
    return {name: value for name, value in (document | fields).items() if value != "left out"}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"type": "flat", "amount": "49.00"}, Flat(D("49.00"))),
        ({"type": "flat", "amount": 49, "paymentTerm": "in_arrears"}, Flat(D(49), "in_arrears")),
        ({"type": "unit", "amount": "0.001"}, Unit(D("0.001"))),
        ({"type": "unit", "amount": 0.001}, Unit(D("0.001"))),
        ({"type": "unit", "amount": 1e-7}, Unit(D("0.0000001"))),
        ({"type": "unit", "amount": "-0"}, Unit(D(0))),
        ({"type": "tiered", "mode": "graduated", "tiers": TIERS}, Graduated(READ)),
        ({"type": "graduated", "tiers": TIERS}, Graduated(READ)),
        ({"type": "tiered", "mode": "volume", "tiers": TIERS[::-1]}, Volume(READ)),
        (
            {
                "type": "volume",
                "tiers": [{"upToAmount": 1000, "flatPrice": 5, "unitPrice": "0.10"}, {"unitPrice": 0.05}],
            },
            Volume(READ),
        ),
        ({"type": "package", "amount": "10", "quantityPerPackage": "1000"}, Package(D(10), D(1000))),
        ({"type": "package", "amount": "10", "quantityPerUnit": 1000}, Package(D(10), D(1000))),
        ({"type": "dynamic", "multiplier": "1.2"}, Dynamic(D("1.2"))),
        ({"type": "dynamic"}, Dynamic(D(1))),
        ({"type": "free"}, None),
        (None, None),
    ],
)
def test_a_price_is_read_in_each_of_its_spellings(document: object, expected: Price | None) -> None:
    assert read_price(document) == (expected, [])


@pytest.mark.parametrize(
    ("document", "faults"),
    [
        ([], [("", "must be an object or null")]),
        ({}, [("/type", UNKNOWN_TYPE)]),
        ({"type": ["unit"]}, [("/type", UNKNOWN_TYPE)]),
        ({"type": "tiered", "tiers": TIERS}, [("/mode", "must be one of graduated, volume")]),
        ({"type": "unit"}, [("/amount", "is required")]),
        ({"type": "unit", "amount": "-1"}, [("/amount", "must be 0 or more")]),
        ({"type": "unit", "amount": float("nan")}, [("/amount", "must be 0 or more")]),
        ({"type": "unit", "amount": "NaN"}, [("/amount", 'must be a decimal such as "49.00"')]),
        ({"type": "unit", "amount": "1_000"}, [("/amount", 'must be a decimal such as "49.00"')]),
        ({"type": "unit", "amount": " 5"}, [("/amount", 'must be a decimal such as "49.00"')]),
        ({"type": "unit", "amount": "٥"}, [("/amount", 'must be a decimal such as "49.00"')]),
        ({"type": "unit", "amount": "ten"}, [("/amount", 'must be a decimal such as "49.00"')]),
        ({"type": "unit", "amount": True}, [("/amount", 'must be a decimal such as "49.00"')]),
        ({"type": "unit", "amount": "1e20"}, [("/amount", TOO_LONG)]),
        ({"type": "unit", "amount": "1e-20"}, [("/amount", TOO_LONG)]),
        ({"type": "unit", "amount": 1, "minimunAmount": 5}, [("/minimunAmount", "is not a field we know")]),
        ({"type": "flat", "amount": 1, "minimumAmount": 5}, [("/minimumAmount", "is not a field we know")]),
        (
            {"type": "flat", "amount": 1, "paymentTerm": "later"},
            [("/paymentTerm", "must be one of in_advance, in_arrears")],
        ),
        ({"type": "package", "amount": 1}, [("/quantityPerPackage", "is required")]),
        ({"type": "package", "amount": 1, "quantityPerUnit": 0}, [("/quantityPerUnit", "a package holds more than 0")]),
        ({"type": "graduated"}, [("/tiers", "must be a list of at least one tier")]),
        ({"type": "graduated", "tiers": []}, [("/tiers", "must be a list of at least one tier")]),
        (
            {"type": "graduated", "tiers": ["x", TIERS[1]]},
            [
                ("/tiers/0", "must be an object"),
                ("/tiers", ONE_OPEN),
            ],
        ),
        ({"type": "graduated", "tiers": [TIERS[1], TIERS[1]]}, [("/tiers", ONE_OPEN)]),
        ({"type": "graduated", "tiers": [TIERS[0]]}, [("/tiers", ONE_OPEN)]),
        (
            {"type": "graduated", "tiers": [TIERS[0], TIERS[0], TIERS[1]]},
            [("/tiers/1/upToAmount", "is the bound of another tier")],
        ),
        (
            {"type": "graduated", "tiers": [{"upToAmount": 0, "unitPrice": 1}, TIERS[1]]},
            [("/tiers/0/upToAmount", "must be above 0")],
        ),
        ({"type": "graduated", "tiers": [{}]}, [("/tiers/0", "needs a flatPrice or a unitPrice")]),
        ({"type": "graduated", "tiers": [{"unitPrice": {}}]}, [("/tiers/0/unitPrice/amount", "is required")]),
        (
            {"type": "graduated", "tiers": [{"unitPrice": {"type": "flat", "amount": 1}}]},
            [("/tiers/0/unitPrice/type", "must be one of unit")],
        ),
        (
            {"type": "graduated", "tiers": [{"unitPrice": 1, "a/b~c": 1}]},
            [("/tiers/0/a~1b~0c", "is not a field we know")],
        ),
    ],
)
def test_what_is_wrong_with_a_price_is_named_with_its_place(document: object, faults: list[tuple[str, str]]) -> None:
    assert read_price(document) == (None, faults)


def test_a_card_is_read_whole() -> None:
    document = a_document(
        discounts={"percentage": {"percentage": 10}, "usage": {"quantity": "100"}},
        spendCommitments={"minimumAmount": "5", "maximumAmount": "50"},
        unitConfig={"operation": "divide", "conversionFactor": "1000", "rounding": "ceiling"},
        entitlementTemplate={"type": "metered"},
        metadata={"a": "b"},
    )
    assert read_rate_card(document) == (
        RateCard(
            key="api_requests",
            name="API requests",
            price=Unit(D("0.01")),
            feature_key="api_requests",
            billing_cadence="P1M",
            conversion=Conversion("divide", D(1000), "ceiling"),
            free_units=D(100),
            percentage_off=D(10),
            minimum=D(5),
            maximum=D(50),
        ),
        [],
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"price": {"type": "unit", "amount": 1, "minimumAmount": 5, "maximumAmount": "50"}},
        {"price": {"type": "unit", "amount": 1, "spendCommitments": {"minimumAmount": 5, "maximumAmount": "50"}}},
        {"price": {"type": "unit", "amount": 1, "minimumAmount": 5}, "spendCommitments": {"maximumAmount": 50}},
        {"commitments": {"minimumAmount": "5.0", "maximumAmount": 50}},
    ],
    ids=["in the price", "in the price, together", "in both", "by the other name"],
)
def test_commitments_are_read_in_each_of_their_places(fields: dict[str, Any]) -> None:
    card, faults = read_rate_card(a_document(**fields))
    assert faults == []
    assert card is not None
    assert (card.minimum, card.maximum) == (D(5), D(50))


def test_discounts_may_be_plain_numbers() -> None:
    card, faults = read_rate_card(a_document(discounts={"percentage": 12.5, "usage": "100"}))
    assert faults == []
    assert card is not None
    assert (card.percentage_off, card.free_units) == (D("12.5"), D(100))


def test_a_fee_needs_neither_feature_nor_cadence() -> None:
    fee = {"type": "flat_fee", "key": "setup", "name": "Setup", "billingCadence": None}
    price = {"type": "flat", "amount": "9"}
    assert read_rate_card(fee | {"price": price}) == (RateCard("setup", "Setup", Flat(D(9))), [])
    assert read_rate_card(fee) == (RateCard("setup", "Setup", None), [])


@pytest.mark.parametrize(
    ("fields", "faults"),
    [
        ({"type": "fee"}, [("/type", "must be one of flat_fee, usage_based")]),
        ({"key": "left out", "name": 5}, [("/key", "is required"), ("/name", "must be a text")]),
        (
            {"type": "flat_fee"},
            [("/price/type", "a flat_fee takes a flat price; use usage_based to charge by the unit")],
        ),
        ({"featureKey": "left out"}, [("/featureKey", "is required beside a price by usage")]),
        ({"billingCadence": None}, [("/billingCadence", "is required on usage_based")]),
        (
            {"billingCadence": "P5M"},
            [
                ("/billingCadence", f"must be one of {', '.join(CADENCES)}"),
            ],
        ),
        ({"spendCommitment": {}}, [("/spendCommitment", "is not a field we know")]),
        ({"spendCommitments": {"minimum": 5}}, [("/spendCommitments/minimum", "is not a field we know")]),
        (
            {"spendCommitments": {"minimumAmount": 6, "maximumAmount": 5}},
            [("", "the minimum spend exceeds the maximum")],
        ),
        (
            {"spendCommitments": {"minimumAmount": 6}, "commitments": {"minimumAmount": 5}},
            [
                ("/commitments/minimumAmount", "is said twice, and not the same"),
            ],
        ),
        (
            {"price": {"type": "flat", "amount": 5}, "spendCommitments": {"minimumAmount": 6}},
            [
                ("", "minimum and maximum spend need a price by usage"),
            ],
        ),
        (
            {"price": {"type": "flat", "amount": 5}, "discounts": {"usage": "5"}},
            [
                ("/discounts/usage", "needs a price by usage"),
            ],
        ),
        (
            {"price": None, "unitConfig": {"operation": "divide", "conversionFactor": 2}},
            [
                ("/unitConfig", "needs a price by usage"),
            ],
        ),
        ({"discounts": {"percentage": 101}}, [("/discounts/percentage", "must lie between 0 and 100")]),
        (
            {"discounts": {"percentage": {"percentage": "-1"}}},
            [("/discounts/percentage/percentage", "must be 0 or more")],
        ),
        ({"discounts": {"usage": {}}}, [("/discounts/usage/quantity", "is required")]),
        ({"discounts": 5}, [("/discounts", "must be an object")]),
        (
            {"unitConfig": {"operation": "divide", "conversionFactor": 0}},
            [("/unitConfig", "the factor must be above 0")],
        ),
        (
            {"unitConfig": {"operation": "divide", "conversionFactor": 2, "precision": 0.5}},
            [
                ("/unitConfig/precision", "must be a whole number"),
            ],
        ),
    ],
)
def test_what_is_wrong_with_a_card_is_named_with_its_place(
    fields: dict[str, Any], faults: list[tuple[str, str]]
) -> None:
    assert read_rate_card(a_document(**fields)) == (None, faults)


def test_all_faults_are_named_at_once_and_from_where_the_document_stands() -> None:
    document = a_document(name=None, price={"type": "unit", "amount": "x"}, discounts={"percentage": 200})
    _, faults = read_rate_card(document, "/phases/0/rateCards/2")
    assert [place for place, _ in faults] == [
        "/phases/0/rateCards/2/price/amount",
        "/phases/0/rateCards/2/discounts/percentage",
        "/phases/0/rateCards/2/name",
    ]


names = st.sampled_from(
    [
        "type",
        "key",
        "name",
        "featureKey",
        "billingCadence",
        "price",
        "discounts",
        "spendCommitments",
        "unitConfig",
        "amount",
        "tiers",
        "upToAmount",
        "flatPrice",
        "unitPrice",
        "percentage",
        "usage",
        "quantity",
        "minimumAmount",
        "mode",
        "operation",
        "conversionFactor",
        "precision",
        "quantityPerPackage",
    ]
)
values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=5),
        st.sampled_from(
            [
                "flat",
                "unit",
                "tiered",
                "graduated",
                "volume",
                "package",
                "dynamic",
                "usage_based",
                "P1M",
                "divide",
                "1e999999",
            ]
        ),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(names, inner, max_size=8)),
    max_leaves=25,
)


@settings(deadline=None)
@given(values)
def test_nothing_that_json_can_say_breaks_the_reader(document: object) -> None:
    card, faults = read_rate_card(document)
    assert (card is None) == bool(faults)
    price, faults = read_price(document)
    assert price is None or not faults

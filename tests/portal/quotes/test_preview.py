from typing import Any

import pytest
from fastapi.testclient import TestClient

from builders.documents import a_card, a_plan, faults
from builders.quotes import included

UNIT = {"type": "unit", "amount": "0.10"}


def quoted(client: TestClient, **body: Any) -> Any:
    answer = client.post("/v1/pricing/preview", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(client: TestClient, **body: Any) -> dict[str, str]:
    return faults(client.post("/v1/pricing/preview", json=body))


@pytest.fixture
def sold(client: TestClient) -> TestClient:
    """`pro`: $49, 1000 requests included; tokens of two models; an unpriced allowance; a daily and a yearly fee."""
    fee = {"type": "flat_fee", "name": "Fee", "price": {"type": "flat", "amount": "49.00"}}
    tokens = [
        a_card(key=key, name=key, featureKey=key, price=UNIT, entitlementTemplate=None) for key in ("large", "small")
    ]
    features = [
        {"key": key, "name": key, "meterSlug": "tokens", "filters": {"model": key}} for key in ("large", "small")
    ]
    document = {
        "meters": [
            {"slug": "api_requests", "aggregation": "COUNT"},
            {"slug": "egress", "aggregation": "COUNT"},
            {"slug": "tokens", "aggregation": "SUM", "valueProperty": "$.n", "groupBy": {"model": "$.model"}},
        ],
        "features": [
            {"key": "api_requests", "name": "API requests", "meterSlug": "api_requests"},
            {"key": "transfer", "name": "Transfer", "meterSlug": "egress"},
            *features,
        ],
        "plans": [
            a_plan(
                fee | {"key": "fee", "billingCadence": "P1M"},
                a_card(price=included(1000, "0.01")),
                a_card(key="transfer", featureKey="transfer"),
                key="pro",
                currency="EUR",
            ),
            a_plan(*tokens, key="tokens"),
            a_plan(
                fee | {"key": "daily", "billingCadence": "P1D", "price": {"type": "flat", "amount": "1"}},
                fee | {"key": "yearly", "billingCadence": "P1Y"},
                fee | {"key": "once", "price": {"type": "flat", "amount": "10", "paymentTerm": "in_arrears"}},
                key="fees",
            ),
        ],
    }
    assert client.post("/v1/catalog/apply", json=document | {"publish": True}).status_code == 200
    return client


def test_a_rate_card_and_a_quantity_are_lines_and_a_total(client: TestClient) -> None:
    assert quoted(client, rateCard=a_card(price=UNIT), usage="15000") == {
        "currency": "USD",
        "total": "1500.00",
        "lines": [{"description": "API requests", "quantity": "15000", "unitAmount": "0.10", "amount": "1500.00"}],
    }


@pytest.mark.parametrize(("usage", "total"), [("20.5", "2.05"), (15, "1.50"), ({"api_requests": "10"}, "1.00")])
def test_usage_is_a_decimal_a_whole_number_or_named(client: TestClient, usage: Any, total: str) -> None:
    assert quoted(client, rateCard=a_card(price=UNIT), usage=usage)["total"] == total


def test_the_currency_decides_what_is_rounded(client: TestClient) -> None:
    assert quoted(client, rateCard=a_card(price=UNIT), usage="15", currency="JPY")["total"] == "2"
    assert quoted(client, rateCard=a_card(price=UNIT), usage="15", currency="KWD")["total"] == "1.500"


def test_a_plan_is_all_of_its_rate_cards(sold: TestClient) -> None:
    found = quoted(sold, planKey="pro", usage={"api_requests": "1500", "egress": "99"})
    assert (found["currency"], found["total"]) == ("EUR", "54.00")
    assert [line["amount"] for line in found["lines"]] == ["49.00", "0.00", "5.00"]
    assert quoted(sold, planKey="pro", usage="1500")["total"] == "54.00", "there is but one thing to charge for"
    assert quoted(sold, planKey="pro", currency="EUR")["total"] == "49.00"


def test_fees_count_as_often_as_they_begin_within_a_billing_period(sold: TestClient) -> None:
    # From 31 January a month has 28 days.
    assert quoted(sold, planKey="fees")["total"] == "87.00"


def test_slices_of_a_meter_are_told_apart_by_their_features(sold: TestClient) -> None:
    assert quoted(sold, planKey="tokens", usage={"large": "10", "small": "20"})["total"] == "3.00"
    assert refused(sold, planKey="tokens", usage={"tokens": "10"}) == {
        "/usage/tokens": "is charged in slices; say how much of each feature: large, small"
    }
    assert refused(sold, planKey="tokens", usage="10") == {"/usage": "must say how much of which: large, small"}


def test_a_version_and_a_phase_can_be_named(sold: TestClient) -> None:
    dearer = a_plan(a_card(price=UNIT), key="pro", currency="EUR")
    assert sold.post("/v1/plans", json=dearer).status_code == 201
    assert quoted(sold, planKey="pro", planVersion=2, phase="default", usage="10")["total"] == "1.00"
    assert quoted(sold, planKey="pro", usage="10")["total"] == "49.00"


_EITHER = {"": "must have either rateCard or planKey"}
_CARD = a_card(price=UNIT)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, _EITHER),
        ({"rateCard": _CARD, "planKey": "pro"}, _EITHER),
        ({"planKey": "pro", "currency": "USD"}, {"/currency": "the plan costs EUR"}),
        ({"planKey": "pro", "phase": "none"}, {"/phase": "the plan has no such phase"}),
        (
            {"planKey": "pro", "usage": {"none": "1"}},
            {"/usage/none": "is not charged; known: api_requests, egress, transfer"},
        ),
        (
            {"rateCard": _CARD, "phase": "x", "planVersion": 1},
            {"/phase": "needs a planKey", "/planVersion": "needs a planKey"},
        ),
        ({"rateCard": a_card(price={"type": "unit", "amount": "-1"})}, {"/rateCard/price/amount": "must be 0 or more"}),
        ({"rateCard": 3}, {"/rateCard": "must be an object"}),
    ],
    ids=["nothing", "both", "currency", "phase", "meter", "no plan", "price", "number"],
)
def test_what_cannot_be_priced_says_why(sold: TestClient, body: Any, expected: dict[str, str]) -> None:
    assert refused(sold, **body) == expected


@pytest.mark.parametrize(
    "usage", ["-1", "NaN", "1e3", "", " 1", "1_0", "٣", True, 1.5, None, "9" * 31, {"api_requests": "-1"}]
)
def test_a_quantity_that_is_none_is_a_fault(client: TestClient, usage: Any) -> None:
    found = refused(client, rateCard=a_card(price=UNIT), usage=usage)
    assert found
    assert all(place.startswith("/usage") for place in found)


def test_the_largest_numbers_there_are_do_not_break_it(client: TestClient) -> None:
    most = {"type": "unit", "amount": "999999999999999.999999999999999"}
    found = quoted(client, rateCard=a_card(price=most), usage="9" * 30 + "." + "9" * 15)
    assert found["total"].startswith("9999")


def test_a_plan_that_is_not_there_is_404_and_a_stranger_401(client: TestClient) -> None:
    missing = client.post("/v1/pricing/preview", json={"planKey": "none"})
    assert (missing.status_code, missing.json()["code"]) == (404, "plan_not_found")
    stranger = client.post("/v1/pricing/preview", json={"planKey": "none"}, headers={"Authorization": "Bearer x"})
    assert stranger.status_code == 401

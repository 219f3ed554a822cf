from typing import Any

import pytest
from fastapi.testclient import TestClient

from builders.documents import faults

TEN = {"code": "TEN", "percentOff": 10, "duration": "forever"}


def create(client: TestClient, **fields: Any) -> Any:
    document = {name: value for name, value in (TEN | fields).items() if value is not None}
    return client.post("/v1/coupons", json=document)


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({}, {"percentOff": "10", "name": "TEN", "timesRedeemed": 0, "status": "active"}),
        ({"percentOff": "12.50", "name": "Spring"}, {"percentOff": "12.50", "name": "Spring"}),
        ({"percentOff": 0.5}, {"percentOff": "0.5"}),
        ({"percentOff": None, "amountOff": "5", "currency": "USD"}, {"amountOff": "5.00", "currency": "USD"}),
        ({"percentOff": None, "amountOff": 500, "currency": "JPY"}, {"amountOff": "500"}),
        ({"duration": "repeating", "durationInMonths": 3}, {"duration": "repeating", "durationInMonths": 3}),
        ({"maxRedemptions": 1, "redeemBy": "2026-05-01T00:00:00Z"}, {"redeemBy": "2026-05-01T00:00:00Z"}),
        ({"appliesTo": {"planKeys": ["pro"]}}, {"appliesTo": {"planKeys": ["pro"]}}),
        ({"code": "ten-2_x", "metadata": {"a": 1}}, {"code": "TEN-2_X", "metadata": {"a": 1}}),
    ],
)
def test_a_coupon_is_shown_as_it_was_made(client: TestClient, fields: dict[str, Any], shown: dict[str, Any]) -> None:
    made = create(client, **fields)
    assert made.status_code == 201, made.text
    assert {name: made.json()[name] for name in shown} == shown
    code = made.json()["code"]
    assert client.get(f"/v1/coupons/{code.lower()}").json() == made.json()
    assert client.get(f"/v1/coupons/{made.json()['id']}").json() == made.json()


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"code": "TEN OFF"}, "/code"),
        ({"percentOff": 0}, "/percentOff"),
        ({"percentOff": 101}, "/percentOff"),
        ({"percentOff": "1.23456"}, "/percentOff"),
        ({"percentOff": True}, "/percentOff"),
        ({"percentOff": "1e1"}, "/percentOff"),
        ({"percentOff": None}, ""),
        ({"amountOff": "5", "currency": "USD"}, ""),
        ({"percentOff": None, "amountOff": "5"}, ""),
        ({"percentOff": None, "amountOff": "-5", "currency": "USD"}, "/amountOff"),
        ({"percentOff": None, "amountOff": "5.005", "currency": "USD"}, "/amountOff"),
        ({"percentOff": None, "amountOff": "5.005", "currency": "KWD"}, "/amountOff"),
        ({"currency": "USD"}, ""),
        ({"duration": "repeating"}, ""),
        ({"durationInMonths": 3}, ""),
        ({"duration": "repeating", "durationInMonths": 0}, "/durationInMonths"),
        ({"maxRedemptions": 0}, "/maxRedemptions"),
        ({"redeemBy": "2026-01-01T00:00:00Z"}, "/redeemBy"),
        ({"appliesTo": {"planKeys": []}}, "/appliesTo/planKeys"),
        ({"appliesTo": {"products": ["x"]}}, "/appliesTo/products"),
    ],
)
def test_what_a_coupon_cannot_say(client: TestClient, fields: dict[str, Any], place: str) -> None:
    assert set(faults(create(client, **fields))) == {place}


def test_a_code_is_taken_for_good_in_large_and_small_letters(client: TestClient) -> None:
    made = create(client).json()
    assert create(client, code="ten").json()["code"] == "coupon_exists"
    archived = client.post(f"/v1/coupons/{made['id']}/archive").json()
    assert archived["status"] == "archived"
    assert client.post("/v1/coupons/TEN/archive").json() == archived
    assert create(client).json()["code"] == "coupon_exists"


def test_they_are_listed_by_code_and_state(client: TestClient) -> None:
    for code in ("B", "A", "C"):
        create(client, code=code)
    client.post("/v1/coupons/A/archive")
    for query, codes in {"": ["A", "B", "C"], "?status=active": ["B", "C"], "?status=archived": ["A"]}.items():
        assert [one["code"] for one in client.get(f"/v1/coupons{query}").json()["items"]] == codes
    assert client.get("/v1/coupons/NOTHING").json()["code"] == "coupon_not_found"


def test_nothing_changes_what_a_coupon_says(client: TestClient) -> None:
    made = create(client).json()
    for send in (client.put, client.patch):
        assert send(f"/v1/coupons/{made['id']}", json={"percentOff": 50}).status_code == 405
    entries = client.get("/v1/audit?objectType=coupon").json()["items"]
    assert [(entry["action"], entry["after"]["percent_off"]) for entry in entries] == [("coupon.create", "10")]


def test_a_post_that_is_repeated_makes_one(client: TestClient) -> None:
    first, second = (client.post("/v1/coupons", json=TEN, headers={"Idempotency-Key": "x"}) for _ in range(2))
    assert first.json() == second.json()
    assert client.get("/v1/coupons").json()["totalCount"] == 1

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine, text

from builders.databases import DIALECTS
from builders.documents import a_plan
from farebox_portal.clock import FrozenClock

KEY = {"Idempotency-Key": "order-1"}
ACME = {"key": "other", "name": "Other"}


@pytest.fixture(scope="session", params=DIALECTS)
def dialect(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_same_request_takes_effect_once_and_gets_the_same_answer(shop: TestClient) -> None:
    first = shop.post("/v1/customers", json=ACME, headers=KEY)
    again = shop.post("/v1/customers", json=ACME, headers=KEY)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json()
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert shop.get("/v1/customers").json()["totalCount"] == 2


def test_spelling_does_not_make_it_another_request(shop: TestClient) -> None:
    shop.post("/v1/customers", json=ACME, headers=KEY)
    body = b'{ "name" : "Other",\n "key":"other" }'
    again = shop.post("/v1/customers", content=body, headers={"content-type": "application/json", **KEY})
    assert again.headers["idempotency-replayed"] == "true"


@pytest.mark.parametrize(
    ("path", "body"), [("/v1/customers", ACME | {"name": "X"}), ("/v1/meters", {"slug": "x", "aggregation": "COUNT"})]
)
def test_a_key_serves_one_request_only(shop: TestClient, path: str, body: dict[str, str]) -> None:
    shop.post("/v1/customers", json=ACME, headers=KEY)
    answer = shop.post(path, json=body, headers=KEY)
    assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_key_reused")


def test_a_refused_request_may_be_tried_again_with_the_same_key(shop: TestClient) -> None:
    assert shop.post("/v1/customers", json={"key": "other"}, headers=KEY).status_code == 422
    assert shop.post("/v1/customers", json={"key": "acme", "name": "taken"}, headers=KEY).status_code == 409
    assert shop.post("/v1/customers", json=ACME, headers=KEY).status_code == 201


def test_after_a_day_the_key_is_free_again(shop: TestClient, clock: FrozenClock) -> None:
    shop.post("/v1/customers", json=ACME, headers=KEY)
    clock.advance(timedelta(hours=24) - timedelta(microseconds=1))
    assert shop.post("/v1/customers", json=ACME, headers=KEY).status_code == 201
    clock.advance(timedelta(microseconds=1))
    assert shop.post("/v1/customers", json=ACME, headers=KEY).json()["code"] == "customer_key_taken"


def test_an_api_key_is_neither_stored_nor_repeated(shop: TestClient, engine: Engine) -> None:
    order = {"plan": {"key": "free"}, "customerKey": "acme"}
    first = shop.post("/v1/subscriptions", json=order, headers=KEY).json()
    secret = first["apiKey"].pop("key")
    again = shop.post("/v1/subscriptions", json=order, headers=KEY).json()
    assert again == first
    issued = shop.post(f"/v1/subscriptions/{first['id']}/keys", json={}, headers={"Idempotency-Key": "2"}).json()
    with engine.connect() as connection:
        rows = [tuple(row) for table in ("idempotency_keys", "api_keys") for row in _rows(connection, table)]
    assert len(rows) == 4
    assert secret not in str(rows)
    assert issued["key"] not in str(rows)


def test_of_many_at_the_same_time_one_takes_effect(shop: TestClient) -> None:
    def publish(_: int) -> str:
        return str(shop.post("/v1/plans", json=a_plan(key="pro"), headers=KEY).json()["id"])

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(publish, range(16)))) == 1
    assert shop.get("/v1/plans?key=pro").json()["totalCount"] == 1


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_a_key_has_its_bounds(shop: TestClient, key: str) -> None:
    answer = shop.post("/v1/customers", json=ACME, headers={"Idempotency-Key": key})
    assert answer.json()["errors"][0]["pointer"] == "/header/Idempotency-Key"


def _rows(connection: object, table: str) -> list[object]:
    return list(connection.execute(text(f"SELECT * FROM {table}")))  # type: ignore[attr-defined]

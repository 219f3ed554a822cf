from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine
from sqlmodel import select

from builders.documents import faults
from farebox_portal.customers import accounts
from farebox_portal.customers.tables import Customer
from farebox_portal.db import transaction

ACME = {"key": "google-oauth2|42", "name": "Acme", "primaryEmail": "ops@acme.example", "currency": "EUR"}


def test_a_customer_is_found_by_id_and_key(client: TestClient) -> None:
    made = client.post("/v1/customers", json=ACME | {"metadata": {"tier": [1]}}).json()
    assert {name: made[name] for name in ACME} == ACME
    assert client.get(f"/v1/customers/{made['id']}").json() == made
    assert client.get("/v1/customers/google-oauth2%7C42").json() == made
    assert client.get("/v1/customers").json()["items"] == [made]


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"key": ""}, "/key"),
        ({"key": "a b"}, "/key"),
        ({"key": "a/b"}, "/key"),
        ({"key": "a\nx-farebox-plan: pro"}, "/key"),
        ({"key": "acme\n"}, "/key"),
        ({"key": "ä"}, "/key"),
        ({"key": ".."}, "/key"),
        ({"key": "x" * 129}, "/key"),
        ({"key": "01KG8NJW00AX7G2MGW7JGNQ17P"}, "/key"),
        ({"key": "01kg8njw00ax7g2mgw7jgnq17p"}, "/key"),
        ({"name": ""}, "/name"),
        ({"primaryEmail": "nobody"}, "/primaryEmail"),
        ({"currency": "EURO"}, "/currency"),
        ({"id": "x"}, "/id"),
    ],
)
def test_a_customer_that_could_not_be_served_is_refused(client: TestClient, change: Any, pointer: str) -> None:
    assert list(faults(client.post("/v1/customers", json=ACME | change))) == [pointer]
    assert client.get("/v1/customers").json()["totalCount"] == 0


def test_a_change_touches_only_what_it_names(client: TestClient) -> None:
    made = client.post("/v1/customers", json=ACME).json()
    path = f"/v1/customers/{made['id']}"
    assert client.patch(path, json={"name": "New"}).json() == made | {"name": "New"}
    assert "primaryEmail" not in client.patch(path, json={"primaryEmail": None}).json()
    assert client.patch(path, json={"metadata": {"a": 1}}).json()["metadata"] == {"a": 1}
    assert list(faults(client.patch(path, json={"key": "other"}))) == ["/key"]
    assert list(faults(client.patch(path, json={"name": None}))) == ["/name"]


def test_a_key_is_taken_for_ever(client: TestClient) -> None:
    client.post("/v1/customers", json=ACME)
    assert client.post("/v1/customers", json=ACME).json()["code"] == "customer_key_taken"
    assert client.delete("/v1/customers/google-oauth2%7C42").status_code == 204
    assert client.get("/v1/customers/google-oauth2%7C42").status_code == 404
    assert client.get("/v1/customers").json()["totalCount"] == 0
    assert client.post("/v1/customers", json=ACME).json()["code"] == "customer_key_taken"


def test_a_customer_with_a_subscription_is_kept(shop: TestClient) -> None:
    order = {"plan": {"key": "free"}, "customerKey": "acme", "timing": "2026-06-01T00:00:00Z"}
    made = shop.post("/v1/subscriptions", json=order).json()
    assert shop.delete("/v1/customers/acme").json()["code"] == "customer_has_subscription"
    shop.post(f"/v1/subscriptions/{made['id']}/cancel")
    assert shop.delete("/v1/customers/acme").status_code == 204
    (key,) = shop.get(f"/v1/subscriptions/{made['id']}/keys").json()["items"]
    assert key["status"] == "revoked"


def test_touch_raises_the_version_of_one_account_and_no_other(client: TestClient, engine: Engine) -> None:
    ids = [client.post("/v1/customers", json={"key": key, "name": "C"}).json()["id"] for key in "ab"]
    with transaction(engine) as session:
        before = session.get_one(Customer, ids[0])
        accounts.touch(session, ids[0])
        accounts.touch(session, ids[0])
        assert before.entitlements_version == 3, "a row that was read already sees it too"
    with transaction(engine) as session:
        assert {row.key: row.entitlements_version for row in session.exec(select(Customer))} == {"a": 3, "b": 1}

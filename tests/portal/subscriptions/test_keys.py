from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine, text
from sqlmodel import select

from builders.documents import faults
from farebox.v1 import digest
from farebox_portal.app import create_app
from farebox_portal.clock import FrozenClock
from farebox_portal.customers.tables import Customer
from farebox_portal.db import transaction
from farebox_portal.settings import load_settings
from farebox_portal.subscriptions import keys


@pytest.fixture
def subscription(shop: TestClient) -> dict[str, Any]:
    made: dict[str, Any] = shop.post("/v1/subscriptions", json={"plan": {"key": "free"}, "customerKey": "acme"}).json()
    return made


@pytest.fixture
def path(subscription: dict[str, Any]) -> str:
    return f"/v1/subscriptions/{subscription['id']}/keys"


@pytest.fixture
def version(engine: Engine) -> Callable[[], int]:
    def read() -> int:
        with transaction(engine) as session:
            return session.exec(select(Customer.entitlements_version)).one()

    return read


def statuses(shop: TestClient, path: str) -> dict[str, str]:
    return {item["id"]: item["status"] for item in shop.get(path).json()["items"]}


def test_a_key_is_shown_once(shop: TestClient, path: str, version: Callable[[], int]) -> None:
    before = version()
    made = shop.post(path, json={"name": "CI", "expiresAt": "2026-02-01T00:00:00Z"}).json()
    assert digest.is_well_formed(made.pop("key"))
    assert (made["name"], made["status"], made["expiresAt"]) == ("CI", "active", "2026-02-01T00:00:00Z")
    assert made in shop.get(path).json()["items"]
    assert shop.get(f"/v1/keys/{made['id']}").json() == made
    assert version() > before


def test_a_key_without_a_body_is_fine(shop: TestClient, path: str) -> None:
    assert shop.post(path).json()["name"] == "Default"


def test_keys_of_production_are_live_and_peppered(engine: Engine, clock: FrozenClock, shop: TestClient) -> None:
    token = "token-of-production"
    environ = {"ADMIN_TOKEN": token, "PLUGIN_TOKEN": token + "2", "ENVIRONMENT": "production", "KEY_PEPPER": "pepper"}
    settings = load_settings({f"FAREBOX_{name}": value for name, value in environ.items()})
    production = TestClient(create_app(settings, engine, clock), headers={"Authorization": f"Bearer {token}"})
    order = {"plan": {"key": "free"}, "customerKey": "acme"}
    key = production.post("/v1/subscriptions", json=order).json()["apiKey"]["key"]
    assert key.startswith("fb_live_")
    with engine.connect() as connection:
        stored = connection.execute(text("SELECT digest FROM api_keys")).scalar_one()
    assert stored == digest.digest(key, b"pepper") != digest.digest(key)


@pytest.mark.parametrize("expires_at", ["2026-01-31T10:00:00Z", "2020-01-01T00:00:00Z"])
def test_a_key_that_would_never_work_is_refused(shop: TestClient, path: str, expires_at: str) -> None:
    assert list(faults(shop.post(path, json={"expiresAt": expires_at}))) == ["/expiresAt"]


def test_an_ended_subscription_gets_no_keys(shop: TestClient, subscription: dict[str, Any], path: str) -> None:
    shop.post(f"/v1/subscriptions/{subscription['id']}/cancel")
    answer = shop.post(path)
    assert (answer.status_code, answer.json()["code"]) == (409, "subscription_inactive")


def test_live_keys_are_bounded_and_dead_ones_do_not_count(
    shop: TestClient, path: str, subscription: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "LIVE_KEYS_MAX", 2)
    assert shop.post(path).status_code == 201
    assert shop.post(path).json()["code"] == "api_key_limit_reached"
    shop.delete(f"/v1/keys/{subscription['apiKey']['id']}")
    assert shop.post(path).status_code == 201


@pytest.mark.parametrize(
    ("grace", "overlap"), [("PT1H", timedelta(hours=1)), (90, timedelta(seconds=90)), ("P1M", timedelta(days=28))]
)
def test_rotation_lets_the_old_key_go_on_for_a_while(
    shop: TestClient,
    clock: FrozenClock,
    path: str,
    subscription: dict[str, Any],
    version: Callable[[], int],
    grace: object,
    overlap: timedelta,
) -> None:
    before, old = version(), subscription["apiKey"]
    made = shop.post(f"/v1/keys/{old['id']}/rotate", json={"gracePeriod": grace})
    assert made.status_code == 201
    new = made.json()
    assert new["name"] == old["name"]
    assert new["key"] != old["key"]
    assert "expiresAt" not in new
    assert version() > before
    assert statuses(shop, path) == {old["id"]: "active", new["id"]: "active"}
    clock.advance(overlap - timedelta(microseconds=1))
    assert statuses(shop, path)[old["id"]] == "active"
    clock.advance(timedelta(microseconds=1))
    assert statuses(shop, path) == {old["id"]: "expired", new["id"]: "active"}


@pytest.mark.parametrize("body", [None, {}, {"gracePeriod": 0}, {"gracePeriod": "PT0S"}])
def test_rotation_without_grace_ends_the_old_key_at_once(
    shop: TestClient, path: str, subscription: dict[str, Any], body: object
) -> None:
    old = subscription["apiKey"]["id"]
    assert shop.post(f"/v1/keys/{old}/rotate", json=body).status_code == 201
    assert statuses(shop, path)[old] == "revoked"


def test_grace_never_prolongs_a_key(shop: TestClient, path: str) -> None:
    made = shop.post(path, json={"expiresAt": "2026-02-01T00:00:00Z"}).json()
    shop.post(f"/v1/keys/{made['id']}/rotate", json={"gracePeriod": "P7D"})
    assert shop.get(f"/v1/keys/{made['id']}").json()["expiresAt"] == "2026-02-01T00:00:00Z"


@pytest.mark.parametrize("grace", [-1, True, "soon", "P2Y", 32_000_000, None, 1.5, []])
def test_a_grace_period_has_its_bounds(shop: TestClient, subscription: dict[str, Any], grace: object) -> None:
    answer = shop.post(f"/v1/keys/{subscription['apiKey']['id']}/rotate", json={"gracePeriod": grace})
    assert list(faults(answer)) == ["/gracePeriod"]


def test_a_dead_key_is_not_rotated(shop: TestClient, clock: FrozenClock, path: str) -> None:
    made = shop.post(path, json={"expiresAt": "2026-02-01T00:00:00Z"}).json()
    clock.advance(timedelta(days=1))
    answer = shop.post(f"/v1/keys/{made['id']}/rotate")
    assert (answer.status_code, answer.json()["code"]) == (409, "api_key_inactive")
    shop.delete(f"/v1/keys/{made['id']}")
    assert "revoked" in shop.post(f"/v1/keys/{made['id']}/rotate").json()["detail"]


def test_a_revoked_key_stays_revoked(
    shop: TestClient, path: str, subscription: dict[str, Any], clock: FrozenClock, version: Callable[[], int]
) -> None:
    key, before = subscription["apiKey"]["id"], version()
    assert shop.delete(f"/v1/keys/{key}").status_code == 204
    assert version() == before + 1
    revoked = shop.get(f"/v1/keys/{key}").json()
    assert revoked["status"] == "revoked"
    clock.advance(timedelta(days=1))
    assert shop.delete(f"/v1/keys/{key}").status_code == 204
    assert shop.get(f"/v1/keys/{key}").json() == revoked
    assert version() == before + 1, "nothing to publish"


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("DELETE", ""), ("POST", "/rotate")])
def test_a_key_that_does_not_exist_is_a_404(shop: TestClient, method: str, path: str) -> None:
    answer = shop.request(method, f"/v1/keys/none{path}")
    assert (answer.status_code, answer.json()["code"]) == (404, "api_key_not_found")

from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine
from sqlmodel import select

from builders.documents import a_card, a_plan
from farebox_portal import audit
from farebox_portal.clock import FrozenClock
from farebox_portal.db import transaction
from farebox_portal.subscriptions import lifecycle

ORDER: dict[str, Any] = {"plan": {"key": "free"}, "customerKey": "acme"}


def entries(shop: TestClient, query: str = "") -> list[dict[str, Any]]:
    """The oldest first."""
    items: list[dict[str, Any]] = shop.get(f"/v1/audit?pageSize=1000{query}").json()["items"]
    return items[::-1]


def test_every_step_of_a_subscription_is_written_with_what_it_changed(shop: TestClient, clock: FrozenClock) -> None:
    made = shop.post("/v1/subscriptions", json=ORDER, headers={"x-request-id": "order-7"}).json()
    clock.advance(timedelta(hours=1))
    shop.post(f"/v1/subscriptions/{made['id']}/cancel", json={"timing": "2026-02-10T00:00:00Z"})
    shop.post(f"/v1/subscriptions/{made['id']}/unschedule-cancelation")
    first, second, third = entries(shop, f"&objectType=subscription&objectId={made['id']}")
    assert [entry["action"] for entry in (first, second, third)] == [
        "subscription.create",
        "subscription.cancel",
        "subscription.unschedule_cancelation",
    ]
    assert (first["actor"], first["requestId"], first["at"]) == ("operator:admin", "order-7", "2026-01-31T10:00:00Z")
    assert "before" not in first
    assert second["at"] == "2026-01-31T11:00:00Z"
    assert second["before"] == first["after"]
    assert second["after"] == first["after"] | {"activeTo": "2026-02-10T00:00:00+00:00"}
    assert third["after"] == first["after"]


def test_changes_of_catalog_customers_and_keys_are_written_without_anybody_thinking_of_it(shop: TestClient) -> None:
    made = shop.post("/v1/subscriptions", json=ORDER).json()
    shop.patch("/v1/customers/acme", json={"name": "Acme & Sons"})
    shop.delete(f"/v1/keys/{made['apiKey']['id']}")
    draft = shop.post("/v1/plans", json=a_plan(a_card(), key="draft")).json()
    shop.delete(f"/v1/plans/{draft['id']}")
    actions = [entry["action"] for entry in entries(shop)]
    assert actions[:5] == ["meter.create", "feature.create", "feature.create", "customer.create", "plan.create"]
    assert {"plan.change", "api_key.create", "customer.change", "api_key.change", "plan.delete"} <= set(actions)
    [renamed] = entries(shop, "&action=customer.change")
    assert (renamed["before"], renamed["after"]) == ({"name": "Acme"}, {"name": "Acme & Sons"})
    [issued] = entries(shop, "&action=api_key.create")
    assert "digest" not in issued["after"]
    assert made["apiKey"]["key"] not in str(entries(shop))


def test_what_was_refused_or_changed_nothing_leaves_no_entry(shop: TestClient) -> None:
    made = shop.post("/v1/subscriptions", json=ORDER).json()
    before = len(entries(shop))
    assert shop.post("/v1/subscriptions", json=ORDER).status_code == 409
    assert shop.post(f"/v1/subscriptions/{made['id']}/resume").status_code == 409
    shop.post(f"/v1/subscriptions/{made['id']}/change/preview", json={"plan": {"key": "free"}})
    shop.patch("/v1/customers/acme", json={"name": "Acme"})
    assert len(entries(shop)) == before


def test_entry_and_change_are_of_one_transaction(shop: TestClient, engine: Engine, clock: FrozenClock) -> None:
    made = shop.post("/v1/subscriptions", json=ORDER).json()
    before = len(entries(shop))

    def cancel_and_fail() -> None:
        with transaction(engine) as session:
            lifecycle.cancel(session, lifecycle.get(session, made["id"]), "immediate", clock.now())
            session.flush()
            assert len(session.exec(select(audit.AuditEntry)).all()) == before + 1
            raise RuntimeError

    with pytest.raises(RuntimeError):
        cancel_and_fail()
    assert len(entries(shop)) == before


def test_entries_are_filtered_and_paged(shop: TestClient, clock: FrozenClock) -> None:
    clock.advance(timedelta(days=1))
    shop.post("/v1/customers", json={"key": "late", "name": "Late"})
    assert [entry["objectType"] for entry in entries(shop, "&from=2026-02-01T10:00:00Z")] == ["customer"]
    assert len(entries(shop, "&to=2026-02-01T10:00:00Z&objectType=customer")) == 1
    assert entries(shop, "&actor=nobody") == []
    page = shop.get("/v1/audit?pageSize=1").json()
    assert page["totalCount"] == len(entries(shop))
    assert [entry["action"] for entry in page["items"]] == ["customer.create"], "the latest first"


def test_a_job_writes_under_its_own_name(engine: Engine, shop: TestClient, clock: FrozenClock) -> None:
    now = clock.now()
    with audit.acting("clock", now), transaction(engine) as session:
        audit.record(session, "thing.done", "thing", "7", now)
    assert entries(shop, "&objectType=thing")[0]["actor"] == "clock"
    with transaction(engine) as session:
        audit.record(session, "thing.done", "thing", "8", now)
    assert entries(shop, "&objectId=8")[0]["actor"] == "system"


def test_the_log_is_for_operators(shop: TestClient) -> None:
    assert shop.get("/v1/audit", headers={"Authorization": "Bearer plugin-token-of-the-tests"}).status_code == 403

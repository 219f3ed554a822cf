from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine
from sqlmodel import select

from builders.documents import a_card, a_plan, faults
from farebox.v1 import digest
from farebox_portal.clock import FrozenClock
from farebox_portal.customers.tables import Customer
from farebox_portal.db import transaction
from farebox_portal.subscriptions.tables import ApiKey

ORDER: dict[str, Any] = {"plan": {"key": "free"}, "customerKey": "acme"}


def subscribe(shop: TestClient, **fields: Any) -> dict[str, Any]:
    answer = shop.post("/v1/subscriptions", json=ORDER | fields)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def version(engine: Engine) -> int:
    with transaction(engine) as session:
        return session.exec(select(Customer.entitlements_version)).one()


def test_a_subscription_begins_at_once_and_brings_a_key(shop: TestClient, engine: Engine) -> None:
    before = version(engine)
    made = subscribe(shop, metadata={"order": 7})
    api_key = made.pop("apiKey")
    assert made == {
        "id": made["id"],
        "customerId": shop.get("/v1/customers/acme").json()["id"],
        "customerKey": "acme",
        "plan": {"id": shop.get("/v1/plans/free").json()["id"], "key": "free", "version": 1, "name": "Free"},
        "phase": {"key": "default", "name": "Default", "activeFrom": "2026-01-31T10:00:00Z"},
        "status": "active",
        "activeFrom": "2026-01-31T10:00:00Z",
        "billingAnchor": "2026-01-31T10:00:00Z",
        "billingCadence": "P1M",
        "currentPeriod": {"from": "2026-01-31T10:00:00Z", "to": "2026-02-28T10:00:00Z"},
        "currency": "USD",
        "addons": [],
        "scheduled": [],
        "paymentStatus": "not_required",
        "metadata": {"order": 7},
        "createdAt": "2026-01-31T10:00:00Z",
        "updatedAt": "2026-01-31T10:00:00Z",
    }
    assert set(api_key) == {"id", "key", "name", "start"}
    assert digest.is_well_formed(api_key["key"])
    assert api_key["key"].startswith("fb_test_")
    assert api_key["start"] == api_key["key"][:12]
    assert shop.get(f"/v1/subscriptions/{made['id']}").json() == made
    assert version(engine) > before
    with transaction(engine) as session:
        assert session.exec(select(ApiKey.digest)).one() == digest.digest(api_key["key"])


def test_the_newest_active_version_is_what_is_bought(shop: TestClient) -> None:
    second = shop.post("/v1/plans", json=a_plan()).json()["id"]
    assert shop.post("/v1/customers", json={"key": "early", "name": "E"}).status_code == 201
    assert subscribe(shop, customerKey="early")["plan"]["version"] == 1, "a draft is not on sale"
    shop.post(f"/v1/plans/{second}/publish")
    assert subscribe(shop)["plan"]["version"] == 2
    assert shop.post("/v1/customers", json={"key": "late", "name": "L"}).status_code == 201
    late = shop.post("/v1/subscriptions", json={"customerKey": "late", "plan": {"key": "free", "version": 1}})
    assert late.json()["code"] == "plan_not_active", "its successor took its place"


@pytest.mark.parametrize(
    ("change", "status", "code", "pointer"),
    [
        ({"plan": {"key": "none"}}, 404, "plan_not_found", "/plan/key"),
        ({"plan": {"key": "free", "version": 9}}, 404, "plan_not_found", "/plan/version"),
        ({"customerKey": "none"}, 404, "customer_not_found", "/customerKey"),
        ({"customerKey": None, "customerId": "acme"}, 404, "customer_not_found", "/customerId"),
        ({"customerKey": None}, 422, "invalid_request", ""),
        ({"customerId": "x"}, 422, "invalid_request", ""),
        ({"plan": {}}, 422, "invalid_request", "/plan/key"),
        ({"timing": "next_billing_cycle"}, 422, "invalid_request", "/timing"),
        ({"timing": "2026-01-31T09:57:59Z"}, 422, "invalid_request", "/timing"),
        ({"timing": "2036-01-01T00:00:00Z"}, 422, "invalid_request", "/timing"),
        ({"billingAnchor": "9999-12-31T00:00:00Z"}, 422, "invalid_request", "/billingAnchor"),
        ({"billingAnchor": "0001-01-01T00:00:00Z"}, 422, "invalid_request", "/billingAnchor"),
    ],
)
def test_an_order_that_cannot_be_met_is_refused_in_place(
    shop: TestClient, engine: Engine, change: dict[str, Any], status: int, code: str, pointer: str
) -> None:
    before = version(engine)
    answer = shop.post("/v1/subscriptions", json=ORDER | change)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert [fault["pointer"] for fault in answer.json()["errors"]] == [pointer]
    assert shop.get("/v1/subscriptions").json()["totalCount"] == 0
    assert version(engine) == before


def test_a_plan_that_is_not_on_sale_is_refused(shop: TestClient) -> None:
    shop.post("/v1/plans", json=a_plan(key="draft"))
    assert shop.post("/v1/subscriptions", json=ORDER | {"plan": {"key": "draft"}}).json()["code"] == "plan_not_active"
    free = shop.get("/v1/plans/free").json()["id"]
    shop.post(f"/v1/plans/{free}/archive")
    for plan in ({"key": "free"}, {"key": "free", "version": 1}):
        assert shop.post("/v1/subscriptions", json=ORDER | {"plan": plan}).json()["code"] == "plan_not_active"


def test_a_customer_pays_in_one_currency(shop: TestClient) -> None:
    shop.patch("/v1/customers/acme", json={"currency": "EUR"})
    assert shop.post("/v1/subscriptions", json=ORDER).json()["code"] == "currency_mismatch"


def test_a_customer_has_one_subscription_at_a_time(shop: TestClient, clock: FrozenClock) -> None:
    first = subscribe(shop)
    second = shop.post("/v1/subscriptions", json=ORDER)
    assert (second.status_code, second.json()["code"]) == (409, "subscription_limit_reached")
    shop.post(f"/v1/subscriptions/{first['id']}/cancel", json={"timing": "next_billing_cycle"})
    assert shop.post("/v1/subscriptions", json=ORDER).status_code == 409, "canceled, but not over yet"
    clock.advance(timedelta(days=28))
    assert shop.post("/v1/subscriptions", json=ORDER).status_code == 201


def test_of_many_orders_at_once_one_is_taken(shop: TestClient) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: shop.post("/v1/subscriptions", json=ORDER).status_code, range(8)))
    assert sorted(answers) == [201] + [409] * 7


def test_a_subscription_can_begin_later(shop: TestClient, clock: FrozenClock) -> None:
    made = subscribe(shop, timing="2026-03-01T02:00:00+02:00", billingAnchor="2026-02-15T00:00:00Z")
    assert (made["status"], made["activeFrom"]) == ("scheduled", "2026-03-01T00:00:00Z")
    assert made["billingAnchor"] == "2026-02-15T00:00:00Z"
    clock.instant = datetime(2026, 3, 1, tzinfo=UTC)
    assert shop.get(f"/v1/subscriptions/{made['id']}").json()["status"] == "active"


def test_a_cancelation_ends_it_at_once_by_default(shop: TestClient, engine: Engine) -> None:
    made = subscribe(shop)
    before = version(engine)
    ended = shop.post(f"/v1/subscriptions/{made['id']}/cancel").json()
    assert (ended["status"], ended["activeTo"]) == ("inactive", "2026-01-31T10:00:00Z")
    assert version(engine) > before
    for step in ("cancel", "unschedule-cancelation"):
        again = shop.post(f"/v1/subscriptions/{made['id']}/{step}")
        assert (again.status_code, again.json()["code"]) == (409, "subscription_inactive")


@pytest.mark.parametrize(
    ("timing", "ends"),
    [("next_billing_cycle", "2026-02-28T10:00:00Z"), ("2026-02-10T00:00:00Z", "2026-02-10T00:00:00Z")],
)
def test_a_cancelation_can_wait_and_be_taken_back(
    shop: TestClient, engine: Engine, clock: FrozenClock, timing: str, ends: str
) -> None:
    made = subscribe(shop)
    path = f"/v1/subscriptions/{made['id']}"
    canceled = shop.post(f"{path}/cancel", json={"timing": timing}).json()
    assert (canceled["status"], canceled["activeTo"]) == ("canceled", ends)
    before = version(engine)
    resumed = shop.post(f"{path}/unschedule-cancelation").json()
    assert resumed["status"] == "active"
    assert "activeTo" not in resumed
    assert version(engine) > before
    shop.post(f"{path}/cancel", json={"timing": timing})
    clock.instant = datetime.fromisoformat(ends)
    assert shop.get(path).json()["status"] == "inactive"


def test_only_a_scheduled_cancelation_can_be_taken_back(shop: TestClient) -> None:
    made = subscribe(shop)
    answer = shop.post(f"/v1/subscriptions/{made['id']}/unschedule-cancelation")
    assert (answer.status_code, answer.json()["code"]) == (409, "cancelation_not_scheduled")


def test_what_has_not_begun_can_be_called_off(shop: TestClient) -> None:
    made = subscribe(shop, timing="2026-06-01T00:00:00Z")
    ended = shop.post(f"/v1/subscriptions/{made['id']}/cancel").json()
    assert (ended["status"], ended["activeTo"]) == ("inactive", ended["activeFrom"])
    assert shop.post("/v1/subscriptions", json=ORDER).status_code == 201


def test_nothing_ends_in_the_past(shop: TestClient) -> None:
    made = subscribe(shop)
    answer = shop.post(f"/v1/subscriptions/{made['id']}/cancel", json={"timing": "2026-01-01T00:00:00Z"})
    assert list(faults(answer)) == ["/timing"]


def test_a_restoration_erases_nobody_who_has_begun(shop: TestClient) -> None:
    """Two may have begun while several were allowed."""
    shop.put("/v1/monetization-configuration", json={"multipleSubscriptionsEnabled": True})
    plan = shop.post("/v1/plans", json=a_plan(key="other")).json()["id"]
    shop.post(f"/v1/plans/{plan}/publish")
    first, second = subscribe(shop), subscribe(shop, plan={"key": "other"})
    shop.put("/v1/monetization-configuration", json={"multipleSubscriptionsEnabled": False})
    shop.post(f"/v1/subscriptions/{first['id']}/cancel", json={"timing": "next_billing_cycle"})
    refused = shop.post(f"/v1/subscriptions/{first['id']}/restore")
    assert (refused.status_code, refused.json()["code"]) == (409, "subscription_limit_reached")
    assert shop.get(f"/v1/subscriptions/{second['id']}").json()["status"] == "active"


@pytest.mark.parametrize("resumes_at", ["2026-02-05T00:00:00Z", "2026-02-04T00:00:00Z", "2032-01-01T00:00:00Z"])
def test_a_pause_lasts_for_some_time_and_not_for_ever(shop: TestClient, resumes_at: str) -> None:
    made = subscribe(shop)
    asked = {"timing": "2026-02-05T00:00:00Z", "resumesAt": resumes_at}
    assert list(faults(shop.post(f"/v1/subscriptions/{made['id']}/pause", json=asked))) == ["/resumesAt"]


def test_an_instant_that_has_just_passed_is_now(shop: TestClient) -> None:
    """A caller that says when by its own clock is a moment late at best."""
    made = subscribe(shop, timing="2026-01-31T09:58:00Z")
    assert (made["status"], made["activeFrom"]) == ("active", "2026-01-31T10:00:00Z")
    late = shop.post(f"/v1/subscriptions/{made['id']}/cancel", json={"timing": "2026-01-31T09:57:59Z"})
    assert list(faults(late)) == ["/timing"]
    ended = shop.post(f"/v1/subscriptions/{made['id']}/cancel", json={"timing": "2026-01-31T09:58:00Z"}).json()
    assert (ended["status"], ended["activeTo"]) == ("inactive", "2026-01-31T10:00:00Z")


def test_subscriptions_are_listed_by_customer_and_status(shop: TestClient, clock: FrozenClock) -> None:
    wanted = {"active": {}, "scheduled": {"timing": "2026-06-01T00:00:00Z"}, "canceled": {}, "inactive": {}, "off": {}}
    wanted["off"] = {"timing": "2026-06-01T00:00:00Z"}
    for key, fields in wanted.items():
        shop.post("/v1/customers", json={"key": key, "name": key})
        made = subscribe(shop, customerKey=key, **fields)
        if key in ("canceled", "inactive", "off"):
            timing = "next_billing_cycle" if key == "canceled" else "immediate"
            shop.post(f"/v1/subscriptions/{made['id']}/cancel", json={"timing": timing})
    listed = {
        status: {item["customerKey"] for item in shop.get(f"/v1/subscriptions?status={status}").json()["items"]}
        for status in ("active", "scheduled", "canceled", "inactive")
    }
    assert listed == {
        "active": {"active"},
        "scheduled": {"scheduled"},
        "canceled": {"canceled"},
        "inactive": {"inactive", "off"},
    }
    for status, keys in listed.items():
        for key in keys:
            (item,) = shop.get(f"/v1/subscriptions?customerId={key}").json()["items"]
            assert item["status"] == status
    assert shop.get("/v1/subscriptions?customerId=none").status_code == 404


def step(shop: TestClient, made: dict[str, Any], name: str, body: object = None) -> Any:
    return shop.post(f"/v1/subscriptions/{made['id']}/{name}", json=body)


def test_a_subscription_can_begin_with_the_next_cycle_of_an_anchor_and_in_a_phase(shop: TestClient) -> None:
    phases = [
        {"key": "trial", "name": "Trial", "duration": "P14D", "rateCards": [a_card()]},
        {"key": "full", "name": "Full", "rateCards": [a_card()]},
    ]
    plan = shop.post("/v1/plans", json=a_plan(key="phased", phases=phases)).json()["id"]
    shop.post(f"/v1/plans/{plan}/publish")
    order = {"plan": {"key": "phased"}, "timing": "next_billing_cycle", "billingAnchor": "2026-01-01T00:00:00Z"}
    refused = shop.post("/v1/subscriptions", json=ORDER | order | {"startingPhase": "none"})
    assert list(faults(refused)) == ["/startingPhase"]
    made = subscribe(shop, **order, startingPhase="full")
    assert (made["status"], made["activeFrom"], made["phase"]["key"]) == ("scheduled", "2026-02-01T00:00:00Z", "full")
    assert [(event["at"], event["kind"]) for event in made["scheduled"]] == [("2026-02-01T00:00:00Z", "start")]
    step(shop, made, "cancel")
    trial = subscribe(shop, plan={"key": "phased"})
    assert trial["phase"]["activeTo"] == "2026-02-14T10:00:00Z"
    assert [(event["at"], event["kind"], event["phase"]) for event in trial["scheduled"]] == [
        ("2026-02-14T10:00:00Z", "phase", "full")
    ]


def test_a_pause_takes_access_and_gives_it_back(shop: TestClient, clock: FrozenClock, engine: Engine) -> None:
    made = subscribe(shop)
    before = version(engine)
    paused = step(shop, made, "pause").json()
    assert paused["status"] == "paused"
    assert version(engine) > before
    usage = f"/v1/subscriptions/{made['id']}/usage"
    assert not shop.get(usage).json()["entitlements"]["api_requests"]["hasAccess"]
    assert step(shop, made, "pause").json()["code"] == "subscription_paused"
    assert shop.get("/v1/subscriptions?status=paused").json()["totalCount"] == 1
    assert shop.get("/v1/subscriptions?status=active").json()["totalCount"] == 0
    clock.advance(timedelta(days=1))
    assert step(shop, made, "resume").json()["status"] == "active"
    assert shop.get(usage).json()["entitlements"]["api_requests"]["hasAccess"]
    assert step(shop, made, "resume").json()["code"] == "subscription_not_paused"
    planned = step(shop, made, "pause", {"timing": "2026-02-05T00:00:00Z", "resumesAt": "2026-02-06T00:00:00Z"}).json()
    assert [(event["at"], event["kind"]) for event in planned["scheduled"]] == [
        ("2026-02-05T00:00:00Z", "pause"),
        ("2026-02-06T00:00:00Z", "resume"),
    ]
    assert step(shop, made, "unschedule-change").json()["scheduled"] == []
    assert step(shop, made, "unschedule-change").json()["code"] == "change_not_scheduled"
    assert list(faults(step(shop, made, "pause", {"resumesAt": "2026-01-01T00:00:00Z"}))) == ["/resumesAt"]


def test_what_has_not_begun_can_be_deleted_with_its_keys(shop: TestClient, engine: Engine) -> None:
    made = subscribe(shop, timing="2026-06-01T00:00:00Z")
    before = version(engine)
    assert shop.delete(f"/v1/subscriptions/{made['id']}").status_code == 204
    assert version(engine) > before
    assert shop.get(f"/v1/subscriptions/{made['id']}").status_code == 404
    assert shop.get(f"/v1/keys/{made['apiKey']['id']}").status_code == 404
    refused = shop.delete(f"/v1/subscriptions/{subscribe(shop)['id']}")
    assert (refused.status_code, refused.json()["code"]) == (409, "subscription_begun")


def test_a_successor_may_be_ordered_and_restoring_calls_it_off(shop: TestClient) -> None:
    first = subscribe(shop)
    end = step(shop, first, "cancel", {"timing": "next_billing_cycle"}).json()["activeTo"]
    second = subscribe(shop, timing=end)
    refused = step(shop, first, "unschedule-cancelation")
    assert (refused.status_code, refused.json()["code"]) == (409, "subscription_limit_reached")
    restored = step(shop, first, "restore").json()
    assert (restored["status"], restored["scheduled"]) == ("active", [])
    assert shop.get(f"/v1/subscriptions/{second['id']}").status_code == 404
    assert step(shop, first, "restore").json()["code"] == "nothing_scheduled"


def test_a_change_is_previewed_made_and_repeated_once(shop: TestClient, clock: FrozenClock) -> None:
    plan = shop.post("/v1/plans", json=a_plan(a_card(entitlementTemplate=None), key="open")).json()["id"]
    shop.post(f"/v1/plans/{plan}/publish")
    made = subscribe(shop)
    clock.advance(timedelta(days=1))
    path, body = f"/v1/subscriptions/{made['id']}/change", {"plan": {"key": "open"}}
    previewed = shop.post(f"{path}/preview", json=body).json()
    estimate = shop.post(f"{path}/estimate-credit", json=body).json()
    assert estimate == {"creditAmount": previewed["credit"]["amount"], "currency": "USD"}
    assert shop.get("/v1/subscriptions?planKey=open").json()["totalCount"] == 0, "it was but a preview"
    answers = [shop.post(path, json=body, headers={"Idempotency-Key": "once"}) for _ in range(2)]
    assert [answer.json() for answer in answers] == [previewed, previewed]
    assert previewed["next"]["plan"]["key"] == "open"
    [found] = shop.get("/v1/subscriptions?planKey=open").json()["items"]
    assert found == previewed["next"]
    keys = shop.get(f"/v1/subscriptions/{made['id']}/keys").json()["items"]
    assert [key["id"] for key in keys] == [made["apiKey"]["id"]]
    shop.post(f"{path}/preview", json=body)
    again = shop.post(path, json=body)
    assert (again.status_code, again.json()["code"]) == (409, "plan_unchanged")
    assert shop.post(f"/v1/subscriptions/{made['id']}/migrate").json()["code"] == "plan_unchanged"
    assert shop.post("/v1/subscriptions/none/change/preview", json=body).json()["code"] == "subscription_not_found"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("DELETE", ""),
        ("GET", "/keys"),
        ("POST", "/keys"),
        ("POST", "/cancel"),
        ("POST", "/unschedule-cancelation"),
        ("POST", "/unschedule-change"),
        ("POST", "/restore"),
        ("POST", "/pause"),
        ("POST", "/resume"),
        ("POST", "/migrate"),
        ("POST", "/migrate/preview"),
    ],
)
def test_what_does_not_exist_is_a_404(shop: TestClient, method: str, path: str) -> None:
    answer = shop.request(method, f"/v1/subscriptions/01KG8NJW00AX7G2MGW7JGNQ17P{path}")
    assert (answer.status_code, answer.json()["code"]) == (404, "subscription_not_found")

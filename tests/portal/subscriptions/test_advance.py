import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from builders.addons import an_addon_document
from builders.documents import a_card, a_plan, faults
from builders.portal import a_batch, an_event
from farebox_portal.app import create_app
from farebox_portal.clock import FrozenClock, SystemClock, Timeline, from_ms, to_ms
from farebox_portal.db import transaction
from farebox_portal.entitlements.compile import compile_account, counters_digest, recompile_at
from farebox_portal.entitlements.facts import AccountFacts, read_facts
from farebox_portal.settings import Settings
from farebox_portal.subscriptions import lifecycle
from farebox_portal.testclock import TestClock, portal_clock
from farebox_portal.usage.ingest import apply_batch

WALL = datetime(2026, 1, 31, 10, 0, tzinfo=UTC)
DAY = timedelta(days=1)
PHASES = [
    {"key": "trial", "name": "Trial", "duration": "P14D", "rateCards": [a_card()]},
    {
        "key": "full",
        "name": "Full",
        "rateCards": [a_card(entitlementTemplate={"type": "metered", "issueAfterReset": 5000})],
    },
]


@pytest.fixture
def ahead(shop: TestClient, settings: Settings, engine: Engine, clock: FrozenClock) -> TestClient:
    """A client of the same portal, on a clock that can be put forward."""
    plan = shop.post("/v1/plans", json=a_plan(key="phased", phases=PHASES)).json()["id"]
    shop.post(f"/v1/plans/{plan}/publish")
    return TestClient(create_app(settings, engine, TestClock(engine, clock)), headers=shop.headers)


def advance(client: TestClient, **body: str) -> dict[str, Any]:
    answer = client.post("/v1/test-clock/advance", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def subscribe(client: TestClient, plan: str = "phased", **fields: Any) -> dict[str, Any]:
    answer = client.post("/v1/subscriptions", json={"plan": {"key": plan}, "customerKey": "acme"} | fields)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def facts(engine: Engine, customer_id: str) -> AccountFacts:
    with transaction(engine, read_only=True) as session:
        return read_facts(session, [customer_id])[0]


def test_an_advance_lets_everything_come_due_in_order(ahead: TestClient, clock: FrozenClock) -> None:
    made = subscribe(ahead)
    path = f"/v1/subscriptions/{made['id']}"
    ahead.post(f"{path}/pause", json={"timing": "2026-02-20T00:00:00Z", "resumesAt": "2026-02-21T00:00:00Z"})
    ahead.post(f"{path}/cancel", json={"timing": "2026-05-01T00:00:00Z"})
    ahead.post(f"{path}/keys", json={"expiresAt": "2026-02-15T00:00:00Z"})
    done = advance(ahead, by="P2M")
    assert (done["advancedFrom"], done["now"], done["wall"]) == (
        "2026-01-31T10:00:00Z",
        "2026-03-31T10:00:00Z",
        "2026-01-31T10:00:00Z",
    )
    assert [(one["kind"], one["at"]) for one in done["happened"]] == [
        ("phase", "2026-02-14T10:00:00Z"),
        ("key_expiry", "2026-02-15T00:00:00Z"),
        ("pause", "2026-02-20T00:00:00Z"),
        ("resume", "2026-02-21T00:00:00Z"),
    ]
    assert ahead.get(path).json()["phase"]["key"] == "full"
    clock.advance(DAY)
    assert ahead.get("/v1/test-clock").json() == {"now": "2026-04-01T10:00:00Z", "wall": "2026-02-01T10:00:00Z"}
    assert [one["kind"] for one in advance(ahead, to="2026-06-01T00:00:00Z")["happened"]] == ["end"]
    assert ahead.get(path).json()["status"] == "inactive"
    assert ahead.get("/v1/audit?action=clock.advance").json()["totalCount"] == 2


def test_more_and_fewer_of_an_addon_come_due_too_and_its_end_is_the_subscription_s(ahead: TestClient) -> None:
    addon = ahead.post("/v1/addons", json=an_addon_document()).json()["id"]
    ahead.post(f"/v1/addons/{addon}/publish")
    plan = ahead.get("/v1/plans/free").json()["id"]
    ahead.post(f"/v1/plans/{plan}/addons", json={"addon": {"key": "seats"}, "fromPlanPhase": "default"})
    path = f"/v1/subscriptions/{subscribe(ahead, 'free')['id']}"
    order = {"addon": {"key": "seats"}, "quantity": 2, "timing": "2026-02-10T00:00:00Z"}
    hold = ahead.post(f"{path}/addons", json=order).json()["id"]
    ahead.patch(f"{path}/addons/{hold}", json={"quantity": 1, "timing": "2026-02-20T00:00:00Z"})
    ahead.post(f"{path}/cancel", json={"timing": "2026-03-01T00:00:00Z"})
    assert [(one["kind"], one["at"]) for one in advance(ahead, by="P2M")["happened"]] == [
        ("addon", "2026-02-10T00:00:00Z"),
        ("addon", "2026-02-20T00:00:00Z"),
        ("end", "2026-03-01T00:00:00Z"),
    ]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"by": "PT0S"}, "/by"),
        ({"by": "P9Y"}, "/by"),
        ({"by": "soon"}, "/by"),
        ({"to": "2026-01-31T10:00:00Z"}, "/to"),
        ({"to": "2020-01-01T00:00:00Z"}, "/to"),
        ({"to": "2099-01-01T00:00:00Z"}, "/to"),
        ({}, ""),
        ({"by": "P1D", "to": "2026-02-20T00:00:00Z"}, ""),
    ],
)
def test_the_clock_goes_forward_and_by_a_bounded_step(ahead: TestClient, body: dict[str, str], pointer: str) -> None:
    assert list(faults(ahead.post("/v1/test-clock/advance", json=body))) == [pointer]


def test_without_a_test_clock_nothing_is_put_forward(shop: TestClient, settings: Settings, engine: Engine) -> None:
    for answer in (shop.get("/v1/test-clock"), shop.post("/v1/test-clock/advance", json={"by": "P1D"})):
        assert (answer.status_code, answer.json()["code"]) == (409, "test_clock_unavailable")
    production = settings.model_copy(update={"environment": "production"})
    assert isinstance(portal_clock(production, engine), SystemClock)
    assert isinstance(portal_clock(settings, engine), TestClock)


def test_what_is_published_is_told_in_the_gateway_s_time(ahead: TestClient, engine: Engine) -> None:
    made = subscribe(ahead)
    ahead.post(f"/v1/subscriptions/{made['id']}/cancel", json={"timing": "2026-03-31T10:00:00Z"})
    advance(ahead, by="P1M")  # the portal is at 28 February, four weeks ahead
    known = facts(engine, made["customerId"])
    now = WALL + 28 * DAY
    [sold] = compile_account(known, now).subscriptions
    assert [(from_ms(step.from_ms), step.refusal) for step in sold.access] == [
        (WALL, ""),
        (datetime(2026, 3, 3, 10, tzinfo=UTC), "no_active_subscription"),
    ]
    [quota] = sold.quotas
    assert quota.limit == 5000, "the trial is over"
    assert from_ms(quota.resets_ms[0]) == WALL, "a period that was passed over is gone for the gateway too"
    assert from_ms(quota.resets_ms[1]) == WALL + 31 * DAY
    again = recompile_at(known, compile_account(known, now), now)
    assert again is not None
    assert now < again


def test_usage_counts_in_the_period_that_the_portal_was_in(
    ahead: TestClient, engine: Engine, clock: FrozenClock
) -> None:
    made = subscribe(ahead, "free")

    def use(units: int) -> None:
        with transaction(engine) as session:
            row = lifecycle.get(session, made["id"])
            event = an_event(row, rid=f"r{units}", at=clock.now(), api_requests=units)
            apply_batch(session, a_batch(event, spool=f"s{units}"), clock.now())

    def used() -> int:
        found: int = ahead.get(f"/v1/subscriptions/{made['id']}/usage").json()["entitlements"]["api_requests"]["usage"]
        return found

    clock.advance(timedelta(minutes=1))
    use(60)
    assert used() == 60
    before = facts(engine, made["customerId"])
    digest = counters_digest(before, compile_account(before, clock.now()), clock.now())
    clock.advance(timedelta(minutes=1))
    advance(ahead, by="P1M")
    assert used() == 0, "a new period began"
    after = facts(engine, made["customerId"])
    now = clock.now() + 28 * DAY
    assert counters_digest(after, compile_account(after, now), now) != digest, "counters are read anew"
    clock.advance(timedelta(minutes=1))
    use(7)
    assert used() == 7


def test_an_advance_has_every_account_published(ahead: TestClient, engine: Engine) -> None:
    made = subscribe(ahead)
    before = facts(engine, made["customerId"]).customer.entitlements_version
    advance(ahead, by="PT1S")
    assert facts(engine, made["customerId"]).customer.entitlements_version == before + 1


def test_of_many_advances_at_once_none_is_lost(ahead: TestClient) -> None:
    answers: list[int] = []
    threads = [
        threading.Thread(
            target=lambda: answers.append(ahead.post("/v1/test-clock/advance", json={"by": "P1D"}).status_code)
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(answers) == {200}
    assert ahead.get("/v1/test-clock").json()["now"] == "2026-02-04T10:00:00Z"


@pytest.mark.parametrize(
    ("portal", "wall"),
    [
        (WALL - DAY, WALL - DAY),
        (WALL, WALL),
        (WALL + 5 * DAY, WALL),
        (WALL + 10 * DAY, WALL),
        (WALL + 11 * DAY, WALL + DAY),
        (WALL + 12 * DAY, WALL + 2 * DAY),
        (WALL + 50 * DAY, WALL + 2 * DAY),
        (WALL + 101 * DAY, WALL + 3 * DAY),
    ],
)
def test_an_instant_comes_when_the_portal_s_time_gets_there(portal: datetime, wall: datetime) -> None:
    timeline = Timeline(((WALL, WALL + 10 * DAY), (WALL + 2 * DAY, WALL + 100 * DAY)))
    assert timeline.wall(portal) == wall
    assert timeline.portal(wall) >= portal
    assert timeline.portal(wall - timedelta(microseconds=1)) < portal
    assert to_ms(Timeline().wall(portal)) == to_ms(portal)

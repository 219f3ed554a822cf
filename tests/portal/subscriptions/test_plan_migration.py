"""A whole plan version moves to another one: as many single migrations, and what cannot move stays with its reason."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine
from sqlmodel import Session, select

from builders import documents
from builders.portal import a_card, a_plan
from builders.subscriptions import APRIL, a_catalog, a_fee, an_order
from farebox_portal.audit import AuditEntry
from farebox_portal.catalog.tables import Plan
from farebox_portal.db import transaction
from farebox_portal.errors import Conflict, Invalid, NotFound
from farebox_portal.subscriptions import document, lifecycle, plan_change
from farebox_portal.subscriptions.plan_change import ChangeInput, MigrateInput
from farebox_portal.subscriptions.plan_migration import PlanMigrationInput, migrate, preview
from farebox_portal.subscriptions.tables import Subscription
from farebox_portal.usage.access import used_share

DAY = timedelta(days=1)
MID = APRIL + 15 * DAY
MAY = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with transaction(engine) as session:
        yield session


@pytest.fixture
def plans(session: Session) -> dict[str, Plan]:
    return a_catalog(session)


def wanted(**fields: Any) -> PlanMigrationInput:
    return PlanMigrationInput.model_validate(fields)


def version(session: Session, row: Subscription, at: datetime) -> tuple[str, int]:
    plan = document.show(session, row, at).plan
    return plan.key, plan.version


def orders(session: Session, plans: dict[str, Plan], count: int) -> list[Subscription]:
    """So many who bought the first version of `pro`; then there is a second one: dearer, with more in it."""
    rows = [an_order(session, "pro", customer=f"customer-{number}") for number in range(count)]
    plans["pro 2"] = a_plan(session, a_card(limit=20_000), a_fee("35"), key="pro", version=2)
    return rows


def test_the_preview_says_what_changes_and_the_migration_does_it(session: Session, plans: dict[str, Plan]) -> None:
    rows = orders(session, plans, 3)
    looked = preview(session, plans["pro"], wanted(), MID)
    assert [(one.field, one.rate_card) for one in looked.changes] == [
        ("entitlementTemplate", "api_requests"),
        ("price", "fee"),
    ]
    assert (looked.migrated, looked.credit, looked.currency, looked.staying) == (3, "43.50", "USD", [])
    assert {version(session, row, MID) for row in rows} == {("pro", 1)}, "a preview changes nothing"
    assert migrate(session, plans["pro"], wanted(), MID) == looked
    assert {version(session, row, MID) for row in rows} == {("pro", 2)}
    assert migrate(session, plans["pro"], wanted(), MID).migrated == 0
    actions = [entry.action for entry in session.exec(select(AuditEntry))]
    assert actions.count("subscription.change") == 3


def test_it_is_the_same_as_each_alone(session: Session, plans: dict[str, Plan]) -> None:
    one, other = orders(session, plans, 2)
    planned = plan_change.plan_migration(session, one, MigrateInput(), MID)
    plan_change.carry_out(session, planned, MID)
    assert migrate(session, plans["pro"], wanted(), MID).credit == "14.50"
    alone, together = (document.show(session, row, MID).model_dump(exclude={"id", "customer_id", "customer_key"})
                       for row in (one, other))  # fmt: skip
    assert alone == together


def test_a_long_list_is_walked_in_pieces_and_a_walk_begun_anew_goes_on(
    session: Session, plans: dict[str, Plan]
) -> None:
    rows = orders(session, plans, 5)
    first = migrate(session, plans["pro"], wanted(limit=2), MID)
    assert (first.migrated, first.next) == (2, sorted(row.id for row in rows)[1])
    again: list[int] = []
    after = None
    while not again or after is not None:
        answer = migrate(session, plans["pro"], wanted(limit=2) if after is None else wanted(limit=2, after=after), MID)
        again.append(answer.migrated)
        after = answer.next
    assert again == [0, 2, 1]
    assert {version(session, row, MID) for row in rows} == {("pro", 2)}


def test_nobody_s_own_plans_are_undone(session: Session, plans: dict[str, Plan]) -> None:
    moving, leaving, pausing, changing, gone, elsewhere = orders(session, plans, 6)
    lifecycle.cancel(session, leaving, "next_billing_cycle", MID)
    lifecycle.pause(session, pausing, lifecycle.PauseInput(), MID)
    for row, key in ((changing, "free"), (elsewhere, "max")):
        choice = ChangeInput.model_validate({"plan": {"key": key}})
        plan_change.carry_out(session, plan_change.plan_change(session, row, choice, used_share, MID), MID)
    lifecycle.cancel(session, gone, "immediate", MID)
    later = MID + DAY
    found = migrate(session, plans["pro"], wanted(timing="next_billing_cycle"), later)
    assert found.migrated == 1
    assert {one.subscription_id: one.code for one in found.staying} == {
        leaving.id: "subscription_canceled",
        pausing.id: "subscription_paused",
        changing.id: "change_scheduled",
    }
    assert version(session, moving, later) == ("pro", 1)
    assert version(session, moving, MAY) == ("pro", 2)
    assert version(session, changing, MAY) == ("free", 1), "the downgrade that he ordered"
    assert version(session, elsewhere, MAY) == ("max", 1)


def test_a_target_that_is_none_is_refused(session: Session, plans: dict[str, Plan]) -> None:
    orders(session, plans, 1)
    for kind, fields in (
        (NotFound, {"targetVersion": 9}),
        (Conflict, {"targetVersion": 1}),
        (Invalid, {"startingPhase": "x"}),
    ):
        for walk in (preview, migrate):
            with pytest.raises(kind):
                walk(session, plans["pro"], wanted(**fields), MID)


def test_over_rest_a_migration_is_looked_at_and_made_once(shop: TestClient) -> None:
    first = shop.get("/v1/plans/free").json()["id"]
    sold = shop.post("/v1/subscriptions", json={"plan": {"key": "free"}, "customerKey": "acme"}).json()["id"]
    assert shop.post(f"/v1/plans/{first}/migrate").json()["code"] == "plan_unchanged"
    larger = documents.a_plan(documents.a_card(entitlementTemplate={"type": "metered", "issueAfterReset": 300}))
    second = shop.post("/v1/plans", json=larger).json()["id"]
    shop.post(f"/v1/plans/{second}/publish")
    looked = shop.post(f"/v1/plans/{first}/migrate/preview").json()
    assert (looked["migrated"], looked["target"]["version"], looked["staying"], looked.get("next")) == (1, 2, [], None)
    for _ in range(2):
        answer = shop.post(f"/v1/plans/{first}/migrate", json={}, headers={"Idempotency-Key": "k"})
        assert (answer.status_code, answer.json()) == (200, looked)
    assert shop.get(f"/v1/subscriptions/{sold}").json()["plan"]["version"] == 2
    assert shop.post(f"/v1/plans/{first}/migrate", json={"limit": 0}).status_code == 422
    assert shop.post("/v1/plans/nothing/migrate").status_code == 404

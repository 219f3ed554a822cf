"""Add-ons beside a plan: what may be ordered when, and what it does to allowances, credit and the gateway."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine
from sqlmodel import Session, select

from builders.addons import a_seat_fee, an_addon, an_addon_document, offered
from builders.documents import a_plan as a_plan_document
from builders.portal import a_batch, a_card, a_feature, a_key, a_plan, an_event
from builders.subscriptions import APRIL, a_catalog, an_order
from farebox_portal import audit
from farebox_portal.catalog import addon_offers, addons, plans
from farebox_portal.clock import FrozenClock
from farebox_portal.customers.tables import Customer
from farebox_portal.db import transaction
from farebox_portal.entitlements.compile import compile_account, counters_digest, recompile_at
from farebox_portal.entitlements.facts import read_facts
from farebox_portal.errors import Conflict, FareboxError, Invalid, NotFound
from farebox_portal.subscriptions import addons as held
from farebox_portal.subscriptions import document, lifecycle, plan_change
from farebox_portal.subscriptions.addons import AddonOrderInput, QuantityInput, SubscriptionAddonDocument
from farebox_portal.subscriptions.lifecycle import PauseInput
from farebox_portal.subscriptions.plan_change import ChangeDocument, ChangeInput
from farebox_portal.subscriptions.tables import QuantityRow, Subscription, SubscriptionAddon
from farebox_portal.usage.access import usage_document, used_share
from farebox_portal.usage.ingest import apply_batch

DAY = timedelta(days=1)
MID = APRIL + 15 * DAY
MAY = datetime(2026, 5, 1, tzinfo=UTC)
UNIT = {"type": "unit", "amount": "0.01"}


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with transaction(engine) as session:
        a_catalog(session)
        yield session


@pytest.fixture
def row(session: Session) -> Subscription:
    """On `pro`, which offers up to 10 seats and packs of 500 requests, `max` seats too."""
    offered(session, an_addon(session), "pro", "max", most=10)
    offered(session, an_addon(session, a_card(limit=500), key="pack"), "pro", "free")
    return an_order(session, "pro")


def order(session: Session, row: Subscription, key: str = "seats", now: datetime = APRIL, **fields: Any) -> str:
    return held.add(session, row, AddonOrderInput.model_validate({"addon": {"key": key}} | fields), now)


def change(session: Session, row: Subscription, hold: str, quantity: int, now: datetime, **fields: Any) -> None:
    held.change(session, row, hold, QuantityInput.model_validate({"quantity": quantity} | fields), now)


def change_plan(session: Session, row: Subscription, key: str, now: datetime, **fields: Any) -> ChangeDocument:
    wanted = ChangeInput.model_validate({"plan": {"key": key}} | fields)
    planned = plan_change.plan_change(session, row, wanted, used_share, now)
    answer = plan_change.show(session, planned, now)
    plan_change.carry_out(session, planned, now)
    return answer


def shown(session: Session, row: Subscription, hold: str, now: datetime) -> SubscriptionAddonDocument:
    return held.show(session, row, hold, now)


def timeline(session: Session, row: Subscription, hold: str) -> list[tuple[int, int]]:
    """(day, quantity), 0 at the end."""
    periods = shown(session, row, hold, APRIL).timeline
    ends = [((one.to - APRIL).days, 0) for one in periods[-1:] if one.to is not None]
    return [((one.from_ - APRIL).days, one.quantity) for one in periods] + ends


def refusal(error: type[FareboxError], step: Any, *args: Any, **fields: Any) -> str:
    with pytest.raises(error) as caught:
        step(*args, **fields)
    return caught.value.code


def limit(session: Session, row: Subscription, at: datetime) -> tuple[int | None, int | None]:
    """(limit, used)"""
    found = usage_document(session, row.id, at).entitlements["api_requests"]
    return found.limit, found.usage


# --- ordering --------------------------------------------------------------------------------------------------------


def test_more_counts_at_once_and_fewer_with_the_next_cycle(session: Session, row: Subscription) -> None:
    hold = order(session, row, quantity=2)
    change(session, row, hold, 5, APRIL + DAY)
    change(session, row, hold, 3, APRIL + 2 * DAY)
    assert timeline(session, row, hold) == [(0, 2), (1, 5), (30, 3)]
    found = shown(session, row, hold, APRIL + 3 * DAY)
    assert (found.status, found.quantity, found.active_to) == ("active", 5, None)


def test_it_may_be_ordered_for_a_cycle_or_an_instant_and_is_scheduled_until_then(
    session: Session, row: Subscription
) -> None:
    hold = order(session, row, timing="next_billing_cycle")
    pack = order(session, row, "pack", timing=MID)
    found = shown(session, row, hold, APRIL)
    assert (found.status, found.quantity, found.active_from) == ("scheduled", 0, MAY)
    planned = document.show(session, row, APRIL)
    assert [(one.kind, one.at, one.addon and one.addon.key, one.quantity) for one in planned.scheduled] == [
        ("addon", MID, "pack", 1),
        ("addon", MAY, "seats", 1),
    ]
    assert planned.addons == []
    assert [one.id for one in document.show(session, row, MAY).addons] == [pack, hold]


def test_nothing_removes_it_and_it_can_be_had_again(session: Session, row: Subscription) -> None:
    first = order(session, row)
    change(session, row, first, 0, MID, timing="immediate")
    assert timeline(session, row, first) == [(0, 1), (15, 0)]
    assert refusal(Conflict, change, session, row, first, 2, MID + DAY) == "addon_inactive"
    second = order(session, row, now=MID + DAY)
    assert [one.status for one in held.show_all(session, row, MID + DAY)] == ["inactive", "active"]
    assert second != first


def test_the_last_word_counts(session: Session, row: Subscription) -> None:
    hold = order(session, row, quantity=2)
    change(session, row, hold, 0, APRIL)
    change(session, row, hold, 4, MID)
    assert timeline(session, row, hold) == [(0, 2), (15, 4)], "the planned removal gave way"
    change(session, row, hold, 1, MID)
    change(session, row, hold, 0, MID, timing=MAY)
    assert refusal(Conflict, change, session, row, hold, 3, MID, timing=MAY + DAY) == "addon_inactive"


def test_what_is_planned_can_be_taken_back(session: Session, row: Subscription) -> None:
    hold = order(session, row, quantity=2)
    change(session, row, hold, 1, APRIL)
    held.unschedule(session, row, hold, APRIL)
    assert timeline(session, row, hold) == [(0, 2)]
    assert refusal(Conflict, held.unschedule, session, row, hold, APRIL) == "change_not_scheduled"
    later = order(session, row, "pack", timing=MID)
    assert refusal(Conflict, change, session, row, later, 0, APRIL) == "addon_not_begun"
    held.unschedule(session, row, later, APRIL)
    assert refusal(NotFound, held.show, session, row, later, APRIL) == "subscription_addon_not_found"
    assert session.get(SubscriptionAddon, later) is None
    assert len(session.exec(select(QuantityRow)).all()) == 1


def test_who_has_planned_to_end_or_to_pause_can_still_take_back_but_not_order(
    session: Session, row: Subscription
) -> None:
    hold = order(session, row, quantity=2)
    change(session, row, hold, 1, APRIL)
    lifecycle.cancel(session, row, "next_billing_cycle", APRIL)
    assert refusal(Conflict, order, session, row, "pack") == "subscription_canceled"
    assert refusal(Conflict, change, session, row, hold, 3, APRIL) == "subscription_canceled"
    held.unschedule(session, row, hold, APRIL)
    lifecycle.unschedule_cancelation(session, row, APRIL)
    lifecycle.pause(session, row, PauseInput(), APRIL)
    assert refusal(Conflict, order, session, row, "pack") == "subscription_paused"
    lifecycle.cancel(session, row, "immediate", MID)
    assert refusal(Conflict, held.unschedule, session, row, hold, MID) == "subscription_inactive"
    later = an_order(session, "pro", MID, timing=MAY)
    assert refusal(Conflict, order, session, later, "pack") == "subscription_not_begun"


@pytest.mark.parametrize(
    ("key", "fields", "error", "code"),
    [
        ("nothing", {}, Invalid, "invalid_request"),
        ("seats", {"quantity": 11}, Invalid, "invalid_request"),
        ("seats", {"timing": APRIL - DAY}, Invalid, "invalid_request"),
        ("unsold", {}, Conflict, "addon_not_active"),
        ("elsewhere", {}, Conflict, "addon_not_offered"),
        ("single", {"quantity": 2}, Invalid, "invalid_request"),
    ],
    ids=["unknown", "too many", "in the past", "a draft", "of another plan", "two of a single one"],
)
def test_what_cannot_be_ordered(
    session: Session, row: Subscription, key: str, fields: dict[str, Any], error: type[FareboxError], code: str
) -> None:
    addons.create(session, an_addon_document(key="unsold"), APRIL)
    offered(session, an_addon(session, key="elsewhere"), "free")
    offered(session, an_addon(session, key="single", instanceType="single"), "pro")
    assert refusal(error, order, session, row, key, **fields) == code
    assert held.show_all(session, row, APRIL) == []


def test_of_one_version_a_subscription_has_one_hold_at_a_time(session: Session, row: Subscription) -> None:
    hold = order(session, row, timing=MAY)
    assert refusal(Conflict, order, session, row) == "addon_exists"
    assert refusal(Conflict, change, session, row, hold, 1, APRIL) == "addon_unchanged"
    change(session, row, hold, 10, APRIL)
    assert refusal(Invalid, change, session, row, hold, 11, APRIL) == "invalid_request"


def test_what_is_not_offered_any_more_stays_and_can_only_get_less(session: Session, row: Subscription) -> None:
    hold = order(session, row, quantity=3)
    plan = plans.get(session, "pro")
    addon_offers.withdraw(session, plan, addon_offers.get(session, plan, "seats")[0], MID)
    assert refusal(Conflict, change, session, row, hold, 4, MID) == "addon_not_offered"
    change(session, row, hold, 2, MID)
    second = addons.create(session, an_addon_document(), MID)
    session.flush()
    addons.publish(session, second, MID)
    assert refusal(Conflict, change, session, row, hold, 4, MID) == "addon_not_active"
    assert timeline(session, row, hold) == [(0, 3), (30, 2)]
    assert shown(session, row, hold, MID).addon.version == 1


@pytest.fixture
def rivals(session: Session, row: Subscription) -> None:
    """`cheap` and `dear` price the same usage."""
    for key in ("cheap", "dear"):
        card = a_card(price=UNIT, entitlementTemplate=None, type="usage_based")
        offered(session, an_addon(session, card, key=key), "pro")


@pytest.mark.usefixtures("rivals")
def test_two_that_price_the_same_usage_cannot_be_had_at_once(session: Session, row: Subscription) -> None:
    first = order(session, row, "cheap", quantity=2)
    assert refusal(Conflict, order, session, row, "dear") == "addon_clash"
    change(session, row, first, 0, APRIL, timing=MID)
    assert refusal(Conflict, order, session, row, "dear", timing=MID - DAY) == "addon_clash"
    order(session, row, "dear", timing=MID)
    assert refusal(Conflict, change, session, row, first, 1, APRIL, timing=MID + DAY) == "addon_inactive"


@pytest.mark.usefixtures("rivals")
def test_nor_when_what_kept_them_apart_is_taken_back(session: Session, row: Subscription) -> None:
    first = order(session, row, "cheap", quantity=2)
    change(session, row, first, 0, APRIL, timing=MID)
    order(session, row, "dear", timing=MID)
    assert refusal(Conflict, held.unschedule, session, row, first, APRIL) == "addon_clash"
    for quantity in (3, 1):
        assert refusal(Conflict, change, session, row, first, quantity, APRIL, timing=APRIL + DAY) == "addon_clash"
    change(session, row, first, 0, APRIL, timing=APRIL + DAY)
    assert timeline(session, row, first) == [(0, 2), (1, 0)]


@pytest.mark.usefixtures("rivals")
def test_nor_behind_a_change_of_plan_that_may_be_taken_back(session: Session, row: Subscription) -> None:
    order(session, row, "cheap")
    offered(session, addons.get(session, "dear"), "max")
    change_plan(session, row, "max", APRIL, timing="next_billing_cycle")
    assert refusal(Conflict, order, session, row, "dear", timing=MAY) == "addon_clash"
    change_plan(session, row, "max", APRIL + DAY)
    order(session, row, "dear", now=APRIL + DAY)


# --- a change of plan ------------------------------------------------------------------------------------------------


def test_a_plan_that_offers_it_too_leaves_it_and_one_that_does_not_ends_it(session: Session, row: Subscription) -> None:
    seats, pack = order(session, row, quantity=2), order(session, row, "pack")
    answer = change_plan(session, row, "max", MID)
    assert timeline(session, row, seats) == [(0, 2)]
    assert timeline(session, row, pack) == [(0, 1), (15, 0)]
    assert [one.addon.key for one in answer.next.addons] == ["seats"]
    assert [one.addon.key for one in answer.current.addons] == ["pack", "seats"]


def test_a_planned_end_by_a_change_is_shown_and_goes_with_the_change(session: Session, row: Subscription) -> None:
    pack = order(session, row, "pack")
    change_plan(session, row, "max", MID, timing="next_billing_cycle")
    events = document.show(session, row, MID).scheduled
    assert [(one.kind, one.quantity) for one in events] == [("change", None), ("addon", 0)]
    lifecycle.unschedule_change(session, row, MID)
    assert timeline(session, row, pack) == [(0, 1)]


@pytest.mark.parametrize(
    ("term", "plan", "credit"),
    [("in_advance", "pro", "5.00"), ("in_arrears", "pro", "0.00"), ("in_advance", "max", "0.00")],
    ids=["half of the month is left", "not paid yet", "it goes on"],
)
def test_a_change_that_ends_it_gives_back_what_is_left_of_its_fees(
    session: Session, term: str, plan: str, credit: str
) -> None:
    offered(session, an_addon(session, a_seat_fee("5", term)), "free", "max")
    row = an_order(session, "free")
    order(session, row, quantity=2)
    assert change_plan(session, row, plan, MID).credit.amount == credit


def test_it_ends_with_the_subscription_and_comes_back_with_it(session: Session, row: Subscription) -> None:
    hold = order(session, row)
    lifecycle.cancel(session, row, "next_billing_cycle", APRIL)
    assert timeline(session, row, hold) == [(0, 1), (30, 0)]
    assert [one.kind for one in document.show(session, row, APRIL).scheduled] == ["end"]
    lifecycle.restore(session, row, APRIL)
    assert timeline(session, row, hold) == [(0, 1)]


# --- what it grants --------------------------------------------------------------------------------------------------


def test_limits_add_up_and_what_was_used_counts_on(session: Session, row: Subscription) -> None:
    event = an_event(row, at=APRIL + DAY, api_requests=9_000)
    apply_batch(session, a_batch(event), APRIL + DAY)
    hold = order(session, row, "pack", now=APRIL + 2 * DAY, quantity=3)
    assert limit(session, row, APRIL + 2 * DAY) == (11_500, 9_000)
    change(session, row, hold, 1, MID, timing="immediate")
    assert limit(session, row, MID) == (10_500, 9_000)
    assert limit(session, row, MAY) == (10_500, 0)


def test_a_feature_that_only_the_addon_has_comes_and_goes_with_it(session: Session, row: Subscription) -> None:
    a_feature(session, "premium")
    a_feature(session, "level")
    on_off = a_card(type="flat_fee", key="premium", featureKey="premium", entitlementTemplate={"type": "boolean"})
    static = {"type": "static", "config": '{"value": 5}'}
    level = a_card(type="flat_fee", key="level", featureKey="level", entitlementTemplate=static)
    offered(session, an_addon(session, on_off, level, key="extra"), "pro")
    hold = order(session, row, "extra", now=MID)
    change(session, row, hold, 0, MID, timing=MAY)
    entitlements = [usage_document(session, row.id, at).entitlements for at in (APRIL, MID, MAY)]
    assert [sorted(one) for one in entitlements] == [
        ["api_requests"],
        ["api_requests", "level", "premium"],
        ["api_requests"],
    ]
    assert entitlements[1]["level"].config == '{"value": 5}'


def test_a_soft_addon_makes_a_hard_limit_soft(session: Session, row: Subscription) -> None:
    overage = a_card(limit=0, soft=True, type="usage_based", price=UNIT)
    offered(session, an_addon(session, overage, key="overage"), "pro")
    order(session, row, "overage")
    apply_batch(session, a_batch(an_event(row, at=APRIL, api_requests=10_005)), APRIL)
    found = usage_document(session, row.id, APRIL + DAY).entitlements["api_requests"]
    assert (found.limit, found.overage, found.has_access) == (10_000, 5, True)


def test_the_gateway_is_told_of_the_new_limit_in_the_same_counters_and_when_to_look_again(
    session: Session, row: Subscription
) -> None:
    a_key(session, row)
    before = read_facts(session, [row.customer_id])[0]
    hold = order(session, row, "pack", now=APRIL + DAY, quantity=2)
    change(session, row, hold, 1, APRIL + DAY, timing=MID)
    facts = read_facts(session, [row.customer_id])[0]
    limits, digests = [], []
    for known, at in ((before, APRIL), (facts, APRIL + DAY), (facts, MID)):
        account = compile_account(known, at)
        limits += [quota.limit for quota in account.subscriptions[0].quotas]
        digests.append(counters_digest(known, account, at))
    assert limits == [10_000, 11_000, 10_500]
    assert len(set(digests)) == 1
    assert recompile_at(facts, compile_account(facts, APRIL + DAY), APRIL + DAY) == MID


def test_where_the_plan_s_phase_allows_another_amount_it_counts_anew_also_beside_an_addon(session: Session) -> None:
    offered(session, an_addon(session, a_card(limit=500), key="pack"), "trial", phase="trial")
    row = an_order(session, "trial")
    order(session, row, "pack")
    apply_batch(session, a_batch(an_event(row, at=APRIL + DAY, api_requests=8)), APRIL + DAY)
    assert limit(session, row, APRIL + 2 * DAY) == (510, 8)
    assert limit(session, row, APRIL + 14 * DAY) == (1500, 0)


def test_an_addon_that_begins_with_a_phase_that_allows_the_same_counts_on(session: Session) -> None:
    phases = [
        {"key": "first", "name": "First", "duration": "P14D", "rateCards": [a_card(limit=100)]},
        {"key": "second", "name": "Second", "rateCards": [a_card(limit=100)]},
    ]
    a_plan(session, key="two", phases=phases)
    offered(session, an_addon(session, a_card(limit=500), key="pack"), "two", phase="second")
    row = an_order(session, "two")
    assert refusal(Conflict, order, session, row, "pack") == "addon_not_offered"
    order(session, row, "pack", timing=APRIL + 14 * DAY)
    apply_batch(session, a_batch(an_event(row, at=APRIL + DAY, api_requests=8)), APRIL + DAY)
    assert limit(session, row, APRIL + 13 * DAY) == (100, 8)
    assert limit(session, row, APRIL + 14 * DAY) == (600, 8)


# --- the account and the log -----------------------------------------------------------------------------------------


def test_each_step_makes_the_account_due_and_stands_in_the_log(session: Session, row: Subscription) -> None:
    def version() -> int:
        return session.get_one(Customer, row.customer_id, populate_existing=True).entitlements_version

    versions = [version()]
    hold = order(session, row, quantity=2)
    versions.append(version())
    change(session, row, hold, 1, APRIL)
    versions.append(version())
    held.unschedule(session, row, hold, APRIL)
    versions.append(version())
    assert versions == sorted(set(versions))
    entries = session.exec(select(audit.AuditEntry).where(audit.AuditEntry.object_id == row.id)).all()
    assert [entry.action for entry in entries] == [
        "subscription.create",
        "subscription.add_addon",
        "subscription.change_addon",
        "subscription.unschedule_addon",
    ]
    assert entries[1].before == {"addons": []}
    assert entries[1].after is not None
    assert entries[1].after["addons"][0]["orders"] == [{"from": APRIL.isoformat(), "quantity": 2}]


# --- over HTTP -------------------------------------------------------------------------------------------------------


def test_the_whole_way_over_http(shop: TestClient, clock: FrozenClock) -> None:
    addon = shop.post("/v1/addons", json=an_addon_document()).json()
    shop.post(f"/v1/addons/{addon['id']}/publish")
    plan = shop.get("/v1/plans/free").json()["id"]
    shop.post(f"/v1/plans/{plan}/addons", json={"addon": {"key": "seats"}, "fromPlanPhase": "default"})
    row = shop.post("/v1/subscriptions", json={"plan": {"key": "free"}, "customerKey": "acme"}).json()["id"]
    url = f"/v1/subscriptions/{row}/addons"
    first, again = (
        shop.post(url, json={"addon": {"key": "seats"}, "quantity": 2}, headers={"Idempotency-Key": "x"})
        for _ in range(2)
    )
    assert (first.status_code, first.json()) == (201, again.json())
    made = first.json()
    assert (made["status"], made["quantity"], made["addon"]["version"]) == ("active", 2, 1)
    changed = shop.patch(f"{url}/{made['id']}", json={"quantity": 0})
    assert [one["quantity"] for one in changed.json()["timeline"]] == [2]
    assert changed.json()["activeTo"] == "2026-02-28T10:00:00Z"
    assert shop.get(url).json()["items"] == [changed.json()]
    assert shop.delete(f"{url}/{made['id']}/scheduled").status_code == 204
    assert "activeTo" not in shop.get(f"{url}/{made['id']}").json()
    assert shop.get(f"{url}/nothing").json()["code"] == "subscription_addon_not_found"
    refused = shop.patch(f"{url}/{made['id']}", json={"quantity": -1})
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/quantity")
    pointers = [one["pointer"] for one in shop.post(url, json={"addon": {"key": "x"}}).json()["errors"]]
    assert pointers == ["/addon"]


def test_the_next_version_of_a_plan_keeps_the_addons_of_who_migrates(shop: TestClient, clock: FrozenClock) -> None:
    addon = shop.post("/v1/addons", json=an_addon_document()).json()
    shop.post(f"/v1/addons/{addon['id']}/publish")
    plan = shop.get("/v1/plans/free").json()["id"]
    shop.post(f"/v1/plans/{plan}/addons", json={"addon": {"key": "seats"}, "fromPlanPhase": "default"})
    row = shop.post("/v1/subscriptions", json={"plan": {"key": "free"}, "customerKey": "acme"}).json()["id"]
    shop.post(f"/v1/subscriptions/{row}/addons", json={"addon": {"key": "seats"}})
    second = shop.post("/v1/plans", json=a_plan_document()).json()["id"]
    shop.post(f"/v1/plans/{second}/publish")
    clock.advance(DAY)
    previewed = shop.post(f"/v1/subscriptions/{row}/migrate/preview")
    assert shop.get(f"/v1/subscriptions/{row}").json() == previewed.json()["current"], "nothing has changed"
    moved = shop.post(f"/v1/subscriptions/{row}/migrate")
    assert moved.json() == previewed.json()
    assert moved.status_code == 200, moved.text
    assert [one["quantity"] for one in moved.json()["next"]["addons"]] == [1]

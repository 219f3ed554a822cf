"""Add-ons on real invoices: each charge once, and credit as the preview of a change promised it."""

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlmodel import Session, col, select

from builders.addons import a_seat_fee, an_addon, offered
from builders.invoices import DAY, TERMS, told
from builders.portal import a_batch, an_event
from builders.quotes import a_price
from builders.subscriptions import APRIL, a_catalog, an_order
from farebox_portal.invoicing import actions
from farebox_portal.invoicing.close import close_all
from farebox_portal.invoicing.tables import Invoice
from farebox_portal.subscriptions import addons, lifecycle, plan_change
from farebox_portal.subscriptions.addons import AddonOrderInput, QuantityInput
from farebox_portal.subscriptions.lifecycle import PauseInput
from farebox_portal.subscriptions.plan_change import ChangeDocument, ChangeInput
from farebox_portal.subscriptions.tables import Subscription
from farebox_portal.usage.access import used_share
from farebox_portal.usage.ingest import apply_batch

MID = APRIL + 15 * DAY
MAY = datetime(2026, 5, 1, tzinfo=UTC)
JUNE = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.fixture
def row(session: Session) -> Subscription:
    """On `pro`, which offers seats at $10 a month."""
    a_catalog(session)
    offered(session, an_addon(session), "pro")
    return an_order(session, "pro")


def order(session: Session, row: Subscription, now: datetime, key: str = "seats", **fields: Any) -> str:
    return addons.add(session, row, AddonOrderInput.model_validate({"addon": {"key": key}} | fields), now)


def change(session: Session, row: Subscription, hold: str, quantity: int, now: datetime, **fields: Any) -> None:
    addons.change(session, row, hold, QuantityInput.model_validate({"quantity": quantity} | fields), now)


def change_plan(session: Session, row: Subscription, key: str, now: datetime) -> ChangeDocument:
    wanted = ChangeInput.model_validate({"plan": {"key": key}})
    planned = plan_change.plan_change(session, row, wanted, used_share, now)
    answer = plan_change.show(session, planned, now)
    plan_change.carry_out(session, planned, now)
    return answer


def invoiced(session: Session, now: datetime) -> list[tuple[str, int]]:
    """What the run at this instant brings: the lines of new invoices, all of which are paid at once."""
    before = set(session.exec(select(Invoice.id)))
    close_all(session, now, TERMS)
    session.flush()
    new = session.exec(select(Invoice).where(col(Invoice.id).not_in(before)).order_by(col(Invoice.sequence))).all()
    for invoice in new:
        if invoice.status == "issued":  # else credit has paid it
            actions.pay(session, invoice, TERMS, now)
    return [line for invoice in new for line in told(session, invoice)]


def test_each_order_is_invoiced_for_what_is_left_and_the_next_period_for_what_is_there(
    session: Session, row: Subscription
) -> None:
    assert invoiced(session, APRIL) == [("Fee", 2900)]
    hold = order(session, row, APRIL + 10 * DAY, quantity=3)
    assert invoiced(session, APRIL + 10 * DAY) == [("Seat", 2000)]
    change(session, row, hold, 5, MID)
    change(session, row, hold, 1, MID)
    change(session, row, hold, 6, MID + DAY)
    assert invoiced(session, MID) == [("Seat", 1000)]
    assert invoiced(session, MID + DAY) == [("Seat", 467)], "14 of 30 days of one more"
    change(session, row, hold, 2, MID + DAY)
    assert invoiced(session, MID + 2 * DAY) == []
    assert invoiced(session, MAY) == [("Fee", 2900), ("Seat", 2000)]
    change(session, row, hold, 0, MAY)
    assert invoiced(session, JUNE) == [("Fee", 2900)]


def test_orders_of_one_instant_are_invoiced_as_one_order_would_be(session: Session, row: Subscription) -> None:
    hold = order(session, row, APRIL + 7 * DAY)
    first = invoiced(session, APRIL + 7 * DAY)
    change(session, row, hold, 2, APRIL + 7 * DAY)
    change(session, row, hold, 3, APRIL + 7 * DAY)
    rest = invoiced(session, APRIL + 7 * DAY)
    assert (first[-1], rest) == (("Seat", 767), [("Seat", 1533)])
    assert round(3 * 1000 * 23 / 30) == 767 + 1533


def test_the_credit_for_what_a_change_ends_is_what_was_shown(session: Session, row: Subscription) -> None:
    hold = order(session, row, APRIL, quantity=2)
    change(session, row, hold, 4, APRIL + 5 * DAY)
    invoiced(session, APRIL)
    invoiced(session, APRIL + 5 * DAY)
    answer = change_plan(session, row, "max", APRIL + 20 * DAY)
    assert answer.credit.amount == "23.01", "a third of 29.00 and of 20.00, two fifths of 16.67"
    lines = invoiced(session, APRIL + 20 * DAY)
    assert lines == [("Fee", 3300 - 2301)]
    assert invoiced(session, MAY) == [("Fee", 9900)]


def test_a_pause_gives_back_what_is_not_served(session: Session, row: Subscription) -> None:
    order(session, row, APRIL, quantity=3)
    invoiced(session, APRIL)
    lifecycle.pause(session, row, PauseInput.model_validate({"resumesAt": APRIL + 25 * DAY}), MID)
    invoiced(session, MID)
    assert invoiced(session, APRIL + 25 * DAY) == [], "paid by what the pause gave back"
    back_minor = (2900 + 3000) // 2 - (483 + 500)
    assert sum(amount for _, amount in invoiced(session, MAY)) == 2900 + 3000 - back_minor


def test_fees_in_arrears_and_usage_are_invoiced_at_the_end_with_all_else(session: Session) -> None:
    a_catalog(session)
    meter = a_price({"type": "unit", "amount": "0.10"}, entitlementTemplate=None)
    offered(session, an_addon(session, a_seat_fee("10", "in_arrears"), meter), "free")
    row = an_order(session, "free")
    hold = order(session, row, APRIL, quantity=3)
    change(session, row, hold, 0, APRIL, timing=MID)
    apply_batch(session, a_batch(an_event(row, at=APRIL + DAY, api_requests=7)), APRIL + DAY)
    assert invoiced(session, MID + DAY) == []
    assert invoiced(session, MAY + DAY) == [("Seat", 1500), ("api_requests", 70)]
    assert invoiced(session, JUNE + DAY) == []

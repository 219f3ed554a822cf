"""What becomes of the money in credit, in double entry: spent when the units that it bought are used, lapsed when it
expires or is voided, or refunded.

Money that paid an invoice was booked with that. Of units the ledger of usage says what was used; it is asked once an
hour, and for the last time when it has all usage from before they ended (`usage.lag`). What was once said to be used is
never taken back, so each entry has a name of its own.
"""

from datetime import datetime, timedelta
from fractions import Fraction

from sqlalchemy import Engine
from sqlmodel import Session, col, select

from farebox_portal.customers.tables import Customer
from farebox_portal.db import transaction
from farebox_portal.invoicing import credit_notes, ledger
from farebox_portal.invoicing.tables import Invoice
from farebox_portal.prepaid.credits import occasion_of
from farebox_portal.pricing.grants import Grant
from farebox_portal.pricing.money import currency, decimal_text, share_of
from farebox_portal.testclock import read_timeline
from farebox_portal.usage.access import grants_left
from farebox_portal.usage.grant_rows import GrantRow, grant_of
from farebox_portal.usage.lag import complete_to
from farebox_portal.wallet.tables import CreditLot, TopUp

SLICE = 20
_OFTEN = timedelta(hours=1)
_SOON = timedelta(minutes=1)
_TICK = timedelta(milliseconds=1)


def book_slice(engine: Engine, now: datetime) -> bool:
    """Some of what is due, in a moment; whether there may be more."""
    due = select(CreditLot.id).where(col(CreditLot.book_at) <= now).limit(1)
    with transaction(engine, read_only=True) as session:
        if session.exec(due).first() is None:
            return False
    with transaction(engine) as session:
        return book_some(session, now) > 0


def book_some(session: Session, now: datetime, limit: int = SLICE) -> int:
    """How many lots were looked at. Of two who do so at the same time each takes other customers."""
    due = col(CreditLot.book_at) <= now
    owners = select(CreditLot.customer_id).where(due).order_by(col(CreditLot.customer_id)).limit(limit)
    lock = select(Customer.id).where(col(Customer.id).in_(set(session.exec(owners))))
    ours = session.exec(lock.order_by(col(Customer.id)).with_for_update(skip_locked=True)).all()
    rows = select(CreditLot).where(due, col(CreditLot.customer_id).in_(ours)).order_by(col(CreditLot.id))
    lots = session.exec(rows.execution_options(populate_existing=True)).all()
    for lot in lots:
        _book(session, lot, now)
        session.add(lot)
    session.flush()
    return len(lots)


def _book(session: Session, lot: CreditLot, now: datetime) -> None:
    if lot.units is None:
        ends_at, is_over = lot.ends_at, lot.ends_at is not None and lot.ends_at <= now
    else:
        grant = grant_of(session.get_one(GrantRow, lot.id))
        _spend(session, lot, grant, now)
        ends_at, is_over = grant.ends_at, _is_known(session, grant.ends_at, now)
    if is_over:
        _end(session, lot, now)
    lot.book_at = None if is_over or not lot.left_minor else _next_look(lot, ends_at, now)


def _next_look(lot: CreditLot, ends_at: datetime | None, now: datetime) -> datetime | None:
    if lot.units is None:
        return ends_at
    assert ends_at is not None
    return now + _SOON if ends_at <= now else min(now + _OFTEN, ends_at)


def _is_known(session: Session, ends_at: datetime, now: datetime) -> bool:
    """Whether all usage before its end is in the ledger."""
    timeline = read_timeline(session)
    return ends_at <= now and timeline.wall(ends_at) <= complete_to(session, timeline.wall(now))


def _spend(session: Session, lot: CreditLot, grant: Grant, now: datetime) -> None:
    """The share of the money that belongs to the units that were used until now, or until they ended."""
    assert lot.units is not None
    assert lot.subscription_id is not None
    assert lot.feature_key is not None
    at = min(now, grant.ends_at - _TICK)
    left = grants_left(session, lot.subscription_id, lot.feature_key, at)
    if left is None or lot.id not in left:
        return
    used = Fraction(lot.units - left[lot.id], lot.units)
    spent_minor = min(share_of(lot.value_minor, used, currency(lot.currency)), lot.value_minor - lot.lapsed_minor)
    if spent_minor > lot.spent_minor:
        occasion = occasion_of(lot, f"use@{lot.spent_minor}", now)
        account = ledger.credit_account(lot.id)
        ledger.put(session, occasion.move(spent_minor - lot.spent_minor, to=account, from_="revenue"))
        lot.spent_minor = spent_minor


def _end(session: Session, lot: CreditLot, now: datetime) -> None:
    """Refunded or lapsed. A refund of a price with tax in it may leave a cent; that lapses."""
    if lot.refunds and lot.left_minor:
        _refund(session, lot, now)
    occasion = occasion_of(lot, f"lapse@{lot.lapsed_minor}", now)
    gone_to = "breakage" if lot.source == "top_up" else "promotion"
    ledger.put(session, occasion.move(lot.left_minor, to=ledger.credit_account(lot.id), from_=gone_to))
    lot.lapsed_minor += lot.left_minor


def _refund(session: Session, lot: CreditLot, now: datetime) -> None:
    bought = session.exec(select(TopUp).where(TopUp.lot_id == lot.id)).one()
    invoice, of = session.get_one(Invoice, bought.invoice_id), currency(lot.currency)
    amount_minor = share_of(bought.amount_minor, Fraction(lot.left_minor, lot.value_minor), of)
    wanted = credit_notes.CreditNoteInput(
        amount=decimal_text(amount_minor, of), reason="Prepaid credit that was not used"
    )
    credit_notes.give(session, invoice, wanted, now, is_by_lot=True)

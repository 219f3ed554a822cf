"""A top-up that was paid becomes a lot, once: its id, chosen when it was ordered, is the lot's.

It never fails, as the money is there by then. Units are granted also where the plan has no such feature any more; they
lie idle until it has one again, and an operator may give the money back.
"""

from datetime import datetime

from sqlmodel import Session, select

from farebox_portal.clock import whole_ms
from farebox_portal.customers import accounts
from farebox_portal.pricing.grants import expiry
from farebox_portal.usage.grant_rows import GrantRow
from farebox_portal.wallet.tables import AutoRecharge, CreditLot, TopUp


def deliver(session: Session, invoice_id: str, value_minor: int, now: datetime) -> None:
    """Called in the transaction in which its invoice is paid. Twice is once. `value_minor`: what was paid less tax."""
    bought = session.exec(select(TopUp).where(TopUp.invoice_id == invoice_id)).one()
    if session.get(CreditLot, bought.lot_id) is not None:
        return
    at = whole_ms(now)
    expires_at = None
    if bought.expires_every is not None and bought.expires_count is not None:
        expires_at = expiry(at, bought.expires_every, bought.expires_count)
    is_money = bought.units is None
    lot = CreditLot(
        id=bought.lot_id,
        customer_id=bought.customer_id,
        subscription_id=None if is_money else bought.subscription_id,
        feature_key=bought.feature_key,
        units=bought.units,
        currency=bought.currency,
        value_minor=value_minor,
        source="top_up",
        name=bought.name,
        priority=bought.priority,
        effective_at=at,
        expires_at=expires_at,
        book_at=expires_at if is_money else now,
        created_at=now,
    )
    session.add(lot)
    if not is_money:
        accounts.touch(session, bought.customer_id)
        session.add(_units(bought, lot))
    _look_again(session, bought.customer_id, now)
    session.flush()


def take_back(session: Session, invoice_id: str, amount_minor: int, now: datetime) -> int:
    """The money goes back: how much of it was still in the credit. Units of which no money is left are void."""
    lot = session.get_one(CreditLot, lot_of(session, invoice_id))
    taken_minor = min(amount_minor, lot.left_minor)
    lot.lapsed_minor += taken_minor
    session.add(lot)
    if lot.units is not None and not lot.left_minor and lot.voided_at is None:
        accounts.touch(session, lot.customer_id)
        lot.voided_at = now
        grant = session.get_one(GrantRow, lot.id)
        grant.voided_at = grant.voided_at or now
        session.add(grant)
    session.flush()
    return taken_minor


def lot_of(session: Session, invoice_id: str) -> str:
    """The id of the lot that its invoice is for, whether it is there already or not."""
    return session.exec(select(TopUp.lot_id).where(TopUp.invoice_id == invoice_id)).one()


def _units(bought: TopUp, lot: CreditLot) -> GrantRow:
    """No reset of the usage period takes any of it."""
    assert bought.units is not None
    assert bought.feature_key is not None
    return GrantRow(
        id=lot.id,
        subscription_id=bought.subscription_id,
        feature_key=bought.feature_key,
        amount=bought.units,
        priority=lot.priority,
        effective_at=lot.effective_at,
        expires_at=lot.expires_at,
        rollover_min=0,
        rollover_max=bought.units,
        metadata_={"name": lot.name, "topUp": bought.id},
        created_at=lot.created_at,
    )


def _look_again(session: Session, customer_id: str, now: datetime) -> None:
    rule = session.get(AutoRecharge, customer_id)
    if rule is not None and rule.enabled:
        rule.look_at = now
        session.add(rule)

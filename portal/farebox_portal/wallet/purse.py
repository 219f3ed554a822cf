"""The money credit of a customer that may pay an invoice at an instant."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlmodel import Session, col, select

from farebox_portal.customers.tables import Customer
from farebox_portal.pricing.grants import Grant, burn_order
from farebox_portal.pricing.settle import Credit
from farebox_portal.wallet.tables import CreditLot


@dataclass
class Purse:
    """In burn order. One for all invoices of a customer that are made together: what one takes, the next has not."""

    credits: list[Credit] = field(default_factory=list)


Purses = dict[tuple[str, str], Purse]
"""By customer and currency."""


def hold(session: Session, customer_id: str) -> None:
    """Nobody else invoices, pays, gives or takes credit of this customer until the transaction ends."""
    session.exec(select(Customer.id).where(Customer.id == customer_id).with_for_update()).one()


def read_purses(session: Session, customer_ids: Iterable[str], now: datetime) -> Purses:
    """Of those that have any. Call it with the customers held."""
    rows = select(CreditLot).where(col(CreditLot.customer_id).in_(sorted(set(customer_ids))))
    money = rows.where(col(CreditLot.units).is_(None), CreditLot.value_minor > CreditLot.spent_minor)
    found: Purses = {}
    for lot in usable(session.exec(money.execution_options(populate_existing=True)).all(), now):
        purse = found.setdefault((lot.customer_id, lot.currency), Purse())
        purse.credits.append(Credit(lot.id, lot.name, lot.left_minor))
    return found


def usable(lots: Sequence[CreditLot], now: datetime) -> list[CreditLot]:
    """Those of money that are in force and not used up, in the order in which they burn. Pure."""
    by_id = {lot.id: lot for lot in lots if lot.units is None and lot.left_minor > 0}
    order = burn_order(_grant(lot) for lot in by_id.values())
    return [by_id[grant.id] for grant in order if grant.effective_at <= now < grant.ends_at]


def _grant(lot: CreditLot) -> Grant:
    return Grant(
        id=lot.id,
        amount=lot.value_minor,
        effective_at=lot.effective_at,
        created_at=lot.created_at,
        priority=lot.priority,
        expires_at=lot.expires_at,
        voided_at=lot.voided_at,
    )


def restore(session: Session, lot_id: str, amount_minor: int, now: datetime) -> None:
    """An invoice that it paid is void: it is there again. What has ended meanwhile lapses at the next look."""
    lot = session.get_one(CreditLot, lot_id, populate_existing=True)
    lot.spent_minor -= amount_minor
    if lot.ends_at is not None:
        lot.book_at = max(now, lot.ends_at)
    session.add(lot)

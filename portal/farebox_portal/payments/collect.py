"""Which invoices are collected, and which of them is looked at next. What is done then, `advance.py` says."""

from datetime import datetime

from sqlalchemy import Engine
from sqlmodel import Session, and_, col, or_, select
from sqlmodel.sql.expression import SelectOfScalar

from farebox_portal.customers.accounts import is_by_hand
from farebox_portal.customers.tables import Customer
from farebox_portal.db import transaction
from farebox_portal.invoicing import tax
from farebox_portal.invoicing.status import OPEN
from farebox_portal.invoicing.tables import Invoice
from farebox_portal.payments.account import connected, usable
from farebox_portal.payments.advance import Desk, advance
from farebox_portal.payments.tables import Collection, Payer, PaymentAccount
from farebox_portal.pricing.money import currency

ENROLLED_MAX = 200


def enroll(engine: Engine, now: datetime) -> int:
    """Take on what was issued since the account was connected, and look again at what was settled by hand; how many."""
    with transaction(engine, read_only=True) as session:
        account = connected(session)
        if account is None:
            return 0
        new = session.exec(unenrolled(account).limit(ENROLLED_MAX)).all()
        settled = session.exec(_settled(now)).all()
    if not new and not settled:
        return 0
    with transaction(engine) as session:
        for invoice_id in new:
            invoice = session.get_one(Invoice, invoice_id)
            if session.get(Collection, invoice_id) is None:
                _enroll(session, invoice, now)
        for invoice_id in settled:
            row = session.get_one(Collection, invoice_id)
            row.look_at = row.updated_at = now
            session.add(row)
    return len(new) + len(settled)


def unenrolled(account: PaymentAccount) -> SelectOfScalar[str]:
    """Invoices that were issued since it was connected, and that nobody has taken on yet."""
    return (
        select(Invoice.id)
        .outerjoin(Collection, col(Collection.invoice_id) == col(Invoice.id))
        .where(
            or_(
                and_(col(Invoice.status).in_(OPEN), col(Invoice.issued_at) >= account.connected_at),
                and_(col(Invoice.status) == "held", col(Invoice.tax_status).in_(tax.AWAITED)),
            )
        )
        .where(col(Collection.invoice_id).is_(None))
    )


def _settled(now: datetime) -> SelectOfScalar[str]:
    return (
        select(Collection.invoice_id)
        .join(Invoice, col(Invoice.id) == col(Collection.invoice_id))
        .where(col(Collection.state).in_(("waiting", "failed", "action_required")))
        .where(col(Invoice.status).in_(("paid", "void", "uncollectible")))
        .where(or_(col(Collection.look_at).is_(None), col(Collection.look_at) > now))
        .where(col(Collection.updated_at) < col(Invoice.updated_at))
        .limit(ENROLLED_MAX)
    )


def _enroll(session: Session, invoice: Invoice, now: datetime) -> None:
    customer = session.get_one(Customer, invoice.customer_id)
    by_hand = is_by_hand(customer) or currency(invoice.currency).stripe_exponent is None
    row = Collection(
        invoice_id=invoice.id,
        customer_id=invoice.customer_id,
        state="done" if by_hand else "waiting",
        look_at=None if by_hand else now,
        pay_at=None if by_hand else now,
        created_at=now,
        updated_at=now,
    )
    session.add(row)
    if not by_hand:
        invoice.provider = "stripe"
        session.add(invoice)
    session.flush()


def wake(session: Session, invoice_id: str, now: datetime) -> bool:
    """Something happened to it: have it looked at. False: it is none of those that are collected."""
    row = session.get(Collection, invoice_id)
    if row is None:
        return False
    row.look_at = now
    session.add(row)
    return True


def collect_due(desk: Desk, now: datetime) -> bool:
    """One invoice; whether there may be more."""
    with transaction(desk.engine, read_only=True) as session:
        account = usable(session, desk.gateway)
        if account is None:
            return False
        free = or_(col(Payer.leased_until).is_(None), col(Payer.leased_until) <= now)
        due = (
            select(Collection.invoice_id)
            .outerjoin(Payer, col(Payer.customer_id) == col(Collection.customer_id))
            .where(col(Collection.look_at) <= now, free)
            .order_by(col(Collection.look_at), col(Collection.invoice_id))
            .limit(1)
        )
        invoice_id = session.exec(due).first()
    if invoice_id is None:
        return False
    advance(desk, account, invoice_id, now)
    return True

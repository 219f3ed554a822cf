"""Money back to the payer: what our credit notes give back is refunded there, and what was refunded there is a note.

    due ──┬── done         the provider has a credit note with a refund
          ├── outside      somebody had refunded it there already
          └── by_operator  it has to be done in the dashboard; `fault` says why

Refunding takes a permission beyond our eight (Credit Notes: write). Without it nothing else stops: the refund is the
operator's to make, and when it was made an event says so. What the provider has given back in all only ever grows, and
what of it is not in our books yet becomes a credit note: so it does not matter who began, and nothing is counted twice.
"""

from datetime import datetime

import structlog
from sqlalchemy import Engine
from sqlmodel import Session, col, func, select

from farebox_portal import audit
from farebox_portal.db import transaction
from farebox_portal.documents import Instant, Output
from farebox_portal.invoicing import actions, credit_notes
from farebox_portal.invoicing.tables import CreditNote, Invoice
from farebox_portal.payments import operations
from farebox_portal.payments.account import usable
from farebox_portal.payments.gateway import Busy, Declined, Gateway, GatewayFailure, Lacking, Rejected, Unknown
from farebox_portal.payments.pace import back_off
from farebox_portal.payments.tables import Collection, PaymentAccount, Refund

log = structlog.get_logger(__name__)

TRIES_MAX = 3
OUTSIDE = "Refunded at the payment provider"


class RefundDocument(Output):
    """`status` by_operator: make it in the provider's dashboard; `fault` says why it is not made from here."""

    credit_note_id: str
    invoice_id: str
    status: str
    amount_minor: int
    provider_id: str | None = None
    fault: str | None = None
    updated_at: Instant


def show(row: Refund) -> RefundDocument:
    return RefundDocument(
        credit_note_id=row.credit_note_id,
        invoice_id=row.invoice_id,
        status=row.state,
        amount_minor=row.amount_minor,
        provider_id=row.provider_id,
        fault=row.fault,
        updated_at=row.updated_at,
    )


def refund_due(engine: Engine, gateway: Gateway, now: datetime) -> bool:
    """The next one; whether there may be more."""
    with transaction(engine) as session:
        account = usable(session, gateway)
        if account is None:
            return False
        _enroll(session, account, now)
        due = select(Refund).where(Refund.state == "due", col(Refund.look_at) <= now)
        row = session.exec(due.order_by(col(Refund.look_at), col(Refund.credit_note_id)).limit(1)).first()
    if row is None:
        return False
    _refund(engine, gateway, account, row, now)
    return True


def apply_refunds(engine: Engine, gateway: Gateway, body: bytes, now: datetime) -> bool:
    """What an event says was refunded in all. False: it is about none of our invoices. Raises GatewayFailure."""
    remote = gateway.refunds(body)
    found = None if remote is None else gateway.invoice_of(remote.payment)
    if remote is None or found is None:
        return False
    with transaction(engine) as session:
        row = session.exec(select(Collection).where(Collection.provider_id == found)).first()
        if row is None:
            return False
        invoice = session.get_one(Invoice, row.invoice_id)
        actions.lock(session, invoice)
        session.refresh(row)
        row.refunded_minor = max(row.refunded_minor, remote.amount_minor)
        session.add(row)
        _settle_outside(session, row, now)
        more = row.refunded_minor - invoice.refunded_minor
        note = credit_notes.adopt(session, invoice, more, OUTSIDE, now) if more > 0 else None
        if note is not None:
            session.add(_row(note, "outside", now))
    return True


def _enroll(session: Session, account: PaymentAccount, now: datetime) -> None:
    rows = (
        select(CreditNote)
        .join(Invoice, col(Invoice.id) == col(CreditNote.invoice_id))
        .outerjoin(Refund, col(Refund.credit_note_id) == col(CreditNote.id))
        .where(col(CreditNote.refunded_minor) > 0, Invoice.provider == "stripe", col(Refund.credit_note_id).is_(None))
        .where(col(CreditNote.created_at) >= account.connected_at)
        .limit(100)
    )
    for note in session.exec(rows).all():
        session.add(_row(note, "due", now))
    session.flush()


def _row(note: CreditNote, state: str, now: datetime) -> Refund:
    return Refund(
        credit_note_id=note.id,
        invoice_id=note.invoice_id,
        amount_minor=note.refunded_minor,
        state=state,
        look_at=now if state == "due" else None,
        created_at=now,
        updated_at=now,
    )


def _refund(engine: Engine, gateway: Gateway, account: PaymentAccount, row: Refund, now: datetime) -> None:
    with transaction(engine) as session:
        invoice = session.get_one(Invoice, row.invoice_id)
        collection = session.get(Collection, row.invoice_id)
        note = session.get_one(CreditNote, row.credit_note_id)
        if collection is not None:
            actions.lock(session, invoice)
            _settle_outside(session, collection, now)
        stored = session.get_one(Refund, row.credit_note_id)
        if stored.state != "due":
            return
        remote_id = None if collection is None else collection.provider_id
        before = operations.last(session, note.id, "refund")
    if remote_id is None:
        _end(engine, row, "by_operator", now, fault="not_paid_there")
        return
    request = {
        "id": remote_id,
        "amount_minor": row.amount_minor,
        "currency": invoice.currency,
        "reason": note.reason,
        "instance": account.instance,
        "credit_note": note.id,
    }
    try:
        known = None
        if before is not None and operations.needs_look(before, now):
            known = gateway.refund_of(remote_id, note.id)
        made = known or operations.perform(engine, gateway, account.instance, note.id, "refund", request, now).id
    except Lacking as failure:
        _end(engine, row, "by_operator", now, fault=failure.code)
    except (Unknown, Busy) as failure:
        _later(engine, row, failure, now)
    except Rejected as failure:
        if failure.is_passing and row.troubles < TRIES_MAX:
            _later(engine, row, failure, now)
        else:
            _end(engine, row, "by_operator", now, fault=failure.code)
    except Declined as failure:
        _end(engine, row, "by_operator", now, fault=failure.code)
    else:
        _end(engine, row, "done", now, provider_id=made)


def _settle_outside(session: Session, collection: Collection, now: datetime) -> None:
    """What the provider has given back beyond what we know of pays for refunds that are still to be made, the oldest
    first: somebody was quicker.
    """
    rows = select(Refund).where(Refund.invoice_id == collection.invoice_id)
    known = rows.where(col(Refund.state).in_(("done", "outside")))
    spare = collection.refunded_minor - sum(row.amount_minor for row in session.exec(known))
    waiting = rows.where(col(Refund.state).in_(("due", "by_operator"))).order_by(col(Refund.created_at))
    for row in session.exec(waiting).all():
        # What is on its way from here may be what the event tells of.
        if row.amount_minor > spare:
            continue
        sent = operations.last(session, row.credit_note_id, "refund")
        is_ours = sent is not None and sent.state in ("sent", "unknown", "done")
        row.state, row.look_at, row.fault, row.updated_at = "done" if is_ours else "outside", None, None, now
        session.add(row)
        spare -= row.amount_minor
    session.flush()


def _later(engine: Engine, row: Refund, failure: GatewayFailure, now: datetime) -> None:
    with transaction(engine) as session:
        stored = session.get_one(Refund, row.credit_note_id)
        stored.troubles += 1
        stored.fault, stored.updated_at = failure.code, now
        stored.look_at = now + back_off(stored.troubles)
        session.add(stored)


def _end(
    engine: Engine, row: Refund, state: str, now: datetime, *, fault: str | None = None, provider_id: str | None = None
) -> None:
    with transaction(engine) as session:
        stored = session.get_one(Refund, row.credit_note_id)
        if stored.state not in ("due", "by_operator"):  # an event was quicker
            stored.provider_id = stored.provider_id or provider_id
            session.add(stored)
            return
        stored.state, stored.fault, stored.provider_id, stored.updated_at = state, fault, provider_id, now
        stored.look_at = None
        session.add(stored)
        said = {"state": state, "amountMinor": row.amount_minor} | ({"fault": fault} if fault else {})
        audit.record(session, "invoice.refund", "invoice", row.invoice_id, now, after=said)
    if state == "by_operator":
        log.warning("refund_by_operator", invoice=row.invoice_id, credit_note=row.credit_note_id, reason=fault)


def outstanding(session: Session) -> int:
    """How many wait for an operator."""
    return session.exec(select(func.count()).select_from(Refund).where(Refund.state == "by_operator")).one()

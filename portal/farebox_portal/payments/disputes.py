"""The payer's bank asks for the money back. An invoice stays paid through it all; what changes is where the money is.

    inquiry    the bank only asks; nothing was taken
    open       the money is with the bank               disputed ← cash
    won        it came back                             cash ← disputed
    lost       it is gone for good                      loss ← disputed

A restricted key with our eight permissions may not read disputes, so the signed event is believed here, and only here.
Events come in any order: a decided dispute is never open again, and money moves once for each step, also where the step
before was never heard of.
"""

from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import Engine
from sqlmodel import Session, select

from farebox_portal import audit
from farebox_portal.db import transaction
from farebox_portal.errors import Conflict
from farebox_portal.invoicing import actions, ledger, standing
from farebox_portal.invoicing.tables import Invoice, LedgerEntry
from farebox_portal.invoicing.terms import Terms
from farebox_portal.payments.gateway import Gateway, RemoteDispute
from farebox_portal.payments.tables import Collection, Dispute

log = structlog.get_logger(__name__)

_RANK = {"inquiry": 0, "open": 1, "won": 2, "lost": 2}


def status_of(remote: RemoteDispute) -> str:
    return remote.outcome or ("inquiry" if remote.is_inquiry else "open")


def apply_dispute(engine: Engine, gateway: Gateway, body: bytes, terms: Terms, now: datetime) -> bool:
    """False: it is about none of our invoices. Raises GatewayFailure."""
    remote = gateway.dispute(body)
    found = None if remote is None else gateway.invoice_of(remote.payment)
    if remote is None or found is None:
        return False
    with transaction(engine) as session:
        invoice_id = session.exec(select(Collection.invoice_id).where(Collection.provider_id == found)).first()
        if invoice_id is None:
            return False
        _note(session, session.get_one(Invoice, invoice_id), remote, terms, now)
    return True


def waive(session: Session, invoice: Invoice, now: datetime) -> Invoice:
    """Access in spite of a dispute. Raises Conflict where none is refused because of one."""
    actions.lock(session, invoice)
    if not invoice.is_dispute_refused:
        raise Conflict("Nothing is refused because of a dispute.", code="no_disputed_access")
    invoice.is_dispute_refused = False
    return actions.stepped(session, "waive_dispute", invoice, invoice.status, now)


def _note(session: Session, invoice: Invoice, remote: RemoteDispute, terms: Terms, now: datetime) -> None:
    actions.lock(session, invoice)
    row = session.get(Dispute, remote.id)
    status = status_of(remote)
    if row is not None and _RANK[status] <= _RANK[row.status]:
        return
    before = None if row is None else row.status
    if row is None:
        row = Dispute(
            id=remote.id, invoice_id=invoice.id, status=status, reason=remote.reason,
            amount_minor=remote.amount_minor, opened_at=now, updated_at=now,
        )  # fmt: skip
    row.status, row.updated_at = status, now
    session.add(row)
    session.flush()
    if not (remote.is_inquiry and remote.outcome):
        _move(session, invoice, row, now)
    invoice.dispute_status = status
    invoice.is_dispute_refused = terms.refuses_disputed and status in ("open", "lost")
    invoice.updated_at = now
    session.add(invoice)
    session.flush()
    standing.tell(session, invoice.subscription_id)
    said: dict[str, Any] = {"status": status, "reason": remote.reason, "amountMinor": remote.amount_minor}
    audit.record(session, "invoice.dispute", "invoice", invoice.id, now, before={"status": before}, after=said)
    log.warning("payment_disputed", invoice=invoice.id, status=status, reason=remote.reason)


def _move(session: Session, invoice: Invoice, row: Dispute, now: datetime) -> None:
    steps = {"open": ["open"], "won": ["open", "won"], "lost": ["open", "lost"]}.get(row.status, [])
    accounts = {"open": ("disputed", "cash"), "won": ("cash", "disputed"), "lost": ("loss", "disputed")}
    for step in steps:
        source = f"{row.id}:{step}"
        if session.exec(select(LedgerEntry.number).where(LedgerEntry.source == source)).first() is None:
            occasion = ledger.Occasion(
                source, invoice.currency, invoice.customer_id, invoice.subscription_id, invoice.id, now
            )
            to, from_ = accounts[step]
            ledger.put(session, occasion.move(row.amount_minor, to=to, from_=from_))
            session.flush()

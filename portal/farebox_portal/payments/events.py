"""The inbox: what the provider tells us. A webhook is a hint, and nothing in it is believed but what it is about.

    genuine? ── stored once, by its id ── 200 ── later: read the object anew ── `advance`

So it does not matter in which order they come, how often, or that one is lost: then the clock asks.
"""

from datetime import datetime, timedelta

import structlog
from sqlalchemy import Engine
from sqlmodel import Session, col, select

from farebox_portal.db import insert_into, transaction
from farebox_portal.documents import Instant, Output
from farebox_portal.errors import Conflict, NotFound
from farebox_portal.invoicing.terms import Terms
from farebox_portal.payments.account import usable
from farebox_portal.payments.checkout import advance_checkout
from farebox_portal.payments.collect import wake
from farebox_portal.payments.disputes import apply_dispute
from farebox_portal.payments.gateway import (
    INSTANCE,
    INVOICE,
    Gateway,
    GatewayFailure,
    Hint,
    Lacking,
    Unauthorized,
)
from farebox_portal.payments.payers import customer_of, pay_open_now, refresh
from farebox_portal.payments.refunds import apply_refunds
from farebox_portal.payments.tables import Checkout, Collection, PaymentAccount, PaymentEvent

log = structlog.get_logger(__name__)

TRIES_MAX = 8
KEPT = timedelta(days=30)


class EventDocument(Output):
    id: str
    type: str
    object_id: str
    status: str
    tries: int
    fault: str | None
    received_at: Instant
    handled_at: Instant | None


def show(event: PaymentEvent) -> EventDocument:
    return EventDocument(
        id=event.id,
        type=event.kind,
        object_id=event.object_id,
        status=event.state,
        tries=event.tries,
        fault=event.fault,
        received_at=event.received_at,
        handled_at=event.handled_at,
    )


def store(session: Session, hint: Hint, body: bytes, now: datetime) -> bool:
    """Once; False: it is here already."""
    new = insert_into(session, PaymentEvent).values(
        id=hint.event_id,
        kind=hint.kind,
        object_id=hint.object_id,
        body=body,
        state="pending",
        tries=0,
        look_at=now,
        received_at=now,
    )
    written = new.on_conflict_do_nothing(index_elements=["id"]).returning(col(PaymentEvent.id))
    return session.connection().execute(written).first() is not None


def is_heard_of(session: Session, object_id: str) -> bool:
    """Whether any event about it has come in."""
    return session.exec(select(PaymentEvent.id).where(PaymentEvent.object_id == object_id).limit(1)).first() is not None


def replay(session: Session, event_id: str, now: datetime) -> PaymentEvent:
    """Have it applied once more. Raises NotFound, and Conflict while it is waiting anyway."""
    row = session.get(PaymentEvent, event_id)
    if row is None:
        raise NotFound("There is no such event.", code="payment_event_not_found")
    if row.state == "pending":
        raise Conflict("The event is waiting to be applied already.", code="payment_event_pending")
    row.state, row.tries, row.fault, row.look_at, row.handled_at = "pending", 0, None, now, None
    session.add(row)
    session.flush()
    return row


def apply_one(engine: Engine, gateway: Gateway, now: datetime, terms: Terms) -> bool:
    """The next event that waits; whether there was one."""
    with transaction(engine, read_only=True) as session:
        account = usable(session, gateway)
        due = select(PaymentEvent).where(PaymentEvent.state == "pending", col(PaymentEvent.look_at) <= now)
        event = session.exec(due.order_by(col(PaymentEvent.look_at), col(PaymentEvent.id)).limit(1)).first()
    if event is None or account is None:
        return False
    try:
        is_ours = _apply(engine, gateway, account, event.body, terms, now)
    except (Unauthorized, Lacking):
        raise  # no fault of the event; the job tries again
    except Exception as failure:
        _failed(engine, event.id, f"{type(failure).__name__}: {failure}", now)
        if not isinstance(failure, GatewayFailure | NotFound):
            log.exception("payment_event_failed", event_id=event.id)
        return True
    with transaction(engine) as session:
        row = session.get_one(PaymentEvent, event.id)
        row.state, row.handled_at, row.fault = "handled" if is_ours else "ignored", now, None
        session.add(row)
    return True


def _apply(engine: Engine, gateway: Gateway, account: PaymentAccount, body: bytes, terms: Terms, now: datetime) -> bool:
    """Look at what it is about. False: it is none of ours, as several installations may share an account."""
    hint = gateway.hint(body)
    match hint.object_type:
        case "invoice":
            with transaction(engine) as session:
                return wake(session, _invoice_id(session, account, hint) or "", now)
        case "checkout.session":
            with transaction(engine, read_only=True) as session:
                is_known = session.get(Checkout, hint.object_id) is not None
            if not is_known:
                # The row may be on its way: it is written after the page was made. Else it is none of ours.
                if hint.ours.get(INSTANCE) == account.instance:
                    raise NotFound("The checkout is not known yet.")
                return False
            advance_checkout(engine, gateway, account, hint.object_id, now)
            return True
        case "setup_intent" | "payment_method" | "customer":
            with transaction(engine, read_only=True) as session:
                customer_id = customer_of(session, hint.customer or "")
            if customer_id is None:
                return False
            is_left_now = hint.kind in ("setup_intent.succeeded", "payment_method.attached")
            refresh(engine, gateway, account, customer_id, now, prefers_latest=is_left_now)
            if hint.kind == "payment_method.automatically_updated":  # the same card with another number: it may pay now
                with transaction(engine) as session:
                    pay_open_now(session, customer_id, now)
            return True
        case "dispute":
            return apply_dispute(engine, gateway, body, terms, now)
        case "charge":
            return apply_refunds(engine, gateway, body, now)
        case _:
            return False


def _invoice_id(session: Session, account: PaymentAccount, hint: Hint) -> str | None:
    if hint.ours.get(INSTANCE) == account.instance and INVOICE in hint.ours:
        return hint.ours[INVOICE]
    return session.exec(select(Collection.invoice_id).where(Collection.provider_id == hint.object_id)).first()


def _failed(engine: Engine, event_id: str, fault: str, now: datetime) -> None:
    with transaction(engine) as session:
        row = session.get_one(PaymentEvent, event_id)
        row.tries += 1
        row.fault = fault[:500]
        row.state = "dead" if row.tries >= TRIES_MAX else "pending"
        row.look_at = now + timedelta(seconds=2**row.tries)
        session.add(row)
        if row.state == "dead":
            log.error("payment_event_dead", event_id=event_id, fault=row.fault)


def forget_old(engine: Engine, now: datetime) -> None:
    """What was applied long ago; dead ones stay until somebody has seen to them."""
    with transaction(engine) as session:
        rows = select(PaymentEvent).where(
            col(PaymentEvent.state).in_(("handled", "ignored")), col(PaymentEvent.received_at) < now - KEPT
        )
        for row in session.exec(rows.limit(1000)):
            session.delete(row)

"""An operator has something done once more that was asked of the provider, when nothing else brings it about.

Never by sending the request again as such: whoever needed it looks at what the provider has, and takes the next step.
Where the outcome is unknown and the key still says it, that step is the same request under the same key.
"""

from datetime import datetime

from sqlalchemy import Engine
from sqlmodel import Session, select

from farebox_portal import audit
from farebox_portal.db import transaction
from farebox_portal.errors import Conflict, NotFound
from farebox_portal.payments import operations
from farebox_portal.payments.gateway import Gateway
from farebox_portal.payments.payers import ensure_payer, refresh
from farebox_portal.payments.tables import Collection, Operation, PaymentAccount

_OF_CUSTOMERS = ("customer", "method")


def replay(engine: Engine, gateway: Gateway, account: PaymentAccount, key: str, now: datetime) -> Operation:
    """The operation as it stands then. Raises NotFound, Conflict, GatewayFailure.

    What belongs to an invoice is done by the jobs a moment later; a customer's at once.
    """
    with transaction(engine) as session:
        row = _replayable(session, key)
        kind = row.step.partition(":")[0]
        audit.record(session, "payment.replay", "payment_operation", key, now, before={"status": row.state})
        collection = session.get(Collection, row.object_id)
        if collection is not None:
            wake(session, collection, now, pays=kind == "pay")
        elif kind not in _OF_CUSTOMERS:
            detail = "Nothing is waiting for it any more; what needs it asks for it anew."
            raise Conflict(detail, code="payment_operation_not_needed")
    if collection is None and kind == "customer":
        ensure_payer(engine, gateway, account, row.object_id, now)
    elif collection is None:
        refresh(engine, gateway, account, row.object_id, now)
    with transaction(engine, read_only=True) as session:
        return operations.last(session, row.object_id, row.step) or row


def wake(session: Session, row: Collection, now: datetime, *, pays: bool) -> None:
    """Have an invoice looked at now, also one that was stopped; `pays`: and paid, whatever was planned."""
    row.look_at = row.updated_at = now
    if pays:
        row.pay_at = now
    if row.state == "stopped":
        row.state = "waiting" if row.failed_at is None else "failed"
    session.add(row)


def _replayable(session: Session, key: str) -> Operation:
    row = session.exec(select(Operation).where(Operation.key == key)).first()
    if row is None:
        raise NotFound("There is no such operation.", code="payment_operation_not_found")
    if row.state == "done":
        raise Conflict("It was done.", code="payment_operation_done")
    latest = operations.last(session, row.object_id, row.step)
    if latest is not None and latest.attempt != row.attempt:
        raise Conflict(f"It was tried again since: {latest.key}.", code="payment_operation_superseded")
    return row

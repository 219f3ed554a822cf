"""The outbox: whatever the provider is asked to do is written down first, with the key under which it does it once.

    sent      it may be on its way, or done; so was `unknown`, and somebody has seen that no answer came
    ready     it was not begun
    done      and `result_id` is what was made
    failed    definitely not done; the next attempt has another key

Only `ready`, `sent` and `unknown` are sent again: the stored request under the stored key, so that the provider tells
what became of it instead of doing it twice. An answer is stored there for a day; what is older is looked for first
(whoever comes here has just read what the provider has), and then tried anew. What is found done is noted as done
(`conclude`), so that its key is not sent again when the same is wanted once more.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import structlog
from sqlalchemy import Engine
from sqlmodel import Session, col, select

from farebox_portal.db import transaction
from farebox_portal.documents import Instant, Output
from farebox_portal.payments.gateway import (
    Busy,
    Declined,
    Done,
    Gateway,
    GatewayFailure,
    Lacking,
    Request,
    Step,
    Unauthorized,
    Unknown,
)
from farebox_portal.payments.tables import Operation

log = structlog.get_logger(__name__)

KEY_KEPT = timedelta(hours=23)
_AGAIN = ("ready", "sent", "unknown")

State = Literal["ready", "sent", "unknown", "done", "failed"]


@dataclass(frozen=True, slots=True)
class Sending:
    """`step` may say more than the gateway's word for it, where one object has several of a kind."""

    object_id: str
    step: str
    attempt: int
    key: str
    request: Request


class OperationDocument(Output):
    """`errorCode`: the provider's word for why it is not done. `key`: under which it does it once."""

    key: str
    object_id: str
    step: str
    attempt: int
    status: State
    request: dict[str, Any]
    result_id: str | None
    error_code: str | None
    first_sent_at: Instant
    updated_at: Instant


def show(row: Operation) -> OperationDocument:
    return OperationDocument(
        key=row.key,
        object_id=row.object_id,
        step=row.step,
        attempt=row.attempt,
        status=row.state,  # type: ignore[arg-type]  # it is one of them
        request=row.request,
        result_id=row.result_id,
        error_code=row.error_code,
        first_sent_at=row.first_sent_at,
        updated_at=row.updated_at,
    )


Seen = Mapping[str, tuple[int, str]]
"""By step: the latest attempt and its state, before the provider was asked what it has."""


class Overtaken(Exception):
    """Somebody else has had it done, or has failed, since: what is to be done was decided on what was there before."""


def perform(
    engine: Engine,
    gateway: Gateway,
    instance: str,
    object_id: str,
    step: Step,
    request: Request,
    now: datetime,
    *,
    part: str = "",
    seen: Seen | None = None,
    declined: Callable[[Session, Declined], None] | None = None,
) -> Done:
    """Have it done once, however often this is called. `part`: which of several, such as the line of an invoice.

    With `seen` also by several at once: raises Overtaken for whoever has to look again. Raises GatewayFailure, and the
    operation says how it stands. `declined` writes what else follows from a refusal, in the same transaction: who dies
    between the two would have it tried twice. Opens transactions of its own, none of them while the provider is asked.
    """
    name = f"{step}:{part}" if part else step
    with transaction(engine) as session:
        sending = _prepare(session, instance, object_id, name, request, now, seen)
    try:
        done = gateway.send(step, sending.request, sending.key)
    except GatewayFailure as failure:
        with transaction(engine) as session:
            _note_failure(session, sending, failure, now)
            if declined is not None and isinstance(failure, Declined):
                declined(session, failure)
        raise
    with transaction(engine) as session:
        row = _row(session, sending)
        row.state, row.result_id, row.result_url, row.error_code = "done", done.id, done.url, None
        row.updated_at = now
        session.add(row)
    return done


def last(session: Session, object_id: str, step: str) -> Operation | None:
    """The latest attempt."""
    rows = select(Operation).where(Operation.object_id == object_id, Operation.step == step)
    return session.exec(rows.order_by(col(Operation.attempt).desc()).limit(1)).first()


def seen_of(session: Session, object_id: str) -> Seen:
    rows = session.exec(select(Operation).where(Operation.object_id == object_id).order_by(col(Operation.attempt)))
    return {row.step: (row.attempt, row.state) for row in rows}


def conclude(engine: Engine, object_id: str, seen: Seen, is_done: Callable[[str], bool], now: datetime) -> None:
    """Note as done what nobody heard of, and what the provider has all the same. `is_done` is asked by step."""
    found = [step for step, (_, state) in seen.items() if state in _AGAIN and is_done(step)]
    if not found:
        return
    with transaction(engine) as session:
        for step in found:
            row = last(session, object_id, step)
            if row is not None and (row.attempt, row.state) == seen[step]:
                row.state, row.error_code, row.updated_at = "done", None, now
                session.add(row)


def needs_look(operation: Operation, now: datetime) -> bool:
    """Whether what it was to make may be there although nobody was told, and its key does not find out (any more)."""
    is_old = operation.state in _AGAIN and now - operation.first_sent_at >= KEY_KEPT
    return operation.state == "failed" or is_old


def _prepare(
    session: Session, instance: str, object_id: str, step: str, request: Request, now: datetime, seen: Seen | None
) -> Sending:
    before = last(session, object_id, step)
    if before is not None and before.state in _AGAIN and now - before.first_sent_at < KEY_KEPT:
        before.state, before.updated_at = "sent", now
        session.add(before)
        return Sending(object_id, step, before.attempt, before.key, before.request)
    if before is not None and seen is not None and seen.get(step) != (before.attempt, before.state):
        raise Overtaken
    attempt = 1 if before is None else before.attempt + 1
    key = f"fb1:{instance}:{object_id}:{step}:{attempt}"
    row = Operation(
        object_id=object_id,
        step=step,
        attempt=attempt,
        key=key,
        request=request,
        state="sent",
        first_sent_at=now,
        updated_at=now,
    )
    session.add(row)
    session.flush()
    return Sending(object_id, step, attempt, key, request)


def _note_failure(session: Session, sending: Sending, failure: GatewayFailure, now: datetime) -> None:
    row = _row(session, sending)
    if isinstance(failure, Unknown):
        row.state = "unknown"
    elif isinstance(failure, Busy | Unauthorized | Lacking):
        row.state = "ready"  # refused at the door: nothing is stored under the key
    else:
        row.state = "failed"
    row.error_code, row.updated_at = failure.code[:200], now
    session.add(row)
    log.warning("payment_operation", key=sending.key, state=row.state, code=failure.code)


def _row(session: Session, sending: Sending) -> Operation:
    return session.get_one(Operation, (sending.object_id, sending.step, sending.attempt))

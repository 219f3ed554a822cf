"""Who did what to which object, and how it looked before and after: written in the transaction of the change itself.

So there is no change without its entry and no entry without its change. Rows of the catalog, customers and API keys are
watched: whoever changes one need not think of it, and a new route cannot forget it. What is a step of its own, such as
a subscription's transition, calls `record` with its name.

Nothing that is secret is written: of an API key's row neither the digest, nor the key, which no row has.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from sqlalchemy import JSON, Column, Index, event, inspect
from sqlalchemy.orm import Session as OrmSession
from sqlmodel import Field, Session, SQLModel, col, select
from sqlmodel.sql.expression import SelectOfScalar

from farebox_portal.auth import AdminOnly, ClockDep, PartsDep, ReadSessionDep
from farebox_portal.clock import SystemClock
from farebox_portal.db import UTCDateTime
from farebox_portal.documents import Instant, JsonRoute, Output
from farebox_portal.pages import Listing, PageDep, listing
from farebox_portal.problems import RESPONSES

_WATCHED = {
    "meters": "meter",
    "features": "feature",
    "plans": "plan",
    "addons": "addon",
    "plan_addons": "plan_addon",
    "coupons": "coupon",
    "plan_invites": "plan_invite",
    "monetization_configuration": "monetization_configuration",
    "policies": "policy",
    "customers": "customer",
    "api_keys": "api_key",
    "entitlement_grants": "entitlement_grant",
}
"""Table -> the type of object that its rows are called in the log."""
_UNSEEN = {"digest", "entitlements_version", "published_version", "updated_at"}
_NOBODY = "system"


class AuditEntry(SQLModel, table=True):
    """`before` and `after`: the columns that differ. Null where there was nothing, or is nothing any more."""

    __tablename__ = "audit_log"
    __table_args__ = (Index("audit_log_object", "object_type", "object_id"),)

    number: int | None = Field(default=None, primary_key=True)
    at: datetime = Field(sa_type=UTCDateTime, index=True)
    actor: str
    action: str
    object_type: str
    object_id: str
    request_id: str | None = None
    before: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    after: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))


class AuditDocument(Output):
    number: int
    at: Instant
    actor: str
    action: str
    object_type: str
    object_id: str
    request_id: str | None
    before: dict[str, Any] | None
    after: dict[str, Any] | None


@dataclass(frozen=True)
class Actor:
    """On whose behalf this thread of execution writes, and when."""

    name: str
    request_id: str | None
    now: datetime


_ACTOR: ContextVar[Actor | None] = ContextVar("actor", default=None)


async def note_caller(request: Request, parts: PartsDep, clock: ClockDep) -> None:
    """A dependency for routers that write: entries made while the request runs name its caller."""
    if request.method in ("GET", "HEAD"):
        return
    token = request.headers.get("authorization", "").partition(" ")[2].strip()
    principal = parts.credentials.principal(token)
    if principal is not None:
        request_id = getattr(request.state, "request_id", None)
        _ACTOR.set(Actor(principal.name, request_id, clock.now()))


NotesCaller = Depends(note_caller)


@contextmanager
def acting(name: str, now: datetime) -> Iterator[None]:
    """For commands and jobs: entries made inside name this actor and instant."""
    token = _ACTOR.set(Actor(name, None, now))
    try:
        yield
    finally:
        _ACTOR.reset(token)


def record(
    session: Session,
    action: str,
    object_type: str,
    object_id: str,
    now: datetime,
    *,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
    """One entry in the session's transaction. `before` and `after` are JSON."""
    session.add(_entry(action, object_type, object_id, now, before, after))


def _entry(
    action: str,
    object_type: str,
    object_id: str,
    now: datetime | None,
    before: dict[str, Any] | None,
    after: dict[str, Any] | None,
) -> AuditEntry:
    actor = _ACTOR.get()
    return AuditEntry(
        at=now or (SystemClock().now() if actor is None else actor.now),
        actor=_NOBODY if actor is None else actor.name,
        action=action,
        object_type=object_type,
        object_id=object_id,
        request_id=None if actor is None else actor.request_id,
        before=before,
        after=after,
    )


@event.listens_for(OrmSession, "before_flush")
def _note_rows(session: OrmSession, *_: object) -> None:
    """An entry for each watched row that is about to be written."""
    entries = []
    for row in session.new:
        if _is_watched(row):
            entries.append(_row_entry("create", row, None, _columns(row)))
    for row in session.dirty:
        if _is_watched(row) and session.is_modified(row):
            before, after = _difference(row)
            if after:
                entries.append(_row_entry("change", row, before, after))
    for row in session.deleted:
        if _is_watched(row):
            entries.append(_row_entry("delete", row, _columns(row), None))
    session.add_all(entries)


def _is_watched(row: object) -> bool:
    return getattr(row, "__tablename__", "") in _WATCHED


def _row_entry(verb: str, row: Any, before: dict[str, Any] | None, after: dict[str, Any] | None) -> AuditEntry:
    object_type = _WATCHED[row.__tablename__]
    (primary_key,) = inspect(type(row)).primary_key
    return _entry(f"{object_type}.{verb}", object_type, str(getattr(row, primary_key.key)), None, before, after)


def _columns(row: Any) -> dict[str, Any]:
    return {name: value for name, value in _each_column(row) if value is not None}


def _difference(row: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    before, after = {}, {}
    attributes = inspect(row).attrs
    for attribute in inspect(type(row)).column_attrs:
        history = attributes[attribute.key].history
        name = attribute.columns[0].name
        if name in _UNSEEN or not history.has_changes():
            continue
        # Nothing is known of the value before when it was never read; then the database is not asked for it either.
        before[name] = _json(history.deleted[0]) if history.deleted else None
        after[name] = _json(history.added[0]) if history.added else None
    return before, after


def _each_column(row: Any) -> Iterator[tuple[str, Any]]:
    for attribute in inspect(type(row)).column_attrs:
        name = attribute.columns[0].name
        if name not in _UNSEEN:
            yield name, _json(getattr(row, attribute.key))


def _json(value: Any) -> Any:
    if isinstance(value, Decimal):
        return format(value, "f")
    return value.isoformat() if isinstance(value, date) else value


# --- reading it ------------------------------------------------------------------------------------------------------

router = APIRouter(
    prefix="/v1/audit", tags=["audit"], route_class=JsonRoute, dependencies=[AdminOnly], responses=RESPONSES
)


@router.get("", response_model_exclude_none=True)
def list_audit(
    session: ReadSessionDep,
    page: PageDep,
    object_type: Annotated[str | None, Query(alias="objectType")] = None,
    object_id: Annotated[str | None, Query(alias="objectId")] = None,
    actor: str | None = None,
    action: Annotated[str | None, Query(description="Such as subscription.cancel")] = None,
    request_id: Annotated[str | None, Query(alias="requestId")] = None,
    from_: Annotated[Instant | None, Query(alias="from")] = None,
    to: Annotated[Instant | None, Query(description="Up to, not including, this instant")] = None,
) -> Listing[AuditDocument]:
    """Who did what, the latest first."""
    wanted = {
        "object_type": object_type,
        "object_id": object_id,
        "actor": actor,
        "action": action,
        "request_id": request_id,
    }
    return listing(session, _entries(wanted, from_, to), page, _show)


def _entries(wanted: dict[str, str | None], from_: datetime | None, to: datetime | None) -> SelectOfScalar[AuditEntry]:
    rows = select(AuditEntry).order_by(col(AuditEntry.number).desc())
    for name, value in wanted.items():
        if value is not None:
            rows = rows.where(getattr(AuditEntry, name) == value)
    if from_ is not None:
        rows = rows.where(col(AuditEntry.at) >= from_)
    if to is not None:
        rows = rows.where(col(AuditEntry.at) < to)
    return rows


def _show(entry: AuditEntry) -> AuditDocument:
    return AuditDocument.model_validate(entry, from_attributes=True)

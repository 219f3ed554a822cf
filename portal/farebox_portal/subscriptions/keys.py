"""API keys of a subscription: issue, rotate with an overlap, revoke.

The key is in one answer and nowhere else. Stored are its digest, to find it, and its first characters, to recognise it.
"""

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, WithJsonSchema
from sqlmodel import Session, col, func, or_, select
from sqlmodel.sql.expression import SelectOfScalar

from farebox.v1 import digest
from farebox_portal.customers import accounts
from farebox_portal.documents import Input, Instant, Name, Output
from farebox_portal.durations import Duration, parse_duration
from farebox_portal.errors import Conflict, Invalid, NotFound
from farebox_portal.ids import new_id
from farebox_portal.settings import Settings
from farebox_portal.subscriptions.tables import ApiKey, Subscription

LIVE_KEYS_MAX = 100
"""For one subscription: all of them travel to every gateway in one document."""
GRACE_MAX = timedelta(days=366)
_START_LENGTH = 12


def _check_grace(value: Any) -> Duration:
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value <= GRACE_MAX.total_seconds():
            raise ValueError("must lie between 0 and a year")
        return Duration(0, timedelta(seconds=value))
    if not isinstance(value, str):
        raise ValueError("must be an ISO 8601 duration such as P7D, or a number of seconds")
    duration = parse_duration(value)
    if duration.shortest > GRACE_MAX:
        raise ValueError("must lie between 0 and a year")
    return duration


Grace = Annotated[
    Duration,
    BeforeValidator(_check_grace),
    WithJsonSchema({"anyOf": [{"type": "string", "format": "duration"}, {"type": "integer", "minimum": 0}]}),
]


class KeyInput(Input):
    name: Name = "Default"
    expires_at: Instant | None = None


class RotateInput(Input):
    """`gracePeriod` is how long the old key goes on beside the new one: at once by default."""

    grace_period: Grace = Duration(0, timedelta())


class KeyDocument(Output):
    id: str
    subscription_id: str
    name: str
    start: str
    status: Literal["active", "expired", "revoked"]
    created_at: Instant
    expires_at: Instant | None
    revoked_at: Instant | None


class NewKeyDocument(KeyDocument):
    """The only answer that holds the key itself."""

    key: str


class Issued(NamedTuple):
    row: ApiKey
    key: str

    def __repr__(self) -> str:
        return f"Issued({self.row.id})"


def show(row: ApiKey, now: datetime) -> KeyDocument:
    return KeyDocument(**_fields(row, now))


def show_new(issued: Issued, now: datetime) -> NewKeyDocument:
    return NewKeyDocument(key=issued.key, **_fields(issued.row, now))


def _fields(row: ApiKey, now: datetime) -> dict[str, Any]:
    return {
        "id": row.id,
        "subscription_id": row.subscription_id,
        "name": row.name,
        "start": row.start,
        "status": row.status(now),
        "created_at": row.created_at,
        "expires_at": row.expires_at,
        "revoked_at": row.revoked_at,
    }


def get(session: Session, key_id: str) -> ApiKey:
    """Raises NotFound."""
    row = session.get(ApiKey, key_id)
    if row is None:
        raise NotFound("There is no such API key.", code="api_key_not_found")
    return row


def every(subscription_id: str) -> SelectOfScalar[ApiKey]:
    return select(ApiKey).where(ApiKey.subscription_id == subscription_id).order_by(col(ApiKey.id))


def issue(session: Session, subscription: Subscription, wanted: KeyInput, settings: Settings, now: datetime) -> Issued:
    """Raises Conflict when the subscription has ended or has too many, Invalid for an expiry that has passed."""
    accounts.touch(session, subscription.customer_id)
    session.refresh(subscription)
    if subscription.status(now) == "inactive":
        raise Conflict("The subscription has ended.", code="subscription_inactive")
    if wanted.expires_at is not None and wanted.expires_at <= now:
        raise Invalid([{"pointer": "/expiresAt", "detail": "must lie in the future"}])
    if _live(session, subscription, now) >= LIVE_KEYS_MAX:
        raise Conflict(
            f"A subscription has at most {LIVE_KEYS_MAX} keys; revoke one first.", code="api_key_limit_reached"
        )
    key = digest.new_api_key(settings.key_environment)
    row = ApiKey(
        id=new_id(now),
        subscription_id=subscription.id,
        customer_id=subscription.customer_id,
        name=wanted.name,
        digest=digest.digest(key, settings.pepper),
        start=key[:_START_LENGTH],
        created_at=now,
        expires_at=wanted.expires_at,
    )
    session.add(row)
    session.flush()
    return Issued(row, key)


def rotate(session: Session, row: ApiKey, grace: Duration, settings: Settings, now: datetime) -> Issued:
    """A new key of the same name; the old one works until the grace period is over, never longer than it would have.

    Raises Conflict when the old one does not work any more.
    """
    accounts.touch(session, row.customer_id)
    session.refresh(row)
    if row.status(now) != "active":
        raise Conflict(f"The API key is {row.status(now)}; issue a new one instead.", code="api_key_inactive")
    ends = grace.after(now)
    if ends <= now:
        row.revoked_at = now
    elif row.expires_at is None or ends < row.expires_at:
        row.expires_at = ends
    session.add(row)
    session.flush()
    subscription = session.get_one(Subscription, row.subscription_id)
    return issue(session, subscription, KeyInput(name=row.name), settings, now)


def revoke(session: Session, row: ApiKey, now: datetime) -> None:
    """It works no more, within a second everywhere. Does nothing to one that was revoked."""
    if row.revoked_at is None:
        row.revoked_at = now
        session.add(row)
        accounts.touch(session, row.customer_id)


def _live(session: Session, subscription: Subscription, now: datetime) -> int:
    live = select(func.count()).where(
        col(ApiKey.subscription_id) == subscription.id,
        col(ApiKey.revoked_at).is_(None),
        or_(col(ApiKey.expires_at).is_(None), col(ApiKey.expires_at) > now),
    )
    return session.exec(live).one()

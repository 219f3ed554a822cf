"""Granting units to a subscription's metered entitlement, beside what its plan issues, and taking them back.

A grant never changes. What was burnt of it stays burnt when it is voided. It belongs to the subscription and the
feature: a change of plan leaves it alone, and while the plan does not have the feature it lies idle.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from sqlmodel import Session, col, func, or_, select
from sqlmodel.sql.expression import SelectOfScalar

from farebox_portal import ids
from farebox_portal.catalog.plan_document import Metadata, Units
from farebox_portal.catalog.tables import Feature
from farebox_portal.clock import whole_ms
from farebox_portal.customers import accounts
from farebox_portal.documents import Input, Instant, Output, Whole
from farebox_portal.errors import Conflict, Fault, Invalid, NotFound
from farebox_portal.pricing.grants import expiry
from farebox_portal.pricing.period import CADENCES, aligned, boundary
from farebox_portal.subscriptions.lifecycle import HORIZON
from farebox_portal.subscriptions.rows import read_life, read_plans
from farebox_portal.subscriptions.stretches import stretches
from farebox_portal.subscriptions.tables import Subscription
from farebox_portal.usage.access import read_features
from farebox_portal.usage.balances import allowance_at
from farebox_portal.usage.grant_rows import GrantRow
from farebox_portal.usage.grants import Allowance, allowance_period

IN_FORCE_MAX = 50
"""Grants of one entitlement that have not ended: each change of any is a stage of what is published."""
_NAMED = {"HOUR": "PT1H", "DAY": "P1D", "WEEK": "P1W", "MONTH": "P1M", "YEAR": "P1Y"}


def _cadence(text: str) -> str:
    cadence = _NAMED.get(text, text)
    if cadence not in CADENCES:
        raise ValueError(f"must be one of {', '.join([*_NAMED, *CADENCES])}")
    return cadence


Interval = Annotated[str, AfterValidator(_cadence)]

# --- what is sent ----------------------------------------------------------------------------------------------------


class ExpirationInput(Input):
    """So many of this duration after it takes effect."""

    duration: Interval
    count: Annotated[Whole, Field(ge=1, le=1000)]


class RecurrenceInput(Input):
    """Whole again at each interval, counted from `anchor`; left out, from when it takes effect."""

    interval: Interval
    anchor: Instant | None = None


class GrantInput(Input):
    """Units beside the plan's. OpenMeter's fields; both ways to say when it expires, and without one it does not.

    `priority`: 1 burns first; of the same priority what expires earlier. At a reset of the usage period what is left
    becomes min(maxRolloverAmount, max(minRolloverAmount, left)): by default nothing.
    """

    amount: Annotated[Units, Field(ge=1)]
    priority: Annotated[Whole, Field(ge=1, le=255)] = 1
    effective_at: Instant | None = None
    expires_at: Instant | None = None
    expiration: ExpirationInput | None = None
    max_rollover_amount: Units = 0
    min_rollover_amount: Units = 0
    recurrence: RecurrenceInput | None = None
    metadata: Metadata | None = None


# --- what is shown ---------------------------------------------------------------------------------------------------


class RecurrenceDocument(Output):
    interval: str
    anchor: Instant


class GrantDocument(Output):
    """`status`: scheduled, active, expired or voided."""

    id: str
    subscription_id: str
    feature_key: str
    amount: int
    priority: int
    effective_at: Instant
    expires_at: Instant | None
    max_rollover_amount: int
    min_rollover_amount: int
    recurrence: RecurrenceDocument | None
    metadata: dict[str, Any]
    created_at: Instant
    voided_at: Instant | None
    status: Literal["scheduled", "active", "expired", "voided"]


def show(row: GrantRow, now: datetime) -> GrantDocument:
    recurrence = None
    if row.recurrence is not None and row.recurrence_anchor is not None:
        recurrence = RecurrenceDocument(interval=row.recurrence, anchor=row.recurrence_anchor)
    return GrantDocument(
        id=row.id,
        subscription_id=row.subscription_id,
        feature_key=row.feature_key,
        amount=row.amount,
        priority=row.priority,
        effective_at=row.effective_at,
        expires_at=row.expires_at,
        max_rollover_amount=row.rollover_max,
        min_rollover_amount=row.rollover_min,
        recurrence=recurrence,
        metadata=row.metadata_,
        created_at=row.created_at,
        voided_at=row.voided_at,
        status=_status(row, now),
    )


def _status(row: GrantRow, now: datetime) -> Literal["scheduled", "active", "expired", "voided"]:
    if row.voided_at is not None:
        return "voided"
    if row.expires_at is not None and row.expires_at <= now:
        return "expired"
    return "active" if row.effective_at <= now else "scheduled"


def every(subscription: Subscription, feature_key: str) -> SelectOfScalar[GrantRow]:
    """All that were ever made, the oldest first."""
    mine = GrantRow.subscription_id == subscription.id, GrantRow.feature_key == feature_key
    return select(GrantRow).where(*mine).order_by(col(GrantRow.id))


def get(session: Session, subscription: Subscription, feature_key: str, grant_id: str) -> GrantRow:
    """Raises NotFound."""
    row = session.exec(every(subscription, feature_key).where(GrantRow.id == grant_id)).first()
    if row is None:
        raise NotFound("There is no such grant.", code="grant_not_found")
    return row


# --- the steps -------------------------------------------------------------------------------------------------------


def create(
    session: Session, subscription: Subscription, feature_key: str, wanted: GrantInput, now: datetime
) -> GrantRow:
    """Raises NotFound, Conflict where the entitlement takes no grants, and Invalid for one that cannot be."""
    accounts.touch(session, subscription.customer_id)
    session.refresh(subscription)
    allowance, since = grantable(session, subscription, feature_key, now)
    # A subscription may have begun within this very millisecond.
    effective_at = max(whole_ms(now), since) if wanted.effective_at is None else whole_ms(wanted.effective_at)
    expires_at = _expires_at(wanted, effective_at)
    if found := _faults(wanted, allowance, since, effective_at, expires_at, now):
        raise Invalid(found)
    _require_room(session, subscription, feature_key, since, now)
    row = GrantRow(
        id=ids.new_id(now),
        subscription_id=subscription.id,
        feature_key=feature_key,
        amount=wanted.amount,
        priority=wanted.priority,
        effective_at=effective_at,
        expires_at=expires_at,
        rollover_min=wanted.min_rollover_amount,
        rollover_max=wanted.max_rollover_amount,
        recurrence=None if wanted.recurrence is None else wanted.recurrence.interval,
        recurrence_anchor=None if wanted.recurrence is None else whole_ms(wanted.recurrence.anchor or effective_at),
        metadata_=wanted.metadata or {},
        created_at=now,
    )
    session.add(row)
    session.flush()
    return row


def grantable(
    session: Session, subscription: Subscription, feature_key: str, now: datetime
) -> tuple[Allowance, datetime]:
    """The allowance that units can be added to, and when its usage period began. Raises NotFound and Conflict."""
    life = read_life(session, subscription)
    if life.state(now) == "inactive":
        raise Conflict("The subscription has ended.", code="subscription_inactive")
    cut, features = stretches(life, read_plans(session, [life])), read_features(session)
    at = max(now, life.start)
    allowance = _limited(allowance_at(cut, feature_key, features, at), feature_key, features)
    return allowance, allowance_period(cut, life.anchor, allowance, features, at).start


def void(session: Session, subscription: Subscription, row: GrantRow, now: datetime) -> None:
    """Nothing more is burnt of it. Does nothing to one that was voided."""
    accounts.touch(session, subscription.customer_id)
    session.refresh(row)
    if row.voided_at is None:
        row.voided_at = now
        session.add(row)


# --- the rules -------------------------------------------------------------------------------------------------------


def _limited(allowance: Allowance | None, feature_key: str, features: dict[str, Feature]) -> Allowance:
    """The allowance, if units can be added to it. Raises NotFound and Conflict."""
    if feature_key not in features:
        raise NotFound("There is no such feature.", code="feature_not_found")
    if allowance is None:
        detail = f"The plan does not have '{feature_key}' as a metered feature, so nothing can be granted of it."
        raise Conflict(detail, code="entitlement_not_metered")
    if allowance.limit is None:
        detail = f"The plan has '{feature_key}' without a limit; there is nothing to add."
        raise Conflict(detail, code="entitlement_unlimited")
    return allowance


def _expires_at(wanted: GrantInput, effective_at: datetime) -> datetime | None:
    if wanted.expiration is not None and abs(effective_at.year - 2000) < 1000:
        try:
            return expiry(effective_at, wanted.expiration.duration, wanted.expiration.count)
        except (OverflowError, ValueError):  # beyond the year 9999
            return None
    return None if wanted.expires_at is None else whole_ms(wanted.expires_at)


def _faults(
    wanted: GrantInput,
    allowance: Allowance,
    since: datetime,
    effective_at: datetime,
    expires_at: datetime | None,
    now: datetime,
) -> list[Fault]:
    found: list[Fault] = []
    # Before that balances are settled, and carried over.
    if not since <= effective_at <= now + HORIZON:
        said = f"must not lie before the current usage period ({since.isoformat()}), nor more than 5 years ahead"
        found.append({"pointer": "/effectiveAt", "detail": said})
    if wanted.expires_at is not None and wanted.expiration is not None:
        found.append({"pointer": "/expiration", "detail": "cannot stand beside expiresAt"})
    elif expires_at is not None and expires_at <= max(effective_at, now):
        place = "/expiresAt" if wanted.expiration is None else "/expiration"
        found.append({"pointer": place, "detail": "must lie ahead, after the grant takes effect"})
    if wanted.min_rollover_amount > wanted.max_rollover_amount:
        found.append({"pointer": "/minRolloverAmount", "detail": "must not be more than maxRolloverAmount"})
    if wanted.recurrence is not None:
        found += _recurrence_faults(wanted.recurrence, allowance, now)
    return found


def _recurrence_faults(recurrence: RecurrenceInput, allowance: Allowance, now: datetime) -> list[Fault]:
    found: list[Fault] = []
    interval, period = recurrence.interval, allowance.cadence
    is_longer = boundary(now, interval, 1) >= boundary(now, period, 1)
    if not (is_longer and aligned(interval, period)):
        said = f"must be a whole number of usage periods, which last {period}"
        found.append({"pointer": "/recurrence/interval", "detail": said})
    if recurrence.anchor is not None and not now - HORIZON <= recurrence.anchor <= now + HORIZON:
        found.append({"pointer": "/recurrence/anchor", "detail": "must lie within 5 years"})
    return found


def _require_room(
    session: Session, subscription: Subscription, feature_key: str, since: datetime, now: datetime
) -> None:
    in_force = every(subscription, feature_key).where(
        col(GrantRow.voided_at).is_(None),
        or_(col(GrantRow.expires_at).is_(None), col(GrantRow.expires_at) > now),
        # The others lapsed at a reset.
        or_(GrantRow.effective_at >= since, GrantRow.rollover_max > 0, col(GrantRow.recurrence).is_not(None)),
        # One that stays as it is until it is used up changes no limit any more: prepaid units.
        or_(
            GrantRow.effective_at > now,
            col(GrantRow.expires_at).is_not(None),
            col(GrantRow.recurrence).is_not(None),
            GrantRow.rollover_max < GrantRow.amount,
        ),
    )
    if session.exec(select(func.count()).select_from(in_force.order_by(None).subquery())).one() >= IN_FORCE_MAX:
        detail = f"The entitlement has {IN_FORCE_MAX} grants in force; void one first."
        raise Conflict(detail, code="too_many_grants")

"""A subscription's life in the database: order one, and take each step that `life.py` knows, in one transaction.

A step reads the life under the account's lock, applies one command, writes the rows that differ and an entry into the
audit log, and leaves the rest to the publisher: `accounts.touch` makes the account due. Changes of plan are planned in
`plan_change.py`.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator, model_validator
from sqlalchemy import ColumnElement
from sqlmodel import Session, and_, col, func, or_, select
from sqlmodel.sql.expression import SelectOfScalar

from farebox_portal import audit
from farebox_portal.catalog import configuration, plans
from farebox_portal.catalog.tables import Plan
from farebox_portal.customers import accounts
from farebox_portal.customers.tables import Customer
from farebox_portal.documents import Input, Instant, Key, Metadata, Whole
from farebox_portal.errors import Conflict, Fault, Invalid, NotFound
from farebox_portal.ids import new_id
from farebox_portal.pricing.period import period_at
from farebox_portal.subscriptions import coupons, rows
from farebox_portal.subscriptions.life import (
    Cancel,
    Command,
    Delete,
    Life,
    Pause,
    Restore,
    Resume,
    State,
    UnscheduleCancelation,
    UnscheduleChange,
    apply,
    begun,
    require_taken,
)
from farebox_portal.subscriptions.tables import ApiKey, SegmentRow, Subscription

HORIZON = timedelta(days=5 * 366)
"""How far from now anything may be planned, and an anchor may lie: calendars end somewhere."""
CLOCK_SKEW = timedelta(minutes=2)
"""An instant that has passed by less is taken for now: the caller's clock told it, and the request took its time."""


def _one_fault(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    """Of all alternatives together."""
    try:
        return read(value)
    except ValidationError:
        detail = "must be immediate, next_billing_cycle or an instant with its time zone, such as 2026-05-01T00:00:00Z"
        raise ValueError(detail) from None


Timing = Annotated[Literal["immediate", "next_billing_cycle"] | Instant, WrapValidator(_one_fault)]
Status = State


class PlanChoice(Input):
    key: Annotated[str, Field(max_length=64)]
    version: Annotated[Whole, Field(ge=1, le=1_000_000)] | None = None


class SubscriptionInput(Input):
    plan: PlanChoice
    customer_id: Annotated[str, Field(max_length=128)] | None = None
    customer_key: Annotated[str, Field(max_length=128)] | None = None
    timing: Timing = "immediate"
    starting_phase: Key | None = None
    billing_anchor: Instant | None = None
    coupon: coupons.CouponCode | None = None
    metadata: Metadata = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_customer(self) -> Self:
        if (self.customer_id is None) == (self.customer_key is None):
            raise ValueError("name the customer by either customerId or customerKey")
        return self


class CancelInput(Input):
    timing: Timing = "immediate"


class PauseInput(Input):
    """`resumesAt`: when it goes on by itself; left out, not before it is resumed."""

    timing: Timing = "immediate"
    resumes_at: Instant | None = None


class ResumeInput(Input):
    timing: Timing = "immediate"


# --- finding ---------------------------------------------------------------------------------------------------------


def get(session: Session, subscription_id: str) -> Subscription:
    """Raises NotFound."""
    found = session.get(Subscription, subscription_id)
    if found is None:
        raise NotFound("There is no such subscription.", code="subscription_not_found")
    return found


def every(
    now: datetime, *, customer_id: str | None = None, status: Status | None = None, plan_key: str | None = None
) -> SelectOfScalar[Subscription]:
    """`plan_key`: on this plan now, or from the start on."""
    found = select(Subscription).order_by(col(Subscription.id))
    if customer_id is not None:
        found = found.where(Subscription.customer_id == customer_id)
    if plan_key is not None:
        plan_ids = select(Plan.id).where(Plan.key == plan_key)
        found = found.where(func.coalesce(_last_begun(SegmentRow.plan_id, now), Subscription.plan_id).in_(plan_ids))
    return found if status is None else found.where(_has_status(status, now))


def _has_status(status: Status, now: datetime) -> ColumnElement[bool]:
    """The same as `Life.state`, in SQL."""
    begins, ends = col(Subscription.active_from), col(Subscription.active_to)
    is_open = and_(begins <= now, or_(ends.is_(None), ends > now))
    is_paused = func.coalesce(_last_begun(SegmentRow.is_paused, now), False)
    match status:
        case "scheduled":
            return and_(begins > now, or_(ends.is_(None), ends > begins))
        case "active":
            return and_(is_open, ends.is_(None), ~is_paused)
        case "canceled":
            return and_(is_open, ends.is_not(None), ~is_paused)
        case "paused":
            return and_(is_open, is_paused)
        case "inactive":
            return or_(ends <= now, ends <= begins)


def _last_begun(column: Any, now: datetime) -> Any:
    """The column of the segment in force, null while it is the first."""
    begun = col(SegmentRow.subscription_id) == col(Subscription.id), col(SegmentRow.starts_at) <= now
    return select(column).where(*begun).order_by(col(SegmentRow.starts_at).desc()).limit(1).scalar_subquery()


def open_subscriptions(session: Session, customer_id: str, now: datetime) -> list[Subscription]:
    """Those that are not over."""
    found = session.exec(every(now, customer_id=customer_id))
    return [row for row in found if row.status(now) != "inactive"]


# --- the steps -------------------------------------------------------------------------------------------------------


def create(session: Session, wanted: SubscriptionInput, now: datetime) -> Subscription:
    """Raises NotFound, Invalid, and Conflict: the plan is not on sale, or the customer has no room for another one."""
    by_id = wanted.customer_id is not None
    place: Fault = {"pointer": "/customerId" if by_id else "/customerKey", "detail": "there is no such customer"}
    customer = accounts.get(session, wanted.customer_id or wanted.customer_key or "", faults=(place,))
    if (customer.id if by_id else customer.key) != (wanted.customer_id if by_id else wanted.customer_key):
        raise NotFound("There is no such customer.", code="customer_not_found", errors=[place])
    accounts.touch(session, customer.id)
    plan = plan_on_sale(session, wanted.plan)
    if customer.currency not in (None, plan.currency):
        raise Conflict(
            f"The customer pays in {customer.currency} and the plan costs {plan.currency}.", code="currency_mismatch"
        )
    require_phase(plan, wanted.starting_phase)
    active_from = _beginning(wanted, plan, now)
    life = begun(active_from, wanted.billing_anchor or active_from, plan.id, wanted.starting_phase)
    subscription = Subscription(
        id=new_id(now),
        customer_id=customer.id,
        plan_id=plan.id,
        starting_phase=wanted.starting_phase,
        active_from=life.start,
        billing_anchor=life.anchor,
        metadata_=wanted.metadata,
        created_at=now,
        updated_at=now,
    )
    require_room(session, subscription, life, now)
    session.add(subscription)
    session.flush()
    note(session, "create", subscription, None, life, now)
    if wanted.coupon is not None:
        coupons.redeem(session, subscription, wanted.coupon, now)
    return subscription


def cancel(session: Session, subscription: Subscription, timing: Timing, now: datetime) -> Subscription:
    """End it now, at the end of the billing period, or at an instant. Again is allowed: the last word counts.

    Raises Conflict when it has ended, Invalid for an instant that has passed; so do all steps.
    """
    return _step(session, subscription, Cancel, lambda at: Cancel(at(timing)), now)


def unschedule_cancelation(session: Session, subscription: Subscription, now: datetime) -> Subscription:
    """Let it go on after all."""
    return _step(session, subscription, UnscheduleCancelation, lambda _: UnscheduleCancelation(), now)


def unschedule_change(session: Session, subscription: Subscription, now: datetime) -> Subscription:
    """Take back every planned change of plan, pause and resumption."""
    return _step(session, subscription, UnscheduleChange, lambda _: UnscheduleChange(), now)


def restore(session: Session, subscription: Subscription, now: datetime) -> Subscription:
    """Let it go on as it is: everything that is planned is taken back, also a subscription that was to follow it."""
    return _step(session, subscription, Restore, lambda _: Restore(), now)


def pause(session: Session, subscription: Subscription, wanted: PauseInput, now: datetime) -> Subscription:
    """No access and no new fees until it is resumed. Keys and calendar go on."""

    def command(at: Callable[[Timing], datetime]) -> Command:
        from_ = at(wanted.timing)
        if wanted.resumes_at is not None and not from_ < wanted.resumes_at <= now + HORIZON:
            raise Invalid([{"pointer": "/resumesAt", "detail": "must lie after the pause begins, within 5 years"}])
        return Pause(from_, wanted.resumes_at)

    return _step(session, subscription, Pause, command, now)


def resume(session: Session, subscription: Subscription, timing: Timing, now: datetime) -> Subscription:
    return _step(session, subscription, Resume, lambda at: Resume(at(timing)), now)


def delete(session: Session, subscription: Subscription, now: datetime) -> None:
    """Only one that has not begun; with its keys. The audit log remembers it."""
    accounts.touch(session, subscription.customer_id)
    session.refresh(subscription)
    life = rows.read_life(session, subscription)
    apply(life, Delete(), now)
    note(session, "delete", subscription, life, None, now)
    _erase(session, subscription)


def delete_customer(session: Session, customer: Customer, now: datetime) -> None:
    """Raises Conflict while a subscription is open. Its keys die with it; the ledger keeps its usage."""
    accounts.touch(session, customer.id)
    if open_subscriptions(session, customer.id, now):
        raise Conflict("The customer has a subscription; cancel that first.", code="customer_has_subscription")
    live = select(ApiKey).where(ApiKey.customer_id == customer.id, col(ApiKey.revoked_at).is_(None))
    for key in session.exec(live):
        key.revoked_at = now
        session.add(key)
    customer.deleted_at = customer.updated_at = now
    session.add(customer)


def _step(
    session: Session,
    subscription: Subscription,
    kind: type[Command],
    make: Callable[[Callable[[Timing], datetime]], Command],
    now: datetime,
) -> Subscription:
    """`make` gets a function from a timing to the instant at which it takes effect."""
    accounts.touch(session, subscription.customer_id)
    session.refresh(subscription)
    life = rows.read_life(session, subscription)
    require_taken(life, kind, now)
    found = rows.read_plans(session, [life])
    after = apply(life, make(lambda timing: effective_at(life, found, timing, now)), now)
    assert after is not None
    if kind is Restore and not configuration.read(session).multiple_subscriptions_enabled:
        _erase_followers(session, subscription, now)
    if life.end is not None and after.end is None:
        require_room(session, subscription, after, now)
    take(session, subscription, kind, life, after, now)
    return subscription


def take(
    session: Session, subscription: Subscription, kind: type[Command], before: Life, after: Life, now: datetime
) -> None:
    """Write a step that was applied, and its entry in the audit log."""
    rows.write_life(session, subscription, after, now)
    note(session, _snake(kind.__name__), subscription, before, after, now)


def note(
    session: Session, verb: str, subscription: Subscription, before: Life | None, after: Life | None, now: datetime
) -> None:
    audit.record(
        session,
        f"subscription.{verb}",
        "subscription",
        subscription.id,
        now,
        before=None if before is None else _facts(before),
        after=None if after is None else _facts(after),
    )


# --- the rules -------------------------------------------------------------------------------------------------------


def effective_at(life: Life, found: dict[str, Plan], timing: Timing, now: datetime) -> datetime:
    """When a step of this timing takes effect; not before the start. Raises Invalid for an instant that has passed."""
    earliest = max(now, life.start)
    if timing == "immediate":
        return earliest
    if timing == "next_billing_cycle":
        cadence = found[life.segment_at(earliest).plan_id].billing_cadence
        return period_at(life.anchor, cadence, earliest).end
    assert isinstance(timing, datetime)
    if not now - CLOCK_SKEW <= timing <= now + HORIZON:
        raise Invalid([{"pointer": "/timing", "detail": "must lie in the future, within 5 years"}])
    return max(timing, earliest)


def require_room(session: Session, subscription: Subscription, life: Life, now: datetime) -> None:
    """Of one customer only one at a time is open; or, where several may be, only one of each plan. Raises Conflict."""
    others = [row for row in open_subscriptions(session, subscription.customer_id, now) if row.id != subscription.id]
    their_lives = [other for other in rows.read_lives(session, others).values() if other.overlaps(life)]
    if not their_lives:
        return
    if not configuration.read(session).multiple_subscriptions_enabled:
        raise Conflict("This customer has a subscription already.", code="subscription_limit_reached")
    plans_of = rows.read_plans(session, [life, *their_lives])
    ours = _plan_keys(life, plans_of, now)
    for other in their_lives:
        if twice := ours & _plan_keys(other, plans_of, now):
            raise Conflict(
                f"This customer has a subscription to '{min(twice)}' already.", code="subscription_duplicate"
            )


def _plan_keys(life: Life, found: dict[str, Plan], now: datetime) -> set[str]:
    """Of the plan in force and of those to come."""
    segments = [life.segment_at(now), *(segment for segment in life.segments if segment.start > now)]
    return {found[segment.plan_id].key for segment in segments}


def plan_on_sale(session: Session, choice: PlanChoice) -> Plan:
    """Raises NotFound, and Conflict for one that is not on sale."""
    if choice.version is None:
        plan = plans.newest_active(session, choice.key)
        known = plan is not None or session.exec(plans.every(key=choice.key)).first() is not None
    else:
        plan = plans.get_version(session, choice.key, choice.version)
        known = plan is not None
    if not known:
        field = "key" if choice.version is None else "version"
        place: Fault = {"pointer": f"/plan/{field}", "detail": "there is no such plan"}
        raise NotFound("There is no such plan.", code="plan_not_found", errors=[place])
    if plan is None or plan.status != "active":
        raise Conflict("This plan is not published, or was archived.", code="plan_not_active")
    return plan


def require_phase(plan: Plan, phase: str | None) -> None:
    """Raises Invalid unless the plan has it."""
    keys = [one["key"] for one in plan.phases]
    if phase is not None and phase not in keys:
        detail = f"the plan's phases are {', '.join(keys)}"
        raise Invalid([{"pointer": "/startingPhase", "detail": detail}])


def _beginning(wanted: SubscriptionInput, plan: Plan, now: datetime) -> datetime:
    faults: list[Fault] = []
    if wanted.billing_anchor is not None and not now - HORIZON <= wanted.billing_anchor <= now + HORIZON:
        faults.append({"pointer": "/billingAnchor", "detail": "must lie within 5 years of now"})
    beginning = now if isinstance(wanted.timing, str) else wanted.timing
    if wanted.timing == "next_billing_cycle":
        if wanted.billing_anchor is None:
            faults.append(
                {"pointer": "/timing", "detail": "needs a billingAnchor: what is new has no cycle of its own"}
            )
        elif not faults:
            beginning = period_at(wanted.billing_anchor, plan.billing_cadence, now).end
    elif not now - CLOCK_SKEW <= beginning <= now + HORIZON:
        faults.insert(0, {"pointer": "/timing", "detail": "must lie in the future, within 5 years"})
    if faults:
        raise Invalid(faults)
    return max(beginning, now)


# --- rows ------------------------------------------------------------------------------------------------------------


def _erase_followers(session: Session, subscription: Subscription, now: datetime) -> None:
    """The subscriptions that were to begin when this one would have ended: of one at a time all that are scheduled."""
    for other in open_subscriptions(session, subscription.customer_id, now):
        if other.id == subscription.id:
            continue
        follower = rows.read_life(session, other)
        if follower.state(now) == "scheduled":
            note(session, "delete", other, follower, None, now)
            _erase(session, other)


def _erase(session: Session, subscription: Subscription) -> None:
    for key in session.exec(select(ApiKey).where(ApiKey.subscription_id == subscription.id)):
        session.delete(key)
    session.flush()
    coupons.forget(session, subscription)
    rows.delete(session, subscription)
    session.flush()


def _facts(life: Life) -> dict[str, Any]:
    """A life as the audit log keeps it."""
    return {
        "activeFrom": life.start.isoformat(),
        "activeTo": None if life.end is None else life.end.isoformat(),
        "billingAnchor": life.anchor.isoformat(),
        "segments": [
            {
                "from": segment.start.isoformat(),
                "planId": segment.plan_id,
                "phase": segment.phase,
                "isPaused": segment.is_paused,
            }
            for segment in life.segments
        ],
    }


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")

"""A subscription's life: begin, cancel, take the cancelation back. Each step is one transaction; the gateway follows.

Nothing is ever switched on or off: a subscription has two instants, `active_from` and `active_to`, and what is true at
a moment follows from them. So an end in the future needs no job to carry it out.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from sqlmodel import Session, col, or_, select
from sqlmodel.sql.expression import SelectOfScalar

from farebox_portal.catalog import plans
from farebox_portal.catalog.tables import Plan
from farebox_portal.customers import accounts
from farebox_portal.customers.tables import Customer
from farebox_portal.documents import Input, Instant, Metadata, Output, Whole
from farebox_portal.errors import Conflict, Fault, Invalid, NotFound
from farebox_portal.ids import new_id
from farebox_portal.pricing.period import period_at
from farebox_portal.subscriptions.tables import ApiKey, Subscription

HORIZON = timedelta(days=5 * 366)
"""How far from now a subscription may begin or end, and its anchor may lie: calendars end somewhere."""

Timing = Literal["immediate", "next_billing_cycle"] | Instant
Status = Literal["scheduled", "active", "canceled", "inactive"]


class PlanChoice(Input):
    key: Annotated[str, Field(max_length=64)]
    version: Annotated[Whole, Field(ge=1, le=1_000_000)] | None = None


class SubscriptionInput(Input):
    plan: PlanChoice
    customer_id: Annotated[str, Field(max_length=128)] | None = None
    customer_key: Annotated[str, Field(max_length=128)] | None = None
    timing: Timing = "immediate"
    billing_anchor: Instant | None = None
    metadata: Metadata = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_customer(self) -> Self:
        if (self.customer_id is None) == (self.customer_key is None):
            raise ValueError("name the customer by either customerId or customerKey")
        return self


class CancelInput(Input):
    timing: Timing = "immediate"


class PlanReference(Output):
    id: str
    key: str
    version: int
    name: str


class SubscriptionDocument(Output):
    id: str
    customer_id: str
    customer_key: str
    plan: PlanReference
    status: Status
    active_from: Instant
    active_to: Instant | None
    billing_anchor: Instant
    payment_status: str
    metadata: dict[str, Any]
    created_at: Instant
    updated_at: Instant


@dataclass(frozen=True)
class Sold:
    """A subscription with the rows it stands on."""

    subscription: Subscription
    customer: Customer
    plan: Plan


def show(session: Session, subscription: Subscription, now: datetime) -> SubscriptionDocument:
    sold = load(session, subscription)
    return SubscriptionDocument(
        id=subscription.id,
        customer_id=sold.customer.id,
        customer_key=sold.customer.key,
        plan=PlanReference(id=sold.plan.id, key=sold.plan.key, version=sold.plan.version, name=sold.plan.name),
        status=subscription.status(now),
        active_from=subscription.active_from,
        active_to=subscription.active_to,
        billing_anchor=subscription.billing_anchor,
        payment_status=subscription.payment_status,
        metadata=subscription.metadata_,
        created_at=subscription.created_at,
        updated_at=subscription.updated_at,
    )


def load(session: Session, subscription: Subscription) -> Sold:
    return Sold(
        subscription,
        session.get_one(Customer, subscription.customer_id),
        session.get_one(Plan, subscription.plan_id),
    )


def get(session: Session, subscription_id: str) -> Subscription:
    """Raises NotFound."""
    found = session.get(Subscription, subscription_id)
    if found is None:
        raise NotFound("There is no such subscription.", code="subscription_not_found")
    return found


def every(
    now: datetime, *, customer_id: str | None = None, status: Status | None = None
) -> SelectOfScalar[Subscription]:
    rows = select(Subscription).order_by(col(Subscription.id))
    if customer_id is not None:
        rows = rows.where(Subscription.customer_id == customer_id)
    if status is None:
        return rows
    begins, ends = col(Subscription.active_from), col(Subscription.active_to)
    match status:
        case "scheduled":
            return rows.where(begins > now, or_(ends.is_(None), ends > begins))
        case "active":
            return rows.where(begins <= now, ends.is_(None))
        case "canceled":
            return rows.where(begins <= now, ends > now)
        case "inactive":
            return rows.where(or_(ends <= now, ends <= begins))


def create(session: Session, wanted: SubscriptionInput, now: datetime) -> Subscription:
    """Raises NotFound, Invalid, and Conflict: the plan is not on sale, or the customer has one already."""
    by_id = wanted.customer_id is not None
    place: Fault = {"pointer": "/customerId" if by_id else "/customerKey", "detail": "there is no such customer"}
    customer = accounts.get(session, wanted.customer_id or wanted.customer_key or "", faults=(place,))
    if (customer.id if by_id else customer.key) != (wanted.customer_id if by_id else wanted.customer_key):
        raise NotFound("There is no such customer.", code="customer_not_found", errors=[place])
    accounts.touch(session, customer.id)
    plan = _plan_on_sale(session, wanted.plan)
    if customer.currency not in (None, plan.currency):
        raise Conflict(
            f"The customer pays in {customer.currency} and the plan costs {plan.currency}.", code="currency_mismatch"
        )
    active_from = _beginning(wanted, now)
    if open_subscriptions(session, customer.id, now):
        raise Conflict("This customer has a subscription already.", code="subscription_limit_reached")
    subscription = Subscription(
        id=new_id(now),
        customer_id=customer.id,
        plan_id=plan.id,
        active_from=active_from,
        billing_anchor=wanted.billing_anchor or active_from,
        metadata_=wanted.metadata,
        created_at=now,
        updated_at=now,
    )
    session.add(subscription)
    session.flush()
    return subscription


def open_subscriptions(session: Session, customer_id: str, now: datetime) -> list[Subscription]:
    """Those that let requests through now or will."""
    rows = session.exec(every(now, customer_id=customer_id))
    return [row for row in rows if row.status(now) != "inactive"]


def cancel(session: Session, subscription: Subscription, timing: Timing, now: datetime) -> Subscription:
    """End it now, at the end of the billing period, or at an instant. Again is allowed: the last word counts.

    Raises Conflict when it has ended, Invalid for an instant that has passed.
    """
    accounts.touch(session, subscription.customer_id)
    session.refresh(subscription)
    if subscription.status(now) == "inactive":
        raise Conflict("The subscription has ended.", code="subscription_inactive")
    subscription.active_to = max(_end(session, subscription, timing, now), subscription.active_from)
    subscription.updated_at = now
    session.add(subscription)
    return subscription


def unschedule_cancelation(session: Session, subscription: Subscription, now: datetime) -> Subscription:
    """Let it go on after all. Raises Conflict when no end is planned, or when it has come."""
    accounts.touch(session, subscription.customer_id)
    session.refresh(subscription)
    if subscription.status(now) == "inactive":
        raise Conflict("The subscription has ended.", code="subscription_inactive")
    if subscription.active_to is None:
        raise Conflict("No cancelation is scheduled.", code="cancelation_not_scheduled")
    subscription.active_to = None
    subscription.updated_at = now
    session.add(subscription)
    return subscription


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


def _plan_on_sale(session: Session, choice: PlanChoice) -> Plan:
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


def _beginning(wanted: SubscriptionInput, now: datetime) -> datetime:
    if wanted.timing == "next_billing_cycle":
        raise Invalid([{"pointer": "/timing", "detail": "a new subscription has no billing cycle to wait for"}])
    beginning = now if wanted.timing == "immediate" else wanted.timing
    assert isinstance(beginning, datetime)
    faults: list[Fault] = []
    if not now <= beginning <= now + HORIZON:
        faults.append({"pointer": "/timing", "detail": "must lie in the future, within 5 years"})
    if wanted.billing_anchor is not None and not now - HORIZON <= wanted.billing_anchor <= now + HORIZON:
        faults.append({"pointer": "/billingAnchor", "detail": "must lie within 5 years of now"})
    if faults:
        raise Invalid(faults)
    return beginning


def _end(session: Session, subscription: Subscription, timing: Timing, now: datetime) -> datetime:
    if timing == "immediate":
        return now
    if timing == "next_billing_cycle":
        cadence = session.get_one(Plan, subscription.plan_id).billing_cadence
        return period_at(subscription.billing_anchor, cadence, max(now, subscription.active_from)).end
    assert isinstance(timing, datetime)
    if not now <= timing <= now + HORIZON:
        raise Invalid([{"pointer": "/timing", "detail": "must lie in the future, within 5 years"}])
    return timing

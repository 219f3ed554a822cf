"""A subscription as documents show it: what it is on now, and everything that is going to happen to it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field
from sqlmodel import Session

from farebox_portal.catalog.tables import Addon, Plan
from farebox_portal.customers.tables import Customer
from farebox_portal.documents import Instant, Output
from farebox_portal.pricing.period import period_at
from farebox_portal.subscriptions.addon_holds import quantities
from farebox_portal.subscriptions.life import Life, State, scheduled
from farebox_portal.subscriptions.rows import read_life, read_plans
from farebox_portal.subscriptions.stretches import Stretch, stretch_at, stretches
from farebox_portal.subscriptions.tables import Subscription


class PlanReference(Output):
    id: str
    key: str
    version: int
    name: str


class AddonReference(Output):
    id: str
    key: str
    version: int
    name: str


class PhaseReference(Output):
    key: str
    name: str | None
    active_from: Instant
    active_to: Instant | None


class PeriodDocument(Output):
    from_: Annotated[Instant, Field(alias="from")]
    to: Instant


class ScheduledEvent(Output):
    """`plan` is the one in force from then on, `phase` the key of its phase; without both at the end.

    Of the kind `addon` it says of which there will be how many, 0 where it is over.
    """

    at: Instant
    kind: Literal["start", "change", "phase", "pause", "resume", "end", "addon"]
    plan: PlanReference | None = None
    phase: str | None = None
    addon: AddonReference | None = None
    quantity: int | None = None


class AddonQuantity(Output):
    """`id`: under the subscription's `/addons`."""

    id: str
    addon: AddonReference
    quantity: int


class SubscriptionDocument(Output):
    id: str
    customer_id: str
    customer_key: str
    plan: PlanReference
    phase: PhaseReference
    status: State
    active_from: Instant
    active_to: Instant | None
    billing_anchor: Instant
    billing_cadence: str
    current_period: PeriodDocument
    currency: str
    payment_status: str
    payment_url: Annotated[str | None, Field(description="Where what failed can be paid, or confirmed")] = None
    addons: list[AddonQuantity]
    scheduled: list[ScheduledEvent]
    metadata: dict[str, Any]
    created_at: Instant
    updated_at: Instant


def show(session: Session, subscription: Subscription, now: datetime) -> SubscriptionDocument:
    life = read_life(session, subscription)
    customer = session.get_one(Customer, subscription.customer_id)
    return show_life(subscription, customer, life, read_plans(session, [life]), now)


def show_life(
    subscription: Subscription, customer: Customer, life: Life, plans: Mapping[str, Plan], at: datetime
) -> SubscriptionDocument:
    """The subscription as it is at `at`, if its life is this one."""
    cut = stretches(life, plans)
    current = cut[stretch_at(cut, at)]
    period = period_at(life.anchor, current.plan.billing_cadence, max(at, life.start))
    return SubscriptionDocument(
        id=subscription.id,
        customer_id=customer.id,
        customer_key=customer.key,
        plan=refer(current.plan),
        phase=PhaseReference(
            key=current.phase["key"],
            name=current.phase.get("name"),
            active_from=current.phase_start,
            active_to=current.phase_end,
        ),
        status=life.state(at),
        active_from=life.start,
        active_to=life.end,
        billing_anchor=life.anchor,
        billing_cadence=current.plan.billing_cadence,
        current_period=PeriodDocument(from_=period.start, to=period.end),
        currency=current.plan.currency,
        payment_status=subscription.payment_status,
        payment_url=subscription.payment_url,
        addons=[
            AddonQuantity(id=piece.hold.id, addon=refer_addon(piece.hold.addon), quantity=piece.quantity)
            for piece in sorted(current.addons_at(at), key=lambda piece: piece.hold.addon.key)
        ],
        scheduled=_scheduled(life, plans, cut, at),
        metadata=subscription.metadata_,
        created_at=subscription.created_at,
        updated_at=subscription.updated_at,
    )


def refer(plan: Plan) -> PlanReference:
    return PlanReference(id=plan.id, key=plan.key, version=plan.version, name=plan.name)


def refer_addon(addon: Addon) -> AddonReference:
    return AddonReference(id=addon.id, key=addon.key, version=addon.version, name=addon.name)


def _scheduled(life: Life, plans: Mapping[str, Plan], cut: tuple[Stretch, ...], now: datetime) -> list[ScheduledEvent]:
    if life.state(now) == "inactive":
        return []
    found = [ScheduledEvent(at=event.at, kind=event.kind) for event in scheduled(life, now)]
    found += [ScheduledEvent(at=one.start, kind="phase") for one in cut if one.is_next_phase and one.start > now]
    for event in found:
        if event.kind != "end":
            one = cut[stretch_at(cut, event.at)]
            event.plan, event.phase = refer(one.plan), one.phase["key"]
    found += [
        ScheduledEvent(at=at, kind="addon", addon=refer_addon(hold.addon), quantity=quantity)
        for hold in life.addons
        for at, quantity in quantities(hold, cut)
        if at > now and at != life.end
    ]
    return sorted(found, key=lambda event: event.at)

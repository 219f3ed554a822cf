"""Another plan for a subscription: up, down, or another version of the same one. Planned first, then carried out.

    upgrade     at once         fresh allowances, and credit for what is left of the fees that run
    downgrade   with the next billing cycle; nothing is left of a fee then, so there is no credit
    migration   at once         allowances go on, and with them the phase: nobody bought anything; credit by time alone

`timing` overrides when. Whether it goes up or down is told by the configuration's `planOrder`: a plan that stands
earlier is down, all else is up. The keys, the billing anchor and the subscription's id stay.

The preview is the plan, and the change is the plan carried out; so what is shown is what happens.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import Field
from sqlmodel import Session

from farebox_portal.catalog import configuration, plans
from farebox_portal.catalog.tables import Plan
from farebox_portal.customers import accounts
from farebox_portal.customers.tables import Customer
from farebox_portal.documents import Input, Instant, Key, Output, Whole
from farebox_portal.errors import Conflict, Fault, Invalid, NotFound
from farebox_portal.pricing.money import currency, decimal_text
from farebox_portal.subscriptions.credit import addon_credit, credit
from farebox_portal.subscriptions.document import SubscriptionDocument, show_life
from farebox_portal.subscriptions.life import Change, Life, apply, require_taken
from farebox_portal.subscriptions.lifecycle import (
    PlanChoice,
    Timing,
    effective_at,
    plan_on_sale,
    require_phase,
    require_room,
    take,
)
from farebox_portal.subscriptions.rows import read_life, read_plans
from farebox_portal.subscriptions.stretches import Stretch, stretch_at, stretches
from farebox_portal.subscriptions.tables import Subscription

Direction = Literal["upgrade", "downgrade", "migration"]
UsedShare = Callable[[Session, str, datetime, tuple[Stretch, ...], datetime], Fraction]
"""(session, subscription id, anchor, its life, instant) -> how much of the most used allowance is gone, 0 or more."""


class ChangeInput(Input):
    """`timing`: left out, an upgrade takes effect at once and a downgrade with the next billing cycle."""

    plan: PlanChoice
    timing: Timing | None = None
    starting_phase: Key | None = None


class MigrateInput(Input):
    """`targetVersion`: left out, the one on sale. `startingPhase`: left out, the phase goes on that it is in."""

    target_version: Annotated[Whole, Field(ge=1, le=1_000_000)] | None = None
    timing: Timing = "immediate"
    starting_phase: Key | None = None


class CreditDocument(Output):
    """`amount`: as if all fees had been paid; the invoice never gives back more than was. An estimate where usage until
    then may make it less.
    """

    amount: str
    currency: str
    is_estimate: bool


class ChangeDocument(Output):
    """`current` is the subscription now, `next` as it will be at `effectiveAt`."""

    current: SubscriptionDocument
    next: SubscriptionDocument
    effective_at: Instant
    direction: Direction
    quota: Literal["fresh", "kept"]
    credit: CreditDocument


@dataclass(frozen=True)
class PlannedChange:
    """Everything about a change before it is made."""

    subscription: Subscription
    before: Life
    after: Life
    command: Change
    plans: Mapping[str, Plan]  # of both lives, by id
    direction: Direction
    credit_minor: int


def plan_change(
    session: Session, subscription: Subscription, wanted: ChangeInput, used_share: UsedShare, now: datetime
) -> PlannedChange:
    """Raises NotFound, Invalid and Conflict; writes nothing."""
    life = read_life(session, subscription)
    require_taken(life, Change, now)
    found = read_plans(session, [life])
    target = plan_on_sale(session, wanted.plan)
    require_phase(target, wanted.starting_phase)
    current = found[life.segment_at(max(now, life.start)).plan_id]
    direction = direction_of(configuration.read(session).plan_order, current.key, target.key)
    timing = wanted.timing or ("next_billing_cycle" if direction == "downgrade" else "immediate")
    at = effective_at(life, found, timing, now)
    _require_other(found[_left(life, at, now).segment_at(at).plan_id], target, wanted.starting_phase)
    share = None
    if life.start < at <= now:
        # Of the plan that was in force before: one that was ordered and is replaced in the same instant was never used.
        left = stretches(_as_planned_until(life, at), found)
        share = used_share(session, subscription.id, life.anchor, left, now)
    is_fresh = life.start < at and direction == "upgrade" and timing != "next_billing_cycle"
    command = Change(at, target.id, wanted.starting_phase, is_fresh=is_fresh, used_share=share)
    return _planned(session, subscription, life, command, found | {target.id: target}, direction, now)


def plan_migration(session: Session, subscription: Subscription, wanted: MigrateInput, now: datetime) -> PlannedChange:
    """Raises NotFound, Invalid and Conflict; writes nothing."""
    life = read_life(session, subscription)
    require_taken(life, Change, now)
    found = read_plans(session, [life])
    at = effective_at(life, found, wanted.timing, now)
    cut = stretches(_left(life, at, now), found)
    current = cut[stretch_at(cut, at)]
    target = published_version(session, current.plan.key, wanted.target_version)
    _require_other(current.plan, target, wanted.starting_phase)
    require_phase(target, wanted.starting_phase)
    phase, phase_start = wanted.starting_phase, None
    if phase is None:
        phase, phase_start = current.phase["key"], current.phase_start
        _require_same_phase(target, phase)
    replaced = next((segment.used_share for segment in life.segments if segment.start == at), None)
    command = Change(at, target.id, phase, phase_start, used_share=replaced or Fraction(0))
    return _planned(session, subscription, life, command, found | {target.id: target}, "migration", now)


def carry_out(session: Session, planned: PlannedChange, now: datetime) -> None:
    """Make the change, in the transaction that planned it."""
    take(session, planned.subscription, Change, planned.before, planned.after, now)


def lock(session: Session, subscription: Subscription) -> None:
    """Before planning what will be carried out: nobody else changes the account meanwhile, and it is published anew."""
    accounts.touch(session, subscription.customer_id)
    session.refresh(subscription)


def show(session: Session, planned: PlannedChange, now: datetime) -> ChangeDocument:
    """The same before and after it is carried out."""
    customer = session.get_one(Customer, planned.subscription.customer_id)
    at = planned.command.at
    of = currency(planned.plans[planned.command.plan_id].currency)
    current = show_life(planned.subscription, customer, planned.before, planned.plans, now)
    following = show_life(planned.subscription, customer, planned.after, planned.plans, at)
    return ChangeDocument(
        current=current,
        next=following.model_copy(update={"updated_at": now}),
        effective_at=at,
        direction=planned.direction,
        quota="fresh" if planned.command.is_fresh else "kept",
        credit=CreditDocument(
            amount=decimal_text(planned.credit_minor, of),
            currency=of.code,
            is_estimate=at > now and planned.credit_minor > 0,
        ),
    )


def direction_of(order: list[str], current: str, target: str) -> Direction:
    """A plan that is not in the order is always up, from and to."""
    if current in order and target in order and order.index(target) < order.index(current):
        return "downgrade"
    return "upgrade"


def _planned(
    session: Session,
    subscription: Subscription,
    life: Life,
    command: Change,
    found: Mapping[str, Plan],
    direction: Direction,
    now: datetime,
) -> PlannedChange:
    target = found[command.plan_id]
    if target.currency != found[life.segments[0].plan_id].currency:
        raise Conflict(f"The plan costs {target.currency}, the subscription does not.", code="currency_mismatch")
    after = apply(life, command, now)
    assert after is not None
    require_room(session, subscription, after, now)
    left = stretches(_as_planned_until(life, command.at), found)
    given_back = 0
    if life.start < command.at:
        share = command.used_share or Fraction(0)
        given_back = credit(left, life.anchor, command.at, share)
        given_back += addon_credit(left, stretches(after, found), life.anchor, command.at, share)
    return PlannedChange(subscription, life, after, command, found, direction, given_back)


def _as_planned_until(life: Life, at: datetime) -> Life:
    """The life as it would be if nothing were planned for `at` or later: what a change at that instant leaves."""
    kept = tuple(segment for segment in life.segments if segment.start < at)
    return replace(life, end=None, segments=kept or life.segments[:1])


def _left(life: Life, at: datetime, now: datetime) -> Life:
    """What a change at `at` leaves: what is in force, or will have been until then."""
    return life if at <= now else _as_planned_until(life, at)


def _require_other(current: Plan, target: Plan, starting_phase: str | None) -> None:
    if current.id == target.id and starting_phase is None:
        raise Conflict("It would be on this version of this plan then in any case.", code="plan_unchanged")


def published_version(session: Session, key: str, number: int | None) -> Plan:
    """To migrate to: any version that was published, as back to an older one is allowed; by default the one on sale.

    Raises NotFound, Conflict.
    """
    plan = plans.newest_active(session, key) if number is None else plans.get_version(session, key, number)
    if plan is None and number is not None:
        place: Fault = {"pointer": "/targetVersion", "detail": "the plan has no such version"}
        raise NotFound("There is no such version of the plan.", code="plan_not_found", errors=[place])
    if plan is None or plan.status == "draft":
        raise Conflict("No version to migrate to is published.", code="plan_not_active")
    return plan


def _require_same_phase(target: Plan, phase: str) -> None:
    if phase not in [one["key"] for one in target.phases]:
        detail = f"is required: version {target.version} has no phase '{phase}' to go on with"
        raise Invalid([{"pointer": "/startingPhase", "detail": detail}])

"""Add-ons beside a subscription's plan: have some, have more or fewer, take back what is planned.

    more     at once, unless `timing` says otherwise; fees in advance are charged for what is left of their period
    fewer    with the next billing cycle, unless `timing` says otherwise. What was paid for is not given back, so until
             then nothing would be saved; 0 removes the add-on

Only an active subscription may order; who is paused or canceled can still take back what is planned. A change of plan
ends add-ons that the new plan does not offer, with credit by the rule of the plan's own fees (see `credit`).
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field
from sqlmodel import Session

from farebox_portal import audit
from farebox_portal.catalog import addon_offers, addons
from farebox_portal.catalog.addon_document import QUANTITY_MAX, AddonChoice, Quantity
from farebox_portal.catalog.addon_rules import clashes
from farebox_portal.catalog.tables import Addon, Plan
from farebox_portal.customers import accounts
from farebox_portal.documents import Input, Instant, Output, Whole
from farebox_portal.errors import Conflict, Invalid, NotFound
from farebox_portal.ids import new_id
from farebox_portal.subscriptions import rows
from farebox_portal.subscriptions.addon_holds import Hold, Order, Piece, pieces, timeline
from farebox_portal.subscriptions.addon_rows import offers_of
from farebox_portal.subscriptions.document import AddonReference, refer_addon
from farebox_portal.subscriptions.life import Command, HaveAddon, Life, UnscheduleAddon, apply, require_taken
from farebox_portal.subscriptions.lifecycle import Timing, effective_at
from farebox_portal.subscriptions.stretches import Stretch, stretch_at, stretches
from farebox_portal.subscriptions.tables import Subscription, SubscriptionAddon

Plans = dict[str, Plan]


class AddonOrderInput(Input):
    addon: AddonChoice
    quantity: Quantity = 1
    timing: Timing = "immediate"


class QuantityInput(Input):
    """`timing`: left out, more of it takes effect at once, and fewer with the next billing cycle."""

    quantity: Annotated[Whole, Field(ge=0, le=QUANTITY_MAX)]
    timing: Timing | None = None


class QuantityPeriod(Output):
    """`to`: null while nothing ends it."""

    from_: Annotated[Instant, Field(alias="from")]
    to: Instant | None
    quantity: int


class SubscriptionAddonDocument(Output):
    """`quantity`: now. `timeline`: all that was in force or, as things stand, will be; its periods touch."""

    id: str
    subscription_id: str
    addon: AddonReference
    status: Literal["scheduled", "active", "inactive"]
    quantity: int
    active_from: Instant
    active_to: Instant | None
    timeline: list[QuantityPeriod]
    created_at: Instant
    updated_at: Instant


# --- finding ---------------------------------------------------------------------------------------------------------


def show_all(session: Session, subscription: Subscription, now: datetime) -> list[SubscriptionAddonDocument]:
    """Also those that are over; the oldest first."""
    life = rows.read_life(session, subscription)
    cut = stretches(life, rows.read_plans(session, [life]))
    return [_show(session, subscription, hold, cut, now) for hold in life.addons]


def show(session: Session, subscription: Subscription, hold_id: str, now: datetime) -> SubscriptionAddonDocument:
    """Raises NotFound."""
    life = rows.read_life(session, subscription)
    cut = stretches(life, rows.read_plans(session, [life]))
    return _show(session, subscription, _hold(life, hold_id), cut, now)


def _hold(life: Life, hold_id: str) -> Hold:
    for hold in life.addons:
        if hold.id == hold_id:
            return hold
    raise NotFound("The subscription has no such add-on.", code="subscription_addon_not_found")


def _show(
    session: Session, subscription: Subscription, hold: Hold, life: Sequence[Stretch], now: datetime
) -> SubscriptionAddonDocument:
    row = session.get_one(SubscriptionAddon, hold.id)
    found = timeline(hold, life)
    quantity = next((piece.quantity for piece in found if piece.is_in_force(now)), 0)
    is_ahead = bool(found) and found[0].start > now
    return SubscriptionAddonDocument(
        id=hold.id,
        subscription_id=subscription.id,
        addon=refer_addon(hold.addon),
        status="active" if quantity else "scheduled" if is_ahead else "inactive",
        quantity=quantity,
        active_from=found[0].start if found else hold.orders[0].at,
        active_to=found[-1].end if found else hold.orders[0].at,
        timeline=[QuantityPeriod(from_=piece.start, to=piece.end, quantity=piece.quantity) for piece in found],
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


# --- the steps -------------------------------------------------------------------------------------------------------


def add(session: Session, subscription: Subscription, wanted: AddonOrderInput, now: datetime) -> str:
    """The id of the new hold. Raises Invalid, and Conflict: it is there already, not offered, or clashes with one."""
    life, plans = _begin(session, subscription, HaveAddon, now)
    addon = addons.choose(session, wanted.addon)
    at = effective_at(life, plans, wanted.timing, now)
    cut = stretches(life, plans)
    for other in life.addons:
        if other.addon.id == addon.id and _is_there(timeline(other, cut), at):
            detail = f"The subscription has this add-on already; change its quantity ({other.id})."
            raise Conflict(detail, code="addon_exists")
    _require_offered(session, addon, cut[stretch_at(cut, at)], wanted.quantity)
    hold = Hold(new_id(now), addon, (Order(at, wanted.quantity),), offers_of(session, addon))
    _require_no_clash(hold, life, plans, at, now)
    _take(session, subscription, life, HaveAddon(hold), "add_addon", now)
    return hold.id


def change(session: Session, subscription: Subscription, hold_id: str, wanted: QuantityInput, now: datetime) -> None:
    """Another quantity from some instant on; what was planned for then or later gives way.

    Raises NotFound, Invalid, and Conflict: it is over then, not offered any more, or nothing would change.
    """
    life, plans = _begin(session, subscription, HaveAddon, now)
    hold, cut = _hold(life, hold_id), stretches(life, plans)
    at = _changes_at(hold, wanted, life, plans, now)
    earlier = replace(hold, orders=tuple(order for order in hold.orders if order.at < at))
    there = [piece.quantity for piece in pieces(earlier, cut) if piece.is_in_force(at)] if earlier.orders else [0]
    if not there:
        raise Conflict("The add-on is over then; order it again.", code="addon_inactive")
    if not earlier.orders and wanted.quantity == 0:
        raise Conflict("The add-on has not begun then; take it back instead.", code="addon_not_begun")
    if wanted.quantity > there[0]:
        _require_offered(session, hold.addon, cut[stretch_at(cut, at)], wanted.quantity)
    after = hold.with_order(Order(at, wanted.quantity))
    if after == hold:
        raise Conflict("It is this quantity then in any case.", code="addon_unchanged")
    if wanted.quantity:
        _require_no_clash(after, life, plans, at, now)
    _take(session, subscription, life, HaveAddon(after), "change_addon", now)


def unschedule(session: Session, subscription: Subscription, hold_id: str, now: datetime) -> None:
    """Take back what is planned for it; one that has not begun is gone then. Raises NotFound, Conflict."""
    life, plans = _begin(session, subscription, UnscheduleAddon, now)
    hold = _hold(life, hold_id)
    _require_no_clash(hold.begun(now), life, plans, now, now)
    _take(session, subscription, life, UnscheduleAddon(hold.id), "unschedule_addon", now)


def _begin(session: Session, subscription: Subscription, kind: type[Command], now: datetime) -> tuple[Life, Plans]:
    accounts.touch(session, subscription.customer_id)
    session.refresh(subscription)
    life = rows.read_life(session, subscription)
    require_taken(life, kind, now)
    return life, rows.read_plans(session, [life])


def _take(session: Session, subscription: Subscription, life: Life, command: Command, verb: str, now: datetime) -> None:
    after = apply(life, command, now)
    assert after is not None
    rows.write_life(session, subscription, after, now)
    before, later = ({"addons": [_facts(hold) for hold in one.addons]} for one in (life, after))
    audit.record(session, f"subscription.{verb}", "subscription", subscription.id, now, before=before, after=later)


def _changes_at(hold: Hold, wanted: QuantityInput, life: Life, plans: Plans, now: datetime) -> datetime:
    if wanted.timing is not None:
        return effective_at(life, plans, wanted.timing, now)
    begun = hold.begun(now).orders
    if not begun:
        return hold.orders[0].at
    is_more = wanted.quantity > begun[-1].quantity
    return effective_at(life, plans, "immediate" if is_more else "next_billing_cycle", now)


# --- the rules -------------------------------------------------------------------------------------------------------


def _is_there(in_force: list[Piece], at: datetime) -> bool:
    """Then or later."""
    return bool(in_force) and (in_force[-1].end is None or at < in_force[-1].end)


def _require_offered(session: Session, addon: Addon, stretch: Stretch, quantity: int) -> None:
    """That the plan which is in force then offers so many. Raises Conflict, Invalid."""
    if addon.status != "active":
        detail = f"Version {addon.version} of '{addon.key}' is not sold any more; what there is of it stays."
        raise Conflict(detail, code="addon_not_active")
    offer = next((offer for offer, theirs in addon_offers.every(session, stretch.plan) if theirs.id == addon.id), None)
    keys = [phase["key"] for phase in stretch.plan.phases]
    if offer is None or keys.index(stretch.phase["key"]) < keys.index(offer.from_plan_phase):
        when = "" if offer is None else f" before its phase '{offer.from_plan_phase}'"
        detail = f"The plan '{stretch.plan.key}' does not offer version {addon.version} of '{addon.key}'{when}."
        raise Conflict(detail, code="addon_not_offered")
    most = 1 if addon.instance_type == "single" else offer.max_quantity
    if most is not None and quantity > most:
        raise Invalid([{"pointer": "/quantity", "detail": f"must be at most {most}, which is what the plan offers"}])


def _require_no_clash(hold: Hold, life: Life, plans: Plans, at: datetime, now: datetime) -> None:
    """With another add-on that is there then or later, also if a planned change or end of the plan is taken back.

    Raises Conflict.
    """
    if not hold.orders or hold.orders[-1].quantity == 0:
        return
    begun = tuple(segment for segment in life.segments if segment.start <= max(now, life.start))
    for one in (life, replace(life, end=None, segments=begun)):
        cut = stretches(one, plans)
        cadence = cut[stretch_at(cut, at)].plan.billing_cadence
        for other in life.addons:
            if other.id == hold.id or not _is_there(timeline(other, cut), at):
                continue
            for clash in clashes(other.addon.rate_cards, cadence, hold.addon.rate_cards, cadence):
                detail = f"It does not go together with the add-on '{other.addon.key}': {clash}."
                raise Conflict(detail, code="addon_clash")


def _facts(hold: Hold) -> dict[str, Any]:
    """A hold as the audit log keeps it."""
    return {
        "id": hold.id,
        "addonId": hold.addon.id,
        "orders": [{"from": order.at.isoformat(), "quantity": order.quantity} for order in hold.orders],
    }

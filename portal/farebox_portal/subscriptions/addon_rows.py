"""Rows <-> holds: which add-ons subscriptions have, with every offer that says how long."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime

from sqlmodel import Session, col, select

from farebox_portal.catalog.tables import Addon, PlanAddon
from farebox_portal.subscriptions.addon_holds import Hold, Offer, Order
from farebox_portal.subscriptions.tables import QuantityRow, Subscription, SubscriptionAddon


def read_holds(session: Session, subscription_ids: Sequence[str]) -> dict[str, tuple[Hold, ...]]:
    """By subscription, the oldest first; without those that have none. A few hundred ids at a time."""
    held = (
        select(SubscriptionAddon, Addon).join(Addon).where(col(SubscriptionAddon.subscription_id).in_(subscription_ids))
    )
    found = session.exec(held.order_by(col(SubscriptionAddon.created_at), col(SubscriptionAddon.id))).all()
    if not found:
        return {}
    orders = _orders(session, [row.id for row, _ in found])
    offers = _offers(session, sorted({addon.id for _, addon in found}))
    holds: dict[str, tuple[Hold, ...]] = defaultdict(tuple)
    for row, addon in found:
        holds[row.subscription_id] += (Hold(row.id, addon, tuple(orders[row.id]), tuple(offers[addon.id])),)
    return holds


def write_holds(session: Session, subscription: Subscription, holds: Sequence[Hold], now: datetime) -> None:
    """Bring the rows up to the holds. Only what differs is written."""
    ours = select(SubscriptionAddon).where(SubscriptionAddon.subscription_id == subscription.id)
    stored = {row.id: row for row in session.exec(ours)}
    if not stored and not holds:
        return
    rows = {row.id: row for row in stored.values()}
    for hold in holds:
        if hold.id not in rows:
            rows[hold.id] = SubscriptionAddon(
                id=hold.id, subscription_id=subscription.id, addon_id=hold.addon.id, created_at=now, updated_at=now
            )
            session.add(rows[hold.id])
    session.flush()
    wanted = {(hold.id, order.at): order.quantity for hold in holds for order in hold.orders}
    quantities = select(QuantityRow).where(col(QuantityRow.subscription_addon_id).in_(list(rows)))
    there = {(row.subscription_addon_id, row.starts_at): row for row in session.exec(quantities)}
    changed = {place[0] for place in there.keys() ^ wanted.keys()}
    for place, row in there.items():
        if place not in wanted:
            session.delete(row)
        elif row.quantity != wanted[place]:
            row.quantity = wanted[place]
            session.add(row)
            changed.add(place[0])
    for (hold_id, at), quantity in wanted.items():
        if (hold_id, at) not in there:
            session.add(QuantityRow(subscription_addon_id=hold_id, starts_at=at, quantity=quantity))
    session.flush()
    kept = {hold.id for hold in holds}
    for hold_id, held in rows.items():
        if hold_id not in kept:
            session.delete(held)
        elif hold_id in changed:
            held.updated_at = now
            session.add(held)
    session.flush()


def offers_of(session: Session, addon: Addon) -> tuple[Offer, ...]:
    """All there ever were of this version."""
    return tuple(_offers(session, [addon.id])[addon.id])


def _orders(session: Session, hold_ids: Sequence[str]) -> dict[str, list[Order]]:
    found: dict[str, list[Order]] = defaultdict(list)
    rows = select(QuantityRow).where(col(QuantityRow.subscription_addon_id).in_(hold_ids))
    for row in session.exec(rows.order_by(col(QuantityRow.starts_at))):
        found[row.subscription_addon_id].append(Order(row.starts_at, row.quantity))
    return found


def _offers(session: Session, addon_ids: Sequence[str]) -> dict[str, list[Offer]]:
    found: dict[str, list[Offer]] = defaultdict(list)
    rows = select(PlanAddon).where(col(PlanAddon.addon_id).in_(addon_ids)).order_by(col(PlanAddon.id))
    for row in session.exec(rows):
        found[row.addon_id].append(Offer(row.plan_id, row.from_plan_phase, row.created_at, row.withdrawn_at))
    return found

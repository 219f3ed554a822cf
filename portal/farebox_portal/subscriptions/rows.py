"""Rows <-> lives. The subscription's row holds the first segment as it is ordered; rows of their own hold the others,
and the first one too where it is paused at the very start.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from fractions import Fraction

from sqlmodel import Session, col, select

from farebox_portal.catalog.tables import Plan
from farebox_portal.subscriptions.addon_holds import Hold
from farebox_portal.subscriptions.addon_rows import read_holds, write_holds
from farebox_portal.subscriptions.life import Life, Segment
from farebox_portal.subscriptions.tables import AT_ONCE, SegmentRow, Subscription

_IDS_AT_ONCE = 500


def read_life(session: Session, subscription: Subscription) -> Life:
    return read_lives(session, [subscription])[subscription.id]


def read_lives(session: Session, subscriptions: Sequence[Subscription]) -> dict[str, Life]:
    """By the id of the subscription."""
    rows: dict[str, list[SegmentRow]] = defaultdict(list)
    holds: dict[str, tuple[Hold, ...]] = {}
    ids = [subscription.id for subscription in subscriptions]
    for at in range(0, len(ids), _IDS_AT_ONCE):
        some = ids[at : at + _IDS_AT_ONCE]
        segments = select(SegmentRow).where(col(SegmentRow.subscription_id).in_(some))
        for row in session.exec(segments.order_by(col(SegmentRow.starts_at))):
            rows[row.subscription_id].append(row)
        holds |= read_holds(session, some)
    return {one.id: life_of(one, rows[one.id], holds.get(one.id, ())) for one in subscriptions}


def life_of(subscription: Subscription, later: Iterable[SegmentRow], addons: tuple[Hold, ...] = ()) -> Life:
    first = _plain(subscription.active_from, subscription.plan_id, subscription.starting_phase)
    stored = {row.starts_at: _segment(row) for row in later}
    segments = ({first.start: first} | stored).values()
    return Life(subscription.active_from, subscription.active_to, subscription.billing_anchor, tuple(segments), addons)


def read_plans(session: Session, lives: Iterable[Life]) -> dict[str, Plan]:
    """Every plan version that they are ever on, by id."""
    ids = sorted({segment.plan_id for life in lives for segment in life.segments})
    found: dict[str, Plan] = {}
    for at in range(0, len(ids), _IDS_AT_ONCE):
        rows = session.exec(select(Plan).where(col(Plan.id).in_(ids[at : at + _IDS_AT_ONCE])))
        found |= {plan.id: plan for plan in rows}
    return found


def write_life(session: Session, subscription: Subscription, life: Life, now: datetime) -> None:
    """Bring the rows up to the life. Only what differs is written."""
    first = life.segments[0]
    subscription.plan_id, subscription.starting_phase = first.plan_id, first.phase
    subscription.active_to = life.end
    subscription.invoice_due_at = AT_ONCE
    subscription.updated_at = now
    session.add(subscription)
    is_plain = first == _plain(life.start, first.plan_id, first.phase)
    wanted = {segment.start: segment for segment in life.segments[is_plain:]}
    stored = _stored(session, subscription)
    for starts_at, row in stored.items():
        if starts_at not in wanted:
            session.delete(row)
    for starts_at, segment in wanted.items():
        new = _row(subscription.id, segment)
        if starts_at in stored:
            stored[starts_at].sqlmodel_update(new.model_dump())
        else:
            session.add(new)
    session.flush()
    write_holds(session, subscription, life.addons, now)


def delete(session: Session, subscription: Subscription) -> None:
    """With its segments; its keys have to be gone. It has no add-ons: it has not begun."""
    for row in _stored(session, subscription).values():
        session.delete(row)
    session.flush()
    session.delete(subscription)


def _stored(session: Session, subscription: Subscription) -> Mapping[datetime, SegmentRow]:
    rows = session.exec(select(SegmentRow).where(SegmentRow.subscription_id == subscription.id))
    return {row.starts_at: row for row in rows}


def _plain(start: datetime, plan_id: str, phase: str | None) -> Segment:
    return Segment(start, plan_id, start, phase)


def _row(subscription_id: str, segment: Segment) -> SegmentRow:
    return SegmentRow(
        subscription_id=subscription_id,
        starts_at=segment.start,
        plan_id=segment.plan_id,
        phase=segment.phase,
        phase_start=segment.phase_start,
        is_paused=segment.is_paused,
        is_fresh=segment.is_fresh,
        used_share=None if segment.used_share is None else str(segment.used_share),
    )


def _segment(row: SegmentRow) -> Segment:
    used_share = None if row.used_share is None else Fraction(row.used_share)
    return Segment(row.starts_at, row.plan_id, row.phase_start, row.phase, row.is_paused, row.is_fresh, used_share)

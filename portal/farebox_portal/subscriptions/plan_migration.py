"""Everybody on one version of a plan to another version of it, some hundred at a time. First looked at, then done.

Each moves as if it were asked for alone (`plan_change.plan_migration`): allowances and phase go on, and what is left of
the fees that run is credited by time. Who has planned something else, is paused or is leaving stays where he is, and is
listed with the reason: a customer's own order is not undone by ours.

The look and the migration are the same walk, so what is shown is what happens. It goes by the ids of subscriptions:
`next` of one answer is `after` of the next question, and a walk that is begun anew moves only who has not moved yet.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from pydantic import Field
from sqlalchemy import or_
from sqlmodel import Session, col, select

from farebox_portal.catalog import plans
from farebox_portal.catalog.plan_changes import plan_changes
from farebox_portal.catalog.tables import Plan
from farebox_portal.documents import Input, Key, Output, Whole
from farebox_portal.errors import Conflict, FareboxError
from farebox_portal.pricing.money import currency, decimal_text
from farebox_portal.subscriptions.document import PlanReference, refer
from farebox_portal.subscriptions.life import scheduled
from farebox_portal.subscriptions.lifecycle import Timing, require_phase
from farebox_portal.subscriptions.plan_change import (
    MigrateInput,
    PlannedChange,
    carry_out,
    lock,
    plan_migration,
    published_version,
)
from farebox_portal.subscriptions.rows import read_lives
from farebox_portal.subscriptions.tables import SegmentRow, Subscription

AT_ONCE = 500


class PlanMigrationInput(Input):
    """`targetVersion`: left out, the one on sale. `startingPhase`: left out, each goes on in the phase that it is in.

    `limit`: look at no more subscriptions than this; `after`: go on behind this one.
    """

    target_version: Annotated[Whole, Field(ge=1, le=1_000_000)] | None = None
    timing: Timing = "immediate"
    starting_phase: Key | None = None
    limit: Annotated[Whole, Field(ge=1, le=AT_ONCE)] = 200
    after: Annotated[str, Field(max_length=64)] | None = None


class PlanChangeDocument(Output):
    """What differs between the two versions; null: it is not there."""

    field: str
    phase: str | None
    rate_card: str | None
    before: Any
    after: Any


class StayingDocument(Output):
    """One that cannot move, and why: the code and words with which it would be refused alone."""

    subscription_id: str
    code: str
    detail: str


class PlanMigrationDocument(Output):
    """`migrated`: subscriptions that moved, or in a preview would. `credit`: of their running fees, all together, as if
    all had been paid. `next`: hand it in as `after` for the rest; left out: there is no more.
    """

    plan: PlanReference
    target: PlanReference
    changes: list[PlanChangeDocument]
    migrated: int
    staying: list[StayingDocument]
    credit: str
    currency: str
    next: str | None


@dataclass(frozen=True)
class _Walked:
    subscription_id: str
    found: PlannedChange | FareboxError


def preview(session: Session, plan: Plan, wanted: PlanMigrationInput, now: datetime) -> PlanMigrationDocument:
    """What `migrate` with the same input would do now. Writes nothing. Raises NotFound, Conflict, Invalid."""
    target = _target(session, plan, wanted)
    page, following = _page(session, plan, wanted, now)
    walked = [_look(session, row, target, wanted, now) for row in page]
    return _show(plan, target, walked, following)


def migrate(session: Session, plan: Plan, wanted: PlanMigrationInput, now: datetime) -> PlanMigrationDocument:
    """Move those that can be. Raises NotFound, Conflict, Invalid."""
    target = _target(session, plan, wanted)
    page, following = _page(session, plan, wanted, now)
    walked = []
    for row in page:
        lock(session, row)
        # Before we had the account to ourselves it may have moved, or ended.
        if not _is_on(session, [row], plan, now):
            continue
        one = _look(session, row, target, wanted, now)
        if isinstance(one.found, PlannedChange):
            carry_out(session, one.found, now)
        walked.append(one)
    return _show(plan, target, walked, following)


def _target(session: Session, plan: Plan, wanted: PlanMigrationInput) -> Plan:
    target = published_version(session, plan.key, wanted.target_version)
    if target.id == plan.id:
        raise Conflict("This is the version to migrate from; name another one.", code="plan_unchanged")
    require_phase(target, wanted.starting_phase)
    return target


def _page(
    session: Session, plan: Plan, wanted: PlanMigrationInput, now: datetime
) -> tuple[list[Subscription], str | None]:
    """Those who are on the plan, and where to go on."""
    segments = select(SegmentRow.subscription_id).where(SegmentRow.plan_id == plan.id)
    asked = (
        select(Subscription)
        .where(or_(col(Subscription.plan_id) == plan.id, col(Subscription.id).in_(segments)))
        .where(or_(col(Subscription.active_to).is_(None), col(Subscription.active_to) > now))
        .order_by(col(Subscription.id))
        .limit(wanted.limit + 1)
    )
    if wanted.after is not None:
        asked = asked.where(col(Subscription.id) > wanted.after)
    found = session.exec(asked).all()
    looked_at = found[: wanted.limit]
    following = looked_at[-1].id if len(found) > len(looked_at) else None
    return list(_is_on(session, looked_at, plan, now)), following


def _is_on(session: Session, rows: Sequence[Subscription], plan: Plan, now: datetime) -> list[Subscription]:
    lives = read_lives(session, rows)
    return [
        row
        for row in rows
        if lives[row.id].state(now) != "inactive"
        and lives[row.id].segment_at(max(now, lives[row.id].start)).plan_id == plan.id
    ]


def _look(session: Session, row: Subscription, target: Plan, wanted: PlanMigrationInput, now: datetime) -> _Walked:
    alone = MigrateInput.model_validate(
        {"targetVersion": target.version, "timing": wanted.timing, "startingPhase": wanted.starting_phase}
    )
    try:
        planned = plan_migration(session, row, alone, now)
        if any(event.kind not in ("start", "end") for event in scheduled(planned.before, now)):
            raise Conflict("Something else is planned for it; take that back first.", code="change_scheduled")
    except FareboxError as fault:
        return _Walked(row.id, fault)
    return _Walked(row.id, planned)


def _show(plan: Plan, target: Plan, walked: list[_Walked], following: str | None) -> PlanMigrationDocument:
    of = currency(plan.currency)
    moving = [one.found for one in walked if isinstance(one.found, PlannedChange)]
    return PlanMigrationDocument(
        plan=refer(plan),
        target=refer(target),
        changes=[
            PlanChangeDocument(
                field=one.field, phase=one.phase, rate_card=one.rate_card, before=one.before, after=one.after
            )
            for one in plan_changes(plans.document_of(plan), plans.document_of(target))
        ],
        migrated=len(moving),
        staying=list(_staying(walked)),
        credit=decimal_text(sum(one.credit_minor for one in moving), of),
        currency=of.code,
        next=following,
    )


def _staying(walked: list[_Walked]) -> Iterator[StayingDocument]:
    for one in walked:
        if isinstance(one.found, FareboxError):
            yield StayingDocument(subscription_id=one.subscription_id, code=one.found.code, detail=one.found.detail)

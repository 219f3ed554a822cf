"""How many invoices wait to be collected, how fast they are, and when the last of them will be."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlmodel import Session, col, func, select

from farebox_portal.documents import Instant, Output
from farebox_portal.payments.account import connected
from farebox_portal.payments.collect import unenrolled
from farebox_portal.payments.tables import Collection

LOOKS_BACK = timedelta(minutes=5)
CALLS = 11
"""Requests that an invoice of three lines takes until it is paid: 8, and one for each line."""


class ProgressDocument(Output):
    """`waiting`: a try to take their money is due now. `perMinute`: measured over the last minutes, or, while there
    is nothing to measure, what the provider is asked at most; absent when nobody limits it. `finishesAt`: an estimate.
    """

    waiting: int
    oldest_at: Instant | None
    collected_lately: int
    per_minute: float | None
    finishes_at: Instant | None


@dataclass(frozen=True, slots=True)
class Tried:
    """How many were tried, from when on, in the last minutes."""

    count: int
    since: datetime | None


def progress(session: Session, now: datetime, per_s: float | None) -> ProgressDocument:
    """`per_s`: how fast the provider is asked; None: as fast as it answers."""
    waiting, oldest_at = _waiting(session, now)
    lately = _lately(session, now)
    per_minute = rate_per_minute(lately, now, per_s)
    return ProgressDocument(
        waiting=waiting,
        oldest_at=oldest_at,
        collected_lately=lately.count,
        per_minute=None if per_minute is None else round(per_minute, 1),
        finishes_at=finishes_at(waiting, per_minute, now),
    )


def rate_per_minute(lately: Tried, now: datetime, per_s: float | None) -> float | None:
    """Pure. Measured from the first of those tried lately; two at least, as one has no duration."""
    if lately.count > 1 and lately.since is not None and lately.since < now:
        return lately.count / ((now - lately.since) / timedelta(minutes=1))
    return None if per_s is None else per_s * 60 / CALLS


def finishes_at(waiting: int, per_minute: float | None, now: datetime) -> datetime | None:
    """Pure. None: nothing waits, or nobody can tell."""
    if not waiting or not per_minute:
        return None
    return now + timedelta(minutes=waiting / per_minute)


def _waiting(session: Session, now: datetime) -> tuple[int, datetime | None]:
    account = connected(session)
    if account is None:
        return 0, None
    is_due = col(Collection.pay_at) <= now, col(Collection.look_at).is_not(None), Collection.state != "stopped"
    count, oldest_at = session.exec(select(func.count(), func.min(Collection.pay_at)).where(*is_due)).one()
    new = session.exec(select(func.count()).select_from(unenrolled(account).subquery())).one()
    return count + new, oldest_at


def _lately(session: Session, now: datetime) -> Tried:
    tried = col(Collection.state).in_(("done", "failed", "action_required")), Collection.updated_at > now - LOOKS_BACK
    count, since = session.exec(select(func.count(), func.min(Collection.updated_at)).where(*tried)).one()
    return Tried(count, since)

"""Putting the test clock forward, and everything that comes due on the way, in order.

A subscription needs nobody to carry out what was planned for it; so an advance has only to let the instants pass, tell
which those were, and have every account published anew, as each one's time has moved.
"""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from sqlalchemy import update
from sqlmodel import Session, col, select

from farebox_portal import audit
from farebox_portal.clock import Clock, Timeline
from farebox_portal.customers.tables import Customer
from farebox_portal.documents import Input, Instant, Output
from farebox_portal.durations import parse_duration
from farebox_portal.errors import Conflict, Invalid
from farebox_portal.subscriptions.addon_holds import quantities
from farebox_portal.subscriptions.life import events
from farebox_portal.subscriptions.rows import read_lives, read_plans
from farebox_portal.subscriptions.stretches import stretches
from farebox_portal.subscriptions.tables import ApiKey, Subscription
from farebox_portal.testclock import ClockAdvance, TestClock, read_timeline

FURTHEST = timedelta(days=5 * 366)
SHOWN_MAX = 1000
Invoice = Callable[[Session, datetime], int]
"""Makes every invoice that is due at an instant; how many."""
Kind = Literal["start", "change", "phase", "pause", "resume", "end", "addon", "key_expiry"]


def _check_duration(text: str) -> str:
    parse_duration(text)
    return text


class AdvanceInput(Input):
    """`by` how much, or `to` when."""

    by: Annotated[str, AfterValidator(_check_duration), Field(examples=["P1M"])] | None = None
    to: Instant | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.by is None) == (self.to is None):
            raise ValueError("give either by or to")
        return self


class ClockDocument(Output):
    """`now` in the portal, `wall` where the gateway lives."""

    now: Instant
    wall: Instant


class Happening(Output):
    at: Instant
    kind: Kind
    customer_id: str
    subscription_id: str
    key_id: str | None = None


class AdvanceDocument(ClockDocument):
    """`happened`: what came due, in order; the first SHOWN_MAX of `happenedCount`. `invoices`: so many were made
    or added to.
    """

    advanced_from: Instant
    happened: list[Happening]
    happened_count: int
    invoices: int


def test_clock(clock: Clock) -> TestClock:
    """Raises Conflict where time is not to be played with."""
    if not isinstance(clock, TestClock):
        raise Conflict(
            "Only the environment `test` has a clock that can be put forward.", code="test_clock_unavailable"
        )
    return clock


def show(session: Session, clock: TestClock) -> ClockDocument:
    wall = clock.wall.now()
    return ClockDocument(now=read_timeline(session).portal(wall), wall=wall)


def advance(session: Session, clock: TestClock, wanted: AdvanceInput, invoice: Invoice) -> AdvanceDocument:
    """Forward only. Raises Invalid for an instant that has passed, or one that is further away than FURTHEST."""
    wall, timeline = clock.wall.now(), read_timeline(session)
    now = timeline.portal(wall)
    to = _target(wanted, now)
    happened = sorted(_due(session, now, to), key=lambda one: (one.at, one.customer_id, one.subscription_id))
    _put_forward(session, timeline, wall, to)
    audit.record(
        session,
        "clock.advance",
        "test_clock",
        "only",
        to,
        before={"now": now.isoformat()},
        after={"now": to.isoformat()},
    )
    return AdvanceDocument(
        now=to,
        wall=wall,
        advanced_from=now,
        happened=happened[:SHOWN_MAX],
        happened_count=len(happened),
        invoices=invoice(session, to),
    )


def _target(wanted: AdvanceInput, now: datetime) -> datetime:
    place = "/to" if wanted.by is None else "/by"
    try:
        to = wanted.to if wanted.by is None else parse_duration(wanted.by).after(now)
    except (OverflowError, ValueError):
        to = None
    if to is None or not now < to <= now + FURTHEST:
        raise Invalid([{"pointer": place, "detail": f"must lead forward from {now.isoformat()}, at most 5 years"}])
    return to


def _put_forward(session: Session, timeline: Timeline, wall: datetime, to: datetime) -> None:
    # The number is given here so that of two who advance from the same instant one is refused.
    session.add(ClockAdvance(number=len(timeline.advances) + 1, wall_at=wall, advanced_to=to))
    session.exec(update(Customer).values(entitlements_version=col(Customer.entitlements_version) + 1))
    session.flush()


def _due(session: Session, after: datetime, until: datetime) -> Iterator[Happening]:
    """What happens to subscriptions and keys in (after, until]."""
    rows = session.exec(select(Subscription)).all()
    lives = read_lives(session, rows)
    plans = read_plans(session, lives.values())
    for row in rows:
        life = lives[row.id]
        found: list[tuple[datetime, Kind]] = [(event.at, event.kind) for event in events(life)]
        if found:
            cut = stretches(life, plans)
            found += [(one.start, "phase") for one in cut if one.is_next_phase]
            found += [(at, "addon") for hold in life.addons for at, _ in quantities(hold, cut) if at != life.end]
        for at, kind in found:
            if after < at <= until:
                yield Happening(at=at, kind=kind, customer_id=row.customer_id, subscription_id=row.id)
    expiring = select(ApiKey).where(
        col(ApiKey.revoked_at).is_(None), col(ApiKey.expires_at) > after, col(ApiKey.expires_at) <= until
    )
    for key in session.exec(expiring):
        assert key.expires_at is not None
        yield Happening(
            at=key.expires_at,
            kind="key_expiry",
            customer_id=key.customer_id,
            subscription_id=key.subscription_id,
            key_id=key.id,
        )

"""A clock that can be put forward, for the environment `test`: a year of subscriptions and invoices in an afternoon.

It does not stand still: it is the wall's clock, some time ahead. It only goes forward, as what has happened stays so.

    moved        `now` in the whole portal: subscriptions begin, change, pause and end; phases and billing periods pass;
                 keys expire; invites, idempotency keys and everything else that the portal dates
    moved along  admission: the gateway itself lives by the wall's clock, so every instant in what is published to it is
                 told in the wall's time. What an advance passes over has happened for it too, at the moment of the
                 advance: a quota whose period is over by then is full again
    not moved    the gateway's clock: rate limits, durations, and the instants of usage, which stay those of the wall. A
                 quota counts them in its period all the same; a query of a meter shows them when they really were
"""

from datetime import datetime

from sqlalchemy import Engine
from sqlmodel import Field, Session, SQLModel, col, select

from farebox_portal.clock import Clock, SystemClock, Timeline
from farebox_portal.db import UTCDateTime, transaction
from farebox_portal.settings import Settings


class ClockAdvance(SQLModel, table=True):
    """When the wall showed `wall_at`, the portal's time jumped to `advanced_to`."""

    __tablename__ = "clock_advances"

    number: int | None = Field(default=None, primary_key=True)
    wall_at: datetime = Field(sa_type=UTCDateTime)
    advanced_to: datetime = Field(sa_type=UTCDateTime)


class TestClock:
    """The wall's clock, as far ahead as it was put. Asks the database, so that all processes have the same time."""

    __test__ = False  # pytest takes it for a class of tests

    def __init__(self, engine: Engine, wall: Clock) -> None:
        self._engine = engine
        self.wall = wall

    def now(self) -> datetime:
        with transaction(self._engine, read_only=True) as session:
            return read_timeline(session).portal(self.wall.now())


def portal_clock(settings: Settings, engine: Engine) -> Clock:
    """In `test` the one that can be put forward; else the wall's, whatever the database says."""
    return TestClock(engine, SystemClock()) if settings.environment == "test" else SystemClock()


def read_timeline(session: Session) -> Timeline:
    rows = session.exec(select(ClockAdvance).order_by(col(ClockAdvance.number)))
    return Timeline(tuple((row.wall_at, row.advanced_to) for row in rows))

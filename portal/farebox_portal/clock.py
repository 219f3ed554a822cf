"""The only file that reads the wall clock. Everywhere else `now` is an argument, so that a year runs in a second."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    def now(self) -> datetime:
        """The current instant, aware, UTC."""
        ...


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)


@dataclass
class FrozenClock:
    """Stands still until told otherwise. For tests and simulations."""

    instant: datetime

    def now(self) -> datetime:
        return self.instant

    def advance(self, by: timedelta) -> None:
        self.instant += by


@dataclass(frozen=True)
class Timeline:
    """How the portal's time runs beside the wall's when it has been put forward.

    `advances`: (on the wall, in the portal), ascending; at the one instant it jumps to the other, and runs on from
    there.
    The gateway lives by the wall, and so does the usage that it reports. Without advances the two are the same.
    """

    advances: tuple[tuple[datetime, datetime], ...] = ()

    def portal(self, wall: datetime) -> datetime:
        """The portal's time when the wall shows this."""
        for at, to in reversed(self.advances):
            if at <= wall:
                return to + (wall - at)
        return wall

    def wall(self, instant: datetime) -> datetime:
        """When the portal's time gets there. An instant that a jump leaves out comes with the jump."""
        found = instant
        for at, to in self.advances:
            if instant < to:
                return min(found, at)
            found = at + (instant - to)
        return found


def to_ms(instant: datetime) -> int:
    """Milliseconds since the epoch, exact."""
    return (instant - _EPOCH) // timedelta(milliseconds=1)


def from_ms(milliseconds: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=milliseconds)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def whole_ms(instant: datetime) -> datetime:
    """Without what the gateway's clock does not tell apart."""
    return instant - timedelta(microseconds=instant.microsecond % 1000)

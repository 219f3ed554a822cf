"""Billing and usage periods: half-open, and each computed from the anchor, never from the period before.

Counting from the anchor is what keeps a subscription that began on 31 January on the last day of every month
(28 February, 31 March, …) instead of sliding to the 28th for good.
"""

from calendar import monthrange
from dataclasses import dataclass
from datetime import datetime, timedelta

_HOURS = {"PT1H": 1, "P1D": 24, "P1W": 24 * 7, "P2W": 24 * 14, "P4W": 24 * 28}
_MONTHS = {"P1M": 1, "P3M": 3, "P6M": 6, "P12M": 12, "P1Y": 12}
CADENCES = (*_HOURS, *_MONTHS)
"""The ISO 8601 durations that something may be billed by or reset by."""
LASTING = "P100Y"
"""What a quota that never comes anew is reset by: prepaid units, of which no reset takes any."""


@dataclass(frozen=True)
class Period:
    """The instants from `start` up to but not including `end`; both aware, UTC."""

    start: datetime
    end: datetime

    def __contains__(self, instant: datetime) -> bool:
        return self.start <= instant < self.end


def boundary(anchor: datetime, cadence: str, n: int) -> datetime:
    """Where period `n` begins; period 0 at the anchor. Raises ValueError for another cadence than these."""
    if cadence in _HOURS:
        return anchor + n * timedelta(hours=_HOURS[cadence])
    month = anchor.year * 12 + anchor.month - 1 + n * _months(cadence)
    year, month = divmod(month, 12)
    day = min(anchor.day, monthrange(year, month + 1)[1])
    return anchor.replace(year=year, month=month + 1, day=day)


def index_at(anchor: datetime, cadence: str, at: datetime) -> int:
    """The number of the period that contains `at`; negative before the anchor."""
    if cadence in _HOURS:
        return (at - anchor) // timedelta(hours=_HOURS[cadence])
    months = (at.year - anchor.year) * 12 + at.month - anchor.month
    n = months // _months(cadence)
    return n if boundary(anchor, cadence, n) <= at else n - 1


def period_at(anchor: datetime, cadence: str, at: datetime) -> Period:
    """The period that contains `at`."""
    n = index_at(anchor, cadence, at)
    return Period(boundary(anchor, cadence, n), boundary(anchor, cadence, n + 1))


def boundaries(anchor: datetime, cadence: str, from_: datetime, count: int) -> list[datetime]:
    """`count` boundaries in order; the first is the start of the period that contains `from_`."""
    n = index_at(anchor, cadence, from_)
    return [boundary(anchor, cadence, n + step) for step in range(count)]


def aligned(one: str, other: str) -> bool:
    """Whether two cadences are the same or one fits into the other a whole number of times, in every month there is.

    P1M and P3M do, P1D and P1M do, P1M and P4W do not: a month is not a whole number of weeks. Raises ValueError for a
    cadence not in CADENCES.
    """
    for cadence in (one, other):
        if cadence not in CADENCES:
            raise ValueError(f"{cadence!r} is not one of {', '.join(CADENCES)}")
    for length in (_HOURS, _MONTHS):
        if one in length and other in length:
            return max(length[one], length[other]) % min(length[one], length[other]) == 0
    return bool({one, other} & {"PT1H", "P1D"})


def _months(cadence: str) -> int:
    if cadence == LASTING:
        return 12 * 100
    if cadence not in _MONTHS:
        raise ValueError(f"{cadence!r} is not one of {', '.join(CADENCES)}")
    return _MONTHS[cadence]

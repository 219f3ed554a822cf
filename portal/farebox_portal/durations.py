"""ISO 8601 durations (`P1M`, `PT90S`) as they stand in documents."""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from dateutil.relativedelta import relativedelta

_PATTERN = re.compile(
    r"P(?=[0-9T])(?:(?P<years>[0-9]{1,4})Y)?(?:(?P<months>[0-9]{1,4})M)?(?:(?P<weeks>[0-9]{1,4})W)?(?:(?P<days>[0-9]{1,5})D)?"
    r"(?:T(?=[0-9])(?:(?P<hours>[0-9]{1,6})H)?(?:(?P<minutes>[0-9]{1,7})M)?(?:(?P<seconds>[0-9]{1,9})S)?)?"
)


@dataclass(frozen=True)
class Duration:
    """Calendar months and a fixed span. Adding months keeps the day, or takes the month's last."""

    months: int
    span: timedelta

    def after(self, instant: datetime) -> datetime:
        return instant + relativedelta(months=self.months) + self.span

    @property
    def shortest(self) -> timedelta:
        """No shorter than this, wherever in the calendar it lies."""
        return timedelta(days=28 * self.months) + self.span


def parse_duration(text: str) -> Duration:
    """Raises ValueError with the reason."""
    found = _PATTERN.fullmatch(text)
    if found is None:
        raise ValueError("must be an ISO 8601 duration such as P1M, P1D or PT1H")
    number = {name: int(digits or 0) for name, digits in found.groupdict().items()}
    span = timedelta(
        weeks=number["weeks"],
        days=number["days"],
        hours=number["hours"],
        minutes=number["minutes"],
        seconds=number["seconds"],
    )
    return Duration(12 * number["years"] + number["months"], span)

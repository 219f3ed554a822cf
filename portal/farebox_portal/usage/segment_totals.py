"""What was used in each of some spans of time, for the burn-down of entitlements: many sums in few queries."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlmodel import Session

from farebox_portal.clock import Timeline, to_ms
from farebox_portal.pricing.grants import Usage
from farebox_portal.pricing.period import Period
from farebox_portal.usage.grants import Allowance
from farebox_portal.usage.totals import Span, meter_total, totals


@dataclass(frozen=True)
class Wanted:
    """Of this subscription and allowance, what was used in each of these times; of those that have begun."""

    subscription_id: str
    allowance: Allowance
    times: Sequence[Period]


def segment_usage(
    session: Session, wanted: Sequence[Wanted], timeline: Timeline, now: datetime
) -> list[tuple[Usage, ...]]:
    """Of each that was wanted the sums, each dated at the start of its time; those of zero units are left out."""
    spans = [span for one in wanted if not one.allowance.filters for span in _spans(one, timeline, now)]
    sums = iter(totals(session, spans))
    found = []
    for one in wanted:
        begun = [time for time in one.times if time.start <= now]
        if one.allowance.filters:
            units = [_slice_total(session, one, time, timeline) for time in begun]
        else:
            units = [next(sums) for _ in begun]
        found.append(tuple(Usage(time.start, each) for time, each in zip(begun, units, strict=True) if each))
    return found


def _spans(one: Wanted, timeline: Timeline, now: datetime) -> list[Span]:
    return [
        Span(one.subscription_id, one.allowance.meter, to_ms(timeline.wall(time.start)), to_ms(timeline.wall(time.end)))
        for time in one.times
        if time.start <= now
    ]


def _slice_total(session: Session, one: Wanted, time: Period, timeline: Timeline) -> int:
    start, end = timeline.wall(time.start), timeline.wall(time.end)  # usage is dated by the gateway
    return meter_total(session, one.subscription_id, one.allowance.meter, start, end, one.allowance.filters)

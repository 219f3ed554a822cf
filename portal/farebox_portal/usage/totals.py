"""How much of a meter a subscription used between two instants: the sum that quotas, invoices and pages all read.

Whole hours come from the hourly sums, what is left at both ends from the rows; so a month of any size is quick, and one
that begins in the middle of an hour is exact. One statement reads both, as two could see a delivery in between.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, func, text
from sqlmodel import Session, col, select

from farebox_portal.clock import to_ms
from farebox_portal.usage.book import HOUR_MS
from farebox_portal.usage.tables import UsageHour, UsageRow

_SPANS_IN_ONE_QUERY = 500


@dataclass(frozen=True)
class Span:
    """A subscription's use of a meter in [start_ms, end_ms)."""

    subscription_id: str
    meter: str
    start_ms: int
    end_ms: int


def meter_total(
    session: Session,
    subscription_id: str,
    meter: str,
    start: datetime,
    end: datetime,
    filters: Mapping[str, Any] | None = None,
) -> int:
    """Units used by requests that were admitted in [start, end), whenever they were settled or reported.

    `filters`, see `with_dimensions`: hourly sums know no dimensions, so these are added up row by row.
    """
    span = Span(subscription_id, meter, to_ms(start), to_ms(end))
    return _sum_of_rows(session, span, filters) if filters else totals(session, [span])[0]


def totals(session: Session, spans: Sequence[Span]) -> list[int]:
    """The same for many spans, of one snapshot up to _SPANS_IN_ONE_QUERY of them."""
    found: list[int] = []
    for at in range(0, len(spans), _SPANS_IN_ONE_QUERY):
        found += _totals(session, spans[at : at + _SPANS_IN_ONE_QUERY])
    return found


def whole_hours(start_ms: int, end_ms: int) -> tuple[int, int]:
    """The part of [start_ms, end_ms) that consists of whole hours; [end_ms, end_ms) if there are none. Pure."""
    first_ms = min(-(-start_ms // HOUR_MS) * HOUR_MS, end_ms)
    return first_ms, max(end_ms // HOUR_MS * HOUR_MS, first_ms)


def with_dimensions(filters: Mapping[str, Any]) -> list[ColumnElement[bool]]:
    """Conditions on a row's dimensions: name -> the value it must have, or a list of those it may have."""
    return [
        UsageRow.dimensions[name].as_string().in_(wanted if isinstance(wanted, list) else [wanted])
        for name, wanted in sorted(filters.items())
    ]


def _sum_in(table: type[UsageRow | UsageHour], instant: str, start: str, end: str) -> str:
    return f"""coalesce((
        SELECT sum(quantity) FROM {table.__tablename__} AS used
        WHERE used.subscription_id = span.subscription_id AND used.meter = span.meter
            AND used.{instant} >= span.{start} AND used.{instant} < span.{end}), 0)"""  # noqa: S608  (constants)


_SUM = f"""
    {_sum_in(UsageHour, "hour_ms", "first_ms", "last_ms")}
    + {_sum_in(UsageRow, "admitted_at_ms", "start_ms", "first_ms")}
    + {_sum_in(UsageRow, "admitted_at_ms", "last_ms", "end_ms")}"""


def _totals(session: Session, spans: Sequence[Span]) -> Iterator[int]:
    if not spans:
        return iter(())
    columns = "place, subscription_id, meter, start_ms, first_ms, last_ms, end_ms"
    values = ", ".join(f"({at}, :s{at}, :m{at}, :a{at}, :b{at}, :c{at}, :d{at})" for at in range(len(spans)))
    asked: dict[str, Any] = {}
    for at, span in enumerate(spans):
        first_ms, last_ms = whole_hours(span.start_ms, span.end_ms)
        asked |= {f"s{at}": span.subscription_id, f"m{at}": span.meter, f"a{at}": span.start_ms}
        asked |= {f"b{at}": first_ms, f"c{at}": last_ms, f"d{at}": span.end_ms}
    statement = f"WITH span({columns}) AS (VALUES {values}) SELECT {_SUM} FROM span ORDER BY place"  # noqa: S608
    return (int(total) for total in session.connection().execute(text(statement), asked).scalars())


def _sum_of_rows(session: Session, span: Span, filters: Mapping[str, Any]) -> int:
    total = session.exec(
        select(func.sum(UsageRow.quantity)).where(
            col(UsageRow.subscription_id) == span.subscription_id,
            col(UsageRow.meter) == span.meter,
            col(UsageRow.admitted_at_ms) >= span.start_ms,
            col(UsageRow.admitted_at_ms) < span.end_ms,
            *with_dimensions(filters),
        )
    ).one()
    return int(total or 0)

"""A meter's usage in windows of time and groups.

SQL adds up in steps of fixed length, the longest that no window's boundary falls into; what a time zone or a calendar
makes of them is put together here. So one statement serves SQLite and PostgreSQL, and no dialect's date functions are
trusted with a day of 23 hours.

A request counts for its quantity, also on a COUNT meter: the number that the quota saw and the invoice will name.
"""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import ColumnElement, func, literal
from sqlmodel import Session, col, select

from farebox_portal.catalog.tables import Meter
from farebox_portal.clock import from_ms, to_ms
from farebox_portal.customers.tables import Customer
from farebox_portal.errors import Conflict, Invalid
from farebox_portal.subscriptions.tables import Subscription
from farebox_portal.usage.tables import UsageRow
from farebox_portal.usage.totals import with_dimensions

WINDOWS_MAX = 45_000  # a month of minutes
WINDOW_SIZES = ("MINUTE", "HOUR", "DAY", "MONTH")
_STEPS_MS = (86_400_000, 3_600_000, 900_000, 60_000, 1)
_COLUMNS: dict[str, Any] = {
    "subject": Customer.key,
    "customerId": UsageRow.customer_id,
    "subscriptionId": UsageRow.subscription_id,
    "apiKeyId": UsageRow.key_id,
    "policy": UsageRow.policy,
}


@dataclass(frozen=True)
class Question:
    """What is asked of a meter. Lists are alternatives, an empty one means all. `from_` None = since the first use."""

    to: datetime
    from_: datetime | None = None
    window_size: str | None = None
    zone: ZoneInfo = field(default_factory=lambda: ZoneInfo("UTC"))
    subjects: Sequence[str] = ()
    customer_ids: Sequence[str] = ()
    subscription_ids: Sequence[str] = ()
    dimensions: Mapping[str, list[str]] = field(default_factory=dict)
    group_by: Sequence[str] = ()


@dataclass(frozen=True)
class Point:
    """The value of one group in [start, end)."""

    value: int | float
    start: datetime
    end: datetime
    group: Mapping[str, str | None]


@dataclass(frozen=True)
class Partial:
    """What SQL found in one step of time: enough to put steps together into a window, whatever the aggregation."""

    step: int
    group: tuple[str | None, ...]
    total: int
    rows: int
    low: int
    high: int


def query_meter(session: Session, meter: Meter, question: Question) -> list[Point]:
    """The answer, ascending by window and group; windows without usage are left out.

    Raises Invalid for a group or filter that the meter does not have, and for more than WINDOWS_MAX windows; Conflict
    when the meter aggregates something that the ledger does not keep.
    """
    _check(meter, question)
    where = _conditions(meter, question)
    start = question.from_ or _first_use(session, where)
    if start is None or start >= question.to:
        return []
    edges = list(window_edges(start, question.to, question.window_size, question.zone))
    where += [col(UsageRow.admitted_at_ms) >= to_ms(start), col(UsageRow.admitted_at_ms) < to_ms(question.to)]
    if meter.aggregation == "LATEST":
        return _latest(session, question, where, edges)
    combine = _COMBINE[meter.aggregation]
    step_ms = step_length_ms(edges)
    found: dict[tuple[int, tuple[str | None, ...]], list[Partial]] = {}
    at = 0
    for partial in _partials(session, question, where, step_ms):
        instant = from_ms(partial.step * step_ms)
        while instant >= edges[at + 1]:
            at += 1
        found.setdefault((at, partial.group), []).append(partial)
    return [
        Point(combine(parts), edges[at], edges[at + 1], dict(zip(question.group_by, group, strict=True)))
        for (at, group), parts in sorted(found.items(), key=_in_order)
    ]


def window_edges(start: datetime, end: datetime, size: str | None, zone: ZoneInfo) -> Iterator[datetime]:
    """The boundaries of the windows that tile [start, end): `start`, each full minute, hour, … of the zone, `end`."""
    yield start
    if size is not None:
        edge = _floor(start, size, zone)
        for number in range(WINDOWS_MAX + 1):
            edge = _next(edge, size, zone)
            if edge >= end:
                break
            if number == WINDOWS_MAX:
                raise Invalid([{"pointer": "/windowSize", "detail": f"gives more than {WINDOWS_MAX} windows"}])
            yield edge
    yield end


def step_length_ms(edges: Sequence[datetime]) -> int:
    """The longest step, counted from the epoch, into which no inner edge falls."""
    inner = [to_ms(edge) for edge in edges[1:-1]]
    return next(step for step in _STEPS_MS if not any(edge % step for edge in inner))


def as_document(question: Question, points: Sequence[Point]) -> dict[str, Any]:
    """OpenMeter's answer; `subject` stands beside `groupBy` when it was grouped by."""
    data = []
    for point in points:
        group = dict(point.group)
        subject = {"subject": group.pop("subject")} if "subject" in group else {}
        window = {"windowStart": rfc3339(point.start), "windowEnd": rfc3339(point.end)}
        data.append({"value": point.value, **window, **subject, "groupBy": group})
    asked = {
        "from": question.from_ and rfc3339(question.from_),
        "to": rfc3339(question.to),
        "windowSize": question.window_size,
    }
    return {name: value for name, value in asked.items() if value is not None} | {"data": data}


def as_csv(question: Question, points: Sequence[Point]) -> str:
    """`window_start,window_end,<group>…,value`, a header and one line for each point (RFC 4180)."""
    text = io.StringIO()
    lines = csv.writer(text)
    lines.writerow(["window_start", "window_end", *question.group_by, "value"])
    for point in points:
        group = [_inert(point.group[name] or "") for name in question.group_by]
        lines.writerow([rfc3339(point.start), rfc3339(point.end), *group, point.value])
    return text.getvalue()


def rfc3339(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _inert(cell: str) -> str:
    """A cell that a spreadsheet shows instead of running: model names and keys are a customer's own words."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def _check(meter: Meter, question: Question) -> None:
    if meter.aggregation == "UNIQUE_COUNT":
        raise Conflict(
            "The ledger keeps quantities, not the values that this meter would count.", code="aggregation_not_supported"
        )
    known = [*_COLUMNS, *meter.group_by]
    errors = [(f"/groupBy/{place}", name) for place, name in enumerate(question.group_by) if name not in known] + [
        (f"/filterGroupBy/{name}", name) for name in question.dimensions if name not in meter.group_by
    ]
    if errors:
        detail = f"is not a dimension of meter {meter.slug!r}; known: {', '.join(known)}"
        raise Invalid([{"pointer": pointer, "detail": detail} for pointer, _ in errors])


def _conditions(meter: Meter, question: Question) -> list[ColumnElement[bool]]:
    # Always by subscription, also when all are asked for: that is how the index begins.
    subscriptions = select(Subscription.id)
    if question.subscription_ids:
        subscriptions = subscriptions.where(col(Subscription.id).in_(question.subscription_ids))
    if question.customer_ids:
        subscriptions = subscriptions.where(col(Subscription.customer_id).in_(question.customer_ids))
    if question.subjects:
        subjects = select(Customer.id).where(col(Customer.key).in_(question.subjects))
        subscriptions = subscriptions.where(col(Subscription.customer_id).in_(subjects))
    return [
        col(UsageRow.subscription_id).in_(subscriptions),
        col(UsageRow.meter) == meter.slug,
        *with_dimensions(question.dimensions),
    ]


def _first_use(session: Session, where: Iterable[ColumnElement[bool]]) -> datetime | None:
    first = session.exec(select(func.min(UsageRow.admitted_at_ms)).where(*where)).one()
    return None if first is None else from_ms(first)


def _group_columns(question: Question) -> list[Any]:
    return [_COLUMNS[name] if name in _COLUMNS else UsageRow.dimensions[name].as_string() for name in question.group_by]


def _partials(
    session: Session, question: Question, where: Iterable[ColumnElement[bool]], step_ms: int
) -> Iterator[Partial]:
    """Ascending by step. Without windows there is one step for all."""
    step = literal(0) if question.window_size is None else _step(step_ms)
    groups = [column.label(f"group_{at}") for at, column in enumerate(_group_columns(question))]
    quantity = col(UsageRow.quantity)
    columns = [step.label("step"), *groups, func.sum(quantity), func.count(), func.min(quantity), func.max(quantity)]
    statement: Any = select(*columns).select_from(UsageRow).where(*where)
    if "subject" in question.group_by:
        statement = statement.join(Customer, col(Customer.id) == col(UsageRow.customer_id))
    statement = statement.group_by("step", *groups).order_by("step")
    for number, *group, total, rows, low, high in session.execute(statement):
        yield Partial(int(number), tuple(group), int(total), rows, low, high)


def _step(step_ms: int) -> ColumnElement[int]:
    # Admission is never before the epoch (ingest sees to that), so taking the remainder off is rounding down.
    admitted = col(UsageRow.admitted_at_ms)
    return (admitted - admitted % step_ms) // step_ms


def _latest(
    session: Session, question: Question, where: Iterable[ColumnElement[bool]], edges: Sequence[datetime]
) -> list[Point]:
    """The quantity of the last request in each window and group."""
    last: dict[tuple[int, tuple[str | None, ...]], int] = {}
    columns = [col(UsageRow.admitted_at_ms), col(UsageRow.quantity), *_group_columns(question)]
    statement: Any = select(*columns).select_from(UsageRow).where(*where)
    if "subject" in question.group_by:
        statement = statement.join(Customer, col(Customer.id) == col(UsageRow.customer_id))
    at = 0
    for admitted_at_ms, quantity, *group in session.execute(
        statement.order_by(col(UsageRow.admitted_at_ms), col(UsageRow.rid)).execution_options(yield_per=1000)
    ):
        while from_ms(admitted_at_ms) >= edges[at + 1]:
            at += 1
        last[(at, tuple(group))] = quantity
    return [
        Point(quantity, edges[at], edges[at + 1], dict(zip(question.group_by, group, strict=True)))
        for (at, group), quantity in sorted(last.items(), key=_in_order)
    ]


def _in_order(item: tuple[tuple[int, tuple[str | None, ...]], Any]) -> tuple[int, tuple[str, ...]]:
    (at, group), _ = item
    return at, tuple(name or "" for name in group)


def _average(parts: Sequence[Partial]) -> int | float:
    total, rows = sum(part.total for part in parts), sum(part.rows for part in parts)
    return total // rows if total % rows == 0 else total / rows


_COMBINE: dict[str, Callable[[Sequence[Partial]], int | float]] = {
    "SUM": lambda parts: sum(part.total for part in parts),
    "COUNT": lambda parts: sum(part.total for part in parts),
    "MAX": lambda parts: max(part.high for part in parts),
    "MIN": lambda parts: min(part.low for part in parts),
    "AVG": _average,
}


def _floor(instant: datetime, size: str, zone: ZoneInfo) -> datetime:
    """Where the window that contains `instant` begins."""
    local = instant.astimezone(zone)
    if size == "MINUTE":
        return instant - timedelta(seconds=local.second, microseconds=local.microsecond)
    if size == "HOUR":
        return instant - timedelta(minutes=local.minute, seconds=local.second, microseconds=local.microsecond)
    day = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    return (day if size == "DAY" else day.replace(day=1)).astimezone(UTC)


def _next(edge: datetime, size: str, zone: ZoneInfo) -> datetime:
    if size == "MINUTE":
        return edge + timedelta(minutes=1)
    if size == "HOUR":
        return edge + timedelta(hours=1)
    local = edge.astimezone(zone)
    # Datetimes of one zone add up by the calendar, not by elapsed time: a day of 23 hours is one day too.
    return _floor(local + timedelta(days=1 if size == "DAY" else 32 - local.day), size, zone)

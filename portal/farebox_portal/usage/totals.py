"""How much of a meter a subscription used between two instants: the sum that quotas, invoices and pages all read."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

from sqlalchemy import ColumnElement, func
from sqlmodel import Session, col, select

from farebox_portal.clock import to_ms
from farebox_portal.usage.tables import UsageRow


def meter_total(
    session: Session,
    subscription_id: str,
    meter: str,
    start: datetime,
    end: datetime,
    filters: Mapping[str, Any] | None = None,
) -> int:
    """Units used by requests that were admitted in [start, end), whenever they were settled or reported."""
    return _total(session, subscription_id, meter, to_ms(start), to_ms(end), filters or {})


def period_totals(session: Session, subscription_id: str, meter: str, boundaries_ms: Sequence[int]) -> list[int]:
    """The same for each period between two neighbouring boundaries."""
    return [_total(session, subscription_id, meter, start, end, {}) for start, end in pairwise(boundaries_ms)]


def with_dimensions(filters: Mapping[str, Any]) -> list[ColumnElement[bool]]:
    """Conditions on a row's dimensions: name -> the value it must have, or a list of those it may have."""
    return [
        UsageRow.dimensions[name].as_string().in_(wanted if isinstance(wanted, list) else [wanted])
        for name, wanted in sorted(filters.items())
    ]


def _total(
    session: Session, subscription_id: str, meter: str, start_ms: int, end_ms: int, filters: Mapping[str, Any]
) -> int:
    total = session.exec(
        select(func.sum(UsageRow.quantity)).where(
            col(UsageRow.subscription_id) == subscription_id,
            col(UsageRow.meter) == meter,
            col(UsageRow.admitted_at_ms) >= start_ms,
            col(UsageRow.admitted_at_ms) < end_ms,
            *with_dimensions(filters),
        )
    ).one()
    return int(total or 0)

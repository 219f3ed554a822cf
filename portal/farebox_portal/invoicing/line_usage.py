"""From a line to the usage behind it: by day, by API key, and by each dimension that its meter keeps.

It is read from the ledger as it is now. What was there when the line was made stands beside it (`metered`), and what
came since is on a later line, or will be.
"""

from typing import Annotated, Any

from pydantic import Field
from sqlmodel import Session, select

from farebox_portal.catalog.tables import Feature, Meter
from farebox_portal.documents import Instant, Output
from farebox_portal.errors import NotFound
from farebox_portal.invoicing.tables import Invoice, InvoiceLine
from farebox_portal.subscriptions.document import PeriodDocument
from farebox_portal.testclock import read_timeline
from farebox_portal.usage.query import Point, Question, query_meter


class DayOfUsage(Output):
    from_: Annotated[Instant, Field(alias="from")]
    to: Instant
    quantity: int


class UsageBy(Output):
    """One value of a key or dimension; null: requests without it."""

    value: str | None
    quantity: int


class LineUsage(Output):
    """`quantity` in the ledger now, `metered` when the line was made."""

    invoice_id: str
    line_id: str
    meter: str
    period: PeriodDocument
    quantity: str
    metered: str
    by_day: list[DayOfUsage]
    by_key: list[UsageBy]
    by_dimension: dict[str, list[UsageBy]]


def line_usage(session: Session, invoice: Invoice, line_id: str) -> LineUsage:
    """Raises NotFound for a line that there is not, or that is not about usage."""
    line = session.get(InvoiceLine, line_id)
    if line is None or line.invoice_id != invoice.id:
        raise NotFound("The invoice has no such line.", code="invoice_line_not_found")
    if line.meter is None or line.metered is None:
        raise NotFound("This line is a fee: there is no usage behind it.", code="no_usage")
    meter = session.exec(select(Meter).where(Meter.slug == line.meter)).one()
    timeline = read_timeline(session)
    start, end = timeline.wall(line.rated_start), timeline.wall(line.rated_end)
    dimensions = _filters(session, line)

    def ask(window: str | None, *group_by: str) -> list[Point]:
        if start >= end:
            return []  # the test clock jumped over it
        question = Question(
            end,
            start,
            window,
            subscription_ids=(line.subscription_id,),
            dimensions=dimensions,
            group_by=group_by,
        )
        return query_meter(session, _summed(meter), question)

    days = ask("DAY")
    return LineUsage(
        invoice_id=invoice.id,
        line_id=line.id,
        meter=meter.slug,
        period=PeriodDocument(from_=line.rated_start, to=line.rated_end),
        quantity=str(sum(int(point.value) for point in days)),
        metered=format(line.metered, "f"),
        by_day=[DayOfUsage(from_=point.start, to=point.end, quantity=int(point.value)) for point in days],
        by_key=_by(ask(None, "apiKeyId"), "apiKeyId"),
        by_dimension={name: _by(ask(None, name), name) for name in meter.group_by},
    )


def _by(points: list[Point], name: str) -> list[UsageBy]:
    """The most used first."""
    found = [UsageBy(value=point.group[name], quantity=int(point.value)) for point in points]
    return sorted(found, key=lambda one: (-one.quantity, one.value or ""))


def _filters(session: Session, line: InvoiceLine) -> dict[str, list[str]]:
    feature = session.exec(select(Feature).where(Feature.key == line.feature_key)).first()
    filters: dict[str, Any] = (feature.filters if feature else None) or {}
    return {name: wanted if isinstance(wanted, list) else [wanted] for name, wanted in filters.items()}


def _summed(meter: Meter) -> Meter:
    """What is billed is the sum of the quantities, whatever else the meter shows."""
    return Meter(**(meter.model_dump() | {"aggregation": "SUM"}))

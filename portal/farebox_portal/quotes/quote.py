"""Lines as documents: decimal strings in units of the currency, and a total that is their sum."""

from collections.abc import Iterable, Sequence
from decimal import Decimal

from farebox_portal.documents import Output
from farebox_portal.pricing.line import Line
from farebox_portal.pricing.money import Currency, decimal_text


class ReductionDocument(Output):
    """What makes a line cheaper than its quantity × unit amount."""

    kind: str
    description: str
    amount: str


class LineDocument(Output):
    """`amount` is quantity × unitAmount, once rounded, less the reductions."""

    description: str
    quantity: str
    unit_amount: str
    amount: str
    tier: int | None = None
    reductions: list[ReductionDocument] | None = None


class QuoteDocument(Output):
    currency: str
    total: str
    lines: list[LineDocument]


def quote(lines: Sequence[Line], of: Currency) -> QuoteDocument:
    return QuoteDocument(currency=of.code, total=total(lines, of), lines=[show_line(line, of) for line in lines])


def total(lines: Iterable[Line], of: Currency) -> str:
    return decimal_text(sum(line.amount_minor for line in lines), of)


def show_line(line: Line, of: Currency) -> LineDocument:
    reductions = [
        ReductionDocument(kind=one.kind, description=one.description, amount=decimal_text(one.amount_minor, of))
        for one in line.reductions
    ]
    return LineDocument(
        description=line.description,
        quantity=plain(line.quantity),
        unit_amount=plain(line.unit_amount),
        amount=decimal_text(line.amount_minor, of),
        tier=line.tier,
        reductions=reductions or None,
    )


def plain(number: Decimal) -> str:
    """Without an exponent: 2E-6 is "0.000002"."""
    return format(number, "f")

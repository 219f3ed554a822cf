"""The least and the most that a period's usage of one rate card costs."""

from collections.abc import Sequence
from decimal import Decimal

from farebox_portal.pricing.line import Line, Reduction
from farebox_portal.pricing.money import Currency, to_minor, to_units
from farebox_portal.pricing.part import ONE
from farebox_portal.pricing.period import Period


def cap(lines: Sequence[Line], maximum: Decimal, of: Currency) -> tuple[Line, ...]:
    """Lines fill the maximum in order; what is beyond it is taken off, the last lines first."""
    left_minor = to_minor(maximum, of)
    capped: list[Line] = []
    for line in lines:
        excess = line.amount_minor - left_minor
        left_minor = max(0, -excess)
        if excess > 0:
            capped.append(line.less(Reduction("maximum", "", "Maximum spend reached", excess)))
        else:
            capped.append(line)
    return tuple(capped)


def fill(
    lines: Sequence[Line], minimum: Decimal, of: Currency, *, key: str, name: str, period: Period
) -> tuple[Line, ...]:
    """One more line for what is missing to the minimum, if anything is."""
    missing = to_minor(minimum, of) - sum(line.amount_minor for line in lines)
    if missing <= 0:
        return tuple(lines)
    top_up = Line(
        key=f"{key}/minimum",
        kind="minimum",
        description=f"{name}: up to the minimum spend",
        quantity=ONE,
        unit_amount=to_units(missing, of),
        gross_minor=missing,
        period=period,
    )
    return (*lines, top_up)

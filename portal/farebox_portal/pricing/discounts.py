"""Two discounts: units that cost nothing, and a percentage off what the rest costs."""

from collections.abc import Iterable
from decimal import Decimal

from farebox_portal.pricing.line import Line, Reduction
from farebox_portal.pricing.money import EXACT, Currency, to_minor
from farebox_portal.pricing.part import ZERO


def billable(quantity: Decimal, free_units: Decimal) -> Decimal:
    """What is left to pay for. 110 free: of 50 used 0, of 125 used 15."""
    return EXACT.subtract(quantity, free_units) if quantity > free_units else ZERO


def take_percentage(lines: Iterable[Line], percentage: Decimal, of: Currency) -> tuple[Line, ...]:
    """Off each line by itself, from its rounded amount: what stands on the invoice can be checked from the invoice."""
    description = f"{percentage.normalize():f} % off"
    return tuple([_less(line, percentage, description, of) for line in lines])


def _less(line: Line, percentage: Decimal, description: str, of: Currency) -> Line:
    exact = EXACT.multiply(Decimal(line.gross_minor), percentage).scaleb(-2 - of.exponent, EXACT)
    discount = Reduction("discount", "", description, to_minor(exact, of))
    return line.less(discount) if discount.amount_minor else line

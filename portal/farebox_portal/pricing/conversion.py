from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Literal

from farebox_portal.pricing.money import EXACT

Rounding = Literal["none", "ceiling", "floor", "half_up"]
_DIGITS = 15  # of a quotient that has no end, such as a third


@dataclass(frozen=True, slots=True)
class Conversion:
    """From the meter's unit to the one that is sold: 1400 bytes divided by 1000, ceiling, are 2 kB.

    Always of a period's whole quantity, so that 1400 and then 1300 bytes are 3 kB together and not 2 + 2. Raises
    ValueError unless the factor is above 0 and `precision` (digits after the point) lies between 0 and 15.
    """

    operation: Literal["divide", "multiply"]
    factor: Decimal
    rounding: Rounding = "none"
    precision: int = 0

    def __post_init__(self) -> None:
        if self.factor <= 0:
            raise ValueError("the factor must be above 0")
        if not 0 <= self.precision <= _DIGITS:
            raise ValueError(f"the precision must lie between 0 and {_DIGITS}")

    def convert(self, quantity: Decimal) -> Decimal:
        if self.operation == "multiply":
            exact = EXACT.multiply(quantity, self.factor)
            return exact if self.rounding == "none" else _round(Fraction(exact), self.rounding, self.precision)
        quotient = Fraction(quantity) / Fraction(self.factor)
        return _round(quotient, self.rounding, _DIGITS if self.rounding == "none" else self.precision)


def _round(value: Fraction, rounding: Rounding, precision: int) -> Decimal:
    """By integers: whether anything at all is left over decides a ceiling, and a cut-off decimal cannot tell."""
    whole, rest = divmod(value.numerator * 10**precision, value.denominator)
    if (rounding == "ceiling" and rest) or (rounding in ("half_up", "none") and 2 * rest >= value.denominator):
        whole += 1
    return Decimal(whole).scaleb(-precision, EXACT)

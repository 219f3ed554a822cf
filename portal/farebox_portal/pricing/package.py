from dataclasses import dataclass
from decimal import Decimal

from farebox_portal.pricing.part import Part


@dataclass(frozen=True, slots=True)
class Package:
    """Whole packages, one begun counts: 10 per 1000 makes 1000 units 10, and 1001 units 20. Nothing used, nothing owed.

    Raises ValueError unless `size` is above 0.
    """

    amount: Decimal
    size: Decimal

    def __post_init__(self) -> None:
        if self.size <= 0:
            raise ValueError("a package holds more than 0")

    def parts(self, quantity: Decimal) -> tuple[Part, ...]:
        if not quantity:
            return ()
        return (Part("usage", "usage", _packages(quantity, self.size), self.amount, label=f"per {self.size:,f}"),)


def _packages(quantity: Decimal, size: Decimal) -> Decimal:
    """How many are begun. By integers, as a quotient of decimals may have no end."""
    over, under = quantity.as_integer_ratio(), size.as_integer_ratio()
    return Decimal(-(-(over[0] * under[1]) // (over[1] * under[0])))

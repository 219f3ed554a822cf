from dataclasses import dataclass
from decimal import Decimal

from farebox_portal.pricing.part import Part


@dataclass(frozen=True, slots=True)
class Dynamic:
    """The meter counts money, in units of the currency: cost of 12.34 × multiplier 1.2 is 14.81. Cost plus."""

    multiplier: Decimal = Decimal(1)

    def parts(self, quantity: Decimal) -> tuple[Part, ...]:
        return (Part("usage", "usage", quantity, self.multiplier),) if quantity else ()

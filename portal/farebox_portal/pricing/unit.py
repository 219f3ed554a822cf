from dataclasses import dataclass
from decimal import Decimal

from farebox_portal.pricing.part import Part


@dataclass(frozen=True, slots=True)
class Unit:
    """Quantity × amount. 100 000 at 0.001 are 100."""

    amount: Decimal

    def parts(self, quantity: Decimal) -> tuple[Part, ...]:
        return (Part("usage", "usage", quantity, self.amount),) if quantity else ()

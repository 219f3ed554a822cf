from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from farebox_portal.pricing.part import ONE, Part

PaymentTerm = Literal["in_advance", "in_arrears"]


@dataclass(frozen=True, slots=True)
class Flat:
    """A fixed fee, whatever is used. One of 0 leaves no trace on the invoice."""

    amount: Decimal
    payment_term: PaymentTerm = "in_advance"

    def parts(self, quantity: Decimal) -> tuple[Part, ...]:
        return (Part("fee", "fee", ONE, self.amount),) if self.amount else ()

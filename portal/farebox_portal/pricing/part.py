"""What a price model answers: quantities and what one of each costs. Nothing is rounded yet."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from farebox_portal.pricing.money import EXACT

ZERO = Decimal(0)
ONE = Decimal(1)

Kind = Literal["fee", "usage", "minimum", "credits"]


@dataclass(frozen=True, slots=True)
class Part:
    """One line to be: quantity × unit amount, in units of the currency (1.50 is a dollar and a half).

    `key` tells the parts of one price apart and never changes, so that what was billed under it can be found again.
    """

    key: str
    kind: Kind
    quantity: Decimal
    unit_amount: Decimal
    tier: int | None = None  # counted from 1
    label: str = ""  # what the card's name does not say, such as the tier's bounds

    @property
    def amount(self) -> Decimal:
        return EXACT.multiply(self.quantity, self.unit_amount)

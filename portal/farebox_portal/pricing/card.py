from dataclasses import dataclass
from decimal import Decimal

from farebox_portal.pricing.conversion import Conversion
from farebox_portal.pricing.part import ZERO
from farebox_portal.pricing.price import Price


@dataclass(frozen=True, slots=True)
class RateCard:
    """What is charged for one thing. Amounts are in units of the plan's currency; `price` None: free.

    `billing_cadence` None: once per phase. `minimum` and `maximum` bound what a period's usage costs after discounts.
    Raises ValueError where the parts do not go together.
    """

    key: str
    name: str
    price: Price | None
    feature_key: str | None = None
    billing_cadence: str | None = None
    conversion: Conversion | None = None
    free_units: Decimal = ZERO  # the usage discount: so many units of each period cost nothing
    percentage_off: Decimal = ZERO  # 0 to 100
    minimum: Decimal | None = None
    maximum: Decimal | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.percentage_off <= 100:
            raise ValueError("a percentage lies between 0 and 100")
        if self.free_units < 0 or (self.minimum or ZERO) < 0 or (self.maximum or ZERO) < 0:
            raise ValueError("discounts and commitments are 0 or more")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError("the minimum exceeds the maximum")

"""The money in a rate card as OpenAPI shows it: prices, discounts, commitments, the unit that is sold.

Nothing is checked by these models. `pricing.documents` reads the same fields for the invoice, takes some more ways to
write them, and names the faults; a test sees to it that both agree.
"""

from typing import Annotated, Literal

from pydantic import Field, RootModel

from farebox_portal.documents import Input, Whole
from farebox_portal.pricing.documents import TIERS_MAX

Amount = Annotated[str, Field(examples=["49.00"])] | Annotated[float, Field(ge=0)]
"""0 or more, at most 15 digits before and 15 after the point."""


class FlatPrice(Input):
    type: Literal["flat"]
    amount: Amount
    payment_term: Literal["in_advance", "in_arrears"] = "in_advance"


class Commitments(Input):
    """Bounds of what a period's usage costs, after discounts."""

    minimum_amount: Amount | None = None
    maximum_amount: Amount | None = None


class UnitPrice(Commitments):
    type: Literal["unit"]
    amount: Amount


class TierFlatPrice(Input):
    type: Literal["flat"] = "flat"
    amount: Amount


class TierUnitPrice(Input):
    type: Literal["unit"] = "unit"
    amount: Amount


class PriceTier(Input):
    """Up to and including `upToAmount`; exactly one tier is open. One of the prices is there."""

    up_to_amount: Amount | None = None
    flat_price: TierFlatPrice | Amount | None = None
    unit_price: TierUnitPrice | Amount | None = None


class TieredPrice(Commitments):
    type: Literal["tiered"]
    mode: Literal["graduated", "volume"]
    tiers: Annotated[list[PriceTier], Field(min_length=1, max_length=TIERS_MAX)]


class PackagePrice(Commitments):
    type: Literal["package"]
    amount: Amount
    quantity_per_package: Amount


class DynamicPrice(Commitments):
    type: Literal["dynamic"]
    multiplier: Amount = "1"


AnyPrice = FlatPrice | UnitPrice | TieredPrice | PackagePrice | DynamicPrice


class Price(RootModel[AnyPrice | None]):
    """null, or left out: free."""

    root: Annotated[AnyPrice, Field(discriminator="type")] | None


class PercentageDiscount(Input):
    percentage: Amount


class UsageDiscount(Input):
    quantity: Amount


class Discounts(Input):
    percentage: PercentageDiscount | None = None
    usage: UsageDiscount | None = None


class UnitConfig(Input):
    """From the meter's unit to the one that is sold: 1400 bytes divided by 1000, ceiling, are 2 kB."""

    operation: Literal["divide", "multiply"]
    conversion_factor: Amount
    rounding: Literal["none", "ceiling", "floor", "half_up"] = "none"
    precision: Annotated[Whole, Field(ge=0, le=15)] = 0
    display_unit: str | None = None

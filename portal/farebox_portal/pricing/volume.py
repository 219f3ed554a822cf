from dataclasses import dataclass
from decimal import Decimal

from farebox_portal.pricing.part import ZERO, Part
from farebox_portal.pricing.tiers import Tier, check_tiers, tier_parts


@dataclass(frozen=True, slots=True)
class Volume:
    """All units at the price of the one tier that the whole quantity reaches. Without usage that is the first.

    More may cost less in total: 15 at 10 are 150, 16 at 5 are 80. Therefore it is not billed before the period ends.
    """

    tiers: tuple[Tier, ...]

    def __post_init__(self) -> None:
        check_tiers(self.tiers)

    def parts(self, quantity: Decimal) -> tuple[Part, ...]:
        lower = ZERO
        for number, tier in enumerate(self.tiers, start=1):
            if tier.up_to is None or quantity <= tier.up_to:
                return tuple(tier_parts(number, tier, lower, quantity))
            lower = tier.up_to
        raise AssertionError("the last tier is open")

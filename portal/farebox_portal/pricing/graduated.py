from dataclasses import dataclass
from decimal import Decimal

from farebox_portal.pricing.money import EXACT
from farebox_portal.pricing.part import ZERO, Part
from farebox_portal.pricing.tiers import Tier, check_tiers, tier_parts


@dataclass(frozen=True, slots=True)
class Graduated:
    """Each unit at the price of the tier it falls in.

    1000 at 0.10, up to 10 000 at 0.05, the rest at 0.01: 15 000 units are 100 + 450 + 50 = 600. A tier's flat amount is
    owed once the tier is entered; the first tier is entered with the period, so its flat amount is owed without usage.
    """

    tiers: tuple[Tier, ...]

    def __post_init__(self) -> None:
        check_tiers(self.tiers)

    def parts(self, quantity: Decimal) -> tuple[Part, ...]:
        found: list[Part] = []
        lower = ZERO
        for number, tier in enumerate(self.tiers, start=1):
            upper = quantity if tier.up_to is None or quantity < tier.up_to else tier.up_to
            found += tier_parts(number, tier, lower, EXACT.subtract(upper, lower))
            if upper == quantity or tier.up_to is None:
                break
            lower = tier.up_to
        return tuple(found)

"""What graduated and volume prices share: tiers, in order, each up to and including its bound, the last one open."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from farebox_portal.pricing.part import ONE, ZERO, Part


@dataclass(frozen=True, slots=True)
class Tier:
    """`up_to` belongs to the tier; None: no bound. `flat` is owed for being in it, `unit` for each unit."""

    up_to: Decimal | None
    flat: Decimal = ZERO
    unit: Decimal = ZERO


def check_tiers(tiers: Sequence[Tier]) -> None:
    """Raises ValueError unless bounds are above 0 and ascend, and the last tier, and only that, is open."""
    if not tiers:
        raise ValueError("must have at least one tier")
    bounds = [tier.up_to for tier in tiers]
    if bounds[-1] is not None or None in bounds[:-1]:
        raise ValueError("the last tier, and only the last, must have no upToAmount")
    lower = ZERO
    for bound in bounds[:-1]:
        assert bound is not None
        if bound <= lower:
            raise ValueError("each upToAmount must be above 0 and above the tier before")
        lower = bound


def tier_parts(number: int, tier: Tier, lower: Decimal, quantity: Decimal) -> Iterator[Part]:
    """What `quantity` units within the tier cost. `number` counts from 1; `lower` is the bound of the tier before."""
    label = bounds_label(lower, tier.up_to)
    if tier.flat:
        yield Part(f"tier-{number}-flat", "usage", ONE, tier.flat, number, f"{label}, flat")
    if quantity:
        yield Part(f"tier-{number}", "usage", quantity, tier.unit, number, label)


def bounds_label(lower: Decimal, up_to: Decimal | None) -> str:
    if up_to is None:
        return f"over {lower:,f}" if lower else "any quantity"
    return f"over {lower:,f} up to {up_to:,f}" if lower else f"up to {up_to:,f}"

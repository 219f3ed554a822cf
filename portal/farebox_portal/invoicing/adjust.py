"""What an invoice as a whole takes off or puts on its lines: coupons, credits, tax, in this order. Pure.

A coupon comes first, as it makes the price; a credit then pays; tax is owed on what is left to pay.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from farebox_portal.pricing.coupons import Coupon, take_off
from farebox_portal.pricing.line import Line
from farebox_portal.pricing.money import Currency
from farebox_portal.pricing.settle import Bill, Credit, TaxRule, settle

Applies = Callable[[Coupon], Sequence[bool]]
"""To which of the lines a coupon applies."""


@dataclass(frozen=True)
class Adjustments:
    """Of one invoice. Without any, lines stay as they were rated. The tax rule is a seam: see pricing.settle."""

    coupon: Coupon | None = None
    tax_rule: TaxRule | None = None


def adjusted(
    lines: Sequence[Line], credits_: Sequence[Credit], by: Adjustments, applies: Applies, of: Currency
) -> Bill:
    reduced = lines if by.coupon is None else take_off(lines, by.coupon, of, applies(by.coupon))
    return settle(reduced, credits_, by.tax_rule)

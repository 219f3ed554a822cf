"""A rate card and what was used become lines. The order of the steps is the contract, so it stands here as a list.

    1 unit conversion      the meter's bytes become the kilobytes that are sold; all that follows counts those
    2 usage discount       free units go before the price, so that tiers and packages see only what is paid for
    3 price                the one step that differs by model, and the one place where an amount is rounded
    4 percentage discount  off the price, before the bounds: what one agreed to spend at least is not discounted away
    5 maximum              after the discounts: it bounds what is really paid
    6 minimum              after the maximum; a line of its own, and only when the period is over
    7 coupon               over all cards of an invoice: see `coupons`
    8 credits, 9 tax       likewise: see `settle`

The rule for splits: always rate the period's whole quantity so far, then take off what was billed (`progressive`).
Rating the pieces one by one would round, convert and open packages once per piece.
"""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from farebox_portal.pricing.card import RateCard
from farebox_portal.pricing.commitments import cap, fill
from farebox_portal.pricing.discounts import billable, take_percentage
from farebox_portal.pricing.flat import Flat
from farebox_portal.pricing.line import WHOLE, Line
from farebox_portal.pricing.money import EXACT, Currency, share_of, to_minor
from farebox_portal.pricing.part import Part
from farebox_portal.pricing.period import Period


@dataclass(frozen=True, slots=True)
class Charge:
    """What is rated, and for which period. `over`: nothing can be added any more, so dues of the end are due.

    `count`: of a flat fee, how many. `earlier`: how many whole fees of the same period were charged before this one.
    What is due is that of all together, rounded, less that of those before; so pieces add up to the whole.
    """

    card: RateCard
    currency: Currency
    period: Period
    over: bool = True
    share: Fraction = WHOLE  # of a flat fee: how much of its full period was served
    count: int = 1
    earlier: Fraction = Fraction(0)


def rate(charge: Charge, quantity: Decimal) -> tuple[Line, ...]:
    """The lines for all that was used in the period so far. Raises ValueError for a quantity below 0 or not finite."""
    if not quantity.is_finite() or quantity < 0:
        raise ValueError(f"cannot rate a quantity of {quantity}")
    for prepare in QUANTITY_STEPS:
        quantity = prepare(charge, quantity)
    lines = _price(charge, quantity)
    for adjust in LINE_STEPS:
        lines = adjust(charge, lines)
    return lines


def _convert_units(charge: Charge, quantity: Decimal) -> Decimal:
    conversion = charge.card.conversion
    return quantity if conversion is None else conversion.convert(quantity)


def _discount_usage(charge: Charge, quantity: Decimal) -> Decimal:
    free_units = charge.card.free_units
    return billable(quantity, free_units) if free_units else quantity


def _price(charge: Charge, quantity: Decimal) -> tuple[Line, ...]:
    price = charge.card.price
    if price is None or (isinstance(price, Flat) and price.payment_term == "in_arrears" and not charge.over):
        return ()
    return tuple([_line(charge, part) for part in price.parts(quantity)])


def _line(charge: Charge, part: Part) -> Line:
    card, quantity, share = charge.card, part.quantity, WHOLE
    gross_minor: int | None = None
    if part.kind == "fee" and (charge.share is not WHOLE or charge.count != 1 or charge.earlier):
        share, quantity = charge.share, EXACT.multiply(quantity, Decimal(charge.count))
        gross_minor = _fee(part.amount, charge.earlier, charge.count * share, charge.currency)
    return Line(
        f"{card.key}/{part.key}",
        part.kind,
        f"{card.name}: {part.label}" if part.label else card.name,
        quantity,
        part.unit_amount,
        to_minor(part.amount, charge.currency) if gross_minor is None else gross_minor,
        charge.period,
        part.tier,
        share,
    )


def _fee(amount: Decimal, earlier: Fraction, more: Fraction, of: Currency) -> int:
    """So many fees after earlier ones. From the exact product: a fee finer than a cent is not rounded before."""
    exact = Fraction(amount) * 10**of.exponent
    return share_of(1, exact * (earlier + more), of) - share_of(1, exact * earlier, of)


def _discount_percentage(charge: Charge, lines: tuple[Line, ...]) -> tuple[Line, ...]:
    percentage = charge.card.percentage_off
    return take_percentage(lines, percentage, charge.currency) if percentage else lines


def _cap(charge: Charge, lines: tuple[Line, ...]) -> tuple[Line, ...]:
    maximum = charge.card.maximum
    return lines if maximum is None else cap(lines, maximum, charge.currency)


def _fill(charge: Charge, lines: tuple[Line, ...]) -> tuple[Line, ...]:
    card = charge.card
    if not card.minimum or not charge.over:
        return lines
    return fill(lines, card.minimum, charge.currency, key=card.key, name=card.name, period=charge.period)


QUANTITY_STEPS: tuple[Callable[[Charge, Decimal], Decimal], ...] = (_convert_units, _discount_usage)
LINE_STEPS: tuple[Callable[[Charge, tuple[Line, ...]], tuple[Line, ...]], ...] = (_discount_percentage, _cap, _fill)

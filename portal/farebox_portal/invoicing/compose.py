"""What a step adds to an invoice: everything that is due, less everything that was billed before. Pure.

Nothing is remembered about what is still to be billed: it is what there is, less what there was. So a run that is
repeated adds nothing, one that was missed is made up for, and usage that came late is a difference on the next invoice,
in either direction. The differences of a charge add up to what one bill over all of it would say.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction

from farebox_portal.invoicing.charges import Due
from farebox_portal.invoicing.fees import Fee
from farebox_portal.invoicing.rated import Rated
from farebox_portal.invoicing.steps import Step
from farebox_portal.pricing.line import WHOLE, Line
from farebox_portal.pricing.money import Currency, share_of
from farebox_portal.pricing.part import ONE
from farebox_portal.pricing.period import Period
from farebox_portal.pricing.progressive import difference


@dataclass(frozen=True, slots=True)
class Billed:
    """What was billed of a charge before, and given back of it (`grants` times).

    `lines` as they were rated, and `released_minor` what was given back of that; `granted_minor` is how much money that
    was, where a coupon had made the fee cheaper by `coupon_minor`. `settled_minor`: what of it was paid, in money or by
    credit, and not taken back by a credit note. `revisions`: how often each line was billed, also on voided invoices.
    """

    lines: tuple[Line, ...] = ()
    coupon_minor: int = 0
    settled_minor: int = 0
    granted_minor: int = 0
    released_minor: int = 0
    grants: int = 0
    revisions: Mapping[str, int] = field(default_factory=dict)

    @property
    def rated_minor(self) -> int:
        return sum(line.rated_minor for line in self.lines)

    @property
    def net_minor(self) -> int:
        return self.rated_minor - self.released_minor


NOTHING = Billed()


@dataclass(frozen=True, slots=True)
class NewLine:
    """A line to be billed. `period`: what it is charged for; of a fee the part that is served.

    `metered`: all that was used for the charge until now, None for a fee; `share`: all of the fee that is served.
    """

    due: Due
    line: Line
    revision: int
    period: Period
    meter: str | None = None
    metered: Decimal | None = None
    share: Fraction = WHOLE


@dataclass(frozen=True, slots=True)
class Grant:
    """What a pause or a change of plan gives back of a fee. `released_minor`: of the fee as it was rated."""

    charge_key: str
    number: int  # of this charge, from 0
    description: str
    amount_minor: int
    released_minor: int


@dataclass(frozen=True, slots=True)
class Composed:
    lines: tuple[NewLine, ...]
    grants: tuple[Grant, ...]


def compose(
    step: Step,
    fees: Iterable[Fee],
    used: Iterable[Rated],
    gone: Iterable[str],
    billed: Mapping[str, Billed],
    of: Currency,
) -> Composed:
    """`gone`: charges that were billed and that there are not any more, as what was ordered was replaced at once.

    The lines in the order of an invoice: fees, usage, corrections of earlier periods; and what is given back.
    """
    lines: list[NewLine] = []
    grants: list[Grant] = []
    for fee in fees:
        before = billed.get(fee.due.key, NOTHING)
        lines += _fee_lines(fee, before)
        grants += _given_back(fee.due.key, fee.due.card.name, fee.kept_minor, before, of)
    for key in gone:
        grants += _given_back(key, billed[key].lines[-1].description, 0, billed[key], of)
    late: list[NewLine] = []
    for rated in used:
        before = billed.get(rated.due.key, NOTHING)
        found = usage_lines(rated.due, rated.lines, before, rated.meter, Decimal(rated.quantity))
        if rated.due.at > step.period.start:
            lines += found
        elif before.lines or any(new.line.amount_minor for new in found):
            late += found  # what cost nothing when it was due stays off
    return Composed((*lines, *late), tuple(grants))


def usage_lines(due: Due, rated: Sequence[Line], before: Billed, meter: str | None, quantity: Decimal) -> list[NewLine]:
    """What all that was used costs, less what was billed."""
    found = difference(rated, before.lines) if before.lines else rated
    return [_new(due, line, before, due.service.served, meter, quantity) for line in found]


def more_of_fee(lines: tuple[Line, ...], before: Billed) -> tuple[Line, ...]:
    """What a fee comes to now, less what was billed of it and not given back. Lines as they are if nothing was."""
    more_minor = sum(line.amount_minor for line in lines) - before.net_minor
    if not lines or more_minor <= 0:
        return ()
    if not before.lines:
        return lines
    last = lines[-1]
    return (
        Line(last.key, last.kind, last.description, ONE, last.unit_amount, more_minor, last.period, None, last.share),
    )


def line_key(line: Line) -> str:
    """Tells the lines of one charge apart; that of a minimum has another unit amount each time it is made up for."""
    return f"{line.key}@{line.unit_amount:f}"


def _fee_lines(fee: Fee, before: Billed) -> list[NewLine]:
    found = more_of_fee(fee.lines, before)
    return [_new(fee.due, line, before, fee.served, None, None) for line in found]


def _given_back(key: str, name: str, kept_minor: int, before: Billed, of: Currency) -> list[Grant]:
    """No more than was paid of this very fee, less what was given back of it."""
    over_minor = before.net_minor - kept_minor
    if over_minor <= 0 or not before.rated_minor:
        return []
    paid_share = Fraction(before.rated_minor - before.coupon_minor, before.rated_minor)
    amount_minor = share_of(over_minor, paid_share, of)
    limit_minor = before.settled_minor - before.granted_minor
    if amount_minor > limit_minor:
        amount_minor, over_minor = limit_minor, share_of(limit_minor, 1 / paid_share, of)
    return [Grant(key, before.grants, f"Unused time: {name}", amount_minor, over_minor)] if amount_minor > 0 else []


def _new(due: Due, line: Line, before: Billed, period: Period, meter: str | None, metered: Decimal | None) -> NewLine:
    return NewLine(due, line, before.revisions.get(line_key(line), 0), period, meter, metered, line.share)

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Literal

from farebox_portal.pricing.part import Kind
from farebox_portal.pricing.period import Period

WHOLE = Fraction(1)
AFTERWARDS = ("coupon", "credit")
"""Kinds of reductions that no rate card makes, but an invoice."""


@dataclass(frozen=True, slots=True)
class Reduction:
    """Something that makes a line cheaper; `amount_minor` is taken off."""

    kind: Literal["discount", "maximum", "coupon", "credit"]
    source: str  # a coupon's or a credit's id; "" otherwise
    description: str
    amount_minor: int


@dataclass(frozen=True, slots=True)
class Tax:
    """`inclusive`: already part of the line's amount. Otherwise it comes on top."""

    name: str
    amount_minor: int
    inclusive: bool


@dataclass(frozen=True, slots=True)
class Line:
    """One line of an invoice: round(quantity × unit amount × share) is `gross_minor`; less the reductions it is due.

    `key` and `period` name the line for good: the same charge of the same period has the same ones, however often it is
    rated. A negative gross gives back what an earlier line of that name charged.
    """

    key: str  # rate card key / part key
    kind: Kind
    description: str
    quantity: Decimal
    unit_amount: Decimal  # units of the currency for one of the quantity
    gross_minor: int
    period: Period
    tier: int | None = None  # counted from 1
    share: Fraction = WHOLE  # of the full period's fee, where only a part of it was served
    reductions: tuple[Reduction, ...] = ()
    taxes: tuple[Tax, ...] = ()

    @property
    def amount_minor(self) -> int:
        """What it adds to the bill, before a tax that comes on top."""
        amount_minor = self.gross_minor
        for reduction in self.reductions:
            amount_minor -= reduction.amount_minor
        return amount_minor

    def less(self, reduction: Reduction) -> "Line":
        """The same line with one more reduction. Spelled out: `dataclasses.replace` takes four times as long."""
        return Line(
            self.key,
            self.kind,
            self.description,
            self.quantity,
            self.unit_amount,
            self.gross_minor,
            self.period,
            self.tier,
            self.share,
            (*self.reductions, reduction),
            self.taxes,
        )

    @property
    def rated_minor(self) -> int:
        """What the rate card made it, before coupons and credits."""
        return self.gross_minor - sum(one.amount_minor for one in self.reductions if one.kind not in AFTERWARDS)

    @property
    def tax_minor(self) -> int:
        """Of all its taxes, inclusive or not."""
        return sum(tax.amount_minor for tax in self.taxes)

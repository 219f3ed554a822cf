"""The lines of an invoice become what is owed: credits first, then tax on what is left of each line."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction

from farebox_portal.pricing.line import Line, Reduction, Tax
from farebox_portal.pricing.money import Currency, share_of


@dataclass(frozen=True, slots=True)
class Credit:
    """Money on the customer's side. `fees_only`: it pays for flat fees alone, as the credit of a plan change does."""

    id: str
    description: str
    amount_minor: int
    fees_only: bool = False


TaxRule = Callable[[Sequence[Line]], Sequence[tuple[Tax, ...]]]
"""The hook for tax: lines after credits -> the taxes of each, in the same order."""


@dataclass(frozen=True, slots=True)
class Bill:
    """`total_minor` = sum of the lines' amounts + the taxes on top. Below 0: carried to the next invoice."""

    lines: tuple[Line, ...]
    credits_left: tuple[Credit, ...]
    total_minor: int
    tax_minor: int


def settle(lines: Sequence[Line], credits_: Sequence[Credit] = (), tax_rule: TaxRule | None = None) -> Bill:
    """Credits are used in the order given; each entry of `credits_left` is what is left of one, 0 included."""
    paid, left = apply_credits(lines, credits_)
    if tax_rule is not None:
        taxes = tax_rule(paid)
        paid = tuple(replace(line, taxes=tuple(found)) for line, found in zip(paid, taxes, strict=True))
    on_top = sum(tax.amount_minor for line in paid for tax in line.taxes if not tax.inclusive)
    total_minor = sum(line.amount_minor for line in paid) + on_top
    return Bill(paid, left, total_minor, sum(line.tax_minor for line in paid))


def apply_credits(lines: Sequence[Line], credits_: Sequence[Credit]) -> tuple[tuple[Line, ...], tuple[Credit, ...]]:
    """(lines, what is left of each credit). No line and no total goes below 0 by a credit: it pays, it is not paid out.

    Raises ValueError for a credit below 0.
    """
    paid = list(lines)
    # A negative line already pays for a part of the others.
    owed_minor = sum(line.amount_minor for line in lines)
    left: list[Credit] = []
    for credit in credits_:
        if credit.amount_minor < 0:
            raise ValueError(f"credit {credit.id} is below 0")
        rest = credit.amount_minor
        for place, line in enumerate(paid):
            used = min(rest, line.amount_minor, owed_minor)
            if used <= 0 or (credit.fees_only and line.kind != "fee"):
                continue
            paid[place] = line.less(Reduction("credit", credit.id, credit.description, used))
            rest, owed_minor = rest - used, owed_minor - used
        left.append(replace(credit, amount_minor=rest))
    return tuple(paid), tuple(left)


def percentage_tax(name: str, percentage: Decimal, of: Currency, *, inclusive: bool = False) -> TaxRule:
    """One rate for all lines, each rounded by itself. 20 % of 9.99 are 2.00 on top, or 1.67 of the 9.99."""
    rate = Fraction(percentage) / 100
    share = rate / (1 + rate) if inclusive else rate

    def taxes(lines: Sequence[Line]) -> list[tuple[Tax, ...]]:
        return [(Tax(name, share_of(line.amount_minor, share, of), inclusive),) for line in lines]

    return taxes

"""A part of a period, and what it is worth. Shares are exact fractions of time, not of days; money is rounded once.

What a customer gets back who changes plan in the middle of a period that is paid for:

    credit = fee × (1 − max(share of the time that passed, share of the quota that was used))

A fee of 29 after 15 of 30 days and 7000 of 10 000 requests leaves 30 %: 8.70. Of several meters the most used counts:
who has used up one of them has had what the fee was for. No credit is more than was settled for the very fee, less what
was given back of it before; therefore going back and forth between plans never makes money.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

from farebox_portal.pricing.money import Currency, share_of
from farebox_portal.pricing.period import Period

_TICK = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class QuotaUse:
    """Of one meter in the period. A limit of 0 or None (nothing included, or everything) says nothing about the fee."""

    used: int | Decimal
    limit: int | Decimal | None


def length_share(part: Period, whole: Period) -> Fraction:
    """How much of `whole` lies in `part`: between 0 and 1. Raises ValueError for a whole without length."""
    if whole.end <= whole.start:
        raise ValueError("a period ends after it starts")
    common = min(part.end, whole.end) - max(part.start, whole.start)
    return max(Fraction(0), Fraction(common // _TICK, (whole.end - whole.start) // _TICK))


def consumed_share(period: Period, at: datetime, quotas: Iterable[QuotaUse] = ()) -> Fraction:
    """How much of what the fee paid for is gone at `at`: by time or by the most used quota, whichever is more."""
    shares = [length_share(Period(period.start, max(period.start, at)), period)]
    shares += [Fraction(quota.used) / Fraction(quota.limit) for quota in quotas if quota.limit]
    return min(Fraction(1), max(shares))


def change_credit(
    fee_minor: int, consumed: Fraction, of: Currency, *, settled_minor: int, credited_minor: int = 0
) -> int:
    """What a plan change gives back, 0 or more.

    `fee_minor` is the fee of the period that is left; `settled_minor` what was paid for it, in money or with the credit
    of an earlier change; `credited_minor` what was given back of it already.
    """
    credit = share_of(fee_minor, 1 - consumed, of)
    return max(0, min(credit, settled_minor - credited_minor))


def cut_amount(amount_minor: int, whole: Period, cuts: Sequence[datetime], of: Currency) -> tuple[int, ...]:
    """An amount over the pieces that ascending cuts make of a period, in order; they add up to it exactly.

    Each piece is what is due up to its end less what is due up to its start, so that none depends on later cuts.
    Raises ValueError for cuts outside the period or out of order.
    """
    edges = [whole.start, *cuts, whole.end]
    if edges != sorted(edges):
        raise ValueError("cuts must lie in the period and ascend")
    due = [share_of(amount_minor, length_share(Period(whole.start, edge), whole), of) for edge in edges[1:-1]]
    sums = [0, *due, amount_minor]
    return tuple(upper - lower for lower, upper in pairwise(sums))

"""A part of a period, and what it is worth. Shares are exact fractions of time, not of days; money is rounded once.

What a customer gets back who changes plan in the middle of a period that is paid for:

    credit = fee × (1 − max(share of the time that passed, share of the quota that was used))

A fee of 29 after 15 of 30 days and 7000 of 10 000 requests leaves 30 %: 8.70. Of several meters the most used counts:
who has used up one of them has had what the fee was for. No invoice credits more than was settled for the very fee,
less what was given back of it before; therefore going back and forth between plans never makes money.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction

from farebox_portal.pricing.part import ZERO
from farebox_portal.pricing.period import Period
from farebox_portal.pricing.rate import Charge, rate

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


def kept_of(charge: Charge, piece: Fraction, consumed: Fraction) -> Charge:
    """What stays of a fee in advance after a change of plan; the rest is given back, if it was paid.

    `charge` is the fee of one period, with all the share that was charged of it; `piece` the part of that share which
    the change leaves, and `consumed` how much of the piece is gone. So what is kept is rounded as the line of a fee is
    that was served so long; kept and given back add up to what was charged, and no line charges it anew.
    """
    return replace(charge, share=charge.share - piece * (1 - consumed))


def fee_minor(charge: Charge) -> int:
    """What a flat fee comes to."""
    return sum(line.amount_minor for line in rate(charge, ZERO))

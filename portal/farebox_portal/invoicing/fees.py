"""What a flat fee comes to at an instant: how much of it is owed, and how much of it has to be given back. Pure.

A fee in advance is charged when its period begins; what happens to the subscription afterwards corrects it:

    a pause           gives back the time that is not served; when it goes on, the time that is served then is charged
    a change of plan  gives back the fee × (1 − max(time share, quota share)), see pricing.proration
    the end           gives nothing back: what was paid for is not refunded. An operator may, by a credit note.

Every amount is that of the whole charge up to now, and what was billed and given back before is taken off. So however
often a fee is cut, its pieces add up to what one bill at the end would say, to the cent.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from itertools import groupby
from typing import Literal

from farebox_portal.invoicing.charges import Due
from farebox_portal.pricing.line import WHOLE, Line
from farebox_portal.pricing.money import Currency, currency
from farebox_portal.pricing.part import ZERO
from farebox_portal.pricing.period import Period
from farebox_portal.pricing.proration import QuotaUse, consumed_share, fee_minor, kept_of, length_share
from farebox_portal.pricing.rate import Charge, rate
from farebox_portal.subscriptions.life import Life, Segment

Ending = Literal["pause", "phase", "change", "end"]


@dataclass(frozen=True, slots=True)
class Fee:
    """A charge and what of it is served. `due`: its last piece, `served` the last piece's time.

    `lines`: what is owed for the time that is served, as it is planned now. `kept_minor`: what may be kept of what was
    charged; never less than the lines come to, as no less of the fee is consumed than its time.
    """

    due: Due
    served: Period
    lines: tuple[Line, ...]
    kept_minor: int

    @property
    def owed_minor(self) -> int:
        return sum(line.amount_minor for line in self.lines)


def fees(dues: Iterable[Due], life: Life, at: datetime) -> list[Fee]:
    """Of the flat fees among the charges, those that are due at `at`. Pieces of one charge ascend."""
    pieces = sorted((due for due in dues if not due.is_by_usage and due.at <= at), key=_order)
    return [_fee(list(group), life, at) for _, group in groupby(pieces, key=_key)]


def changes_within(dues: Iterable[Due], life: Life, at: datetime) -> list[Segment]:
    """The changes of plan up to `at` that left a fee in advance in the midst of its period."""
    found = {
        segment.start: segment
        for due in dues
        if due.is_in_advance and due.card.billing_cadence is not None and due.service.served.end <= at
        for segment in life.segments
        if segment.start == due.service.served.end < due.service.full.end and ending(due, life) == "change"
    }
    return list(found.values())


def ending(due: Due, life: Life) -> Ending:
    """What ends a piece before its full period does."""
    end = due.service.served.end
    if end == life.end:
        return "end"
    segment = next((one for one in life.segments if one.start == end), None)
    if segment is None:
        return "phase"
    goes_on = segment.phase_start == due.phase_start or segment.is_paused
    return "pause" if segment.plan_id == due.plan.id and goes_on else "change"


def _order(due: Due) -> tuple[str, datetime]:
    return due.key, due.service.served.start


def _key(due: Due) -> str:
    return due.key


def _fee(pieces: list[Due], life: Life, at: datetime) -> Fee:
    last, of = pieces[-1], currency(pieces[-1].plan.currency)
    if last.card.billing_cadence is None:
        lines = _lines(last, WHOLE, of)
        return Fee(last, last.service.served, lines, _sum(lines))
    served = sum((piece.service.share for piece in pieces), Fraction(0))
    if served == WHOLE or not last.service.is_prorated:
        served = WHOLE  # itself: a whole fee needs no fractions
    lines = _lines(last, served, of)
    if not (last.is_in_advance and last.service.is_prorated):
        return Fee(last, last.service.served, lines, _sum(lines))
    why = ending(last, life) if last.service.served.end < last.service.full.end else "phase"
    if why == "phase" or (why == "pause" and last.service.served.end <= at):
        return Fee(last, last.service.served, lines, _sum(lines))
    return Fee(last, last.service.served, lines, _kept(last, served, why, life, at, of))


def _kept(last: Due, served: Fraction, why: Ending, life: Life, at: datetime, of: Currency) -> int:
    """Of a fee whose period something cuts. What lies ahead gives nothing back yet."""
    full, piece = last.service.full, last.service.served
    whole = Period(piece.start, full.end if last.phase_end is None else min(full.end, last.phase_end))
    charged = _charge(last, served - last.service.share + length_share(whole, full), of)
    if why != "change" or at < piece.end:
        return fee_minor(charged)
    use = Fraction(0) if last.plan.is_credited_by_time_alone else _used_share(life, piece.end)
    consumed = consumed_share(whole, piece.end, [QuotaUse(use.numerator, use.denominator)])
    return fee_minor(kept_of(charged, length_share(whole, full), consumed))


def _used_share(life: Life, at: datetime) -> Fraction:
    return next(segment.used_share or Fraction(0) for segment in life.segments if segment.start == at)


def _lines(due: Due, share: Fraction, of: Currency) -> tuple[Line, ...]:
    return rate(_charge(due, share, of), ZERO)


def _charge(due: Due, share: Fraction, of: Currency) -> Charge:
    return Charge(due.card, of, due.service.full, True, share, due.count, due.earlier)


def _sum(lines: Iterable[Line]) -> int:
    return sum(line.amount_minor for line in lines)

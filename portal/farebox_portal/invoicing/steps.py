"""When a subscription is invoiced: its life -> the steps of invoicing, in order. Pure.

    life      start ────────────────┬ boundary ───────────┬ change ────────── … end
    steps     fees                  fees ──┬ usage        fees                  usage ┬ late ┬ late ┬ late
                                           └ after the collection window

Fees in advance are due at once. Usage arrives late, as gateways deliver it: a period's is invoiced after the collection
window, together with the fees that its end brought; until then the invoice is a draft. A plan without prices by usage
waits for nothing. Usage that comes after that is a line on the next invoice; when none follows, because the
subscription is over, it is looked for three times more.

Usage of a plan that is left in the midst of a period waits for the period's end: a change of plan makes an invoice of
fees, and no second one an hour later.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import zip_longest
from typing import Literal

from farebox_portal.invoicing.charges import Due, in_phases, span_of
from farebox_portal.pricing.period import Period, boundary, index_at, period_at
from farebox_portal.subscriptions.life import Life
from farebox_portal.subscriptions.stretches import Stretch, stretch_at

Kind = Literal["start", "change", "period", "final", "late"]
LATE = (timedelta(days=1), timedelta(days=7), timedelta(days=30))
"""After the end: when usage that came late is looked for."""


@dataclass(frozen=True, slots=True)
class Step:
    """`at`: when it is taken, for everything due up to `closes_at`. `waits`: usage of it is still to come."""

    at: datetime
    closes_at: datetime
    kind: Kind
    with_usage: bool
    waits: bool
    period: Period


@dataclass(frozen=True, slots=True)
class _Closing:
    at: datetime
    kind: Kind


def steps(
    life: Life, cut: tuple[Stretch, ...], dues: Sequence[Due], window: timedelta, after: datetime, until: datetime
) -> list[Step]:
    """Those in (after, until]. `dues`: every charge in that time, and more."""
    closings = _closings(life, cut, dues, after - window, until)
    found = [step for closing in closings for step in _of(closing, closings, cut, window)]
    final = life.end
    if final is not None and life.start < final:
        last = _period(life, cut, final)
        found += [Step(final + window + late, final, "late", True, False, last) for late in LATE]
    found = sorted((step for step in found if after < step.at <= until), key=lambda step: (step.at, step.closes_at))
    return [_with_period(step, life, cut) for step in _without_idle(found)]


def next_step(
    life: Life, cut: tuple[Stretch, ...], dues: Iterable[Due], window: timedelta, now: datetime
) -> datetime | None:
    """When there is something to do after `now`; None: never again. `dues`: all that begin in the running period."""
    if life.end is not None and life.end <= life.start:
        return None
    if now < life.start:
        return life.start
    candidates = [due.at for due in dues if due.is_in_advance] + [segment.start for segment in life.segments]
    candidates += [stretch.start for stretch in cut]
    if life.end is None or now < life.end:
        cadence = cut[stretch_at(cut, now)].plan.billing_cadence
        period = period_at(life.anchor, cadence, now)
        candidates += [period.end, period.start + window]
    if life.end is not None:
        candidates += [life.end, life.end + window, *(life.end + window + late for late in LATE)]
        candidates = [at for at in candidates if at <= life.end + window + LATE[-1]]
    return min((at for at in candidates if at > now), default=None)


def _without_idle(found: list[Step]) -> Iterator[Step]:
    """Who comes late need not open a draft that the very next step issues."""
    for step, following in zip_longest(found, found[1:]):
        is_idle = step.waits and following is not None and following.with_usage
        if not (is_idle and following.closes_at == step.closes_at):
            yield step


def _closings(
    life: Life, cut: tuple[Stretch, ...], dues: Iterable[Due], after: datetime, until: datetime
) -> list[_Closing]:
    """One for each instant in (after, until] at which fees come due, a billing period ends or the life does."""
    if life.end is not None and life.end <= life.start:
        return []
    fees = {due.at for due in dues if due.is_in_advance}
    ends = set(_boundaries(life, cut, after, until))
    instants = fees | ends | ({life.start} if fees else set()) | ({life.end} if life.end else set())
    return [
        _Closing(at, _kind(at, life, ends))
        for at in sorted(instants)
        if after < at <= until and (life.end is None or at <= life.end)
    ]


def _kind(at: datetime, life: Life, ends: set[datetime]) -> Kind:
    if at == life.end:
        return "final"
    if at == life.start:
        return "start"
    return "period" if at in ends else "change"


def _boundaries(life: Life, cut: tuple[Stretch, ...], after: datetime, until: datetime) -> Iterator[datetime]:
    """Where billing periods end: counted from the anchor by the cadence of the plan that is in force before."""
    for phase in in_phases(cut):
        span, cadence = span_of(phase), phase[0].plan.billing_cadence
        end = until if span.end is None else min(span.end, until)
        n = index_at(life.anchor, cadence, max(span.start, after)) + 1
        while (at := boundary(life.anchor, cadence, n)) <= end:
            yield at
            n += 1


def again(life: Life, cut: tuple[Stretch, ...], dues: Sequence[Due], window: timedelta, now: datetime) -> list[Step]:
    """The fees once more, as something about the life has changed: what it gives back is there at once."""
    if now < life.start or (life.end is not None and life.end <= life.start):
        return []
    waits = _is_waiting(_closings(life, cut, dues, now - window, now), cut, window, now)
    return [_with_period(Step(now, now, "change", False, waits, Period(now, now)), life, cut)]


def _of(closing: _Closing, closings: Sequence[_Closing], cut: tuple[Stretch, ...], window: timedelta) -> Iterator[Step]:
    nowhere = Period(closing.at, closing.at)
    if closing.kind in ("start", "change"):
        waits = _is_waiting(closings, cut, window, closing.at)
        yield Step(closing.at, closing.at, closing.kind, False, waits, nowhere)
        return
    waits = bool(window) and _sells_usage(cut, closing.at)
    if waits:
        yield Step(closing.at, closing.at, closing.kind, False, True, nowhere)
    yield Step(closing.at + (window if waits else timedelta()), closing.at, closing.kind, True, False, nowhere)


def _is_waiting(closings: Iterable[_Closing], cut: tuple[Stretch, ...], window: timedelta, at: datetime) -> bool:
    """Whether usage of a period that is over is still to come at `at`."""
    return any(
        one.kind in ("period", "final") and one.at <= at < one.at + window and _sells_usage(cut, one.at)
        for one in closings
    )


def _sells_usage(cut: tuple[Stretch, ...], until: datetime) -> bool:
    """Whether anything before that instant is charged by usage."""
    return any(
        card["price"] is not None and card["price"].get("type") != "flat"
        for stretch in cut
        if stretch.start < until
        for cards in (stretch.phase["rateCards"], *(piece.hold.addon.rate_cards for piece in stretch.addons))
        for card in cards
        if card.get("price") is not None
    )


def _with_period(step: Step, life: Life, cut: tuple[Stretch, ...]) -> Step:
    at_end = step.kind in ("period", "final", "late")
    period = _period(life, cut, step.closes_at) if at_end else _begun(life, cut, step.closes_at)
    return Step(step.at, step.closes_at, step.kind, step.with_usage, step.waits, period)


def _period(life: Life, cut: tuple[Stretch, ...], end: datetime) -> Period:
    """The billing period that ends there, as far as it was one of this life and plan."""
    before = end - datetime.resolution
    stretch = cut[stretch_at(cut, before)]
    start = period_at(life.anchor, stretch.plan.billing_cadence, before).start
    phase = next(span_of(phase) for phase in in_phases(cut) if stretch in phase)
    return Period(max(start, phase.start), end)


def _begun(life: Life, cut: tuple[Stretch, ...], start: datetime) -> Period:
    """The billing period that begins, or goes on, there."""
    stretch = cut[stretch_at(cut, start)]
    end = period_at(life.anchor, stretch.plan.billing_cadence, start).end
    ends = [at for at in (stretch.phase_end, life.end, end) if at is not None and at > start]
    return Period(start, min(ends))

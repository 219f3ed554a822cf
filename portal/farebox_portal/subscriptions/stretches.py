"""A life in stretches: as long as one phase of one plan is in force, and nothing about it changes. Pure.

    segments   ── pro ─────────────────────────┬─ paused ─┬── pro ──
    phases        trial    │ full
    stretches  ── trial ───┼── full ───────────┼─ paused ─┼── full ──

Entitlements, fees and what is shown all read a life this way. Phases are counted from the start of the phase that a
segment began with; a pause does not stop them. Add-ons cut no stretch: each has the pieces of them that lie in it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from farebox_portal.catalog.tables import Plan
from farebox_portal.durations import Duration, parse_duration
from farebox_portal.pricing.schedule import Span
from farebox_portal.subscriptions.addon_holds import Hold, Piece, pieces
from farebox_portal.subscriptions.life import Life, Segment


@dataclass(frozen=True)
class Stretch:
    """[start, end), end None: it goes on. `phase` as the plan's document has it; that is [phase_start, phase_end)."""

    start: datetime
    end: datetime | None
    plan: Plan
    phase: Mapping[str, Any]
    phase_start: datetime
    phase_end: datetime | None
    is_paused: bool
    is_fresh: bool  # allowances are full again at its start
    is_next_phase: bool  # it begins because the phase before it ended
    addons: tuple[Piece, ...] = ()  # by the age of their holds, then in order

    @property
    def phase_span(self) -> Span:
        return Span(self.phase_start, self.phase_end)

    def addons_at(self, at: datetime) -> tuple[Piece, ...]:
        return tuple(piece for piece in self.addons if piece.is_in_force(at))


def stretches(life: Life, plans: Mapping[str, Plan]) -> tuple[Stretch, ...]:
    """In order; at least one, without length if the life was called off. `plans` by id."""
    ends = [segment.start for segment in life.segments[1:]]
    pairs = zip(life.segments, [*ends, life.end], strict=True)
    found = tuple(stretch for segment, end in pairs for stretch in _stretches_of(segment, end, plans[segment.plan_id]))
    return found if not life.addons else tuple(_with_addons(found, life.addons))


def _with_addons(found: tuple[Stretch, ...], holds: tuple[Hold, ...]) -> Iterator[Stretch]:
    in_force = [piece for hold in holds for piece in pieces(hold, found)]
    for stretch in found:
        yield replace(stretch, addons=tuple(one for one in in_force if _lies_in(one, stretch)))


def _lies_in(piece: Piece, stretch: Stretch) -> bool:
    return stretch.start <= piece.start and (stretch.end is None or piece.start < stretch.end)


def stretch_at(found: tuple[Stretch, ...], at: datetime) -> int:
    """The place of the one in force; before the first the first, after the last the last."""
    return max(sum(stretch.start <= at for stretch in found) - 1, 0)


def phases(
    plan: Plan, first: str | None, start: datetime
) -> Iterator[tuple[Mapping[str, Any], datetime, datetime | None]]:
    """(phase, start, end) from the phase `first` on, which begins at `start`; None: from the plan's first.

    Each begins where the durations of all before it end, counted from `start`: a month after a month after 31 January
    is 31 March. Raises ValueError for a phase that the plan does not have.
    """
    keys = [phase["key"] for phase in plan.phases]
    months, span, begins = 0, timedelta(), start
    for phase in plan.phases[0 if first is None else keys.index(first) : -1]:
        length = parse_duration(phase["duration"])
        months, span = months + length.months, span + length.span
        ends = Duration(months, span).after(start)
        yield phase, begins, ends
        begins = ends
    yield plan.phases[-1], begins, None


def _stretches_of(segment: Segment, end: datetime | None, plan: Plan) -> Iterator[Stretch]:
    is_first = True
    for phase, phase_start, phase_end in phases(plan, segment.phase, segment.phase_start):
        if phase_end is not None and phase_end <= segment.start:
            continue
        start = max(segment.start, phase_start)
        if not is_first and end is not None and end <= start:
            return
        earlier = [at for at in (phase_end, end) if at is not None]
        yield Stretch(
            start=start,
            end=min(earlier, default=None),
            plan=plan,
            phase=phase,
            phase_start=phase_start,
            phase_end=phase_end,
            is_paused=segment.is_paused,
            is_fresh=segment.is_fresh and is_first,
            is_next_phase=start == phase_start and segment.phase_start < start,
        )
        is_first = False

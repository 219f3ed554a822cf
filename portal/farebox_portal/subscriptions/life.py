"""A subscription's life as facts, and every way in which it may change. Pure: (life, command, now) -> life, or refused.

A life is the time [start, end), cut into segments. A segment says which plan is in force and whether it is paused, and
lasts until the next one begins; so segments tile the life, whatever is done to them. Nothing is ever switched on or
off: the state at an instant is read from these instants, and a change that lies in the future needs nobody to carry it
out.

    start ── free ──┬── pro ──────────┬─ paused ─┬── pro ── … end

Each command has an instant at which it takes effect, and decides everything from that instant on: what was planned for
then or later gives way to it, what was planned for before stays. The last word counts.

`TABLE` says which command is taken in which state and which states it can lead to; what is not taken is refused with
the code that stands in the same place.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from fractions import Fraction
from itertools import pairwise
from typing import Literal

from farebox_portal.errors import Conflict
from farebox_portal.subscriptions.addon_holds import Hold

State = Literal["scheduled", "active", "canceled", "paused", "inactive"]


@dataclass(frozen=True, slots=True)
class Segment:
    """From `start` on: a plan version, in the phase `phase` (None: its first) since `phase_start`.

    `is_fresh`: allowances are full again at its start. Otherwise what was used of them before counts on.
    `used_share`: how much of the most used allowance was gone when it was ordered, for what is credited of the fee that
    ran before it; None: it is still to come.
    """

    start: datetime
    plan_id: str
    phase_start: datetime
    phase: str | None = None
    is_paused: bool = False
    is_fresh: bool = False
    used_share: Fraction | None = None

    def goes_on(self, at: datetime, *, is_paused: bool) -> "Segment":
        """From `at` on. In the instant of its own start it takes its place, and is what the segment was."""
        if at == self.start:
            return replace(self, is_paused=is_paused)
        return replace(self, start=at, is_paused=is_paused, is_fresh=False, used_share=None)

    def only_goes_on(self, before: "Segment") -> bool:
        return self == before.goes_on(self.start, is_paused=before.is_paused)


@dataclass(frozen=True, slots=True)
class Life:
    """`segments` ascend; the first begins at `start`. An end at `start`: it was called off. `anchor`: see period.py.

    `addons`: what was ordered beside the plans, the oldest first; how much of it is in force, `addon_holds` says.
    """

    start: datetime
    end: datetime | None
    anchor: datetime
    segments: tuple[Segment, ...]
    addons: tuple[Hold, ...] = ()

    def segment_at(self, at: datetime) -> Segment:
        """The one in force; before the start the first, after the end the last."""
        return [self.segments[0], *(segment for segment in self.segments if segment.start <= at)][-1]

    def state(self, now: datetime) -> State:
        if self._is_over(max(now, self.start)):
            return "inactive"  # over, or called off before it began
        if now < self.start:
            return "scheduled"
        if self.segment_at(now).is_paused:
            return "paused"
        return "active" if self.end is None else "canceled"

    def overlaps(self, other: "Life") -> bool:
        """Whether there is an instant that lies in both."""
        start = max(self.start, other.start)
        return not self._is_over(start) and not other._is_over(start)

    def _is_over(self, at: datetime) -> bool:
        return self.end is not None and self.end <= at


def begun(start: datetime, anchor: datetime, plan_id: str, phase: str | None = None) -> Life:
    return Life(start, None, anchor, (Segment(start, plan_id, start, phase),))


# --- what may be asked of it -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Change:
    """Another plan from `at` on. `phase_start` None: its phase begins with it. The rest as in `Segment`."""

    at: datetime
    plan_id: str
    phase: str | None = None
    phase_start: datetime | None = None
    is_fresh: bool = False
    used_share: Fraction | None = None


@dataclass(frozen=True, slots=True)
class Cancel:
    at: datetime


@dataclass(frozen=True, slots=True)
class UnscheduleCancelation:
    pass


@dataclass(frozen=True, slots=True)
class UnscheduleChange:
    """Drop every planned change, pause and resumption; not a planned end."""


@dataclass(frozen=True, slots=True)
class Restore:
    """Let it go on as it is: drops a planned end and every planned change."""


@dataclass(frozen=True, slots=True)
class Pause:
    """No access, and no fees, from `at` on; until None: until it is resumed. Calendar, phases and keys go on."""

    at: datetime
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Resume:
    at: datetime


@dataclass(frozen=True, slots=True)
class Delete:
    """Forget it, as if it had never been ordered."""


@dataclass(frozen=True, slots=True)
class HaveAddon:
    """The hold, also in the place of one of the same id."""

    hold: Hold


@dataclass(frozen=True, slots=True)
class UnscheduleAddon:
    """Drop what is planned for a hold."""

    hold_id: str


Command = (
    Change
    | Cancel
    | UnscheduleCancelation
    | UnscheduleChange
    | Restore
    | Pause
    | Resume
    | Delete
    | HaveAddon
    | UnscheduleAddon
)

_REFUSALS = {
    "subscription_inactive": "The subscription has ended.",
    "subscription_canceled": "The subscription is going to end; take the cancelation back first.",
    "subscription_paused": "The subscription is paused; resume it first.",
    "subscription_not_paused": "The subscription is not paused.",
    "subscription_not_begun": "The subscription has not begun.",
    "subscription_begun": "The subscription has begun; cancel it instead.",
    "cancelation_not_scheduled": "No cancelation is scheduled.",
    "change_not_scheduled": "No change is scheduled.",
    "nothing_scheduled": "Nothing is scheduled that could be taken back.",
    "subscription_ends_before": "The subscription ends before that.",
}


STATES: tuple[State, ...] = ("scheduled", "active", "canceled", "paused", "inactive")

# What a command leads to, right after it, in each of STATES: the states that are possible, or the code of the refusal.
_Cell = frozenset[State | None] | str


def _to(*states: State | None) -> _Cell:
    return frozenset(states)


_ENDED = "subscription_inactive"
TABLE: Mapping[type[Command], tuple[_Cell, ...]] = {
    Change: (_to("scheduled"), _to("active"), "subscription_canceled", "subscription_paused", _ENDED),
    Cancel: (
        _to("scheduled", "inactive"),
        _to("canceled", "inactive"),
        _to("canceled", "inactive"),
        _to("paused", "inactive"),
        _ENDED,
    ),
    UnscheduleCancelation: (
        _to("scheduled"),
        "cancelation_not_scheduled",
        _to("active"),
        _to("paused"),
        _ENDED,
    ),
    UnscheduleChange: (_to("scheduled"), _to("active"), _to("canceled"), _to("paused"), _ENDED),
    Restore: (_to("scheduled"), _to("active"), _to("active"), _to("paused"), _ENDED),
    Pause: (
        "subscription_not_begun",
        _to("active", "paused"),
        _to("canceled", "paused"),
        "subscription_paused",
        _ENDED,
    ),
    Resume: (
        "subscription_not_paused",
        "subscription_not_paused",
        "subscription_not_paused",
        _to("active", "canceled", "paused"),
        _ENDED,
    ),
    Delete: (_to(None), *("subscription_begun",) * 3, _ENDED),
    HaveAddon: (
        "subscription_not_begun",
        _to("active"),
        "subscription_canceled",
        "subscription_paused",
        _ENDED,
    ),
    UnscheduleAddon: ("subscription_not_begun", _to("active"), _to("canceled"), _to("paused"), _ENDED),
}


def apply(life: Life, command: Command, now: datetime) -> Life | None:
    """The life after the command; None: it is gone. Raises Conflict with the code that TABLE has.

    Instants in commands lie at `now` or later, and not before the start.
    """
    require_taken(life, type(command), now)
    after = _applied(life, command, now)
    assert (None if after is None else after.state(now)) in _cell(life, type(command), now), "TABLE is wrong"
    return after


def require_taken(life: Life, command: type[Command], now: datetime) -> None:
    """Raises Conflict with the code that TABLE has for this command in the present state."""
    cell = _cell(life, command, now)
    if isinstance(cell, str):
        raise refused(cell)


def _cell(life: Life, command: type[Command], now: datetime) -> _Cell:
    return TABLE[command][STATES.index(life.state(now))]


def refused(code: str) -> Conflict:
    return Conflict(_REFUSALS[code], code=code)


def _applied(life: Life, command: Command, now: datetime) -> Life | None:
    match command:
        case Change():
            phase_start = command.at if command.phase_start is None else command.phase_start
            new = Segment(
                command.at, command.plan_id, phase_start, command.phase, False, command.is_fresh, command.used_share
            )
            return _from(life, new)
        case Cancel(at):
            kept = tuple(segment for segment in life.segments if segment.start < at) or life.segments[:1]
            return replace(life, end=at, segments=kept)
        case UnscheduleCancelation():
            if life.end is None:
                raise refused("cancelation_not_scheduled")
            return replace(life, end=None)
        case UnscheduleChange():
            return _without_plans(life, now, "change_not_scheduled")
        case Restore():
            if life.end is None:
                return _without_plans(life, now, "nothing_scheduled")
            return replace(life, end=None, segments=_begun_segments(life, now))
        case Pause(at, until):
            before = life.segment_at(at)
            pause = before.goes_on(at, is_paused=True)
            return _from(life, pause) if until is None else _from(life, pause, before.goes_on(until, is_paused=False))
        case Resume(at):
            return _from(life, life.segment_at(at).goes_on(at, is_paused=False))
        case Delete():
            return None
        case HaveAddon(hold):
            return _with_hold(life, hold)
        case UnscheduleAddon(hold_id):
            hold = next(one for one in life.addons if one.id == hold_id)
            if hold.begun(now) == hold:
                raise refused("change_not_scheduled")
            return _with_hold(life, hold.begun(now))


def _from(life: Life, *new: Segment) -> Life:
    """The new segments decide everything from the first of them on."""
    if life.end is not None and life.end <= new[0].start:
        raise refused("subscription_ends_before")
    new = tuple(segment for segment in new if life.end is None or segment.start < life.end)
    kept = [segment for segment in life.segments if segment.start < new[0].start]
    return replace(life, segments=_merged([*kept, *new]))


def _with_hold(life: Life, hold: Hold) -> Life:
    """In the place of the one of its id, or after all others; gone if nothing of it is ordered."""
    found = {one.id: one for one in life.addons} | {hold.id: hold}
    return replace(life, addons=tuple(one for one in found.values() if one.orders))


def _without_plans(life: Life, now: datetime, code: str) -> Life:
    kept = _begun_segments(life, now)
    if kept == life.segments:
        raise refused(code)
    return replace(life, segments=kept)


def _begun_segments(life: Life, now: datetime) -> tuple[Segment, ...]:
    return tuple(segment for segment in life.segments if segment.start <= max(now, life.start))


def _merged(segments: list[Segment]) -> tuple[Segment, ...]:
    """Without those that only go on with what was there before."""
    return (
        *segments[:1],
        *(later for earlier, later in pairwise(segments) if not later.only_goes_on(earlier)),
    )


# --- what is going to happen -----------------------------------------------------------------------------------------

Kind = Literal["start", "change", "pause", "resume", "end"]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that comes by itself at an instant. `segment`: what is in force from then on; None at the end."""

    at: datetime
    kind: Kind
    segment: Segment | None


def events(life: Life) -> Iterator[Event]:
    """All of a life, past and planned, in order; none if it was called off."""
    if life.end is not None and life.end <= life.start:
        return
    yield Event(life.start, "start", life.segments[0])
    for before, segment in pairwise(life.segments):
        kind: Kind = "change"
        if segment == before.goes_on(segment.start, is_paused=segment.is_paused):
            kind = "pause" if segment.is_paused else "resume"
        yield Event(segment.start, kind, segment)
    if life.end is not None:
        yield Event(life.end, "end", None)


def scheduled(life: Life, now: datetime) -> list[Event]:
    """What lies ahead of `now`, in order."""
    return [event for event in events(life) if event.at > now]

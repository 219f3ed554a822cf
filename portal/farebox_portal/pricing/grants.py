"""Credit: grants of units (or of minor units of money), burnt by usage. In whole numbers, so that nothing gets lost.

A grant counts from `effective_at` up to, not including, `expires_at` or `voided_at`. What happens at one instant
happens in this order:

    1 grants end        what is left of them lapses
    2 a reset           each grant still there becomes min(rollover_max, max(rollover_min, what is left)); overage is
                        dropped, or kept and then burnt from the rolled balances
    3 grants start and recur   with their whole amount; what was left before a recurrence lapses. They pay overage first
    4 usage             burns in burn order; what no grant covers is overage

    2100 used of 2000, rollover_min 500, overage kept: 500 - 100 = 400 left
    2600 used of 2000, the same:                       500 - 600 = 0 left and 100 overage
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import chain, count

from farebox_portal.pricing.period import boundary, index_at

_NEVER = datetime.max.replace(tzinfo=UTC)
_END, _RESET, _START, _USE = range(4)


@dataclass(frozen=True, slots=True)
class Grant:
    """`recurs`: a cadence, counted from `recurs_from`, or from `effective_at` without it. Raises ValueError for amounts
    or a priority that cannot be.
    """

    id: str
    amount: int
    effective_at: datetime
    created_at: datetime
    priority: int = 1  # 1 to 255; 1 burns first
    expires_at: datetime | None = None
    voided_at: datetime | None = None
    rollover_min: int = 0
    rollover_max: int = 0
    recurs: str | None = None
    recurs_from: datetime | None = None

    def __post_init__(self) -> None:
        if self.amount < 0 or not 0 <= self.rollover_min <= self.rollover_max:
            raise ValueError("amounts are 0 or more, and rollover_min is not above rollover_max")
        if not 1 <= self.priority <= 255:
            raise ValueError("a priority lies between 1 and 255")

    @property
    def ends_at(self) -> datetime:
        return min(self.expires_at or _NEVER, self.voided_at or _NEVER)

    def rolled(self, left: int) -> int:
        """What a reset leaves of `left`."""
        return min(self.rollover_max, max(self.rollover_min, left))


@dataclass(frozen=True, slots=True)
class Usage:
    at: datetime
    units: int


@dataclass(frozen=True, slots=True)
class Reset:
    """`is_fresh`: a new beginning instead of a new period; what is left of each grant stays as it is.

    `is_used_up`: nothing is left then of what there was, whatever usage says. For who does not know all of it.
    """

    at: datetime
    preserve_overage: bool = False
    is_fresh: bool = False
    is_used_up: bool = False


@dataclass(frozen=True, slots=True)
class Balance:
    """issued = left + burnt + lapsed, and used = burnt + overage + dropped."""

    left: dict[str, int]  # by grant; those in force
    burnt: dict[str, int]  # by grant
    overage: int
    issued: int
    lapsed: int
    used: int
    dropped: int  # overage that a reset forgave

    @property
    def total(self) -> int:
        return sum(self.left.values())


def issue_after_reset(id: str, amount: int, effective_at: datetime) -> Grant:
    """The allowance of a metered entitlement: full again after each reset."""
    return Grant(id, amount, effective_at, effective_at, rollover_min=amount, rollover_max=amount)


def expiry(effective_at: datetime, cadence: str, periods: int = 1) -> datetime:
    """When a grant for so many periods ends. A month after 31 January is 28 February, not 3 March."""
    return boundary(effective_at, cadence, periods)


def changes(grant: Grant, to: datetime) -> Iterator[datetime]:
    """When it takes effect, recurs and ends, up to and including `to`."""
    yield from _starts(grant, to)
    if grant.effective_at < grant.ends_at <= to:
        yield grant.ends_at


def effective_since(grant: Grant, start: datetime) -> Grant:
    """The same, for whom nothing before `start` matters: without the recurrences before the last one until then."""
    if grant.recurs is None or start <= grant.effective_at:
        return grant
    anchor = grant.recurs_from or grant.effective_at
    last = boundary(anchor, grant.recurs, index_at(anchor, grant.recurs, start))
    return replace(grant, effective_at=max(last, grant.effective_at), recurs_from=anchor)


def burn_order(grants: Iterable[Grant]) -> list[Grant]:
    """Lower priority number, then earlier expiry (none last), then older, then by id."""
    return sorted(grants, key=lambda one: (one.priority, one.expires_at or _NEVER, one.created_at, one.id))


def balance(grants: Sequence[Grant], usage: Iterable[Usage], resets: Iterable[Reset], at: datetime) -> Balance:
    """After everything that happened up to and including `at`, in whatever order it is told.

    Raises ValueError for negative usage and for two grants of one id.
    """
    if len({grant.id for grant in grants}) < len(grants):
        raise ValueError("each grant needs an id of its own")
    account = _Account(burn_order(grants))
    for _, kind, what in sorted(_happenings(grants, usage, resets, at), key=lambda one: one[:2]):
        if isinstance(what, Usage):
            account.use(what.units)
        elif isinstance(what, Reset):
            account.reset(what)
        elif kind == _END:
            account.end(what)
        else:
            account.fill(what)
    return account.balance()


_Happening = tuple[datetime, int, Grant | Usage | Reset]


def _happenings(
    grants: Sequence[Grant], usage: Iterable[Usage], resets: Iterable[Reset], at: datetime
) -> list[_Happening]:
    found: list[_Happening] = [(use.at, _USE, use) for use in usage if use.at <= at]
    found += [(reset.at, _RESET, reset) for reset in resets if reset.at <= at]
    # Grants start in burn order, so that of several at one instant the first to burn pays the overage.
    for grant in burn_order(grants):
        found += [(start, _START, grant) for start in _starts(grant, at)]
        if grant.effective_at < grant.ends_at <= at:
            found.append((grant.ends_at, _END, grant))
    return found


def _starts(grant: Grant, at: datetime) -> Iterator[datetime]:
    """When it takes effect, and each recurrence; none at or after its end."""
    for start in chain([grant.effective_at], _recurrences(grant)):
        if start > at or start >= grant.ends_at:
            return
        yield start


def _recurrences(grant: Grant) -> Iterator[datetime]:
    if grant.recurs is not None:
        anchor = grant.recurs_from or grant.effective_at
        for n in count(index_at(anchor, grant.recurs, grant.effective_at) + 1):
            yield boundary(anchor, grant.recurs, n)


@dataclass(slots=True)
class _Account:
    """The running state of one replay."""

    order: list[Grant]
    left: dict[str, int] = field(default_factory=dict)
    burnt: dict[str, int] = field(default_factory=dict)
    overage: int = 0
    issued: int = 0
    lapsed: int = 0
    used: int = 0
    dropped: int = 0

    def use(self, units: int) -> None:
        if units < 0:
            raise ValueError("usage is 0 or more")
        self.used += units
        self.overage += units
        self._burn()

    def fill(self, grant: Grant) -> None:
        self._set(grant, grant.amount)
        self._burn()

    def end(self, grant: Grant) -> None:
        self._set(grant, 0)
        del self.left[grant.id]

    def reset(self, reset: Reset) -> None:
        for grant in self.order:
            if grant.id in self.left:
                left = 0 if reset.is_used_up else self.left[grant.id]
                self._set(grant, left if reset.is_fresh else grant.rolled(left))
        if not reset.preserve_overage:
            self.dropped += self.overage
            self.overage = 0
        self._burn()

    def _set(self, grant: Grant, units: int) -> None:
        change = units - self.left.get(grant.id, 0)
        self.issued += max(0, change)
        self.lapsed += max(0, -change)
        self.left[grant.id] = units

    def _burn(self) -> None:
        """Cover overage as far as there is anything to cover it with."""
        for grant in self.order:
            burnt = min(self.overage, self.left.get(grant.id, 0))
            if burnt:
                self.left[grant.id] -= burnt
                self.burnt[grant.id] = self.burnt.get(grant.id, 0) + burnt
                self.overage -= burnt

    def balance(self) -> Balance:
        return Balance(
            dict(self.left), dict(self.burnt), self.overage, self.issued, self.lapsed, self.used, self.dropped
        )

"""What may be used of a metered entitlement: the plan's issue and what was granted beside it, period by period. Pure.

    usage periods   ├── April ────────┼── May ──┬ upgrade ────┼── June ──
    the plan's      ├── 100 ──────────┼── 100 ──┼── 1000 ─────┼── 1000 ──
    a grant of 50        ├── rolls over, up to 30 ─────────────────┤

The burn-down itself is `pricing.grants`: the plan's issue is one more grant there, full again after each reset. Here is
what it needs: which usage periods there were, with what issue each, and what was used between any two changes.

Usage counts from the start of the period in force, whatever the plan was then, against the issue that is in force now;
so a limit that is raised or lowered within a period applies to all of it. A fresh start (an upgrade) is no reset: what
is left of the grants goes on. No further back is looked than anything can be carried from, and PERIODS_MAX at most:
beyond that nothing but a grant's minimum is carried over.

**The limit** of the period is what admission compares with the units used in it:

    limit = used - overage + what is left of all grants

Between two changes usage does not alter it: each unit is in `used` and missing from what is left. So units that are in
flight, or that the ledger does not have yet, do no harm there. Two things do depend on usage before a change:

    a grant ends, recurs or is voided    each unit that was burnt before is one more that is lost no more: usage which
                                         the ledger gets late can only raise the limit
    a reset or a fresh start             carries what was *not* used: late usage would lower the limit

So of a period that the ledger may not have in full (`is_complete`), and of all that lie ahead, it is taken that
everything was used; then late usage can only raise the limit there too. What is admitted never exceeds what was
granted, and for the time of the ledger's lag it may be less: what rolls over comes with the delay of `lag.LATE`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from farebox_portal.catalog.plan_document import UNITS_MAX
from farebox_portal.catalog.tables import Feature
from farebox_portal.pricing.grants import (
    Grant,
    Reset,
    Usage,
    balance,
    changes,
    effective_since,
    issue_after_reset,
)
from farebox_portal.pricing.period import Period, period_at
from farebox_portal.subscriptions.stretches import Stretch
from farebox_portal.usage.grants import Allowance, allowance_period, granted_at

PERIODS_MAX = 400
ISSUE = "issue"
_ENDLESS = 1 << 62  # the issue of a plan without a limit
_OLDEST = datetime.min.replace(tzinfo=UTC)  # of two that are alike the plan's issue burns first
_TICK = timedelta(microseconds=1)


@dataclass(frozen=True)
class UsagePeriod:
    """[start, end). Without an allowance the plan did not have the feature, and nothing of it was used."""

    start: datetime
    end: datetime
    allowance: Allowance | None
    is_fresh: bool  # it begins anew within a period: nothing rolls over or lapses


@dataclass(frozen=True)
class History:
    """All of an entitlement that its balance in the last of these periods depends on, but usage."""

    periods: tuple[UsagePeriod, ...]  # oldest first; they touch
    grants: tuple[Grant, ...]
    is_cut_off: bool  # something may have been carried over from before the first

    @property
    def current(self) -> UsagePeriod:
        return self.periods[-1]


@dataclass(frozen=True)
class Standing:
    """Units of the current period. Without a limit there is neither `limit` nor `balance`."""

    used: int
    balance: int | None
    overage: int
    limit: int | None
    left: Mapping[str, int]  # by grant in force; the plan's under ISSUE
    burnt: Mapping[str, int]  # by grant, as far back as the history goes


def allowance_at(
    life: tuple[Stretch, ...], feature_key: str, features: Mapping[str, Feature], at: datetime
) -> Allowance | None:
    """What the plan and its add-ons allow of a metered feature; None: they do not have it."""
    found = granted_at(life, at, features).allowances
    return next((allowance for allowance in found if allowance.feature_key == feature_key), None)


def history(
    life: tuple[Stretch, ...],
    anchor: datetime,
    feature_key: str,
    features: Mapping[str, Feature],
    grants: Sequence[Grant],
    at: datetime,
) -> History:
    """Of the period that contains `at`. `grants`: all of this feature, in any order."""
    periods = [_period_at(life, anchor, feature_key, features, at)]
    while (before := _period_before(life, anchor, feature_key, features, periods[-1].start)) is not None:
        if not _carries(before, periods[-1], grants):
            break
        if len(periods) == PERIODS_MAX:
            return _history(periods, grants, is_cut_off=True)
        periods.append(before)
    return _history(periods, grants, is_cut_off=False)


def segments(history: History) -> list[Period]:
    """The times between two changes, oldest first: usage may be told as one sum for each, dated at its start."""
    start, end = history.periods[0].start, history.current.end
    cuts = {start, end, *(period.start for period in history.periods)}
    cuts |= {at for grant in history.grants for at in changes(grant, end) if start < at}
    return [Period(*pair) for pair in pairwise(sorted(cuts))]


def standing(
    history: History, usage: Iterable[Usage], at: datetime, is_complete: Callable[[datetime], bool]
) -> Standing:
    """At an instant in the current period. `is_complete`: whether all usage before this instant is known."""
    known = [one for one in usage if one.at <= at and _is_counted(history, one)]
    used = sum(one.units for one in known if history.current.start <= one.at)
    allowance = history.current.allowance
    if allowance is None or allowance.limit is None:
        return Standing(used, None, 0, None, {}, {})
    resets = [
        replace(reset, is_used_up=not is_complete(reset.at) or (place == 0 and history.is_cut_off))
        for place, reset in enumerate(_resets(history.periods))
    ]
    found = balance([*_issues(history.periods), *history.grants], known, resets, at)
    return Standing(
        used=used,
        balance=found.total,
        overage=found.overage,
        limit=min(max(used - found.overage + found.total, 0), UNITS_MAX),
        left=_named(found.left),
        burnt=_named(found.burnt),
    )


def _history(newest_first: list[UsagePeriod], grants: Sequence[Grant], *, is_cut_off: bool) -> History:
    """Each period ends where the next begins, and of grants only those that are in force in one of them."""
    ends = [newest_first[0].end, *(period.start for period in newest_first[:-1])]
    periods = [replace(period, end=end) for period, end in zip(newest_first, ends, strict=True)][::-1]
    start = periods[0].start
    kept = [effective_since(grant, start) for grant in grants if _may_count(grant, start)]
    return History(tuple(periods), tuple(kept), is_cut_off)


def _period_at(
    life: tuple[Stretch, ...], anchor: datetime, feature_key: str, features: Mapping[str, Feature], at: datetime
) -> UsagePeriod:
    allowance = allowance_at(life, feature_key, features, at)
    if allowance is None:
        return UsagePeriod(max(edge for edge in _edges(life) if edge <= at), at, None, is_fresh=True)
    found = allowance_period(life, anchor, allowance, features, at)
    is_fresh = found.start != period_at(anchor, allowance.cadence, at).start
    return UsagePeriod(found.start, found.end, allowance, is_fresh)


def _period_before(
    life: tuple[Stretch, ...], anchor: datetime, feature_key: str, features: Mapping[str, Feature], start: datetime
) -> UsagePeriod | None:
    before = start - _TICK
    return None if before < life[0].start else _period_at(life, anchor, feature_key, features, before)


def _edges(life: tuple[Stretch, ...]) -> Iterator[datetime]:
    for stretch in life:
        yield stretch.start
        for piece in stretch.addons:
            yield piece.start
            if piece.end is not None:
                yield piece.end


def _carries(before: UsagePeriod, period: UsagePeriod, grants: Sequence[Grant]) -> bool:
    """Whether what happened in the one matters in the other."""
    both = [grant for grant in grants if grant.effective_at < period.start < grant.ends_at]
    if period.is_fresh:
        return bool(both)
    preserves = before.allowance is not None and before.allowance.preserve_overage
    return preserves or any(grant.rollover_max for grant in both)


def _may_count(grant: Grant, start: datetime) -> bool:
    """Whether anything of it can be left at the start of a history, or come later."""
    lasts = start <= grant.effective_at or grant.rollover_max > 0 or grant.recurs is not None
    return lasts and start < grant.ends_at


def _issues(periods: Sequence[UsagePeriod]) -> list[Grant]:
    """The plan's issue as grants: one for as long as it stays the same."""
    found: list[Grant] = []
    for period in periods:
        if period.allowance is None:
            continue
        amount = _ENDLESS if period.allowance.limit is None else period.allowance.limit
        new = replace(
            issue_after_reset(f"{ISSUE}@{period.start.isoformat()}", amount, period.start),
            created_at=_OLDEST,
            priority=period.allowance.priority,
            voided_at=period.end,
        )
        last = found[-1] if found else new
        goes_on = last.voided_at == period.start and not period.is_fresh
        if goes_on and (last.amount, last.priority) == (new.amount, new.priority):
            found[-1] = replace(last, voided_at=period.end)
        else:
            found.append(new)
    return found


def _resets(periods: Sequence[UsagePeriod]) -> Iterator[Reset]:
    yield Reset(periods[0].start, is_fresh=periods[0].is_fresh)
    for before, period in pairwise(periods):
        preserves = before.allowance is not None and before.allowance.preserve_overage and not period.is_fresh
        yield Reset(period.start, preserve_overage=preserves, is_fresh=period.is_fresh)


def _is_counted(history: History, usage: Usage) -> bool:
    return any(period.allowance is not None and period.start <= usage.at < period.end for period in history.periods)


def _named(by_grant: Mapping[str, int]) -> dict[str, int]:
    """Of the plan's issues only one is in force at a time."""
    named: dict[str, int] = {}
    for id, units in by_grant.items():
        name = ISSUE if id.startswith(f"{ISSUE}@") else id
        named[name] = named.get(name, 0) + units
    return named

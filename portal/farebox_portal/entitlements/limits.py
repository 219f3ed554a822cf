"""What a period's counter may reach where more than the plan's number decides: units were granted beside the plan, or
overage is carried over. Pure; the arithmetic, and why it never lets more pass than was granted, is `usage.balances`.

A grant that starts, recurs or ends changes the limit at that instant, and a reset does: each begins a stage. What a
reset carries over depends on usage that nobody knows ahead. So the stages ahead have the sure part (what is granted
then, a grant's least rollover, without the overage known so far), and the document is made anew at each such instant,
and again when the ledger has caught up (`lag.LOOKS`). Until then there is too little, never too much. So it is if there
are more instants ahead than a document has stages for: the last one gives no more than the plan.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice, pairwise

from farebox_portal.clock import Timeline
from farebox_portal.entitlements.facts import AccountFacts
from farebox_portal.pricing.grants import Grant, changes, effective_since
from farebox_portal.pricing.period import Period, period_at
from farebox_portal.subscriptions.stretches import Stretch
from farebox_portal.subscriptions.tables import Subscription
from farebox_portal.usage.balances import History, allowance_at, history, segments, standing
from farebox_portal.usage.grant_rows import grants_for
from farebox_portal.usage.grants import Allowance, granted_at
from farebox_portal.usage.lag import LOOKS

_SOON = timedelta(seconds=10)


@dataclass(frozen=True)
class Limits:
    """Of one subscription, from `now` on. `edges`: when its life changes after that; `until`: how far to look."""

    facts: AccountFacts
    sold: Subscription
    life: tuple[Stretch, ...]
    edges: Sequence[datetime]
    now: datetime
    until: datetime
    # Asked for many times, and each is a walk through the life.
    _allowances: dict[tuple[str, datetime], Allowance | None] = field(default_factory=dict, repr=False)
    _histories: dict[tuple[str, datetime], History] = field(default_factory=dict, repr=False)

    def of(self, allowance: Allowance, at: datetime, *, is_last_stage: bool = False) -> int | None:
        """How many units may be used in the period of `at`; None: any number."""
        if allowance.limit is None or allowance.filters or allowance.feature_key not in self._feature_keys():
            return allowance.limit
        assert self.facts.used is not None, "see used.with_usage"
        used = self.facts.used.get((self.sold.id, allowance.feature_key), ())
        found = standing(self._history(allowance.feature_key, at), used, at, self._is_complete).limit
        assert found is not None
        return min(found, allowance.limit) if is_last_stage else found

    def instants(self, count: int) -> list[datetime]:
        """When a limit changes after `now`, as far as it is known; the first `count` of them."""
        return sorted({at for key in self._feature_keys() for at in self._changes(key, count)})[:count]

    def times(self, instants: Sequence[datetime]) -> Iterator[tuple[Allowance, list[Period]]]:
        """Of what the usage has to be known, to tell the limits at these instants."""
        for key in self._feature_keys():
            known = [self._history(key, at) for at in instants if self._allowance(key, at) is not None]
            cuts = {edge for one in known for time in segments(one) for edge in (time.start, time.end)}
            ordered = sorted(cuts)
            allowance = next((one.current.allowance for one in known), None)
            if allowance is not None:
                yield allowance, [Period(*pair) for pair in pairwise(ordered)]

    def look_again(self) -> Iterator[datetime]:
        """When what was used before a past instant may be known better than now."""
        for key in self._feature_keys():
            if self._allowance(key, self.now) is None:
                continue
            known = self._history(key, self.now)
            past = {at for grant in self._grants(key) for at in self._recent(grant)}
            if len(known.periods) > 1:
                past.add(known.current.start)
            for at in past:
                yield from (again for again in (self._after(at, look) for look in LOOKS) if again > self.now)
            if not all(self._is_complete(period.start) for period in known.periods[1:]):
                yield self.now + _SOON

    def _feature_keys(self) -> list[str]:
        """Those whose limit is not simply the plan's."""
        granted = {one.feature_key for one in self.facts.grants.get(self.sold.id, ())}
        return sorted({key for key in granted if self._has_grants(key)} | self._preserving())

    def _has_grants(self, key: str) -> bool:
        allowance = self._allowance(key, self.now)
        if allowance is None:
            return any(grant.ends_at > self.now for grant in self._grants(key))
        if allowance.filters:
            return False  # a gateway counts whole meters
        known = self._history(key, self.now)
        return any(grant.ends_at > known.current.start for grant in known.grants)

    def _preserving(self) -> set[str]:
        if not any(_may_preserve(stretch) for stretch in self.life):
            return set()
        return {
            allowance.feature_key
            for at in (self.now, *self.edges)
            for allowance in granted_at(self.life, at, self.facts.features).allowances
            if allowance.preserve_overage and not allowance.filters
        }

    def _changes(self, key: str, count: int) -> Iterator[datetime]:
        own = [at for grant in self._grants(key) for at in islice(self._ahead(grant), count)]
        yield from own
        for at in (self.now, *self.edges, *own):
            allowance = self._allowance(key, at)
            if allowance is not None:
                resets_at = period_at(self.sold.billing_anchor, allowance.cadence, at).end
                if resets_at <= self.until:
                    yield resets_at

    def _ahead(self, grant: Grant) -> Iterator[datetime]:
        return (at for at in changes(effective_since(grant, self.now), self.until) if at > self.now)

    def _recent(self, grant: Grant) -> Iterator[datetime]:
        since = self.now - LOOKS[-1]
        return (at for at in changes(effective_since(grant, since), self.now) if at > since)

    def _grants(self, key: str) -> tuple[Grant, ...]:
        return grants_for(self.facts.grants.get(self.sold.id, ()), key)

    def _allowance(self, key: str, at: datetime) -> Allowance | None:
        if (key, at) not in self._allowances:
            self._allowances[key, at] = allowance_at(self.life, key, self.facts.features, at)
        return self._allowances[key, at]

    def _history(self, key: str, at: datetime) -> History:
        if (key, at) not in self._histories:
            found = history(self.life, self.sold.billing_anchor, key, self.facts.features, self._grants(key), at)
            self._histories[key, at] = found
        return self._histories[key, at]

    def _is_complete(self, at: datetime) -> bool:
        assert self.facts.complete_to is not None, "see used.with_usage"
        return self._wall.wall(at) <= self.facts.complete_to

    def _after(self, at: datetime, wait: timedelta) -> datetime:
        """The portal's instant when so much of the wall's time has passed since `at`."""
        return self.now + (self._wall.wall(at) + wait - self._wall.wall(self.now))

    @property
    def _wall(self) -> Timeline:
        return self.facts.timeline


def _may_preserve(stretch: Stretch) -> bool:
    """Whether anything that is sold in it carries overage over: most do not, and that is told quickly."""
    cards = [*stretch.phase["rateCards"], *(card for one in stretch.addons for card in one.hold.addon.rate_cards)]
    return any((card.get("entitlementTemplate") or {}).get("preserveOverageAtReset") for card in cards)

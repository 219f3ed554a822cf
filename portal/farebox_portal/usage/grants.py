"""What a plan allows: (plan, instant) -> allowances and features. Pure.

A plan is a list of phases, a phase a list of rate cards. A card grants the feature that it names by its entitlement
template; one that prices usage of a metered feature without a template lets it be used without limit.

An add-on's cards grant beside those: its limits count as often as there are of it, and add to the plan's. What was used
counts on when a limit changes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from farebox_portal.catalog.plan_document import UNITS_MAX
from farebox_portal.catalog.tables import Feature, Plan
from farebox_portal.pricing.period import Period, period_at
from farebox_portal.subscriptions.addon_holds import Piece
from farebox_portal.subscriptions.stretches import Stretch, phases, stretch_at


@dataclass(frozen=True)
class Allowance:
    """So many units of a meter in each period."""

    feature_key: str
    meter: str
    limit: int | None  # None = as much as one likes
    soft: bool  # may be overrun
    cadence: str  # ISO duration of its period, see pricing.period
    filters: Mapping[str, Any]  # only usage with these dimensions counts; empty = all of the meter
    priority: int = 1  # burns in this order beside what was granted; see pricing.grants
    preserve_overage: bool = False  # what was used beyond it is taken from the next period's

    @property
    def id(self) -> str:
        """Names its counter. Units used carry over to whatever has the same name: same feature, same kind of period."""
        return f"{self.feature_key}.{self.cadence}"


@dataclass(frozen=True)
class Grants:
    """All that one phase of a plan gives. `configs` has the value of each static feature, None for an on/off one."""

    allowances: tuple[Allowance, ...]
    configs: Mapping[str, Any]

    @property
    def feature_keys(self) -> list[str]:
        return sorted({allowance.feature_key for allowance in self.allowances} | set(self.configs))


def phase_at(plan: Plan, started: datetime, at: datetime) -> tuple[Mapping[str, Any], datetime | None]:
    """The phase that a subscription begun at `started` is in, and when it ends (None: never).

    Before that it is the first.
    """
    return next(
        (phase, ends_at) for phase, _, ends_at in phases(plan, None, started) if ends_at is None or at < ends_at
    )


def grants(
    plan: Plan, phase: Mapping[str, Any], features: Mapping[str, Feature], addons: Sequence[Piece] = ()
) -> Grants:
    """What the phase grants, and these add-ons. `features` by key; a card that names none of them only bills."""
    allowances: dict[str, Allowance] = {}
    configs: dict[str, Any] = {}
    for cards, quantity in [(phase["rateCards"], 1), *((one.hold.addon.rate_cards, one.quantity) for one in addons)]:
        for card in cards:
            feature = features.get(card.get("featureKey") or card["key"])
            if feature is None:
                continue
            template = card.get("entitlementTemplate")
            if template is None and card["type"] == "usage_based":
                template = {"type": "metered", "isSoftLimit": True}
            if template is None:
                continue
            if template["type"] != "metered":
                configs[feature.key] = template.get("config") if template["type"] == "static" else None
            elif feature.meter_slug is not None:
                more = _allowance(plan, card, feature, template, quantity)
                allowances[feature.key] = _together(allowances.get(feature.key), more)
    return Grants(tuple(allowances[key] for key in sorted(allowances)), configs)


def _together(one: Allowance | None, more: Allowance) -> Allowance:
    """Both, of the same kind of period: see `catalog.addon_rules`."""
    if one is None:
        return more
    limit = None if one.limit is None or more.limit is None else min(one.limit + more.limit, UNITS_MAX)
    return replace(one, limit=limit, soft=one.soft or more.soft)


def _allowance(
    plan: Plan, card: Mapping[str, Any], feature: Feature, template: Mapping[str, Any], quantity: int
) -> Allowance:
    assert feature.meter_slug is not None
    limit = template.get("issueAfterReset")
    return Allowance(
        feature_key=feature.key,
        meter=feature.meter_slug,
        limit=None if limit is None else min(int(limit) * quantity, UNITS_MAX),
        soft=bool(template.get("isSoftLimit")) or limit is None,
        cadence=template.get("usagePeriod") or card.get("billingCadence") or plan.billing_cadence,
        filters=feature.filters or {},
        priority=template.get("issueAfterResetPriority") or 1,
        preserve_overage=bool(template.get("preserveOverageAtReset")),
    )


# --- over a whole life -----------------------------------------------------------------------------------------------


def granted_at(life: tuple[Stretch, ...], at: datetime, features: Mapping[str, Feature]) -> Grants:
    """What the stretch grants that is in force, with its add-ons of that instant."""
    stretch = life[stretch_at(life, at)]
    return grants(stretch.plan, stretch.phase, features, stretch.addons_at(at))


def counted_from(
    life: tuple[Stretch, ...], allowance: Allowance, features: Mapping[str, Feature], at: datetime
) -> datetime | None:
    """Since when usage counts against an allowance that is in force at `at`; None: since ever.

    A change that brings fresh allowances begins to count anew, and so does a phase that allows another amount. A pause,
    a phase that allows the same, more or fewer add-ons, and a change that keeps what was used go on counting.
    """
    now = life[stretch_at(life, at)]
    of_plan = _of_plan(now, allowance.id, features)
    for place in range(stretch_at(life, at), 0, -1):
        stretch, before = life[place], life[place - 1]
        if stretch.is_fresh:
            return stretch.start
        if stretch.is_next_phase and _of_plan(before, allowance.id, features) != of_plan:
            return stretch.start
    return None


def _of_plan(stretch: Stretch, allowance_id: str, features: Mapping[str, Feature]) -> Allowance | None:
    """What of an allowance the plan gives, without add-ons."""
    granted = grants(stretch.plan, stretch.phase, features).allowances
    return next((allowance for allowance in granted if allowance.id == allowance_id), None)


def allowance_period(
    life: tuple[Stretch, ...], anchor: datetime, allowance: Allowance, features: Mapping[str, Feature], at: datetime
) -> Period:
    """The period of the allowance that contains `at`, without what no longer counts."""
    return counted_part(period_at(anchor, allowance.cadence, at), counted_from(life, allowance, features, at))


def counted_part(period: Period, since: datetime | None) -> Period:
    """What is left of an allowance's period where usage counts from `since` on."""
    return period if since is None or since <= period.start else Period(since, period.end)

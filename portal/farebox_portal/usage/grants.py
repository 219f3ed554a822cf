"""What a plan allows: (plan, instant) -> allowances and features. Pure.

A plan is a list of phases, a phase a list of rate cards. A card grants the feature that it names by its entitlement
template; one that prices usage of a metered feature without a template lets it be used without limit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from farebox_portal.catalog.tables import Feature, Plan
from farebox_portal.pricing.period import Period, period_at
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


def grants(plan: Plan, phase: Mapping[str, Any], features: Mapping[str, Feature]) -> Grants:
    """What the phase grants. `features` by key; a card that names none of them only bills."""
    allowances: dict[str, Allowance] = {}
    configs: dict[str, Any] = {}
    for card in phase["rateCards"]:
        feature = features.get(card.get("featureKey") or card["key"])
        if feature is None:
            continue
        template = card.get("entitlementTemplate")
        if template is None:
            if card["type"] == "usage_based" and feature.meter_slug is not None:
                allowances[feature.key] = _allowance(plan, card, feature, {"isSoftLimit": True})
        elif template["type"] == "metered":
            if feature.meter_slug is not None:
                allowances[feature.key] = _allowance(plan, card, feature, template)
        else:
            configs[feature.key] = template.get("config") if template["type"] == "static" else None
    return Grants(tuple(allowances[key] for key in sorted(allowances)), configs)


def _allowance(plan: Plan, card: Mapping[str, Any], feature: Feature, template: Mapping[str, Any]) -> Allowance:
    assert feature.meter_slug is not None
    limit = template.get("issueAfterReset")
    return Allowance(
        feature_key=feature.key,
        meter=feature.meter_slug,
        limit=None if limit is None else int(limit),
        soft=bool(template.get("isSoftLimit")) or limit is None,
        cadence=template.get("usagePeriod") or card.get("billingCadence") or plan.billing_cadence,
        filters=feature.filters or {},
    )


# --- over a whole life -----------------------------------------------------------------------------------------------


def granted_at(life: tuple[Stretch, ...], at: datetime, features: Mapping[str, Feature]) -> Grants:
    """What the stretch grants that is in force."""
    stretch = life[stretch_at(life, at)]
    return grants(stretch.plan, stretch.phase, features)


def counted_from(
    life: tuple[Stretch, ...], allowance: Allowance, features: Mapping[str, Feature], at: datetime
) -> datetime | None:
    """Since when usage counts against an allowance that is in force at `at`; None: since ever.

    A change that brings fresh allowances begins to count anew, and so does a phase that allows another amount. A pause,
    a phase that allows the same, and a change that keeps what was used go on counting.
    """
    for place in range(stretch_at(life, at), 0, -1):
        stretch, before = life[place], life[place - 1]
        if stretch.is_fresh:
            return stretch.start
        if stretch.is_next_phase and allowance not in grants(before.plan, before.phase, features).allowances:
            return stretch.start
    return None


def allowance_period(
    life: tuple[Stretch, ...], anchor: datetime, allowance: Allowance, features: Mapping[str, Feature], at: datetime
) -> Period:
    """The period of the allowance that contains `at`, without what no longer counts."""
    period = period_at(anchor, allowance.cadence, at)
    since = counted_from(life, allowance, features, at)
    return period if since is None or since <= period.start else Period(since, period.end)

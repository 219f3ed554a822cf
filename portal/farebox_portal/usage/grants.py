"""What a plan allows: (plan, instant) -> allowances and features. Pure.

A plan is a list of phases, a phase a list of rate cards. A card grants the feature that it names by its entitlement
template; one that prices usage of a metered feature without a template lets it be used without limit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from farebox_portal.catalog.tables import Feature, Plan
from farebox_portal.durations import Duration, parse_duration


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

    Each phase begins where the durations of all before it end, counted from `started`; before that it is the first.
    """
    months, span = 0, timedelta()
    for phase in plan.phases[:-1]:
        length = parse_duration(phase["duration"])
        months, span = months + length.months, span + length.span
        if at < (ends_at := Duration(months, span).after(started)):
            return phase, ends_at
    return plan.phases[-1], None


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

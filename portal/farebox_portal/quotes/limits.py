"""How much of what was used would have been refused, had a plan's hard limits stood in its way."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlmodel import Session

from farebox_portal.catalog.tables import Feature
from farebox_portal.clock import Timeline, to_ms
from farebox_portal.invoicing.charges import in_phases, span_of
from farebox_portal.pricing.period import Period
from farebox_portal.pricing.schedule import service_periods
from farebox_portal.subscriptions.stretches import Stretch
from farebox_portal.usage.grants import Allowance, grants
from farebox_portal.usage.totals import Span, totals

Limited = tuple[str, Allowance, Period]
"""(subscription id, a hard allowance, one period of it)."""


def limited(
    subscription_id: str,
    life: tuple[Stretch, ...],
    anchor: datetime,
    plan_id: str,
    features: Mapping[str, Feature],
    asked: Period,
) -> list[Limited]:
    """The hard allowances that the plan gives in this life, for each period that begins in the time asked about."""
    found: list[Limited] = []
    for stretches in in_phases(life):
        first = stretches[0]
        if first.plan.id != plan_id:
            continue
        for allowance in grants(first.plan, first.phase, features).allowances:
            if allowance.soft or allowance.limit is None:
                continue
            periods = service_periods(anchor, allowance.cadence, span_of(stretches), asked.end)
            found += [(subscription_id, allowance, one.served) for one in periods if one.served.start >= asked.start]
    return found


def over_limit(session: Session, periods: Sequence[Limited], timeline: Timeline) -> dict[str, dict[str, int]]:
    """Subscription -> feature -> units beyond its limit, over all periods; only where there are any.

    A hard limit is one of a whole meter, so the hourly sums answer.
    """
    spans = [
        Span(subscription_id, allowance.meter, to_ms(timeline.wall(period.start)), to_ms(timeline.wall(period.end)))
        for subscription_id, allowance, period in periods
    ]
    found: dict[str, dict[str, int]] = {}
    for (subscription_id, allowance, _), used in zip(periods, totals(session, spans), strict=True):
        beyond = used - (allowance.limit or 0)
        if beyond > 0:
            of_subscription = found.setdefault(subscription_id, {})
            of_subscription[allowance.feature_key] = of_subscription.get(allowance.feature_key, 0) + beyond
    return found

"""What a subscription may still use: the usage document that pages show and the API answers.

Read from the ledger, not from Valkey: it is what will be billed, and it lags the gateway by the time of a delivery.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Any

from sqlmodel import Session, col, select

from farebox_portal.catalog.tables import Feature
from farebox_portal.clock import Timeline
from farebox_portal.documents import Output
from farebox_portal.errors import NotFound
from farebox_portal.pricing.period import Period
from farebox_portal.subscriptions.rows import read_life, read_plans
from farebox_portal.subscriptions.stretches import Stretch, stretch_at, stretches
from farebox_portal.subscriptions.tables import Subscription
from farebox_portal.testclock import read_timeline
from farebox_portal.usage.grants import Allowance, allowance_period, granted_at
from farebox_portal.usage.totals import meter_total

# Overdue payments pass here until the provider gives up; then the invoice is uncollectible.
PAYMENT_REFUSED = frozenset({"uncollectible"})


@dataclass(frozen=True)
class Used:
    """An allowance and what was used of it in the current period."""

    allowance: Allowance
    period: Period
    units: int


class Entitlement(Output):
    """One feature. An on/off or static feature has no numbers; a limit that is left out means there is none."""

    has_access: bool
    balance: int | None = None
    usage: int | None = None
    overage: int | None = None
    limit: int | None = None
    resets_at: datetime | None = None
    config: Any = None


class PaymentStatus(Output):
    status: str


class UsageDocument(Output):
    subscription_id: str
    customer_id: str
    plan_key: str
    entitlements: dict[str, Entitlement]
    payment_status: PaymentStatus


def refusal(subscription: Subscription) -> str:
    """The problem code with which an active subscription is refused, "" if it is not."""
    return "payment_required" if subscription.payment_status in PAYMENT_REFUSED else ""


def usage_document(session: Session, subscription_id: str, now: datetime) -> UsageDocument:
    """Every feature that the plan grants now, with what was used of it. Raises NotFound."""
    subscription = session.get(Subscription, subscription_id)
    if subscription is None:
        raise NotFound(f"There is no subscription {subscription_id}.")
    life = read_life(session, subscription)
    cut, features = stretches(life, read_plans(session, [life])), read_features(session)
    granted = granted_at(cut, now, features)
    timeline = read_timeline(session)
    used = [
        _used(
            session, subscription.id, allowance, allowance_period(cut, life.anchor, allowance, features, now), timeline
        )
        for allowance in granted.allowances
    ]
    may_call = life.state(now) in ("active", "canceled") and not refusal(subscription)
    return UsageDocument(
        subscription_id=subscription.id,
        customer_id=subscription.customer_id,
        plan_key=cut[stretch_at(cut, now)].plan.key,
        entitlements=_entitlements(used, granted.configs, may_call),
        payment_status=PaymentStatus(status=subscription.payment_status),
    )


def read_features(session: Session) -> dict[str, Feature]:
    """All features by key; an archived one stays in the plans that have it."""
    return {feature.key: feature for feature in session.exec(select(Feature).order_by(col(Feature.key)))}


def used_share(
    session: Session, subscription_id: str, anchor: datetime, life: tuple[Stretch, ...], at: datetime
) -> Fraction:
    """How much of the most used allowance is gone, of those that come anew with each billing period; 0 without any."""
    features = read_features(session)
    cadence = life[stretch_at(life, at)].plan.billing_cadence
    timeline, shares = read_timeline(session), [Fraction(0)]
    for allowance in granted_at(life, at, features).allowances:
        if allowance.limit and allowance.cadence == cadence:
            period = allowance_period(life, anchor, allowance, features, at)
            used = _used(session, subscription_id, allowance, period, timeline)
            shares.append(Fraction(used.units, allowance.limit))
    return max(shares)


def _used(session: Session, subscription_id: str, allowance: Allowance, period: Period, timeline: Timeline) -> Used:
    start, end = timeline.wall(period.start), timeline.wall(period.end)  # usage is dated by the gateway
    units = meter_total(session, subscription_id, allowance.meter, start, end, allowance.filters)
    return Used(allowance, period, units)


def _entitlements(used: list[Used], configs: Mapping[str, Any], may_call: bool) -> dict[str, Entitlement]:
    metered = {one.allowance.feature_key: _metered(one, may_call) for one in used}
    return metered | {key: Entitlement(has_access=may_call, config=config) for key, config in configs.items()}


def _metered(used: Used, may_call: bool) -> Entitlement:
    limit = used.allowance.limit
    balance = None if limit is None else max(limit - used.units, 0)
    return Entitlement(
        has_access=may_call and (used.allowance.soft or bool(balance)),
        balance=balance,
        usage=used.units,
        overage=0 if limit is None else max(used.units - limit, 0),
        limit=limit,
        resets_at=used.period.end,
    )

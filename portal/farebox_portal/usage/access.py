"""What a subscription may still use: the usage document that pages show and the API answers.

Read from the ledger, not from Valkey: it is what will be billed, and it lags the gateway by the time of a delivery.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlmodel import Session, col, select

from farebox_portal.catalog.tables import Feature, Plan
from farebox_portal.documents import Output
from farebox_portal.errors import NotFound
from farebox_portal.pricing.period import Period, period_at
from farebox_portal.subscriptions.tables import Subscription
from farebox_portal.usage.grants import Allowance, grants, phase_at
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
    plan = session.get(Plan, subscription.plan_id)
    assert plan is not None, "a foreign key holds it"
    phase, _ = phase_at(plan, subscription.active_from, now)
    granted = grants(plan, phase, read_features(session))
    used = [_used(session, subscription, allowance, now) for allowance in granted.allowances]
    may_call = subscription.status(now) in ("active", "canceled") and not refusal(subscription)
    return UsageDocument(
        subscription_id=subscription.id,
        customer_id=subscription.customer_id,
        plan_key=plan.key,
        entitlements=_entitlements(used, granted.configs, may_call),
        payment_status=PaymentStatus(status=subscription.payment_status),
    )


def read_features(session: Session) -> dict[str, Feature]:
    """All features by key; an archived one stays in the plans that have it."""
    return {feature.key: feature for feature in session.exec(select(Feature).order_by(col(Feature.key)))}


def _used(session: Session, subscription: Subscription, allowance: Allowance, now: datetime) -> Used:
    period = period_at(subscription.billing_anchor, allowance.cadence, now)
    units = meter_total(session, subscription.id, allowance.meter, period.start, period.end, allowance.filters)
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

"""Subscriptions, plans and keys -> the numbers that admission compares; policies -> what a route costs. Pure.

Everything with a calendar in it is resolved here. A document reaches weeks ahead, so that the gateway goes on resetting
quotas while the portal is away; `recompile_at` says when it has to be made anew.
"""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from farebox.v1 import entitlements_pb2
from farebox_portal.catalog.policies import DEFAULT_DOCUMENT, DEFAULT_KEY, parse_statuses
from farebox_portal.catalog.tables import Plan, Policy
from farebox_portal.clock import from_ms, to_ms
from farebox_portal.durations import parse_duration
from farebox_portal.entitlements.facts import AccountFacts
from farebox_portal.pricing.period import boundary, index_at
from farebox_portal.subscriptions.tables import ApiKey, Subscription
from farebox_portal.usage.access import refusal
from farebox_portal.usage.grants import Allowance, grants, phase_at

KEPT = timedelta(days=30)  # how long ended subscriptions and expired keys are still told apart from unknown ones
HORIZON = timedelta(days=40)
BOUNDARIES_MIN, BOUNDARIES_MAX = 3, 400

_BILLABLE = "200-299"
_RATE_PERIODS = {"second": "PT1S", "minute": "PT1M", "hour": "PT1H"}


def compile_account(facts: AccountFacts, now: datetime) -> entitlements_pb2.Account:
    """What the account's keys may do from `now` on. The same facts and instant give the same bytes."""
    customer = facts.customer
    gone = customer.deleted_at is not None
    kept = [] if gone else [(sold, plan) for sold, plan in facts.subscriptions if _is_kept(sold.active_to, now)]
    keys = [] if gone else [key for key in facts.keys if key.revoked_at is None and _is_kept(key.expires_at, now)]
    return entitlements_pb2.Account(
        id=customer.id,
        customer_key=customer.key,
        version=customer.entitlements_version,
        subscriptions=[_subscription(facts, *pair, now) for pair in sorted(kept, key=lambda pair: pair[0].id)],
        keys=[_key(key) for key in sorted(keys, key=lambda key: key.id)],
    )


def recompile_at(facts: AccountFacts, account: entitlements_pb2.Account, now: datetime) -> datetime | None:
    """When the document has to be made again although nobody changes anything: at the end of a phase of a plan, and
    half-way to where its period boundaries end. None: never.
    """
    listed = {subscription.id for subscription in account.subscriptions}
    ends = [phase_at(plan, sold.active_from, now)[1] for sold, plan in facts.subscriptions if sold.id in listed] + [
        now + (from_ms(quota.resets_ms[-1]) - now) / 2 for sold in account.subscriptions for quota in sold.quotas
    ]
    return min((end for end in ends if end is not None), default=None)


def counters_digest(facts: AccountFacts, account: entitlements_pb2.Account) -> str:
    """Names the set of counters that the document counts in. Another digest means: other counters, or other periods,
    which may have usage in the ledger that the present ones do not show.
    """
    anchors = {sold.id: to_ms(sold.billing_anchor) for sold, _ in facts.subscriptions}
    counters = sorted(
        f"{sold.id}/{quota.id}:{quota.meter}@{anchors[sold.id]}"
        for sold in account.subscriptions
        for quota in sold.quotas
    )
    # What runs now is counted from the moment that somebody wants it limited, with what was let in before.
    counters += sorted(f"{sold.id}~" for sold in account.subscriptions if sold.concurrency_limit)
    return hashlib.sha256("\n".join(counters).encode()).hexdigest()


def compile_policies(policies: Iterable[Policy]) -> entitlements_pb2.Policies:
    """All policies by key, with the built-in default unless one is stored under that key."""
    documents = {DEFAULT_KEY: DEFAULT_DOCUMENT} | {policy.key: policy.document for policy in policies}
    return entitlements_pb2.Policies(policies=[_policy(key, documents[key]) for key in sorted(documents)])


def serialized(message: entitlements_pb2.Account | entitlements_pb2.Policies) -> bytes:
    """Equal messages give equal bytes, also those with maps."""
    return message.SerializeToString(deterministic=True)


def resets_ms(anchor: datetime, cadence: str, now: datetime) -> list[int]:
    """Period boundaries from the period before the current one to HORIZON, BOUNDARIES_MIN to BOUNDARIES_MAX of them."""
    first = index_at(anchor, cadence, now) - 1
    found: list[datetime] = []
    while len(found) < BOUNDARIES_MIN or (found[-1] < now + HORIZON and len(found) < BOUNDARIES_MAX):
        found.append(boundary(anchor, cadence, first + len(found)))
    return [to_ms(instant) for instant in found]


def _is_kept(ended: datetime | None, now: datetime) -> bool:
    return ended is None or ended > now - KEPT


def _key(key: ApiKey) -> entitlements_pb2.Key:
    expires_at_ms = 0 if key.expires_at is None else to_ms(key.expires_at)
    return entitlements_pb2.Key(id=key.id, subscription_id=key.subscription_id, expires_at_ms=expires_at_ms)


def _subscription(facts: AccountFacts, sold: Subscription, plan: Plan, now: datetime) -> entitlements_pb2.Subscription:
    phase, _ = phase_at(plan, sold.active_from, now)
    granted = grants(plan, phase, facts.features)
    return entitlements_pb2.Subscription(
        id=sold.id,
        plan_key=plan.key,
        access=_access(sold),
        rate_limit=_rate_limit(plan),
        concurrency_limit=plan.concurrency_limit or 0,
        quotas=[_quota(sold, allowance, now) for allowance in granted.allowances],
        features=granted.feature_keys,
    )


def _access(sold: Subscription) -> list[entitlements_pb2.AccessStep]:
    """No access before the first step; what the payment allows from the start on; none from the end on."""
    steps: list[tuple[datetime, str]] = []
    if sold.active_to is None or sold.active_from < sold.active_to:  # else it was called off before it began
        steps.append((sold.active_from, refusal(sold)))
    if sold.active_to is not None:
        steps.append((sold.active_to, "no_active_subscription"))
    return [entitlements_pb2.AccessStep(from_ms=to_ms(from_), refusal=code) for from_, code in steps]


def _rate_limit(plan: Plan) -> entitlements_pb2.RateLimit | None:
    if not plan.rate_limit:
        return None
    per = plan.rate_limit["per"]
    span = parse_duration(_RATE_PERIODS.get(per, per)).span
    return entitlements_pb2.RateLimit(requests=plan.rate_limit["requests"], per_ms=span // timedelta(milliseconds=1))


def _quota(sold: Subscription, allowance: Allowance, now: datetime) -> entitlements_pb2.Quota:
    # Admission counts all of a meter and knows no slice of it (one model's tokens). Such an allowance is counted there
    # without refusing, so that the meter may be used at all; what the slice costs is computed from the ledger.
    limit = -1 if allowance.limit is None or allowance.filters else allowance.limit
    return entitlements_pb2.Quota(
        id=allowance.id,
        meter=allowance.meter,
        limit=limit,
        hard=limit >= 0 and not allowance.soft,
        resets_ms=resets_ms(sold.billing_anchor, allowance.cadence, now),
        feature_key=allowance.feature_key,
    )


def _policy(key: str, document: Mapping[str, Any]) -> entitlements_pb2.Policy:
    meters: Mapping[str, int | str] = document.get("meters") or {}
    return entitlements_pb2.Policy(
        key=key,
        meters=[_meter_rule(meter, meters[meter]) for meter in sorted(meters)],
        authenticate_only="meters" not in document or document["meters"] is None,
        dimensions=document.get("dimensions") or {},
        meter_on_status=[
            entitlements_pb2.StatusRange(first=statuses.first, last=statuses.last)
            for statuses in parse_statuses(document.get("meterOnStatusCodes", _BILLABLE))
        ],
        required_entitlements=document.get("requiredEntitlements") or [],
        reserve={meter: str(units) for meter, units in (document.get("reserve") or {}).items()},
        allow_on_store_failure=document.get("onStoreFailure") == "allow",
        status_codes=document.get("statusCodes") or {},
        cut_off=document.get("cutOff") is True,
    )


def _meter_rule(meter: str, quantity: int | str) -> entitlements_pb2.MeterRule:
    if isinstance(quantity, int):
        return entitlements_pb2.MeterRule(meter=meter, fixed=quantity)
    return entitlements_pb2.MeterRule(meter=meter, expression=quantity)

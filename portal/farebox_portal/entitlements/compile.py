"""Subscriptions, plans and keys -> the numbers that admission compares; policies -> what a route costs. Pure.

Everything with a calendar in it is resolved here. A document reaches weeks ahead, so that the gateway goes on resetting
quotas, and begins, pauses and ends access to the millisecond, while the portal is away. Allowances are those of one
stretch of a subscription's life; `recompile_at` says when the next begins, or when boundaries run short.

All instants in a document are the wall's, by which the gateway lives; where a test clock was put forward, the portal's
own are not (see `clock.Timeline`).
"""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from farebox.v1 import entitlements_pb2
from farebox_portal.catalog.policies import DEFAULT_DOCUMENT, DEFAULT_KEY, parse_statuses
from farebox_portal.catalog.tables import Plan, Policy
from farebox_portal.clock import Timeline, from_ms, to_ms
from farebox_portal.durations import parse_duration
from farebox_portal.entitlements.facts import AccountFacts
from farebox_portal.pricing.period import boundary, index_at
from farebox_portal.subscriptions.stretches import Stretch, stretch_at
from farebox_portal.subscriptions.tables import ApiKey, Subscription
from farebox_portal.usage.access import refusal
from farebox_portal.usage.grants import Allowance, counted_from, granted_at

KEPT = timedelta(days=30)  # how long ended subscriptions and expired keys are still told apart from unknown ones
HORIZON = timedelta(days=40)
BOUNDARIES_MIN, BOUNDARIES_MAX = 3, 400

_BILLABLE = "200-299"
_NEVER_ADVANCED = Timeline()
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
        keys=[_key(key, facts.timeline) for key in sorted(keys, key=lambda key: key.id)],
    )


def recompile_at(facts: AccountFacts, account: entitlements_pb2.Account, now: datetime) -> datetime | None:
    """When the document has to be made again although nobody changes anything: when another stretch of a life begins,
    and half-way to where its period boundaries end. None: never.
    """
    listed = {subscription.id for subscription in account.subscriptions}
    begins = [
        stretch.start
        for sold, plan in facts.subscriptions
        if sold.id in listed
        for stretch in facts.stretches_of(sold, plan)
        if stretch.start > now
    ]
    wall = facts.timeline.wall(now)
    halves = [
        now + (from_ms(quota.resets_ms[-1]) - wall) / 2 for sold in account.subscriptions for quota in sold.quotas
    ]
    return min(begins + halves, default=None)


def counters_digest(facts: AccountFacts, account: entitlements_pb2.Account, now: datetime) -> str:
    """Names the set of counters that the document of `now` counts in. Another digest means: other counters, or other
    periods, which may have usage in the ledger that the present ones do not show.
    """
    bought = {
        sold.id: (to_ms(sold.billing_anchor), facts.stretches_of(sold, plan)) for sold, plan in facts.subscriptions
    }
    counters = []
    for sold in account.subscriptions:
        anchor_ms, life = bought[sold.id]
        granted = granted_at(life, now, facts.features)
        since = {each.id: counted_from(life, each, facts.features, now) for each in granted.allowances}
        counters += [f"{sold.id}/{each.id}:{each.meter}@{anchor_ms}{_mark(since[each.id])}" for each in sold.quotas]
    counters += [f"advanced {to_ms(at)}" for at, _ in facts.timeline.advances[-1:]]
    counters.sort()
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


def resets_ms(
    anchor: datetime, cadence: str, now: datetime, since: datetime | None = None, timeline: Timeline = _NEVER_ADVANCED
) -> list[int]:
    """Period boundaries from the period before the current one to HORIZON, BOUNDARIES_MIN to BOUNDARIES_MAX of them.

    `since`: what is used counts from then on; it is a boundary of its own if a period has it inside.
    """
    first = index_at(anchor, cadence, now) - 1
    found: list[datetime] = []
    while len(found) < BOUNDARIES_MIN or (found[-1] < now + HORIZON and len(found) < BOUNDARIES_MAX):
        found.append(boundary(anchor, cadence, first + len(found)))
    if since is not None and found[0] < since <= now:
        found.append(since)
    # Boundaries that an advance of the clock leaves out come to lie on one instant.
    return sorted({to_ms(timeline.wall(instant)) for instant in found})


def _mark(since: datetime | None) -> str:
    return "" if since is None else f"+{to_ms(since)}"


def _is_kept(ended: datetime | None, now: datetime) -> bool:
    return ended is None or ended > now - KEPT


def _key(key: ApiKey, timeline: Timeline) -> entitlements_pb2.Key:
    expires_at_ms = 0 if key.expires_at is None else to_ms(timeline.wall(key.expires_at))
    return entitlements_pb2.Key(id=key.id, subscription_id=key.subscription_id, expires_at_ms=expires_at_ms)


def _subscription(facts: AccountFacts, sold: Subscription, plan: Plan, now: datetime) -> entitlements_pb2.Subscription:
    life = facts.stretches_of(sold, plan)
    plan = life[stretch_at(life, now)].plan
    granted = granted_at(life, now, facts.features)
    return entitlements_pb2.Subscription(
        id=sold.id,
        plan_key=plan.key,
        access=_access(facts, sold, life),
        rate_limit=_rate_limit(plan),
        concurrency_limit=plan.concurrency_limit or 0,
        quotas=[_quota(facts, sold, life, allowance, now) for allowance in granted.allowances],
        features=granted.feature_keys,
    )


def _access(facts: AccountFacts, sold: Subscription, life: tuple[Stretch, ...]) -> list[entitlements_pb2.AccessStep]:
    """No access before the first step; what the payment allows from the start on; none while it is paused and from the
    end on.
    """
    steps: list[tuple[datetime, str]] = []
    for stretch in life:
        if stretch.end is None or stretch.start < stretch.end:  # else it was called off before it began
            steps.append((stretch.start, "no_active_subscription" if stretch.is_paused else refusal(sold)))
    if sold.active_to is not None:
        steps.append((sold.active_to, "no_active_subscription"))
    changes = [step for place, step in enumerate(steps) if place == 0 or step[1] != steps[place - 1][1]]
    return [
        entitlements_pb2.AccessStep(from_ms=to_ms(facts.timeline.wall(from_)), refusal=code) for from_, code in changes
    ]


def _rate_limit(plan: Plan) -> entitlements_pb2.RateLimit | None:
    if not plan.rate_limit:
        return None
    per = plan.rate_limit["per"]
    span = parse_duration(_RATE_PERIODS.get(per, per)).span
    return entitlements_pb2.RateLimit(requests=plan.rate_limit["requests"], per_ms=span // timedelta(milliseconds=1))


def _quota(
    facts: AccountFacts, sold: Subscription, life: tuple[Stretch, ...], allowance: Allowance, now: datetime
) -> entitlements_pb2.Quota:
    # Admission counts all of a meter and knows no slice of it (one model's tokens). Such an allowance is counted there
    # without refusing, so that the meter may be used at all; what the slice costs is computed from the ledger.
    limit = -1 if allowance.limit is None or allowance.filters else allowance.limit
    since = counted_from(life, allowance, facts.features, now)
    return entitlements_pb2.Quota(
        id=allowance.id,
        meter=allowance.meter,
        limit=limit,
        hard=limit >= 0 and not allowance.soft,
        resets_ms=resets_ms(sold.billing_anchor, allowance.cadence, now, since, facts.timeline),
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

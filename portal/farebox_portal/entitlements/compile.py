"""Subscriptions, plans and keys -> the numbers that admission compares; policies -> what a route costs. Pure.

Everything with a calendar in it is resolved here. A document reaches weeks ahead, so that the gateway goes on resetting
quotas, changes to the next phase, plan or number of add-ons, and begins, pauses and ends access to the millisecond,
while the portal is away. What holds between two such instants is a stage. `recompile_at` says when the next one begins,
or when period boundaries run short. Where units were granted beside the plan, `limits` says what a stage allows.

All instants in a document are the wall's, by which the gateway lives; where a test clock was put forward, the portal's
own are not (see `clock.Timeline`).
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from farebox.v1 import entitlements_pb2
from farebox_portal.catalog.policies import DEFAULT_DOCUMENT, DEFAULT_KEY, parse_statuses
from farebox_portal.catalog.tables import Plan, Policy
from farebox_portal.clock import Timeline, from_ms, to_ms
from farebox_portal.durations import parse_duration
from farebox_portal.entitlements.facts import AccountFacts
from farebox_portal.entitlements.limits import Limits
from farebox_portal.pricing.period import boundary, index_at, period_at
from farebox_portal.subscriptions.stretches import Stretch, stretch_at
from farebox_portal.subscriptions.tables import ApiKey, Subscription
from farebox_portal.usage.access import payment_refused_at
from farebox_portal.usage.grants import Allowance, counted_from, counted_part, granted_at

KEPT = timedelta(days=30)  # how long ended subscriptions and expired keys are still told apart from unknown ones
HORIZON = timedelta(days=40)
STAGES_MAX = 20  # a life with more changes than that in 40 days has its document made anew in time
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
    there are more or fewer of an add-on, or a grant or a reset changes a limit; when more may be known of what was used
    before; and half-way to where its period boundaries end. None: never.
    """
    listed = {subscription.id for subscription in account.subscriptions}
    begins = []
    for sold, plan in facts.subscriptions:
        if sold.id in listed:
            limits, instants = limits_of(facts, sold, plan, now)
            begins += [*limits.edges, *instants[1:], *limits.look_again()]
    wall = facts.timeline.wall(now)
    halves = [
        now + (from_ms(quota.resets_ms[-1]) - wall) / 2
        for compiled in account.subscriptions
        for quota in compiled.quotas
    ]
    return min(begins + halves, default=None)


def counters_digest(facts: AccountFacts, account: entitlements_pb2.Account, now: datetime) -> str:
    """Names the set of counters that the document of `now` counts in. Another digest means: other counters, or other
    periods, which may have usage in the ledger that the present ones do not show.
    """
    bought = {sold.id: (sold, plan) for sold, plan in facts.subscriptions}
    counters = []
    for compiled in account.subscriptions:
        sold, plan = bought[compiled.id]
        limits, instants = limits_of(facts, sold, plan, now)
        counters += [
            f"{sold.id}/{each.allowance.id}:{each.allowance.meter}@{to_ms(sold.billing_anchor)}{_mark(each.since)}"
            for each in _counted(limits, instants, 0)
        ]
    counters += [f"advanced {to_ms(at)}" for at, _ in facts.timeline.advances[-1:]]
    counters.sort()
    # What runs now is counted from the moment that somebody wants it limited, with what was let in before.
    counters += sorted(
        f"{compiled.id}~"
        for compiled in account.subscriptions
        if compiled.concurrency_limit or any(stage.concurrency_limit for stage in compiled.stages)
    )
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
    limits, instants = limits_of(facts, sold, plan, now)
    compiled = entitlements_pb2.Subscription(
        id=sold.id, access=_access(facts, sold, limits.life), **_holds_from(limits, instants, 0)
    )
    for place in range(1, len(instants)):
        from_ms = to_ms(facts.timeline.wall(instants[place]))
        compiled.stages.add(from_ms=from_ms, **_holds_from(limits, instants, place))
    return compiled


def limits_of(facts: AccountFacts, sold: Subscription, plan: Plan, now: datetime) -> tuple[Limits, list[datetime]]:
    """What its limits are made from, and where the stages of its document begin, the first with `now`."""
    life, until = facts.stretches_of(sold, plan), now + HORIZON
    edges = _edges(life, now)
    limits = Limits(facts, sold, life, edges, now, until)
    ahead = {edge for edge in edges if edge <= until} | {*limits.instants(STAGES_MAX)}
    return limits, [now, *sorted(ahead)][:STAGES_MAX]


def _edges(life: tuple[Stretch, ...], now: datetime) -> list[datetime]:
    """When the life changes after `now`."""
    edges = {
        edge
        for stretch in life
        for edge in (stretch.start, *(at for piece in stretch.addons for at in (piece.start, piece.end)))
        if edge is not None and edge > now
    }
    return sorted(edges)


def _holds_from(limits: Limits, instants: list[datetime], place: int) -> dict[str, Any]:
    """The fields that a Subscription and a Stage have in common."""
    facts, life = limits.facts, limits.life
    plan = life[stretch_at(life, instants[place])].plan
    granted = granted_at(life, instants[place], facts.features)
    return {
        "plan_key": plan.key,
        "rate_limit": _rate_limit(plan),
        "concurrency_limit": plan.concurrency_limit or 0,
        "quotas": [
            _quota(limits, each, is_last_stage=place == STAGES_MAX - 1) for each in _counted(limits, instants, place)
        ],
        "features": granted.feature_keys,
    }


@dataclass(frozen=True)
class _Counted:
    """An allowance on which units are counted in a stage that begins at `begins`."""

    allowance: Allowance
    begins: datetime
    since: datetime | None  # usage counts from then on; None: since ever
    is_granted: bool  # False: a later stage grants it, and what is used before counts there


def _counted(limits: Limits, instants: list[datetime], place: int) -> Iterator[_Counted]:
    """What the stage grants, and what later stages grant that goes on counting from before them.

    Of the second kind only what this stage lets be used at all, as of a meter that it does not have there is no use;
    and of that only what no counter of this stage's counts already. The same allowance may be counted twice: a phase
    that begins anew within a period counts from there, and a later plan that keeps what was used, from before.
    """
    life, features = limits.life, limits.facts.features
    known: list[tuple[str, datetime | None]] = []
    meters = set()
    for later, at in enumerate(instants[place:], place):
        for allowance in granted_at(life, at, features).allowances:
            since = counted_from(life, allowance, features, at)
            if later == place:
                meters.add(allowance.meter)
            else:
                period = period_at(limits.sold.billing_anchor, allowance.cadence, at)
                start = counted_part(period, since).start
                begun = [counted_part(period, known_since).start for id_, known_since in known if id_ == allowance.id]
                if allowance.meter not in meters or start >= instants[place + 1] or start in begun:
                    continue
            known.append((allowance.id, since))
            yield _Counted(allowance, instants[place], since, is_granted=later == place)


def _access(facts: AccountFacts, sold: Subscription, life: tuple[Stretch, ...]) -> list[entitlements_pb2.AccessStep]:
    """No access before the first step, while it is paused and from the end on; none without payment from the instant on
    at which that is no longer borne, which may lie ahead.
    """
    refused_at = payment_refused_at(sold)
    steps: list[tuple[datetime, str]] = []
    for stretch in life:
        if stretch.end is not None and stretch.start >= stretch.end:
            continue  # it was called off before it began
        if stretch.is_paused:
            steps.append((stretch.start, "no_active_subscription"))
        elif refused_at is None or refused_at > stretch.start:
            steps.append((stretch.start, ""))
            if refused_at is not None and (stretch.end is None or refused_at < stretch.end):
                steps.append((refused_at, "payment_required"))
        else:
            steps.append((stretch.start, "payment_required"))
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


def _quota(limits: Limits, counted: _Counted, *, is_last_stage: bool) -> entitlements_pb2.Quota:
    # Admission counts all of a meter and knows no slice of it (one model's tokens). Such an allowance is counted there
    # without refusing, so that the meter may be used at all; what the slice costs is computed from the ledger.
    allowance = counted.allowance
    limit = None
    if not allowance.filters and counted.is_granted:
        limit = limits.of(allowance, counted.begins, is_last_stage=is_last_stage)
    facts, sold = limits.facts, limits.sold
    return entitlements_pb2.Quota(
        id=allowance.id,
        meter=allowance.meter,
        limit=-1 if limit is None else limit,
        hard=limit is not None and not allowance.soft,
        resets_ms=resets_ms(sold.billing_anchor, allowance.cadence, counted.begins, counted.since, facts.timeline),
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

"""What a call is held to: (account, key, policy, instant) -> Terms or Refusal. Pure.

The refusals that need no counter are decided here, as a ladder: cheapest and most common first, one reason a line. What
is left for the admission script is arithmetic on counters.

Terms hold until `valid_until_ms`, the next instant at which anything about them changes by itself (a period ends, a key
expires, access ends), so one Terms serves every request of a key and a policy until then.
"""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from farebox.v1 import layout
from farebox_plugin.records import Refusal

FOREVER_MS = 1 << 62
# A size meter's hold when nothing is known yet about its use; recent use takes over from the first response on.
FIRST_ESTIMATE = 1
MAX_TOKENS = "request.maxTokens"  # a reserve: as many as the request allows
SEEN_WHILE_IT_PASSES = ("response.bytes", "usage.outputTokens", "usage.totalTokens")


@dataclass(frozen=True, slots=True)
class Quota:
    id: str
    meter: str
    limit: int  # -1 = counted only
    hard: bool
    resets_ms: tuple[int, ...]  # period n is [resets_ms[n], resets_ms[n + 1])


@dataclass(frozen=True, slots=True)
class Stage:
    """What a subscription may use from an instant on."""

    from_ms: int
    plan_key: str
    rate: tuple[int, int] | None  # requests, per_ms
    quotas: tuple[Quota, ...]
    features: frozenset[str]
    concurrency_limit: int = 0  # 0 = any number of requests at once


@dataclass(frozen=True, slots=True)
class Subscription:
    id: str
    access: tuple[tuple[int, str], ...]  # (from_ms, refusal code or ""), ascending
    stages: tuple[Stage, ...]  # ascending; the first holds for all time before, too

    def stage_at(self, at_ms: int) -> tuple[Stage, int]:
        """What holds at this instant, and until when."""
        behind = bisect_right(self.stages, at_ms, lo=1, key=lambda stage: stage.from_ms)
        return self.stages[behind - 1], self.stages[behind].from_ms if behind < len(self.stages) else FOREVER_MS


@dataclass(frozen=True, slots=True)
class Key:
    id: str
    subscription_id: str
    expires_at_ms: int  # 0 = never


@dataclass(frozen=True, slots=True)
class Account:
    id: str
    customer_key: str
    version: int
    subscriptions: Mapping[str, Subscription]
    keys: Mapping[str, Key]


@dataclass(frozen=True, slots=True)
class Policy:
    key: str
    meters: Mapping[str, int | str]  # meter -> fixed units, or the expression that measures it
    required: tuple[str, ...] = ()
    billable: tuple[tuple[int, int], ...] = ((200, 299),)
    reserve: Mapping[str, str] = field(default_factory=dict)
    dimensions: Mapping[str, str] = field(default_factory=dict)
    allow_on_store_failure: bool = False
    status_codes: Mapping[str, int] = field(default_factory=dict)
    cut_off: bool = False  # watched as it passes, and ended where a limit ends

    # What every request is charged alike; None: something is measured, or labelled.
    fixed: Mapping[str, int] | None = field(init=False)
    # Whether a hold depends on what the request's body says of its answer.
    reserves_max_tokens: bool = field(init=False)
    # Whether a quantity stands in the response itself: ext_proc settles, and the access log only backs it up.
    settled_by_body: bool = field(init=False)

    def __post_init__(self) -> None:
        expressions = [rule for rule in self.meters.values() if isinstance(rule, str)] + list(self.dimensions.values())
        by_body = any(expression not in ("request.bytes", "response.bytes") for expression in expressions)
        fixed = {meter: rule for meter, rule in self.meters.items() if isinstance(rule, int)}
        is_fixed = len(fixed) == len(self.meters) and not self.dimensions
        object.__setattr__(self, "fixed", fixed if is_fixed else None)
        object.__setattr__(self, "reserves_max_tokens", MAX_TOKENS in self.reserve.values())
        object.__setattr__(self, "settled_by_body", by_body or self.cut_off)

    def is_billable(self, status: int) -> bool:
        """Whether a response of this status is charged; otherwise its hold is given back."""
        for first, last in self.billable:  # noqa: SIM110 - any() over a generator costs three times as much
            if first <= status <= last:
                return True
        return False

    def is_seen_passing(self, meter: str) -> bool:
        """Whether this meter is counted while the response passes: less than its estimate may be held of it."""
        return self.cut_off and self.meters.get(meter) in SEEN_WHILE_IT_PASSES


@dataclass(frozen=True, slots=True)
class Counter:
    field: str
    meter: str
    limit: int  # -1 = count only (soft or unlimited)
    quota: int  # the plan's number, also where it is soft; -1 = none
    resets_at_ms: int
    period_ms: int
    is_divisible: bool = False  # less than asked for may be held: the response is cut off where that ends


@dataclass(frozen=True, slots=True)
class Hold:
    """What a request holds: units by meter, and as text, without its owners: ``<counter>|<meter>|<units>,…``"""

    units: Mapping[str, int]
    text: str


# Compared by identity: one Terms serves thousands of requests, and what is made from it is remembered per object.
@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    account: str
    customer_key: str
    version: int
    subscription: str
    plan_key: str
    key: str
    policy: Policy
    counters: tuple[Counter, ...]
    rate_field: str
    emission_us: int
    tolerance_us: int
    valid_from_ms: int
    valid_until_ms: int
    fixed_hold: Hold | None = None  # of every request alike, where nothing is measured
    kept: list[Any] = field(default_factory=list)  # what every answer under them has in common (answer.py)
    is_divisible: bool = field(init=False)  # whether less than asked for may be held on a counter

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_divisible", any(counter.is_divisible for counter in self.counters))

    def holds_at(self, instant_ms: int) -> bool:
        return self.valid_from_ms <= instant_ms < self.valid_until_ms


def terms(account: Account, key_id: str, policy: Policy, at_ms: int) -> Terms | Refusal:
    """What a call with this key on this policy is held to at this instant."""
    key = account.keys.get(key_id)
    if key is None:
        return Refusal("invalid_api_key", "The API key is not valid or was revoked.")
    if key.expires_at_ms and at_ms >= key.expires_at_ms:
        return Refusal("expired_api_key", "The API key has expired.")
    subscription = account.subscriptions.get(key.subscription_id)
    if subscription is None:
        return Refusal("no_active_subscription", "The API key belongs to no subscription.")
    step, step_ends_ms = _access_at(subscription, at_ms)
    if step == "payment_required":
        return Refusal(step, "Payment for this subscription is outstanding.")
    if step:
        return Refusal(step, "The subscription is not active.")
    stage, stage_ends_ms = subscription.stage_at(at_ms)
    for feature in policy.required:
        if feature not in stage.features:
            return Refusal("not_entitled", f"The plan does not include '{feature}'.")
    counters: list[Counter] = []
    of_stage = counters_at(subscription.id, stage, at_ms)
    for meter in policy.meters:
        on_meter = [each for each in of_stage if each.meter == meter]
        if not on_meter:
            return Refusal("not_entitled", f"The plan does not include the meter '{meter}'.", meter=meter)
        counters += on_meter
    if policy.cut_off:
        counters = [replace(each, is_divisible=policy.is_seen_passing(each.meter)) for each in counters]
    if stage.concurrency_limit:
        counters.append(_concurrency_counter(subscription.id, stage.concurrency_limit))
    emission_us, tolerance_us = _rate(stage)
    made = Terms(
        account=account.id,
        customer_key=account.customer_key,
        version=account.version,
        subscription=subscription.id,
        plan_key=stage.plan_key,
        key=key.id,
        policy=policy,
        counters=tuple(counters),
        rate_field=layout.rate_field(subscription.id) if emission_us else "",
        emission_us=emission_us,
        tolerance_us=tolerance_us,
        valid_from_ms=max([stage.from_ms, *(each.resets_at_ms - each.period_ms for each in counters)]),
        valid_until_ms=min(
            [key.expires_at_ms or FOREVER_MS, step_ends_ms, stage_ends_ms, *(each.resets_at_ms for each in counters)]
        ),
    )
    is_fixed = all(isinstance(rule, int) for rule in policy.meters.values())
    return replace(made, fixed_hold=hold_for(made, None, {})) if is_fixed else made


def _access_at(subscription: Subscription, at_ms: int) -> tuple[str, int]:
    """The refusal in force ("" = access) and the instant at which that changes."""
    index = bisect_right(subscription.access, at_ms, key=lambda step: step[0])
    ends_ms = subscription.access[index][0] if index < len(subscription.access) else FOREVER_MS
    return (subscription.access[index - 1][1] if index else "no_active_subscription"), ends_ms


def counters_at(subscription_id: str, stage: Stage, at_ms: int) -> list[Counter]:
    """The counters on which units used at this instant stand, each once.

    A quota may stand in a stage twice, as the plan has it and as a later one goes on with it: where both count from the
    same instant they share a counter, and the first one's limit holds.
    """
    found: dict[str, Counter] = {}
    for quota in stage.quotas:
        counter = _counter_at(subscription_id, quota, at_ms)
        found.setdefault(counter.field, counter)
    return [*found.values()]


def _counter_at(subscription_id: str, quota: Quota, at_ms: int) -> Counter:
    """The counter on which a quota's units of this instant stand."""
    # Before the first or behind the last known boundary the nearest period is taken: a portal that has been away for
    # longer than its horizon leaves customers in their last period rather than without a limit.
    index = min(max(bisect_right(quota.resets_ms, at_ms) - 1, 0), len(quota.resets_ms) - 2)
    start_ms, end_ms = quota.resets_ms[index], quota.resets_ms[index + 1]
    return Counter(
        field=layout.counter_field(subscription_id, quota.id, start_ms),
        meter=quota.meter,
        limit=quota.limit if quota.hard else -1,
        quota=quota.limit,
        resets_at_ms=end_ms if at_ms < end_ms else FOREVER_MS,
        period_ms=end_ms - start_ms if at_ms < end_ms else FOREVER_MS,
    )


def _concurrency_counter(subscription_id: str, limit: int) -> Counter:
    """Requests that run now, counted like any other meter; its limit is no quota that is ever used up."""
    return Counter(
        field=layout.concurrency_field(subscription_id),
        meter=layout.OPEN_REQUEST,
        limit=limit,
        quota=-1,
        resets_at_ms=FOREVER_MS,
        period_ms=FOREVER_MS,
    )


def _rate(stage: Stage) -> tuple[int, int]:
    """GCRA parameters in microseconds: one request every `emission`, as many as fit into `tolerance` at once."""
    if stage.rate is None:
        return 0, 0
    requests, per_ms = stage.rate
    emission_us = max(per_ms * 1000 // requests, 1)
    return emission_us, emission_us * requests


def hold_for(terms: Terms, max_tokens: int | None, recent: Mapping[str, int]) -> Hold:
    """What to hold before the response is known: the fixed cost, or an estimate of a measured one (`recent`)."""
    if terms.fixed_hold is not None:
        return terms.fixed_hold
    units = _units_to_hold(terms, max_tokens, recent)
    parts = [f"{counter.field}|{counter.meter}|{units[counter.meter]}" for counter in terms.counters]
    return Hold(units, ",".join(parts))


def _units_to_hold(terms: Terms, max_tokens: int | None, recent: Mapping[str, int]) -> dict[str, int]:
    held: dict[str, int] = {}
    if terms.counters and terms.counters[-1].meter == layout.OPEN_REQUEST:
        held[layout.OPEN_REQUEST] = 1
    for meter, rule in terms.policy.meters.items():
        if isinstance(rule, int):
            held[meter] = rule
            continue
        reserve = terms.policy.reserve.get(meter, "")
        if reserve == MAX_TOKENS and max_tokens is not None:
            held[meter] = max_tokens
        elif reserve.isdigit():
            held[meter] = int(reserve)
        else:
            held[meter] = recent.get(meter, FIRST_ESTIMATE)
    return held


def held_units(hold: str) -> dict[str, tuple[str, int]]:
    """What a hold as it stands in Valkey and in the spool says: counter field -> (meter, units)."""
    parts = [part.rsplit("|", 2) for part in hold.partition(";")[2].split(",") if part]
    return {field: (meter, int(units)) for field, meter, units in parts}


def held_by_meter(hold: str) -> dict[str, int]:
    """What a hold's text says: meter -> units. Several limits on one meter hold the same of it (scripts/admit.lua)."""
    held = dict(held_units(hold).values())
    held.pop(layout.OPEN_REQUEST, None)
    return held

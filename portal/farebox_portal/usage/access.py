"""What a subscription may still use: the usage document that pages show and the API answers.

Read from the ledger, not from Valkey: it is what will be billed, and it lags the gateway by the time of a delivery.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Annotated, Any

from pydantic import Field
from sqlmodel import Session, col, select

from farebox_portal.catalog.tables import Feature
from farebox_portal.clock import Timeline
from farebox_portal.documents import Instant, Output
from farebox_portal.errors import NotFound
from farebox_portal.pricing.grants import Usage
from farebox_portal.pricing.period import Period
from farebox_portal.subscriptions.rows import read_life, read_plans
from farebox_portal.subscriptions.stretches import Stretch, stretch_at, stretches
from farebox_portal.subscriptions.tables import Subscription
from farebox_portal.testclock import read_timeline
from farebox_portal.usage.balances import ISSUE, History, Standing, history, segments, standing
from farebox_portal.usage.grant_rows import grants_for, read_grants
from farebox_portal.usage.grants import Allowance, allowance_period, granted_at
from farebox_portal.usage.lag import complete_to
from farebox_portal.usage.segment_totals import Wanted, segment_usage
from farebox_portal.usage.totals import meter_total


@dataclass(frozen=True)
class Metered:
    """An allowance, all that its balance depends on, and how it stands."""

    allowance: Allowance
    history: History
    usage: tuple[Usage, ...]
    is_complete: Callable[[datetime], bool]
    standing: Standing

    @property
    def times(self) -> list[Period]:
        """Of the current period, between two changes."""
        return [time for time in segments(self.history) if time.start >= self.history.current.start]


class Entitlement(Output):
    """One feature. An on/off or static feature has no numbers; a limit that is left out means there is none."""

    has_access: bool
    balance: int | None = None
    usage: int | None = None
    overage: int | None = None
    limit: int | None = None
    resets_at: datetime | None = None
    config: Any = None


class GrantBalance(Output):
    """What is left of a grant, and was burnt of it; without an id the plan's own issue."""

    grant_id: str | None
    left: int
    burnt: int


class EntitlementValue(Entitlement):
    """`grants`: those in force, with what was burnt as far back as the present balance depends on it."""

    grants: list[GrantBalance]


class BurnDown(Output):
    """[from, to) of the usage period, in which no grant begins, recurs or ends. `balanceAtStart` is without its usage;
    `grantsAtStart` has what is left of each grant by its id, of the plan's issue under "issue".
    """

    from_: Annotated[Instant, Field(alias="from")]
    to: Instant
    usage: int
    balance_at_start: int | None
    overage_at_start: int
    grants_at_start: dict[str, int]


class EntitlementHistory(Output):
    """Of the current usage period, as far as it has come."""

    burn_down: list[BurnDown]


class PaymentStatus(Output):
    """`url`: where what failed can be paid, or confirmed where the bank asks for that (3-D Secure)."""

    status: str
    url: str | None = None


class UsageDocument(Output):
    subscription_id: str
    customer_id: str
    plan_key: str
    entitlements: dict[str, Entitlement]
    payment_status: PaymentStatus


def payment_refused_at(subscription: Subscription) -> datetime | None:
    """From when on an active subscription is refused because it is not paid; None: it is not."""
    if subscription.payment_status == "uncollectible":
        return subscription.active_from
    return subscription.payment_refused_at


def usage_document(session: Session, subscription_id: str, now: datetime) -> UsageDocument:
    """Every feature that the plan grants now, with what was used of it. Raises NotFound."""
    found = _entitled(session, subscription_id, now)
    shown = {one.allowance.feature_key: _shown(one, found.may_call) for one in found.metered}
    others = {key: Entitlement(has_access=found.may_call, config=config) for key, config in found.configs.items()}
    return UsageDocument(
        subscription_id=found.subscription.id,
        customer_id=found.subscription.customer_id,
        plan_key=found.plan_key,
        entitlements=shown | others,
        payment_status=PaymentStatus(status=found.subscription.payment_status, url=found.subscription.payment_url),
    )


def entitlement_value(session: Session, subscription_id: str, feature_key: str, now: datetime) -> EntitlementValue:
    """One of them, with its grants. Raises NotFound."""
    found = _entitled(session, subscription_id, now)
    if feature_key in found.configs:
        return EntitlementValue(has_access=found.may_call, config=found.configs[feature_key], grants=[])
    for one in found.metered:
        if one.allowance.feature_key == feature_key:
            left, burnt = one.standing.left, one.standing.burnt
            grants = [
                GrantBalance(grant_id=None if id == ISSUE else id, left=units, burnt=burnt.get(id, 0))
                for id, units in left.items()
            ]
            return EntitlementValue(**_shown(one, found.may_call).model_dump(), grants=grants)
    raise NotFound(f"The plan does not have '{feature_key}'.", code="entitlement_not_found")


def grants_left(session: Session, subscription_id: str, feature_key: str, at: datetime) -> Mapping[str, int] | None:
    """What is left of each grant in force at `at`; None where the plan does not have the feature, and while it is not
    known, as usage before a reset may be missing. Raises NotFound.
    """
    for one in _entitled(session, subscription_id, at).metered:
        if one.allowance.feature_key == feature_key:
            is_known = all(one.is_complete(period.start) for period in one.history.periods[1:])
            return dict(one.standing.left) if is_known else None
    return None


def entitlement_history(session: Session, subscription_id: str, feature_key: str, now: datetime) -> EntitlementHistory:
    """How the balance of a metered feature came about. Raises NotFound."""
    for one in _entitled(session, subscription_id, now).metered:
        if one.allowance.feature_key == feature_key:
            return EntitlementHistory(burn_down=[_burn_down(one, time) for time in one.times if time.start <= now])
    raise NotFound(f"The plan does not have '{feature_key}' as a metered feature.", code="entitlement_not_found")


def _burn_down(metered: Metered, time: Period) -> BurnDown:
    before = [use for use in metered.usage if use.at < time.start]
    then = standing(metered.history, before, time.start, metered.is_complete)
    return BurnDown(
        from_=time.start,
        to=time.end,
        usage=sum(use.units for use in metered.usage if use.at == time.start),
        balance_at_start=then.balance,
        overage_at_start=then.overage,
        grants_at_start=dict(then.left),
    )


@dataclass(frozen=True)
class Entitled:
    """What a subscription has of its plan at an instant."""

    subscription: Subscription
    plan_key: str
    may_call: bool
    metered: list[Metered]
    configs: Mapping[str, Any]


def _entitled(session: Session, subscription_id: str, now: datetime) -> Entitled:
    subscription = session.get(Subscription, subscription_id)
    if subscription is None:
        raise NotFound(f"There is no subscription {subscription_id}.")
    life = read_life(session, subscription)
    cut, features = stretches(life, read_plans(session, [life])), read_features(session)
    refused_at = payment_refused_at(subscription)
    return Entitled(
        subscription=subscription,
        plan_key=cut[stretch_at(cut, now)].plan.key,
        may_call=life.state(now) in ("active", "canceled") and (refused_at is None or now < refused_at),
        metered=_standings(session, subscription.id, life.anchor, cut, features, now),
        configs=granted_at(cut, now, features).configs,
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
            shares.append(Fraction(_used(session, subscription_id, allowance, period, timeline), allowance.limit))
    return max(shares)


def _used(session: Session, subscription_id: str, allowance: Allowance, period: Period, timeline: Timeline) -> int:
    start, end = timeline.wall(period.start), timeline.wall(period.end)  # usage is dated by the gateway
    return meter_total(session, subscription_id, allowance.meter, start, end, allowance.filters)


def _standings(
    session: Session,
    subscription_id: str,
    anchor: datetime,
    life: tuple[Stretch, ...],
    features: Mapping[str, Feature],
    now: datetime,
) -> list[Metered]:
    """Of every metered feature that the plan has now."""
    grants, timeline = read_grants(session, [subscription_id]).get(subscription_id, ()), read_timeline(session)
    allowances = granted_at(life, now, features).allowances
    of_feature = [grants_for(grants, allowance.feature_key) for allowance in allowances]
    histories = [
        history(life, anchor, allowance.feature_key, features, each, now)
        for allowance, each in zip(allowances, of_feature, strict=True)
    ]
    wanted = [
        Wanted(subscription_id, allowance, segments(known))
        for allowance, known in zip(allowances, histories, strict=True)
    ]
    usages = segment_usage(session, wanted, timeline, now)
    complete = complete_to(session, timeline.wall(now))

    def is_complete(at: datetime) -> bool:
        return timeline.wall(at) <= complete

    return [
        Metered(allowance, known, usage, is_complete, standing(known, usage, now, is_complete))
        for allowance, known, usage in zip(allowances, histories, usages, strict=True)
    ]


def _shown(metered: Metered, may_call: bool) -> Entitlement:
    standing = metered.standing
    return Entitlement(
        has_access=may_call and (metered.allowance.soft or bool(standing.balance)),
        balance=standing.balance,
        usage=standing.used,
        overage=standing.overage,
        limit=standing.limit,
        resets_at=metered.history.current.end,
    )

"""Granted units at the gateway: compiled here, read and counted there; the ledger lags, and the portal may be away."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.plugin import a_policy
from builders.portal import a_card
from builders.subscriptions import APRIL
from farebox_plugin.directory import read_account, read_policy
from farebox_plugin.terms import Terms, terms
from farebox_portal.catalog.tables import Feature, Plan
from farebox_portal.clock import Timeline, from_ms, to_ms
from farebox_portal.customers.tables import Customer
from farebox_portal.entitlements.compile import STAGES_MAX, compile_account, limits_of, recompile_at
from farebox_portal.entitlements.facts import AccountFacts
from farebox_portal.pricing.grants import Grant, Usage
from farebox_portal.subscriptions.life import Life, Segment
from farebox_portal.subscriptions.tables import ApiKey, Subscription
from farebox_portal.usage.balances import history, standing
from farebox_portal.usage.grant_rows import Granted, grants_for
from farebox_portal.usage.lag import LATE

KEY = "api_requests"
DAY = timedelta(days=1)
POLICY = read_policy(a_policy(meters={KEY: 1}))
FEATURES = {KEY: Feature(id="f", key=KEY, name="", meter_slug=KEY)}
Uses = list[tuple[datetime, datetime]]
"""(when a unit was used, when the ledger gets to know)."""


def day(number: float) -> datetime:
    return APRIL + timedelta(days=number)


def a_plan(limit: int = 5, period: str = "P1D", **template: Any) -> Plan:
    card = a_card(KEY, limit=limit)
    card["entitlementTemplate"] |= {"usagePeriod": period} | template
    phase = {"key": "default", "name": "", "rateCards": [card]}
    return Plan(
        id=f"{limit}", key=f"p{limit}", version=1, name="", currency="USD", billing_cadence="P1M", status="active",
        phases=[phase], created_at=APRIL,
    )  # fmt: skip


def a_grant(id: str = "g", amount: int = 3, at: float = 0, **fields: Any) -> Grant:
    given = {"effective_at": day(at), "created_at": day(at), "priority": 2}
    return Grant(id, amount, **(given | fields))


def facts(plans: list[tuple[float, Plan, bool]], grants: list[Grant]) -> AccountFacts:
    first = plans[0][1]
    customer = Customer(id="cus", key="acme", name="", currency="USD", entitlements_version=1, created_at=APRIL)
    sold = Subscription(
        id="sub", customer_id="cus", plan_id=first.id, active_from=APRIL, billing_anchor=APRIL, created_at=APRIL,
        updated_at=APRIL,
    )  # fmt: skip
    segments = tuple(Segment(day(at), plan.id, day(at), is_fresh=is_fresh) for at, plan, is_fresh in plans)
    key = ApiKey(id="key", subscription_id="sub", customer_id="cus", name="", digest="d", start="fb", created_at=APRIL)
    return AccountFacts(
        customer,
        ((sold, first),),
        (key,),
        FEATURES,
        {"sub": Life(APRIL, None, APRIL, segments)},
        {plan.id: plan for _, plan, _ in plans},
        grants={"sub": tuple(Granted(KEY, grant) for grant in grants)},
    )


def as_known(made: AccountFacts, uses: Uses, now: datetime) -> AccountFacts:
    """With the usage that the ledger has by now, told in sums as `used.with_usage` tells it."""
    [(sold, plan)] = made.subscriptions
    limits, instants = limits_of(made, sold, plan, now)
    used = {}
    for allowance, times in limits.times(instants):
        sums = [
            Usage(time.start, sum(time.start <= at < time.end and known_at <= now for at, known_at in uses))
            for time in times
            if time.start <= now
        ]
        used["sub", allowance.feature_key] = tuple(sums)
    return replace(made, used=used, complete_to=made.timeline.wall(now) - LATE)


def terms_at(document: Any, at: datetime) -> Terms:
    found = terms(read_account(document), "key", POLICY, to_ms(at))
    assert isinstance(found, Terms)
    return found


def limit_at(made: AccountFacts, uses: Uses, now: datetime, at: datetime) -> int:
    """What a document of `now` lets be used in the period of `at`."""
    return terms_at(compile_account(as_known(made, uses, now), now), at).counters[0].limit


def truly(made: AccountFacts, uses: Uses, at: datetime) -> Any:
    """How the entitlement stands for somebody who knows all that was used."""
    [(sold, plan)] = made.subscriptions
    life = made.stretches_of(sold, plan)
    known = history(life, APRIL, KEY, FEATURES, grants_for(made.grants["sub"], KEY), at)
    return standing(known, [Usage(when, 1) for when, _ in sorted(uses)], at, lambda _: True)


def used(count: int, at: float, late: timedelta = timedelta()) -> Uses:
    return [(day(at), day(at) + late)] * count


# --- one instant at a time -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grant", "uses", "expected"),
    [
        pytest.param(a_grant(), [], [(0.5, 8), (1, 5), (9, 5)], id="it lapses with the reset, portal or not"),
        pytest.param(a_grant(at=0.6), [], [(0.5, 5), (0.6, 8), (1, 5)], id="a start within the period"),
        pytest.param(a_grant(expires_at=day(0.8)), [], [(0.5, 8), (0.8, 5), (1, 5)], id="an end within the period"),
        pytest.param(a_grant(expires_at=day(0.8)), used(7, 0.4), [(0.5, 8), (0.8, 7), (1, 5)],
                     id="what was burnt by then stays burnt"),
        pytest.param(a_grant(expires_at=day(0.8)), used(7, 0.4, DAY), [(0.5, 8), (0.8, 5)],
                     id="of that, what is known: too little rather than too much"),
        pytest.param(a_grant(at=2.5), [], [(2, 5), (2.5, 8), (3, 5)], id="a later period"),
        pytest.param(a_grant(recurs="P1D"), used(8, 0.4), [(0.5, 8), (1, 8), (2, 8), (5.5, 8)], id="one that recurs"),
        pytest.param(a_grant(rollover_max=3), [], [(0.5, 8), (1, 5), (2, 5)], id="nobody knows what will roll over"),
        pytest.param(a_grant(rollover_max=3, rollover_min=2), used(8, 0.4), [(0.5, 8), (1, 7), (2, 7)],
                     id="but the minimum"),
        pytest.param(a_grant(expires_at=day(3.5), recurs="P1D", recurs_from=day(0.25)), [],
                     [(0.5, 8), (1, 5), (1.25, 8), (2, 5), (3.25, 8), (3.5, 5), (4.5, 5)], id="all of it at once"),
    ],
)  # fmt: skip
def test_a_document_says_of_each_instant_what_may_be_used_in_its_period(
    grant: Grant, uses: Uses, expected: list[tuple[float, int]]
) -> None:
    made = facts([(0, a_plan(), False)], [grant])
    assert [(at, limit_at(made, uses, day(0.5), day(at))) for at, _ in expected] == expected


def test_what_rolled_over_is_in_the_document_when_the_ledger_has_caught_up() -> None:
    made = facts([(0, a_plan(), False)], [a_grant(rollover_max=3)])
    uses = used(6, 0.5)
    seconds = [0, 59, 60, 3600]
    limits = [limit_at(made, uses, at, at) for at in (day(1) + timedelta(seconds=after) for after in seconds)]
    assert limits == [5, 5, 7, 7]


def test_overage_is_taken_off_the_next_period_as_far_as_it_is_known() -> None:
    keeps = facts([(0, a_plan(preserveOverageAtReset=True), False)], [])
    uses = used(7, 0.5) + used(1, 0.5, DAY)
    assert [limit_at(keeps, uses, day(now), day(1.5)) for now in (0.6, 1, 1.4, 1.5)] == [3, 3, 3, 2]
    assert limit_at(keeps, uses, day(2.1), day(2.1)) == 5
    assert limit_at(facts([(0, a_plan(), False)], []), uses, day(0.6), day(1)) == 5


def test_an_upgrade_brings_its_issue_at_once_and_what_is_left_of_grants_a_minute_later() -> None:
    made = facts([(0, a_plan(), False), (0.6, a_plan(50), True)], [a_grant()])
    uses = used(6, 0.5)
    assert limit_at(made, uses, day(0.5), day(0.6)) == 50
    assert [limit_at(made, uses, day(0.6) + after, day(0.7)) for after in (timedelta(), LATE)] == [50, 52]


def test_an_account_without_grants_needs_no_usage() -> None:
    made = facts([(0, a_plan(), False)], [])
    [(sold, plan)] = made.subscriptions
    limits, instants = limits_of(made, sold, plan, day(0.5))
    assert (list(limits.times(instants)), instants) == ([], [day(0.5)])
    assert terms_at(compile_account(made, day(0.5)), day(3)).counters[0].limit == 5


def test_a_grant_of_long_ago_needs_none_either() -> None:
    made = facts([(0, a_plan(), False)], [a_grant()])
    [(sold, plan)] = made.subscriptions
    assert [list(limits_of(made, sold, plan, day(at))[0].times([day(at)])) != [] for at in (0.5, 3)] == [True, False]


def test_it_is_made_anew_at_each_instant_and_when_the_ledger_has_caught_up() -> None:
    made = facts([(0, a_plan(), False)], [a_grant(at=0.6, rollover_max=3)])
    now, seen = day(0.5), []
    for _ in range(6):
        known = as_known(made, [], now)
        again = recompile_at(known, compile_account(known, now), now)
        assert again is not None
        now = again
        seen.append(now)
    hour = timedelta(hours=1)
    soon = timedelta(seconds=10)
    assert seen == [day(0.6), day(0.6) + LATE, day(0.6) + hour, day(1), day(1) + soon, day(1) + 2 * soon]


def test_after_an_advance_of_the_clock_the_ledger_is_waited_for_on_the_wall() -> None:
    """A reset that the clock passed over happened when it was put forward, whatever day it says."""
    made = facts([(0, a_plan(), False)], [a_grant(rollover_max=3)])
    made = replace(made, timeline=Timeline(((day(0.5), day(3.5)),)))
    moments = [day(3.5), day(3.5) + LATE]
    assert [limit_at(made, [], now, from_ms(to_ms(day(0.6)))) for now in moments] == [5, 8]


def test_more_changes_than_stages_leave_no_more_than_the_plan_behind_the_last() -> None:
    grants = [a_grant(f"g{number}", at=number + 0.5, expires_at=day(number + 0.75)) for number in range(12)]
    made = facts([(0, a_plan(), False)], grants)
    account = compile_account(as_known(made, [], day(0.1)), day(0.1))
    [sold] = account.subscriptions
    assert len(sold.stages) == STAGES_MAX - 1
    last = from_ms(sold.stages[-1].from_ms)
    for hours in range(30 * 24):
        at = day(0.1) + timedelta(hours=hours)
        limit = terms_at(account, at).counters[0].limit
        assert limit == (truly(made, [], at).limit if at < last else 5)


# --- any sequence ----------------------------------------------------------------------------------------------------


@dataclass
class Gateway:
    """Counts exactly, by the document it was given last; and the publisher, who makes it anew when it is due."""

    made: AccountFacts
    now: datetime
    uses: Uses = field(default_factory=list)

    def __post_init__(self) -> None:
        self.publish(self.now)

    def publish(self, at: datetime) -> None:
        known = as_known(self.made, self.uses, at)
        self.account = compile_account(known, at)
        self.due = recompile_at(known, self.account, at)

    def run_to(self, at: datetime, *, is_portal_there: bool) -> None:
        while is_portal_there and self.due is not None and self.due <= at:
            self.publish(self.due)
        self.now = at

    def call(self, lag: timedelta) -> bool:
        counter = terms_at(self.account, self.now).counters[0]
        began = from_ms(counter.resets_at_ms - counter.period_ms)
        is_admitted = sum(began <= at for at, _ in self.uses) < counter.limit
        if is_admitted:
            self.uses.append((self.now, self.now + lag))
        return is_admitted


# Close to where something changes it is told apart whether a unit was used before or after.
moments = st.builds(
    lambda quarter, seconds: APRIL + timedelta(hours=6 * quarter, seconds=seconds),
    st.integers(0, 20),
    st.sampled_from([-50, -20, 0, 20, 50, 90, 4000]),
).filter(lambda at: at >= APRIL)
lags = st.integers(0, 59).map(lambda seconds: timedelta(seconds=seconds))


@st.composite
def grants_of_some_days(draw: st.DrawFn) -> list[Grant]:
    quarters = st.integers(0, 20).map(lambda quarter: quarter / 4)
    found = []
    for number in range(draw(st.integers(0, 3))):
        low, high = sorted((draw(st.integers(0, 4)), draw(st.integers(0, 4))))
        at = draw(quarters)
        ends = [draw(st.none() | quarters.map(lambda after, at=at: day(at + after))) for _ in range(2)]  # type: ignore[misc]
        found.append(
            a_grant(
                f"g{number}", draw(st.integers(1, 4)), at, priority=draw(st.integers(1, 2)), expires_at=ends[0],
                voided_at=ends[1], rollover_min=draw(st.sampled_from([0, low])), rollover_max=high,
                recurs=draw(st.sampled_from([None, None, "P1D"])),
            )
        )  # fmt: skip
    return found


def known_by(made: AccountFacts, at: datetime) -> AccountFacts:
    """Nobody knows of a grant that is not made yet, nor that it will be voided."""
    then = tuple(
        replace(one, grant=one.grant if (one.grant.voided_at or at) <= at else replace(one.grant, voided_at=None))
        for one in made.grants["sub"]
        if one.grant.created_at <= at
    )
    return replace(made, grants={"sub": then})


@settings(max_examples=80, deadline=None)
@given(
    grants=grants_of_some_days(),
    upgrade=st.none() | st.tuples(st.integers(1, 20), st.integers(0, 8)),
    calls=st.lists(st.tuples(moments, st.integers(1, 9), lags, st.booleans()), max_size=14),
)
def test_no_more_is_ever_let_in_than_was_granted(
    grants: list[Grant],
    upgrade: tuple[int, int] | None,
    calls: list[tuple[datetime, int, timedelta, bool]],
) -> None:
    plans = [(0.0, a_plan(), False)]
    if upgrade is not None:
        quarter, limit = upgrade
        plans.append((quarter / 4, a_plan(limit + 10), True))
    made = facts(plans, grants)
    gateway = Gateway(known_by(made, APRIL), APRIL)
    orders = sorted({at for one in grants for at in (one.created_at, one.voided_at) if at is not None and at > APRIL})
    for at, count, lag, is_portal_there in sorted(calls, key=lambda call: call[0]):
        for order in orders[bisect_right(orders, gateway.now) : bisect_right(orders, at)]:
            gateway.run_to(order, is_portal_there=is_portal_there)
            gateway.made = known_by(made, order)
            gateway.publish(order)  # who makes or voids a grant asks the portal, so that is there
        gateway.run_to(at, is_portal_there=is_portal_there)
        for _ in range(count):
            gateway.call(lag)
        assert truly(made, gateway.uses, at).overage == 0
    # And nothing that was granted is withheld for good.
    end = gateway.now + timedelta(days=0.2)
    gateway.made = known_by(made, end)
    gateway.publish(end)
    gateway.run_to(end, is_portal_there=True)
    assert terms_at(gateway.account, end).counters[0].limit == truly(gateway.made, gateway.uses, end).limit


def test_the_property_sees_a_gateway_that_lets_too_much_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the ledger believed at once, what was used a moment before the reset would roll over."""
    made = facts([(0, a_plan(), False)], [a_grant(rollover_max=3)])

    def let_in(is_believed: bool) -> int:
        believe: Callable[[object, datetime], bool] = lambda _, __: True  # noqa: E731
        if is_believed:
            monkeypatch.setattr("farebox_portal.entitlements.limits.Limits._is_complete", believe)
        gateway = Gateway(made, APRIL)
        for at in (day(1) - timedelta(seconds=5), day(1)):
            gateway.run_to(at, is_portal_there=True)
            while gateway.call(timedelta(seconds=30)):
                pass
        return int(truly(made, gateway.uses, day(1)).overage)

    assert [let_in(False), let_in(True)] == [0, 3]

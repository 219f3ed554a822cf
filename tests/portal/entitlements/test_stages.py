"""A document made now must say of any later instant what one made then would say: the portal may be away by then."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.plugin import a_policy
from builders.portal import a_card
from builders.subscriptions import APRIL
from farebox_plugin.directory import read_account, read_policy
from farebox_plugin.records import Refusal
from farebox_plugin.terms import Counter, Terms, terms
from farebox_portal.catalog.tables import Feature, Plan
from farebox_portal.clock import to_ms
from farebox_portal.customers.tables import Customer
from farebox_portal.entitlements.compile import HORIZON, compile_account
from farebox_portal.entitlements.facts import AccountFacts
from farebox_portal.subscriptions.life import Life, Segment
from farebox_portal.subscriptions.tables import ApiKey, Subscription

MADE = APRIL + timedelta(days=9, hours=5)
POLICY = read_policy(a_policy(meters={"api_requests": 1}))
FEATURES = {
    "api_requests": Feature(id="f1", key="api_requests", name="", meter_slug="api_requests"),
    "daily": Feature(id="f2", key="daily", name="", meter_slug="api_requests"),
    "tokens": Feature(id="f3", key="tokens", name="", meter_slug="tokens"),
}


def plan(key: str, *cards: dict[str, Any], **fields: Any) -> Plan:
    phases = fields.pop("phases", [{"key": "default", "name": "", "rateCards": list(cards)}])
    return Plan(
        id=key, key=key, version=1, name=key, currency="USD", billing_cadence="P1M", status="active", phases=phases,
        created_at=APRIL, **fields,
    )  # fmt: skip


def daily(limit: int) -> dict[str, Any]:
    card = a_card("daily", limit=limit)
    return card | {"entitlementTemplate": card["entitlementTemplate"] | {"usagePeriod": "P1D"}}


PLANS = {
    "free": plan("free", a_card(limit=100)),
    "pro": plan("pro", a_card(limit=1000), daily(50), rate_limit={"requests": 9, "per": "second"}),
    "soft": plan("soft", a_card(limit=5, soft=True), concurrency_limit=3),
    "tokens": plan("tokens", a_card("tokens", limit=7)),
    "ten": plan("ten", a_card(limit=10)),
    "trial": plan("trial", phases=[
        {"key": "trial", "name": "", "duration": "P2W", "rateCards": [a_card(limit=10)]},
        {"key": "full", "name": "", "rateCards": [a_card(limit=500), daily(20)]},
    ]),
}  # fmt: skip


def facts(segments: list[tuple[timedelta, str, bool, bool]], end: timedelta | None) -> AccountFacts:
    customer = Customer(id="cus", key="acme", name="", currency="USD", entitlements_version=1, created_at=APRIL)
    ends_at = None if end is None else APRIL + end
    sold = Subscription(
        id="sub", customer_id="cus", plan_id=segments[0][1], active_from=APRIL, active_to=ends_at,
        billing_anchor=APRIL, created_at=APRIL, updated_at=APRIL,
    )  # fmt: skip
    found = [
        Segment(APRIL + after, key, APRIL + after, is_paused=is_paused, is_fresh=is_fresh)
        for after, key, is_paused, is_fresh in segments
        if end is None or after < end
    ]
    life = Life(APRIL, ends_at, APRIL, tuple(found))
    key = ApiKey(id="key", subscription_id="sub", customer_id="cus", name="", digest="d", start="fb", created_at=APRIL)
    return AccountFacts(customer, ((sold, PLANS[segments[0][1]]),), (key,), FEATURES, {"sub": life}, PLANS)


def at(made: AccountFacts, now: datetime, instant: datetime) -> Terms | Refusal:
    return terms(read_account(compile_account(made, now)), "key", POLICY, to_ms(instant))


def granted(found: Terms | Refusal) -> object:
    """What a customer can tell: the refusal, or plan, rate and every limit with its counter."""
    if isinstance(found, Refusal):
        return found.code
    return found.plan_key, found.emission_us, found.tolerance_us, sorted(map(_limit, _limits(found)))


def _limits(found: Terms) -> list[Counter]:
    return [each for each in found.counters if each.quota >= 0 or each.limit >= 0]


def _limit(counter: Counter) -> tuple[str, int, int, int]:
    return counter.field, counter.limit, counter.quota, counter.resets_at_ms


@st.composite
def lives(draw: st.DrawFn) -> AccountFacts:
    offsets = draw(st.lists(st.integers(1, 60 * 24), max_size=4, unique=True))
    segments = [(timedelta(), draw(st.sampled_from(sorted(PLANS))), False, False)]
    for hours in sorted(offsets):
        choice = (draw(st.sampled_from(sorted(PLANS))), draw(st.booleans()), draw(st.booleans()))
        segments.append((timedelta(hours=hours), *choice))
    end = draw(st.none() | st.integers(1, 60 * 24).map(lambda hours: timedelta(hours=hours)))
    return facts(segments, end)


@settings(max_examples=150, deadline=None)
@given(lives(), st.lists(st.integers(0, 39 * 24), min_size=1, max_size=6))
def test_the_document_of_today_says_of_tomorrow_what_tomorrows_will_say(life: AccountFacts, hours: list[int]) -> None:
    assert timedelta(hours=max(hours)) < HORIZON
    for after in hours:
        instant = MADE + timedelta(hours=after)
        assert granted(at(life, MADE, instant)) == granted(at(life, instant, instant))


@settings(max_examples=150, deadline=None)
@given(lives(), st.integers(1, 39 * 24))
def test_what_is_used_before_a_change_is_counted_where_it_counts_afterwards(life: AccountFacts, hours: int) -> None:
    instant = MADE + timedelta(hours=hours)
    later = at(life, MADE, instant)
    if isinstance(later, Refusal):
        return
    for limit in _limits(later):
        began_ms = limit.resets_at_ms - limit.period_ms
        if "/" not in limit.field:
            continue  # requests that run: nothing is carried over
        for before in range(hours):
            earlier = MADE + timedelta(hours=before)
            found = at(life, MADE, earlier)
            if to_ms(earlier) >= began_ms and isinstance(found, Terms):
                assert limit.field in {each.field for each in found.counters}


@pytest.mark.parametrize(
    ("change", "is_fresh", "daily_is_counted"),
    [
        # The day's limit goes on counting from the midnight before, so that what is used until then is counted.
        (timedelta(days=12, hours=5), False, True),
        (timedelta(days=12, hours=5), True, False),
        (timedelta(days=12), False, False),  # at midnight nothing is carried over
    ],
)
def test_a_planned_upgrade_is_in_the_document_with_all_that_it_brings(
    change: timedelta, is_fresh: bool, daily_is_counted: bool
) -> None:
    life = facts([(timedelta(), "free", False, False), (change, "pro", False, is_fresh)], None)
    account = compile_account(life, MADE)
    [sold] = account.subscriptions
    [stage] = sold.stages
    assert (sold.plan_key, stage.plan_key, stage.from_ms) == ("free", "pro", to_ms(APRIL + change))
    assert (stage.rate_limit.requests, [quota.limit for quota in stage.quotas]) == (9, [1000, 50])
    assert [(quota.id, quota.limit, quota.hard) for quota in sold.quotas] == [("api_requests.P1M", 100, True)] + (
        [("daily.P1D", -1, False)] if daily_is_counted else []
    )
    if daily_is_counted:
        assert sold.quotas[1].resets_ms[:3] == [to_ms(APRIL + timedelta(days=day)) for day in (8, 9, 10)]


def test_a_phase_that_counts_anew_counts_for_the_plan_behind_it_that_does_not() -> None:
    """The trial's ten, then 500 anew, then a plan of ten again, for which all of the month counts."""
    life = facts([(timedelta(), "trial", False, False), (timedelta(days=20), "ten", False, False)], None)
    in_full, in_ten = APRIL + timedelta(days=16), APRIL + timedelta(days=21)
    field = "v:sub/api_requests.P1M@"
    anew, of_month = field + str(to_ms(APRIL + timedelta(days=14))), field + str(to_ms(APRIL))
    for made in (MADE, in_full):
        found = at(life, made, in_full)
        assert isinstance(found, Terms)
        monthly = [(each.field, each.limit) for each in found.counters if each.field.startswith(field)]
        assert monthly == [(anew, 500), (of_month, -1)]
    found = at(life, MADE, in_ten)
    assert isinstance(found, Terms)
    assert [(each.field, each.limit) for each in found.counters] == [(of_month, 10)]
    before = at(life, in_full, APRIL + timedelta(days=13))
    assert isinstance(before, Terms)
    assert [each.field for each in before.counters].count(of_month) == 1, "before it began anew they are one counter"

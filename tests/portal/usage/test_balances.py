"""Balances of entitlements over whole lives, in days; against a reference that goes through them day by day."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.portal import a_card
from farebox_portal.catalog.plan_document import UNITS_MAX
from farebox_portal.catalog.tables import Feature, Plan
from farebox_portal.pricing.grants import Grant, Usage
from farebox_portal.subscriptions.life import Life, Segment
from farebox_portal.subscriptions.stretches import Stretch, stretches
from farebox_portal.usage import balances
from farebox_portal.usage.balances import ISSUE, History, Standing, history, segments, standing

KEY = "api_requests"
START = datetime(2026, 6, 1, tzinfo=UTC)
FEATURES = {KEY: Feature(id="f", key=KEY, name="", meter_slug=KEY), "other": Feature(id="o", key="other", name="")}


def day(number: float) -> datetime:
    return START + timedelta(days=number)


def a_plan(limit: int | None = 100, **template: Any) -> Plan:
    """So many a week; without the feature where the limit is below 0."""
    card = a_card(KEY, limit=limit, soft=limit is None)
    card["entitlementTemplate"] |= {"usagePeriod": "P1W"} | template
    if limit is not None and limit < 0:
        card = a_card("other", entitlementTemplate={"type": "boolean"})
    phase = {"key": "default", "name": "", "rateCards": [card]}
    id = f"{limit} {sorted(template.items())}"
    return Plan(
        id=id, key="p", version=1, name="", currency="USD", billing_cadence="P1M", status="active", phases=[phase],
        created_at=START,
    )  # fmt: skip


def a_life(*plans: tuple[float, Plan, bool]) -> tuple[Stretch, ...]:
    """(day, plan from then on, whether it begins fresh)."""
    parts = [Segment(day(at), plan.id, day(at), is_fresh=is_fresh) for at, plan, is_fresh in plans]
    return stretches(Life(START, None, START, tuple(parts)), {plan.id: plan for _, plan, _ in plans})


WEEKLY = a_life((0, a_plan(), False))


def a_grant(id: str = "g", amount: int = 50, at: float = 0, **fields: Any) -> Grant:
    given = {"effective_at": day(at), "created_at": day(at), "priority": 2}
    return Grant(id, amount, **(given | fields))


def known(life: tuple[Stretch, ...], grants: Sequence[Grant], at: float) -> History:
    return history(life, START, KEY, FEATURES, grants, day(at))


def stands(
    grants: Sequence[Grant],
    used: Mapping[float, int],
    at: float,
    life: tuple[Stretch, ...] = WEEKLY,
    complete_to: float = 10_000,
) -> Standing:
    """`used`: units by day, told as sums of the times between two changes, as the ledger tells them."""
    found = known(life, grants, at)
    sums = [
        Usage(time.start, sum(units for when, units in used.items() if time.start <= day(when) < time.end))
        for time in segments(found)
    ]
    return standing(found, sums, day(at), lambda instant: instant <= day(complete_to))


# --- one rule at a time ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("units", "expected"),
    [(0, (0, 100, 0, 100)), (60, (60, 40, 0, 100)), (100, (100, 0, 0, 100)), (130, (130, 0, 30, 100))],
)
def test_without_grants_it_is_the_plan_s_number(units: int, expected: tuple[int, int, int, int]) -> None:
    found = stands([], {1: units}, 3)
    assert (found.used, found.balance, found.overage, found.limit) == expected


def test_an_upgrade_to_a_plan_that_allows_the_same_is_full_again_beside_a_grant() -> None:
    life = a_life((0, a_plan(), False), (3, a_plan(metadata={"name": "another"}), True))
    found = stands([a_grant()], {1: 60}, 4, life)
    assert (found.used, found.balance, found.limit) == (0, 150, 150)


def test_what_is_used_later_does_not_count_yet() -> None:
    found = stands([a_grant(at=4)], {1: 20, 5: 10}, 3)
    assert (found.used, found.balance, found.limit) == (20, 80, 100)


@pytest.mark.parametrize(
    ("grant", "used", "at", "expected"),
    [
        pytest.param(a_grant(), {}, 3, (150, 150), id="a grant adds to the plan's"),
        pytest.param(a_grant(), {1: 120}, 3, (30, 150), id="the plan's burns first, then the grant"),
        pytest.param(a_grant(at=4), {1: 20}, 3, (80, 100), id="before it takes effect it does not count"),
        pytest.param(a_grant(at=4), {1: 20}, 4, (130, 150), id="from its start on it does"),
        pytest.param(a_grant(at=4), {1: 120}, 4, (30, 150), id="it pays the overage that is there"),
        pytest.param(a_grant(expires_at=day(5)), {1: 120}, 4, (30, 150), id="until it expires"),
        pytest.param(a_grant(expires_at=day(5)), {1: 120}, 5, (0, 120), id="then what was burnt of it stays burnt"),
        pytest.param(a_grant(voided_at=day(5)), {1: 120}, 6, (0, 120), id="and when it is voided too"),
        pytest.param(a_grant(voided_at=day(5)), {1: 120, 5.5: 10}, 6, (0, 120), id="and nothing more of it"),
        pytest.param(a_grant(priority=1, voided_at=day(5), created_at=day(-9)), {1: 30}, 6, (70, 100),
                     id="of one priority the plan's burns first, being older"),
        pytest.param(a_grant(priority=1, expires_at=day(5)), {1: 30}, 6, (100, 130), id="but what expires before it"),
        pytest.param(a_grant(), {1: 120}, 7, (100, 100), id="at a reset it lapses"),
        pytest.param(a_grant(rollover_max=40), {1: 20}, 7, (140, 140), id="or rolls over up to its maximum"),
        pytest.param(a_grant(rollover_max=40), {1: 120}, 7, (130, 130), id="as far as there is something left"),
        pytest.param(a_grant(rollover_max=40, rollover_min=35), {1: 120}, 7, (135, 135), id="or to its minimum"),
        pytest.param(a_grant(rollover_max=40), {1: 120, 8: 120}, 14, (110, 110), id="again at each reset"),
        pytest.param(a_grant(rollover_max=40), {1: 120, 8: 120}, 15, (110, 110), id="and within the period"),
        pytest.param(a_grant(recurs="P1W"), {1: 120, 8: 130}, 9, (20, 150), id="it recurs with its whole amount"),
        pytest.param(a_grant(at=3, recurs="P1W"), {4: 120}, 9, (100, 100), id="on its own day of the week"),
        pytest.param(a_grant(at=3, recurs="P1W"), {4: 120}, 10, (150, 150), id="and not before"),
        pytest.param(a_grant(at=3, recurs="P1W", recurs_from=day(-2)), {4: 120}, 5, (50, 170),
                     id="counted from its anchor"),
        pytest.param(a_grant(recurs="P2W"), {}, 302, (100, 100), id="and long after its start, between two"),
        pytest.param(a_grant(recurs="P2W"), {}, 308, (150, 150), id="and with one"),
    ],
)  # fmt: skip
def test_a_grant(grant: Grant, used: dict[float, int], at: float, expected: tuple[int, int]) -> None:
    found = stands([grant], used, at)
    assert (found.balance, found.limit) == expected


@pytest.mark.parametrize(
    ("used", "at", "expected"),
    [
        ({1: 130}, 7, (70, 0, 70)),
        ({1: 130}, 14, (100, 0, 100)),
        ({1: 250}, 7, (0, 50, 0)),
        ({1: 250}, 14, (50, 0, 50)),
        ({1: 250, 8: 10}, 14, (40, 0, 40)),
        ({1: 80}, 7, (100, 0, 100)),
    ],
)
def test_overage_is_taken_from_the_next_periods_where_the_plan_says_so(
    used: dict[float, int], at: float, expected: tuple[int, int, int]
) -> None:
    keeps = a_life((0, a_plan(preserveOverageAtReset=True), False))
    found = stands([], used, at, keeps)
    assert (found.balance, found.overage, found.limit) == expected
    assert stands([], used, at).overage == 0, "and forgiven where it does not"


def test_a_grant_pays_what_is_carried_over() -> None:
    keeps = a_life((0, a_plan(preserveOverageAtReset=True), False))
    found = stands([a_grant(at=8)], {1: 250}, 8, keeps)
    assert (found.balance, found.overage, found.limit) == (0, 0, 0)
    assert stands([a_grant(at=8, amount=70)], {1: 250}, 8, keeps).balance == 20


def test_a_limit_stays_within_what_a_gateway_counts_exactly() -> None:
    assert stands([a_grant(amount=UNITS_MAX)], {}, 3, a_life((0, a_plan(UNITS_MAX), False))).limit == UNITS_MAX


def test_what_is_left_is_told_by_grant() -> None:
    grants = [a_grant("a"), a_grant("b", priority=3, at=1), a_grant("later", at=5)]
    found = stands(grants, {2: 130}, 3)
    assert (found.left, found.burnt) == ({ISSUE: 0, "a": 20, "b": 50}, {ISSUE: 100, "a": 30})


def test_another_plan_priority_burns_in_its_order() -> None:
    later = a_life((0, a_plan(issueAfterResetPriority=9), False))
    assert stands([a_grant()], {1: 60}, 3, later).left == {ISSUE: 90, "g": 0}


# --- when the plan changes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plans", "used", "at", "expected"),
    [
        pytest.param([(3, a_plan(1000), True)], {1: 120, 4: 10}, 5, (10, 1020, 0, 1030),
                     id="an upgrade: a new issue, and what is left of the grant"),
        pytest.param([(3, a_plan(1000), True)], {1: 170, 4: 10}, 5, (10, 990, 0, 1000),
                     id="an upgrade forgives overage"),
        pytest.param([(3, a_plan(1000), True)], {1: 120, 4: 10}, 8, (0, 1000, 0, 1000),
                     id="the grant lapses with the week all the same"),
        pytest.param([(3, a_plan(40), False)], {1: 60, 4: 10}, 5, (70, 20, 0, 90),
                     id="a change that keeps what was used: the new number for all of the week"),
        pytest.param([(3, a_plan(-1), False), (5, a_plan(1000), False)], {1: 60}, 6, (60, 990, 0, 1050),
                     id="a time without the feature"),
        pytest.param([(3, a_plan(None), False)], {1: 170}, 5, (170, None, 0, None), id="a plan without a limit"),
        pytest.param([(3, a_plan(usagePeriod="P1D"), False)], {1: 130, 3.2: 30}, 3.5, (30, 70, 0, 100),
                     id="another usage period, whose start is a reset"),
    ],
)  # fmt: skip
def test_a_change_of_plan(
    plans: list[tuple[float, Plan, bool]], used: dict[float, int], at: float, expected: tuple[int | None, ...]
) -> None:
    found = stands([a_grant()], used, at, a_life((0, a_plan(), False), *plans))
    assert (found.used, found.balance, found.overage, found.limit) == expected


def test_what_rolls_over_survives_changes_and_a_time_without_the_feature() -> None:
    grant = a_grant(rollover_max=50)
    life = a_life((0, a_plan(), False), (10, a_plan(-1), False), (30, a_plan(20), False), (40, a_plan(30), True))
    assert stands([grant], {1: 110, 9: 105}, 31, life).left == {ISSUE: 20, "g": 35}
    assert stands([grant], {1: 110, 9: 105, 20: 99, 32: 25, 38: 25}, 41, life).left == {ISSUE: 30, "g": 25}


# --- what the ledger may not have yet --------------------------------------------------------------------------------


def test_until_the_ledger_has_caught_up_a_reset_carries_the_sure_part_only() -> None:
    grants = [a_grant("g", rollover_max=40), a_grant("h", 30, rollover_max=20, rollover_min=5)]
    assert stands(grants, {1: 20}, 7, complete_to=7).limit == 160
    assert stands(grants, {1: 20}, 7, complete_to=6.9).limit == 105
    assert stands(grants, {1: 20, 7.5: 3}, 8, complete_to=6.9).limit == 105, "whatever is used meanwhile"


def test_until_the_ledger_has_caught_up_an_upgrade_does_not_bring_the_grant_along() -> None:
    life = a_life((0, a_plan(), False), (3, a_plan(1000), True))
    assert [stands([a_grant()], {1: 20}, 4, life, complete_to=to).limit for to in (2, 3)] == [1000, 1050]


def test_overage_that_is_known_is_taken_off_before_all_is_known() -> None:
    keeps = a_life((0, a_plan(preserveOverageAtReset=True), False))
    assert stands([], {1: 130}, 7, keeps, complete_to=0).limit == 70


# --- how far back it is looked ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grants", "at", "periods"),
    [
        ([], 100, 1),
        ([a_grant()], 100, 1),
        ([a_grant(at=99)], 100, 1),
        ([a_grant(at=90, rollover_max=1)], 100, 3),
        ([a_grant(at=90, rollover_max=1, expires_at=day(95))], 100, 1),
        ([a_grant(at=0, recurs="P1W")], 100, 1),
    ],
)
def test_no_further_than_something_can_be_carried_from(grants: list[Grant], at: float, periods: int) -> None:
    assert len(known(WEEKLY, grants, at).periods) == periods


def test_what_ended_or_lapsed_before_is_not_even_looked_at() -> None:
    grants = [a_grant("lapsed"), a_grant("ended", rollover_max=9, expires_at=day(50)), a_grant("later", at=110)]
    assert [grant.id for grant in known(WEEKLY, grants, 100).grants] == ["later"]


def test_beyond_the_longest_look_back_only_the_minimum_is_carried(monkeypatch: pytest.MonkeyPatch) -> None:
    grant = a_grant(rollover_max=50, rollover_min=10)
    assert stands([grant], {}, 100).limit == 150
    monkeypatch.setattr(balances, "PERIODS_MAX", 3)
    found = known(WEEKLY, [grant], 100)
    assert (len(found.periods), found.is_cut_off) == (3, True)
    assert stands([grant], {}, 100).limit == 110


# --- against a reference ---------------------------------------------------------------------------------------------

DAYS = 45


@dataclass(frozen=True)
class Story:
    """Weeks in days: the plan's number from a day on (and whether it begins fresh), grants, units used on each day."""

    plans: tuple[tuple[int, int, bool], ...]
    preserves: bool
    grants: tuple[Grant, ...]
    used: tuple[int, ...]

    def amount_on(self, number: int) -> int:
        return [amount for since, amount, _ in self.plans if since <= number][-1]

    @property
    def fresh(self) -> set[int]:
        return {since for since, _, is_fresh in self.plans if is_fresh and since % 7}

    @property
    def life(self) -> tuple[Stretch, ...]:
        kept = {"preserveOverageAtReset": self.preserves}
        return a_life(*((since, a_plan(amount, **kept), is_fresh) for since, amount, is_fresh in self.plans))


def day_by_day(story: Story, last: int) -> tuple[dict[str, int], int, int]:
    """(left by grant, overage, used in the period) after the day `last`: one day and one unit after the other."""
    starts = sorted({*range(0, DAYS + 7, 7), *story.fresh})
    left: dict[str, int] = {}
    overage = used = 0
    for today in range(last + 1):
        begun = max(start for start in starts if start <= today)
        ends = min(start for start in starts if start > today)
        amount = story.amount_on(min(last, ends - 1))
        for grant in story.grants:
            if grant.id in left and grant.ends_at <= day(today):
                del left[grant.id]
        if today == begun:
            used = 0
            is_fresh = today in story.fresh
            issued_before = story.amount_on(today - 1) if today else amount
            for grant in story.grants:
                if grant.id in left and not is_fresh:
                    left[grant.id] = min(grant.rollover_max, max(grant.rollover_min, left[grant.id]))
            overage = overage if story.preserves and not is_fresh else 0
            left.pop(ISSUE, None)
            if not is_fresh and issued_before == amount:  # one grant that goes on: it rolls over with the others
                left[ISSUE] = amount
                overage = pay(story, left, overage)
            else:
                overage = pay(story, left, overage)
                left[ISSUE] = amount
                overage = pay(story, left, overage)
        for grant in in_order(story.grants):
            if day(today) < grant.ends_at and takes_effect(grant, today):
                left[grant.id] = grant.amount
                overage = pay(story, left, overage)
        used += story.used[today]
        overage = pay(story, left, overage + story.used[today])
    return left, overage, used


def takes_effect(grant: Grant, today: int) -> bool:
    since = (day(today) - grant.effective_at).days
    return since == 0 or (since > 0 and grant.recurs is not None and since % 7 == 0)


def in_order(grants: Sequence[Grant]) -> list[Grant]:
    never = day(10_000)
    return sorted(grants, key=lambda grant: (grant.priority, grant.expires_at or never, grant.created_at, grant.id))


def pay(story: Story, left: dict[str, int], units: int) -> int:
    issue = Grant(ISSUE, 0, START, START - timedelta(days=999))
    order = [grant.id for grant in in_order([issue, *story.grants])]
    while units and any(left.values()):
        first = next(id for id in order if left.get(id))
        left[first] -= 1
        units -= 1
    return units


@st.composite
def stories(draw: st.DrawFn) -> Story:
    days = st.integers(0, DAYS - 1)
    changes = draw(st.lists(st.integers(1, DAYS - 1), max_size=2, unique=True))
    plans = [(0, draw(st.integers(0, 12)), False)]
    plans += [(since, draw(st.integers(0, 12)), draw(st.booleans())) for since in sorted(changes)]
    grants = []
    for number in range(draw(st.integers(0, 4))):
        low, high = sorted((draw(st.integers(0, 9)), draw(st.integers(0, 9))))
        effective = draw(days)
        grants.append(
            Grant(
                f"g{number}",
                draw(st.integers(1, 12)),
                effective_at=day(effective),
                created_at=day(draw(st.integers(0, effective))),
                priority=draw(st.integers(1, 3)),
                expires_at=draw(st.none() | days.map(day)),
                voided_at=draw(st.none() | days.map(day)),
                rollover_min=draw(st.sampled_from([0, low])),
                rollover_max=high,
                recurs=draw(st.sampled_from([None, None, "P1W"])),
            )
        )
    used = draw(st.lists(st.integers(0, 6), min_size=DAYS, max_size=DAYS))
    return Story(tuple(plans), draw(st.booleans()), tuple(grants), tuple(used))


@settings(max_examples=300, deadline=None)
@given(stories(), st.integers(0, DAYS - 1))
def test_it_is_what_one_finds_day_by_day(story: Story, last: int) -> None:
    used = dict(enumerate(story.used[: last + 1]))
    found = stands(story.grants, used, last + 0.5, story.life)
    left, overage, used_now = day_by_day(story, last)
    lapsed = {id: 0 for id in left if not left[id]}  # what nothing can be left of any more need not be told
    assert (lapsed | dict(found.left), found.overage, found.used) == (left, overage, used_now)
    assert found.limit == max(used_now - overage + sum(left.values()), 0)


@settings(max_examples=200, deadline=None)
@given(stories(), st.integers(0, DAYS - 1), st.integers(0, DAYS), st.integers(0, DAYS - 1), st.integers(1, 20))
def test_usage_that_comes_late_never_lowers_a_limit(
    story: Story, at: int, complete_to: int, late: int, units: int
) -> None:
    """Unless it is from a time of which it was said that all is known, or was not admitted by a limit."""
    story = replace(story, preserves=False)
    known_then = {when: 0 if complete_to <= when else each for when, each in enumerate(story.used) if when <= at}
    before = stands(story.grants, known_then, at + 0.5, story.life, complete_to=complete_to)
    if not complete_to <= late <= at:
        return
    known_then[late] += units
    after = stands(story.grants, known_then, at + 0.5, story.life, complete_to=complete_to)
    assert before.limit is not None
    assert after.limit is not None
    assert after.limit >= before.limit

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox_portal.pricing.grants import (
    Grant,
    Reset,
    Usage,
    balance,
    burn_order,
    changes,
    effective_since,
    expiry,
    issue_after_reset,
)

START = datetime(2026, 1, 31, tzinfo=UTC)


def day(number: int) -> datetime:
    return START + timedelta(days=number)


def a_grant(id: str = "g", amount: int = 100, **fields: Any) -> Grant:
    return Grant(id, amount, **({"effective_at": START, "created_at": START} | fields))


def left(
    grants: list[Grant], used: list[tuple[int, int]], resets: list[Reset] | None = None, at: int = 90
) -> dict[str, int]:
    return balance(grants, [Usage(day(when), units) for when, units in used], resets or [], day(at)).left


def test_usage_burns_a_grant_and_the_rest_is_overage() -> None:
    found = balance([a_grant()], [Usage(day(1), 70), Usage(day(2), 50)], [], day(3))
    assert (found.left, found.burnt, found.overage, found.used, found.total) == ({"g": 0}, {"g": 100}, 20, 120, 0)


def test_grants_burn_by_priority_then_expiry_then_age_then_id() -> None:
    grants = [
        a_grant("never"),
        a_grant("b", expires_at=day(50)),
        a_grant("a", expires_at=day(50)),
        a_grant("older", expires_at=day(50), created_at=day(-1)),
        a_grant("soon", expires_at=day(20)),
        a_grant("last", priority=2, expires_at=day(10)),
    ]
    order = ["soon", "older", "a", "b", "never", "last"]
    assert [grant.id for grant in burn_order(grants)] == order
    for number in range(1, len(order) + 1):
        spent = left(grants, [(1, 100 * number)], at=2)
        assert [id for id in order if spent[id] == 0] == order[:number]


def test_a_grant_counts_from_its_start_and_not_at_its_end() -> None:
    grant = a_grant(effective_at=day(5), expires_at=day(10))
    assert left([grant], [], at=4) == {}
    assert left([grant], [], at=5) == {"g": 100}
    assert left([grant], [], at=9) == {"g": 100}
    assert left([grant], [], at=10) == {}
    assert balance([grant], [Usage(day(10), 7)], [], day(10)).overage == 7


def test_a_voided_grant_ends_at_once_and_one_voided_before_its_start_never_counts() -> None:
    assert left([a_grant(expires_at=day(50), voided_at=day(3))], [], at=3) == {}
    assert balance([a_grant(effective_at=day(5), voided_at=day(4))], [], [], day(9)).issued == 0


def test_overage_is_burnt_by_the_grant_that_starts_next() -> None:
    found = balance([a_grant(effective_at=day(5))], [Usage(day(1), 30)], [], day(5))
    assert (found.left, found.overage) == ({"g": 70}, 0)


def test_a_recurring_grant_is_whole_again_on_its_day_and_nothing_of_it_rolls_over() -> None:
    grant = a_grant(recurs="P1M")  # 31 January, 28 February, 31 March
    assert left([grant], [(1, 40)], at=27) == {"g": 60}
    assert left([grant], [(1, 40)], at=28) == {"g": 100}
    assert left([grant], [(1, 40), (28, 10)], at=58) == {"g": 90}
    assert left([grant], [(1, 40), (28, 10)], at=59) == {"g": 100}
    assert balance([grant], [Usage(day(1), 130)], [], day(28)).left == {"g": 70}
    assert left([a_grant(recurs="P1M", expires_at=day(28))], [], at=28) == {}


def test_it_may_recur_on_another_day_than_it_began() -> None:
    grant = a_grant(effective_at=day(3), recurs="P1W", recurs_from=day(-2), expires_at=day(19))
    assert list(changes(grant, day(90))) == [day(3), day(5), day(12), day(19)]
    assert list(changes(grant, day(11))) == [day(3), day(5)]
    assert list(changes(a_grant(voided_at=day(2)), day(90))) == [START, day(2)]
    assert list(changes(a_grant(effective_at=day(5), voided_at=day(2)), day(90))) == []


@pytest.mark.parametrize("at", [0, 4, 5, 11, 12, 15])
def test_for_who_asks_of_later_times_the_recurrences_before_do_not_matter(at: int) -> None:
    grant = a_grant(effective_at=day(3), recurs="P1W", recurs_from=day(-2))
    later = effective_since(grant, day(at))
    assert later.effective_at == day(max(3, (at + 2) // 7 * 7 - 2))
    assert [when for when in changes(later, day(60)) if when > day(at)] == [
        when for when in changes(grant, day(60)) if when > day(at)
    ]


def test_a_fresh_beginning_forgives_overage_and_leaves_grants_alone() -> None:
    grant = a_grant(rollover_max=10)
    assert left([grant], [(1, 40)], [Reset(day(5), is_fresh=True)]) == {"g": 60}
    found = balance([grant], [Usage(day(1), 130)], [Reset(day(5), is_fresh=True)], day(5))
    assert (found.left, found.overage, found.dropped) == ({"g": 0}, 0, 30)


@pytest.mark.parametrize(("is_fresh", "expected"), [(False, 20), (True, 0)])
def test_what_may_have_been_used_is_taken_as_used(is_fresh: bool, expected: int) -> None:
    grant = a_grant(rollover_min=20, rollover_max=90)
    assert left([grant], [(1, 40)], [Reset(day(5), is_fresh=is_fresh, is_used_up=True)]) == {"g": expected}


@pytest.mark.parametrize(
    ("low", "high", "used", "expected"),
    [(0, 0, 40, 0), (0, 100, 40, 60), (0, 30, 40, 30), (80, 100, 40, 80), (100, 100, 40, 100), (20, 30, 95, 20)],
)
def test_a_reset_keeps_what_is_left_within_the_rollover_s_bounds(low: int, high: int, used: int, expected: int) -> None:
    grant = a_grant(rollover_min=low, rollover_max=high)
    assert left([grant], [(1, used)], [Reset(day(28))]) == {"g": expected}


@pytest.mark.parametrize(
    ("used", "expected_left", "expected_overage"), [(2100, 400, 0), (2600, 0, 100), (1900, 500, 0), (1000, 1000, 0)]
)
def test_overage_that_is_kept_burns_what_was_rolled_over(used: int, expected_left: int, expected_overage: int) -> None:
    grant = a_grant(amount=2000, rollover_min=500, rollover_max=1000)
    found = balance([grant], [Usage(day(1), used)], [Reset(day(28), preserve_overage=True)], day(28))
    assert (found.left, found.overage, found.dropped) == ({"g": expected_left}, expected_overage, 0)


def test_overage_that_is_not_kept_is_forgiven() -> None:
    found = balance([issue_after_reset("g", 100, START)], [Usage(day(1), 130)], [Reset(day(28))], day(28))
    assert (found.left, found.overage, found.dropped) == ({"g": 100}, 0, 30)


def test_at_one_instant_grants_end_then_reset_then_start_then_are_used() -> None:
    ending = a_grant("ending", expires_at=day(28), rollover_min=50, rollover_max=50)
    starting = a_grant("starting", effective_at=day(28))  # no rollover: a reset after its start would empty it
    found = balance([ending, starting], [Usage(day(28), 10)], [Reset(day(28))], day(28))
    assert (found.left, found.overage) == ({"starting": 90}, 0)


def test_a_grant_that_ends_with_a_reset_does_not_roll_over_to_pay_overage() -> None:
    ending = a_grant(expires_at=day(28), rollover_min=50, rollover_max=50)
    found = balance([ending], [Usage(day(1), 130)], [Reset(day(28), preserve_overage=True)], day(28))
    assert (found.left, found.overage) == ({}, 30)


def test_a_grant_for_a_month_from_the_31st_ends_on_the_last_of_the_next() -> None:
    assert expiry(START, "P1M") == datetime(2026, 2, 28, tzinfo=UTC)
    assert expiry(START, "P1M", 2) == datetime(2026, 3, 31, tzinfo=UTC)


@pytest.mark.parametrize(
    "fields",
    [
        {"amount": -1},
        {"priority": 0},
        {"priority": 256},
        {"rollover_min": -1},
        {"rollover_min": 2, "rollover_max": 1},
    ],
    ids=str,
)
def test_a_grant_that_cannot_be_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"between|0 or more"):
        a_grant(**fields)


def test_usage_below_zero_and_two_grants_of_one_id_are_refused() -> None:
    with pytest.raises(ValueError, match="usage"):
        balance([], [Usage(START, -1)], [], day(1))
    with pytest.raises(ValueError, match="id"):
        balance([a_grant(), a_grant()], [], [], day(1))


days = st.integers(0, 100).map(day)


@st.composite
def several(draw: st.DrawFn) -> list[Grant]:
    found = []
    for number in range(draw(st.integers(0, 5))):
        low, high = sorted((draw(st.integers(0, 200)), draw(st.integers(0, 200))))
        found.append(
            a_grant(
                f"g{number}",
                draw(st.integers(0, 2**60)) if number == 0 else draw(st.integers(0, 200)),
                effective_at=draw(days),
                created_at=draw(days),
                priority=draw(st.integers(1, 3)),
                expires_at=draw(st.none() | days),
                voided_at=draw(st.none() | days),
                rollover_min=low,
                rollover_max=high,
                recurs=draw(st.sampled_from([None, None, "P1W", "P1M"])),
            )
        )
    return found


usages = st.lists(st.builds(Usage, days, st.integers(0, 300)), max_size=12)
resets = st.lists(st.builds(Reset, days, st.booleans()), max_size=3, unique_by=lambda one: one.at)


@settings(deadline=None)
@given(several(), usages, resets, days)
def test_every_unit_is_accounted_for(grants: list[Grant], used: list[Usage], found: list[Reset], at: datetime) -> None:
    account = balance(grants, used, found, at)
    assert account.issued == account.total + sum(account.burnt.values()) + account.lapsed
    assert account.used == sum(account.burnt.values()) + account.overage + account.dropped
    assert account.used == sum(one.units for one in used if one.at <= at)
    assert not (account.overage and account.total)
    assert all(units >= 0 for units in account.left.values())
    assert set(account.left) == {grant.id for grant in grants if grant.effective_at <= at < grant.ends_at}


@settings(deadline=None)
@given(several(), usages, resets, days, st.randoms(use_true_random=False))
def test_it_does_not_matter_in_which_order_things_are_told(
    grants: list[Grant], used: list[Usage], found: list[Reset], at: datetime, random: Any
) -> None:
    expected = balance(grants, used, found, at)
    for things in (grants, used, found):
        random.shuffle(things)
    assert balance(grants, used, found, at) == expected

from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox_portal.pricing.coupons import Coupon, is_reduced, take_off
from farebox_portal.pricing.line import Line, Reduction
from farebox_portal.pricing.money import Currency, currency, share_of
from farebox_portal.pricing.period import Period
from farebox_portal.pricing.progressive import difference
from farebox_portal.pricing.settle import Credit, settle

USD, KWD, JPY = currency("USD"), currency("KWD"), currency("JPY")
MARCH = Period(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC))


def a_line(amount_minor: int, *reductions: Reduction) -> Line:
    return Line("fee/fee", "fee", "Fee", Decimal(1), Decimal(1), amount_minor, MARCH, reductions=reductions)


def amounts(coupon: Coupon, *found: int, of: Currency = USD, applies: list[bool] | None = None) -> list[int]:
    lines = [a_line(amount) for amount in found]
    return [line.amount_minor for line in take_off(lines, coupon, of, applies or [True] * len(lines))]


def percent(percentage: str) -> Coupon:
    return Coupon("id", "SPRING", percent_off=Decimal(percentage))


def amount(amount_minor: int) -> Coupon:
    return Coupon("id", "SPRING", amount_off_minor=amount_minor)


@pytest.mark.parametrize(
    ("coupon", "of", "before", "after"),
    [
        (percent("20"), USD, [1000, 999], [800, 799]),
        (percent("12.5"), USD, [4], [3]),
        (percent("33.3333"), USD, [100], [67]),
        (percent("100"), USD, [1000, 0, 1], [0, 0, 0]),
        (percent("50"), USD, [1000, -300], [500, -150]),
        (percent("50"), KWD, [1010], [500]),
        (amount(100), USD, [100, 100, 100], [66, 67, 67]),
        (amount(500), USD, [1000, 3000], [875, 2625]),
        (amount(5000), USD, [1000, 300], [0, 0]),
        (amount(5000), USD, [1000, -300], [300, -300]),
        (amount(5000), USD, [300, -1000], [300, -1000]),
        (amount(10), KWD, [100, 100], [90, 100]),
        (amount(5), JPY, [3, 3], [0, 1]),
        (amount(5), USD, [], []),
        (amount(5), USD, [0, 0], [0, 0]),
    ],
    ids=[
        "each line is rounded by itself",
        "half a cent goes away from zero",
        "a third",
        "all of it",
        "also off what is given back",
        "in steps of ten fils",
        "a cent that cannot be split goes to the first",
        "by what each comes to",
        "no more than there is",
        "what is given back leaves less",
        "nothing is owed",
        "a step that cannot be split",
        "no minor units",
        "no lines",
        "lines of nothing",
    ],
)
def test_what_it_takes_off(coupon: Coupon, of: Currency, before: list[int], after: list[int]) -> None:
    assert amounts(coupon, *before, of=of) == after


def test_only_lines_that_it_applies_to_count() -> None:
    assert amounts(percent("50"), 1000, 1000, applies=[False, True]) == [1000, 500]
    assert amounts(amount(1500), 1000, 1000, applies=[False, True]) == [1000, 0]


@pytest.mark.parametrize(
    ("fields", "plan", "feature", "expected"),
    [
        ({}, "pro", None, True),
        ({"plan_keys": frozenset({"pro"})}, "pro", "tokens", True),
        ({"plan_keys": frozenset({"pro"})}, "max", "tokens", False),
        ({"feature_keys": frozenset({"tokens"})}, "max", "tokens", True),
        ({"feature_keys": frozenset({"tokens"})}, "max", None, False),
        ({"plan_keys": frozenset({"pro"}), "feature_keys": frozenset({"tokens"})}, "max", "tokens", False),
    ],
)
def test_what_it_applies_to(fields: dict[str, Any], plan: str, feature: str | None, expected: bool) -> None:
    coupon = Coupon("id", "SPRING", percent_off=Decimal(10), **fields)
    assert coupon.applies_to(plan, feature) is expected


def test_the_line_says_which_coupon_it_was_and_how_much() -> None:
    (line,) = take_off([a_line(1000)], percent("12.50"), USD, [True])
    assert line.reductions == (Reduction("coupon", "id", "SPRING: 12.5 % off", 125),)
    (line,) = take_off([a_line(1000)], amount(150), USD, [True])
    assert line.reductions == (Reduction("coupon", "id", "SPRING: 1.50 USD off", 150),)
    assert is_reduced([line])
    assert not is_reduced([a_line(1000, Reduction("credit", "c", "Credit", 5))])
    assert not is_reduced(take_off([a_line(0)], percent("50"), USD, [True]))


def test_it_comes_after_the_card_s_discounts_and_before_credits() -> None:
    discounted = a_line(1000, Reduction("discount", "", "20 % off", 200))
    (line,) = take_off([discounted], percent("50"), USD, [True])
    bill = settle([line], [Credit("c", "Credit", 1000)])
    assert [one.amount_minor for one in bill.lines[0].reductions] == [200, 400, 400]
    assert bill.credits_left[0].amount_minor == 600


def test_what_it_took_off_does_not_count_when_late_usage_is_compared() -> None:
    """The rate card's amounts are compared; a coupon is of an invoice."""
    (billed,) = take_off([a_line(1000)], percent("50"), USD, [True])
    assert billed.rated_minor == 1000
    assert difference([a_line(1000)], [billed]) == ()
    assert [line.gross_minor for line in difference([a_line(1200)], [billed])] == [200]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"percent_off": Decimal(1), "amount_off_minor": 1},
        {"percent_off": Decimal(0)},
        {"percent_off": Decimal("100.1")},
        {"amount_off_minor": 0},
    ],
)
def test_terms_that_cannot_be(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"percentage|amount"):
        Coupon("id", "X", **fields)


steps = st.sampled_from([USD, KWD, JPY])
some_lines = st.lists(st.tuples(st.integers(-500, 100_000), st.booleans()), max_size=8)


@given(steps, some_lines, st.integers(1, 50_000))
def test_an_amount_is_taken_off_exactly_and_no_line_gets_below_zero(
    of: Currency, found: list[tuple[int, bool]], off: int
) -> None:
    lines = [a_line(amount * of.step_minor) for amount, _ in found]
    applies = [counts for _, counts in found]
    coupon = amount(off * of.step_minor)
    reduced = take_off(lines, coupon, of, applies)
    owed = sum(line.amount_minor for line, counts in zip(lines, applies, strict=True) if counts)
    taken = sum(line.amount_minor for line in lines) - sum(line.amount_minor for line in reduced)
    assert taken == max(0, min(off * of.step_minor, owed))
    for before, after, counts in zip(lines, reduced, applies, strict=True):
        assert min(0, before.amount_minor) <= after.amount_minor <= before.amount_minor
        assert counts or after == before
        assert (before.amount_minor - after.amount_minor) % of.step_minor == 0


@given(steps, some_lines, st.decimals("0.01", 100, places=2))
def test_a_percentage_is_that_of_each_line_and_never_more_than_the_line(
    of: Currency, found: list[tuple[int, bool]], percentage: Decimal
) -> None:
    lines = [a_line(amount * of.step_minor) for amount, _ in found]
    reduced = take_off(lines, percent(str(percentage)), of, [True] * len(lines))
    for before, after in zip(lines, reduced, strict=True):
        off = before.amount_minor - after.amount_minor
        assert off == share_of(before.amount_minor, Fraction(percentage) / 100, of)
        assert abs(off) <= abs(before.amount_minor)

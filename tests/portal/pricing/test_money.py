from decimal import Decimal, Inexact
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox_portal.catalog.currencies import CURRENCIES as SOLD
from farebox_portal.pricing.money import (
    CURRENCIES,
    EXACT,
    allocate,
    currency,
    decimal_text,
    from_stripe,
    share_of,
    to_minor,
    to_stripe,
    to_units,
)

codes = st.sampled_from(sorted(CURRENCIES))
amounts = st.decimals(-(10**12), 10**12, places=9)


@pytest.mark.parametrize(
    ("code", "amount", "minor"),
    [
        ("USD", "8.70", 870),
        ("USD", "0.005", 1),
        ("USD", "0.0049999999999999999999999999999999999999", 0),
        ("USD", "0.015", 2),
        ("USD", "0.025", 3),  # half to even would say 2
        ("USD", "-0.005", -1),
        ("USD", "-0.125", -13),
        ("USD", "90071992547409.91", 9007199254740991),
        ("JPY", "0.5", 1),
        ("JPY", "499.49", 499),
        ("ISK", "5", 5),
        ("UGX", "5", 5),
        ("KWD", "5.124", 5120),
        ("KWD", "5.125", 5130),
        ("KWD", "-5.125", -5130),
        ("LYD", "5.124", 5124),
        ("MGA", "5.5", 600),
        ("MGA", "5.49", 500),
    ],
)
def test_units_become_minor_units_half_away_from_zero(code: str, amount: str, minor: int) -> None:
    assert to_minor(Decimal(amount), currency(code)) == minor


@pytest.mark.parametrize(
    ("code", "minor", "stripe"),
    [
        ("USD", 870, 870),
        ("HUF", 1045, 1045),  # Stripe's whole forints are a rule of payouts, not of charges
        ("TWD", 1045, 1045),
        ("JPY", 500, 500),
        ("KRW", 500, 500),
        ("KWD", 5120, 5120),
        ("ISK", 5, 500),
        ("UGX", 5, 500),
        ("MGA", 500, 5),
        ("ALL", 500, 500),
        ("SOS", 500, 500),
        ("TOP", 500, 500),
        ("USD", -870, -870),
        ("ISK", -5, -500),
        ("MGA", -500, -5),
    ],
)
def test_stripe_s_integer_is_not_always_the_ledger_s(code: str, minor: int, stripe: int) -> None:
    assert to_stripe(minor, currency(code)) == stripe
    assert from_stripe(stripe, currency(code)) == minor


@pytest.mark.parametrize(("code", "minor"), [("KWD", 5124), ("MGA", 550), ("GHS", 100), ("LYD", 1000)])
def test_an_amount_that_stripe_would_refuse_is_refused_before_it_is_sent(code: str, minor: int) -> None:
    with pytest.raises(ValueError, match=code):
        to_stripe(minor, currency(code))


def test_an_answer_of_stripe_s_that_the_ledger_cannot_write_is_refused() -> None:
    with pytest.raises(ValueError, match="ISK"):
        from_stripe(550, currency("ISK"))
    with pytest.raises(ValueError, match="GHS"):
        from_stripe(550, currency("GHS"))


def test_every_currency_that_a_plan_may_have_has_a_scale() -> None:
    assert set(CURRENCIES) == SOLD


@pytest.mark.parametrize("code", ["usd", "XXX", "XAU", ""])
def test_a_code_that_is_no_currency_is_refused(code: str) -> None:
    with pytest.raises(ValueError, match="ISO 4217"):
        currency(code)


@pytest.mark.parametrize(
    ("code", "minor", "text"), [("USD", 870, "8.70"), ("JPY", 5, "5"), ("KWD", 5120, "5.120"), ("USD", -1, "-0.01")]
)
def test_an_amount_is_written_with_its_currency_s_digits(code: str, minor: int, text: str) -> None:
    assert decimal_text(minor, currency(code)) == text


@settings(deadline=None)
@given(codes, amounts)
def test_rounding_moves_an_amount_by_at_most_half_a_step_and_away_from_zero_when_it_is_just_half(
    code: str, amount: Decimal
) -> None:
    of = currency(code)
    exact, found = Fraction(amount) * 10**of.exponent, to_minor(amount, of)
    assert found % of.step_minor == 0
    assert abs(found - exact) <= Fraction(of.step_minor, 2)
    if abs(found - exact) == Fraction(of.step_minor, 2):
        assert abs(found) > abs(exact)


@settings(deadline=None)
@given(codes, amounts)
def test_what_was_rounded_goes_to_stripe_and_comes_back_the_same(code: str, amount: Decimal) -> None:
    of = currency(code)
    minor = to_minor(amount, of)
    assert to_minor(to_units(minor, of), of) == minor
    if of.stripe_exponent is not None:
        assert from_stripe(to_stripe(minor, of), of) == minor


@settings(deadline=None)
@given(st.integers(-(10**15), 10**15), codes)
def test_two_ways_to_round_agree(thousandths: int, code: str) -> None:
    of = currency(code)
    assert share_of(thousandths, Fraction(10**of.exponent, 1000), of) == to_minor(Decimal(thousandths) / 1000, of)


def test_a_share_is_rounded_once() -> None:
    assert [share_of(100, Fraction(n, 3), currency("USD")) for n in (1, 2, 3)] == [33, 67, 100]
    assert share_of(-1, Fraction(1, 2), currency("USD")) == -1


@pytest.mark.parametrize(
    ("total", "weights", "step", "expected"),
    [
        (100, [1, 1, 1], 1, (34, 33, 33)),
        (200, [1, 1, 1], 1, (67, 67, 66)),
        (-100, [1, 1, 1], 1, (-34, -33, -33)),
        (10, [1, 2], 1, (3, 7)),
        (100, [1, 1, 1], 10, (40, 30, 30)),
        (5, [0, 1, 0], 1, (0, 5, 0)),
        (0, [3, 4], 1, (0, 0)),
        (7, [10**30, 1], 1, (7, 0)),
    ],
)
def test_a_total_is_shared_out_by_largest_remainder(
    total: int, weights: list[int], step: int, expected: tuple[int, ...]
) -> None:
    assert allocate(total, weights, step) == expected


@settings(deadline=None)
@given(st.integers(-(10**12), 10**12), st.lists(st.integers(0, 10**9), min_size=1, max_size=20).filter(any), st.data())
def test_sharing_out_loses_nothing_and_no_share_is_a_step_off(
    total: int, weights: list[int], data: st.DataObject
) -> None:
    step = data.draw(st.sampled_from([1, 10, 100]))
    shares = allocate(total * step, weights, step)
    assert sum(shares) == total * step
    for share, weight in zip(shares, weights, strict=True):
        assert share % step == 0
        assert abs(share - Fraction(total * step * weight, sum(weights))) < step


@pytest.mark.parametrize(("total", "weights", "step"), [(1, [], 1), (1, [0], 1), (1, [2, -1], 1), (5, [1], 10)])
def test_what_cannot_be_shared_out_is_refused(total: int, weights: list[int], step: int) -> None:
    with pytest.raises(ValueError, match=r"weights|multiple"):
        allocate(total, weights, step)


def test_a_product_that_does_not_fit_raises_instead_of_losing_digits() -> None:
    with pytest.raises(Inexact):
        EXACT.multiply(Decimal("1." + "1" * 90), Decimal("1." + "1" * 90))

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox_portal.pricing.card import RateCard
from farebox_portal.pricing.conversion import Conversion
from farebox_portal.pricing.line import Line, Reduction
from farebox_portal.pricing.money import currency, share_of
from farebox_portal.pricing.period import Period
from farebox_portal.pricing.price import Flat, Graduated, Package, Price, Unit, Volume
from farebox_portal.pricing.rate import LINE_STEPS, QUANTITY_STEPS, Charge, rate
from farebox_portal.pricing.tiers import Tier

D = Decimal
USD = currency("USD")
NOVEMBER = Period(datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC))
TIERS = (Tier(D(1000), D(5), D("0.10")), Tier(D(10_000), D(0), D("0.05")), Tier(None, D(0), D("0.01")))


def a_card(price: Price | None, **fields: Any) -> RateCard:
    return RateCard("api_requests", "API requests", price, **fields)


def lines(
    price: Price | None, quantity: str, *, over: bool = True, code: str = "USD", **fields: Any
) -> tuple[Line, ...]:
    return rate(Charge(a_card(price, **fields), currency(code), NOVEMBER, over), D(quantity))


def total(found: tuple[Line, ...]) -> int:
    return sum(line.amount_minor for line in found)


def test_a_line_says_what_was_used_at_which_price_and_when() -> None:
    assert lines(Unit(D("0.0008")), "12345") == (
        Line("api_requests/usage", "usage", "API requests", D(12345), D("0.0008"), 988, NOVEMBER),
    )


def test_a_line_of_a_tier_says_which_units_it_is_for() -> None:
    found = lines(Graduated(TIERS), "1200")
    assert [(line.key, line.tier, line.description, line.gross_minor) for line in found] == [
        ("api_requests/tier-1-flat", 1, "API requests: up to 1,000, flat", 500),
        ("api_requests/tier-1", 1, "API requests: up to 1,000", 10_000),
        ("api_requests/tier-2", 2, "API requests: over 1,000 up to 10,000", 1000),
    ]


@pytest.mark.parametrize(("quantity", "minor"), [("500", 999), ("1500", 1499), ("5000", 4999)])
def test_a_fee_with_units_included_and_overage(quantity: str, minor: int) -> None:
    overage = Graduated((Tier(D(1000)), Tier(None, unit=D("0.01"))))
    assert total(lines(Flat(D("9.99")), "0") + lines(overage, quantity)) == minor


def test_each_line_is_rounded_once_and_the_total_is_their_sum() -> None:
    thirds = Graduated((Tier(D(1), unit=D("0.005")), Tier(D(2), unit=D("0.005")), Tier(None, unit=D("0.005"))))
    assert [line.amount_minor for line in lines(thirds, "3")] == [1, 1, 1]  # in sum 0.015 would be 2


def test_a_price_finer_than_any_float_is_kept_to_the_last_digit() -> None:
    assert total(lines(Unit(D("0.000000000000001")), "9007199254740991")) == 901
    assert (
        total(lines(Unit(D("999999999999999.999999999999999")), "9007199254740991")) == 9007199254740991 * 10**17 - 901
    )


@pytest.mark.parametrize(
    ("code", "minor"), [("USD", 1235), ("JPY", 12), ("KWD", 12350), ("ISK", 12), ("MGA", 1200), ("LYD", 12345)]
)
def test_a_line_is_rounded_to_what_its_currency_can_be_charged_in(code: str, minor: int) -> None:
    assert total(lines(Unit(D("0.012345")), "1000", code=code)) == minor


@pytest.mark.parametrize("quantity", ["-1", "NaN", "Infinity", "-0.001"])
def test_a_quantity_that_cannot_be_is_refused(quantity: str) -> None:
    with pytest.raises(ValueError, match="cannot rate"):
        lines(Unit(D(1)), quantity)


def test_a_card_without_a_price_is_free() -> None:
    assert lines(None, "100") == ()


# --- the order of the steps -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quantity", "price", "fields", "minor"),
    [
        # 1 before 2: 2500 bytes are 3 kB, of which 1 is free; free bytes would leave 2499, also 3.
        ("2500", Unit(D(1)), {"conversion": Conversion("divide", D(1000), "ceiling"), "free_units": D(1)}, 200),
        # 2 before 3: the tiers see 900 units, not 1000.
        ("1000", Graduated((Tier(D(900), unit=D(1)), Tier(None, unit=D(9)))), {"free_units": D(100)}, 90_000),
        # 2 before 3: one package, not two.
        ("1100", Package(D(10), D(1000)), {"free_units": D(100)}, 1000),
        # 4 before 5: 100 less 50 % is 50, below the maximum of 60; the other way round it would be 30.
        ("100", Unit(D(1)), {"percentage_off": D(50), "maximum": D(60)}, 5000),
        # 4 before 6: 100 less 50 % is 50, filled up to 80; the other way round it would be 50.
        ("100", Unit(D(1)), {"percentage_off": D(50), "minimum": D(80)}, 8000),
        # 5 before 6, and both: 100 is capped to 70, which is above the minimum.
        ("100", Unit(D(1)), {"minimum": D(60), "maximum": D(70)}, 7000),
        ("0", Unit(D(1)), {"minimum": D(60)}, 6000),
        ("100", Unit(D(1)), {"percentage_off": D(100)}, 0),
        ("100", Unit(D(1)), {"maximum": D(0)}, 0),
    ],
)
def test_the_steps_are_taken_in_their_order(quantity: str, price: Price, fields: dict[str, Any], minor: int) -> None:
    assert total(lines(price, quantity, **fields)) == minor


def test_the_order_is_the_documented_one() -> None:
    def names(steps: tuple[Callable[..., object], ...]) -> list[str]:
        return [step.__name__ for step in steps]

    assert names(QUANTITY_STEPS) == ["_convert_units", "_discount_usage"]
    assert names(LINE_STEPS) == ["_discount_percentage", "_cap", "_fill"]


@pytest.mark.parametrize(("used", "paid"), [("50", 0), ("110", 0), ("125", 15), ("155", 45)])
def test_free_units_are_used_up_first(used: str, paid: int) -> None:
    assert total(lines(Unit(D(1)), used, free_units=D(110))) == paid * 100


def test_a_percentage_is_taken_off_each_line_s_rounded_amount() -> None:
    found = lines(Graduated((Tier(D(1), unit=D("0.05")), Tier(None, unit=D("0.05")))), "2", percentage_off=D("50.0"))
    assert [line.reductions for line in found] == [(Reduction("discount", "", "50 % off", 3),)] * 2
    assert total(found) == 4


def test_lines_fill_the_maximum_in_order() -> None:
    found = lines(Graduated(TIERS), "12000", maximum=D(106))  # 5 + 100 + 450 + 20
    assert [line.amount_minor for line in found] == [500, 10_000, 100, 0]
    assert found[2].reductions == (Reduction("maximum", "", "Maximum spend reached", 44_900),)


def test_what_is_missing_to_the_minimum_is_a_line_of_its_own() -> None:
    found = lines(Unit(D(1)), "30", minimum=D("49.90"))
    assert found[1] == Line(
        "api_requests/minimum",
        "minimum",
        "API requests: up to the minimum spend",
        D(1),
        D("19.90"),
        1990,
        NOVEMBER,
    )


def test_who_spent_just_the_minimum_gets_no_line_for_it() -> None:
    assert len(lines(Unit(D(1)), "60", minimum=D(60))) == 1


def test_before_the_period_is_over_neither_the_minimum_nor_a_fee_in_arrears_is_due() -> None:
    assert total(lines(Unit(D(1)), "30", over=False, minimum=D(50))) == 3000
    assert lines(Flat(D(9), "in_arrears"), "0", over=False) == ()
    assert total(lines(Flat(D(9), "in_arrears"), "0")) == 900
    assert total(lines(Flat(D(9)), "0", over=False)) == 900


def test_so_many_of_a_fee_are_one_line() -> None:
    (line,) = rate(Charge(a_card(Flat(D("9.99"))), USD, NOVEMBER, count=3, share=Fraction(1, 2)), D(0))
    assert (line.quantity, line.unit_amount, line.gross_minor) == (D(3), D("9.99"), 1499)
    (usage,) = rate(Charge(a_card(Unit(D("9.99"))), USD, NOVEMBER, count=3), D(1))
    assert usage.gross_minor == 999, "a price by usage has no quantity but what was used"


@given(
    st.decimals("0.0001", 1000, places=4),
    st.lists(st.tuples(st.integers(1, 9), st.fractions(0, 1, max_denominator=97)), min_size=1, max_size=6),
)
def test_fees_of_one_period_that_know_of_each_other_add_up_to_the_whole(
    amount: Decimal, pieces: list[tuple[int, Fraction]]
) -> None:
    earlier, charged = Fraction(0), 0
    for count, share in pieces:
        charge = Charge(a_card(Flat(amount)), USD, NOVEMBER, share=share, count=count, earlier=earlier)
        charged += total(rate(charge, D(0)))
        earlier += count * share
    assert charged == share_of(1, Fraction(amount) * 100 * earlier, USD)


def test_of_a_fee_only_the_share_served_is_due_and_of_usage_everything() -> None:
    def served(price: Price, share: Fraction) -> int:
        return total(rate(Charge(a_card(price), USD, NOVEMBER, share=share), D(10)))

    assert served(Flat(D(29)), Fraction(1, 3)) == 967
    assert served(Flat(D("0.005")), Fraction(1, 1)) == 1
    assert served(Flat(D("0.005")), Fraction(9, 10)) == 0  # rounded once: not first to 0.01
    assert served(Unit(D(1)), Fraction(1, 3)) == 1000


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"percentage_off": D(101)}, "between 0 and 100"),
        ({"percentage_off": D(-1)}, "between 0 and 100"),
        ({"free_units": D(-1)}, "0 or more"),
        ({"minimum": D(-1)}, "0 or more"),
        ({"maximum": D(-1)}, "0 or more"),
        ({"minimum": D(2), "maximum": D(1)}, "exceeds"),
    ],
    ids=str,
)
def test_a_card_whose_parts_do_not_go_together_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        a_card(Unit(D(1)), **fields)


# --- properties ---------------------------------------------------------------------------------------------------

money = st.decimals(0, 5000, places=4)
quantities = st.decimals(0, 10**7, places=3)
codes = st.sampled_from(["USD", "JPY", "KWD", "ISK", "MGA"])


@st.composite
def cards(draw: st.DrawFn) -> RateCard:
    bounds = sorted(draw(st.sets(st.integers(1, 10**6), max_size=4)))
    some = tuple(Tier(bound, draw(money), draw(money)) for bound in (*map(Decimal, bounds), None))
    prices: list[Price] = [Unit(draw(money)), Graduated(some), Volume(some), Package(draw(money), D(7))]
    price = draw(st.sampled_from(prices))
    low, high = sorted((draw(money), draw(money)))
    return a_card(
        price,
        conversion=draw(st.sampled_from([None, Conversion("divide", D(3), "ceiling")])),
        free_units=draw(st.sampled_from([D(0), D(100)])),
        percentage_off=draw(st.decimals(0, 100, places=2)),
        minimum=draw(st.sampled_from([None, low])),
        maximum=draw(st.sampled_from([None, high])),
    )


@settings(deadline=None)
@given(cards(), quantities, codes)
def test_no_line_is_below_zero_and_all_are_chargeable(card: RateCard, quantity: Decimal, code: str) -> None:
    of = currency(code)
    for line in rate(Charge(card, of, NOVEMBER), quantity):
        assert line.amount_minor >= 0
        assert line.amount_minor % of.step_minor == 0


@settings(deadline=None)
@given(cards(), quantities, codes)
def test_the_bounds_are_kept(card: RateCard, quantity: Decimal, code: str) -> None:
    of = currency(code)
    found = total(rate(Charge(card, of, NOVEMBER), quantity))
    unit = Fraction(10**of.exponent)
    half = Fraction(of.step_minor, 2)  # the bounds are amounts too, and rounded
    assert card.minimum is None or found >= Fraction(card.minimum) * unit - half
    assert card.maximum is None or found <= Fraction(card.maximum) * unit + half


@settings(deadline=None)
@given(cards().filter(lambda card: not isinstance(card.price, Volume)), quantities, quantities)
def test_who_uses_more_never_pays_less(card: RateCard, one: Decimal, other: Decimal) -> None:
    less, more = sorted((one, other))
    charge = Charge(card, USD, NOVEMBER)
    assert total(rate(charge, less)) <= total(rate(charge, more))

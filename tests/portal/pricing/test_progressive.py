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
from farebox_portal.pricing.money import currency
from farebox_portal.pricing.period import Period
from farebox_portal.pricing.price import Flat, Graduated, Package, Price, Unit, Volume
from farebox_portal.pricing.progressive import difference, progressive
from farebox_portal.pricing.rate import Charge, rate
from farebox_portal.pricing.settle import Credit, settle
from farebox_portal.pricing.tiers import Tier

D = Decimal
NOVEMBER = Period(datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC))
DECEMBER = Period(datetime(2026, 12, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))


def a_card(price: Price, **fields: Any) -> RateCard:
    return RateCard("api_requests", "API requests", price, **fields)


def rated(card: RateCard, quantity: Decimal | str, *, over: bool = True) -> tuple[Line, ...]:
    return rate(Charge(card, currency("USD"), NOVEMBER, over), D(quantity))


def goes(card: RateCard, *totals: str | Decimal, late: str | None = None) -> list[tuple[Line, ...]]:
    """The lines of each go, the period's quantity so far being `totals`; the last of them ends the period."""
    billed: list[Line] = []
    found: list[tuple[Line, ...]] = []
    for number, quantity in enumerate((*totals, late) if late else totals, start=1):
        go = difference(rated(card, quantity, over=number >= len(totals)), billed)
        found.append(go)
        billed += go
    return found


def sums(found: list[tuple[Line, ...]]) -> list[int]:
    return [sum(line.amount_minor for line in go) for go in found]


@pytest.mark.parametrize(
    ("card", "totals", "minor"),
    [
        # 110 free: 50 -> 0, +75 -> 15, +30 -> 30
        (a_card(Unit(D(1)), free_units=D(110)), ["50", "125", "155"], [0, 1500, 3000]),
        # bytes to kB: 1400 and then 1300 are 3, not 2 + 2
        (a_card(Unit(D(1)), conversion=Conversion("divide", D(1000), "ceiling")), ["1400", "2700"], [200, 100]),
        # only newly needed packages
        (a_card(Package(D(10), D(1000))), ["500", "1000", "1001", "1900"], [1000, 0, 1000, 0]),
        # half cents do not add up to more than they are
        (a_card(Unit(D("0.005"))), ["1", "2", "3", "4"], [1, 0, 1, 0]),
        # the first tier's flat amount once
        (a_card(Graduated((Tier(D(10), D(5), D(1)), Tier(None, D(7), D(2))))), ["0", "4", "11"], [500, 400, 1500]),
        # volume turns: 15 x 10 are 150, 16 x 5 are 80
        (a_card(Volume((Tier(D(15), unit=D(10)), Tier(None, unit=D(5))))), ["15", "16"], [15_000, -7000]),
        # the maximum counts what was billed before
        (a_card(Unit(D(1)), maximum=D(100)), ["80", "120", "200"], [8000, 2000, 0]),
        # the minimum is filled up only when the period is over
        (a_card(Unit(D(1)), minimum=D(100)), ["30", "60"], [3000, 7000]),
        (a_card(Unit(D(1)), percentage_off=D(10)), ["5", "10"], [450, 450]),
        (a_card(Flat(D(9))), ["0", "0"], [900, 0]),
        (a_card(Flat(D(9), "in_arrears")), ["0", "0"], [0, 900]),
    ],
)  # fmt: skip
def test_each_go_bills_what_is_new(card: RateCard, totals: list[str], minor: list[int]) -> None:
    assert sums(goes(card, *totals)) == minor


def test_a_turned_volume_price_gives_the_old_tier_back_and_bills_the_new_one() -> None:
    volume = a_card(Volume((Tier(D(15), unit=D(10)), Tier(None, unit=D(5)))))
    back, new = goes(volume, "15", "16")[1]
    assert (back.tier, back.quantity, back.unit_amount, back.amount_minor) == (1, D(-15), D(10), -15_000)
    assert (new.tier, new.quantity, new.unit_amount, new.amount_minor) == (2, D(16), D(5), 8000)


def test_usage_that_came_late_is_billed_for_the_period_it_belongs_to() -> None:
    late = goes(a_card(Unit(D("0.01"))), "1000", late="1300")[1]
    assert [(line.quantity, line.amount_minor, line.period) for line in late] == [(D(300), 300, NOVEMBER)]


def test_late_usage_below_the_minimum_costs_nothing_more() -> None:
    assert sums(goes(a_card(Unit(D(1)), minimum=D(100)), "60", late="80")) == [10_000, 0]
    assert sums(goes(a_card(Unit(D(1)), minimum=D(100)), "60", late="130")) == [10_000, 3000]


def test_where_nothing_changed_there_is_no_line() -> None:
    card = a_card(Graduated((Tier(D(10), D(5), D(1)), Tier(None, D(7), D(2)))), percentage_off=D(10))
    assert difference(rated(card, "40"), rated(card, "40")) == ()


def a_line(gross_minor: int, quantity: str = "1", off: int = 0) -> Line:
    reductions = (Reduction("discount", "", "Off", off),) if off else ()
    return Line("k/usage", "usage", "K", D(quantity), D(1), gross_minor, NOVEMBER, None, Fraction(1), reductions)


@pytest.mark.parametrize(
    ("now", "before", "found"),
    [
        ([a_line(5)], [a_line(5)], []),
        ([a_line(5)], [a_line(5, off=2)], [("0", 2)]),
        ([a_line(5, off=2)], [a_line(5)], [("0", -2)]),
        ([a_line(5, off=2)], [a_line(5, off=2)], []),
        ([a_line(0, "3")], [a_line(0, "2")], [("1", 0)]),  # units that cost nothing are on the invoice, too
        ([a_line(6)], [a_line(5)], [("0", 1)]),
        ([a_line(5), a_line(6)], [], [("2", 11)]),
        ([a_line(5), a_line(6)], [a_line(5)], [("1", 6)]),
        ([a_line(5)], [a_line(5), a_line(6)], [("-1", -6)]),
    ],
)
def test_lines_of_one_name_are_one_line(now: list[Line], before: list[Line], found: list[tuple[str, int]]) -> None:
    lines = difference(now, before)
    assert [(str(line.quantity), line.rated_minor) for line in lines] == found


def test_a_line_of_another_period_is_not_taken_off() -> None:
    card = a_card(Unit(D(1)))
    of_december = rate(Charge(card, currency("USD"), DECEMBER), D(40))
    assert sum(line.amount_minor for line in difference(of_december, rated(card, "40"))) == 0
    assert {line.period: line.amount_minor for line in difference(of_december, rated(card, "40"))} == {
        NOVEMBER: -4000,
        DECEMBER: 4000,
    }


def test_what_a_credit_paid_is_not_billed_again() -> None:
    card = a_card(Unit(D(1)))
    billed = settle(rated(card, "40"), [Credit("c1", "Credit", 3000)]).lines
    assert [line.amount_minor for line in difference(rated(card, "50"), billed)] == [1000]


def test_only_a_volume_price_waits_for_the_end_of_the_period() -> None:
    tiers = (Tier(None, unit=D(1)),)
    assert progressive(a_card(Graduated(tiers)))
    assert not progressive(a_card(Volume(tiers)))


quantities = st.lists(st.decimals(0, 10**5, places=3), min_size=1, max_size=5).map(sorted)
money = st.decimals(0, 50, places=4)


@st.composite
def cards(draw: st.DrawFn) -> RateCard:
    bounds = sorted(draw(st.sets(st.integers(1, 10**4), max_size=3)))
    tiers = tuple(Tier(bound, draw(money), draw(money)) for bound in (*map(Decimal, bounds), None))
    prices: list[Price] = [Unit(draw(money)), Graduated(tiers), Volume(tiers), Package(draw(money), D(7))]
    price = draw(st.sampled_from(prices))
    return a_card(
        price,
        conversion=draw(st.sampled_from([None, Conversion("divide", D(3), "ceiling")])),
        free_units=draw(st.sampled_from([D(0), D(100)])),
        percentage_off=draw(st.decimals(0, 100, places=2)),
        minimum=draw(st.sampled_from([None, D(10)])),
        maximum=draw(st.sampled_from([None, D(1000)])),
    )


@settings(deadline=None)
@given(cards(), quantities)
def test_all_goes_together_are_one_invoice_over_everything(card: RateCard, totals: list[Decimal]) -> None:
    found = goes(card, *totals)
    whole = rated(card, totals[-1])
    assert sum(sums(found)) == sum(line.amount_minor for line in whole)
    for key in {line.key for line in whole if line.kind == "usage"}:
        parts = [line for go in found for line in go if line.key == key]
        assert sum(line.quantity for line in parts) == sum(line.quantity for line in whole if line.key == key)
        assert sum(line.gross_minor for line in parts) == sum(line.gross_minor for line in whole if line.key == key)


@settings(deadline=None)
@given(cards().filter(progressive), quantities)
def test_no_go_of_a_progressive_price_gives_anything_back(card: RateCard, totals: list[Decimal]) -> None:
    assert all(minor >= 0 for minor in sums(goes(card, *totals)))

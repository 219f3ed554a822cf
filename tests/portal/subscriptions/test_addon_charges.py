from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from builders.addons import a_seat_fee
from builders.portal import NOW
from builders.quotes import a_price
from builders.subscriptions import APRIL
from farebox_portal.catalog.tables import Addon, Plan
from farebox_portal.pricing.line import Line
from farebox_portal.pricing.money import currency, share_of
from farebox_portal.pricing.period import boundary
from farebox_portal.pricing.rate import Charge, rate
from farebox_portal.subscriptions.addon_charges import AddonCharge, addon_charges
from farebox_portal.subscriptions.addon_holds import Hold, Offer, Order
from farebox_portal.subscriptions.life import Cancel, Change, Life, Pause, apply, begun
from farebox_portal.subscriptions.stretches import stretches

USD = currency("USD")
MAY = datetime(2026, 5, 1, tzinfo=UTC)
JUNE = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
UNIT = {"type": "unit", "amount": "0.01"}


def day(number: int) -> datetime:
    """Of April, from 0 on."""
    return APRIL + number * DAY


def a_plan(key: str) -> Plan:
    return Plan(
        id=key,
        key=key,
        version=1,
        name=key,
        currency="USD",
        billing_cadence="P1M",
        phases=[{"key": "default", "name": "Default", "rateCards": []}],
        created_at=NOW,
        updated_at=NOW,
    )


PLANS = {plan.id: plan for plan in (a_plan("pro"), a_plan("max"), a_plan("bare"))}


def a_hold(card: dict[str, Any], *orders: tuple[int, int], id: str = "hold") -> Hold:
    addon = Addon(
        id="seats",
        key="seats",
        version=1,
        name="Seats",
        instance_type="multiple",
        currency="USD",
        rate_cards=[card],
        created_at=NOW,
        updated_at=NOW,
    )
    offers = (Offer("pro", "default", APRIL), Offer("max", "default", APRIL))
    return Hold(id, addon, tuple(Order(day(number), quantity) for number, quantity in orders), offers)


def charged(*holds: Hold, until: datetime = MAY - DAY, commands: tuple[Any, ...] = ()) -> list[AddonCharge]:
    life = Life(APRIL, None, APRIL, begun(APRIL, APRIL, "pro").segments, holds)
    for command in commands:
        after = apply(life, command, APRIL)
        assert after is not None
        life = after
    return list(addon_charges(stretches(life, PLANS), APRIL, until))


def lines(one: AddonCharge) -> tuple[Line, ...]:
    charge = Charge(one.card, USD, one.service.full, True, one.service.share, one.count, one.earlier)
    return rate(charge, Decimal(0))


def amounts(found: list[AddonCharge]) -> list[tuple[int, int, int]]:
    """(day when it is invoiced, how many, minor units)"""
    return [((one.at - APRIL).days, one.count, sum(line.amount_minor for line in lines(one))) for one in found]


ADVANCE = a_seat_fee("30")
ARREARS = a_seat_fee("30", "in_arrears")
ONCE = a_seat_fee("50", billingCadence=None)


def test_a_fee_in_advance_is_charged_for_what_is_left_of_the_period() -> None:
    assert amounts(charged(a_hold(ADVANCE, (0, 2)), until=MAY)) == [(0, 2, 6000), (30, 2, 6000)]
    (found,) = charged(a_hold(ADVANCE, (10, 2)))
    assert amounts([found]) == [(10, 2, 4000)]
    assert (found.service.served.start, found.service.served.end, found.service.full.start) == (day(10), MAY, APRIL)
    assert [(line.quantity, line.unit_amount) for line in lines(found)] == [(Decimal(2), Decimal(30))]


def test_more_of_it_is_charged_for_as_many_more() -> None:
    assert amounts(charged(a_hold(ADVANCE, (0, 2), (15, 5)))) == [(0, 2, 6000), (15, 3, 4500)]


def test_fewer_give_nothing_back_and_what_was_paid_may_be_had_again() -> None:
    assert amounts(charged(a_hold(ADVANCE, (0, 3), (10, 1), (15, 2), (20, 4)), until=MAY)) == [
        (0, 3, 9000),
        (20, 1, 1000),
        (30, 4, 12000),
    ]


def test_what_is_removed_is_paid_to_the_end_of_its_period_and_then_no_more() -> None:
    assert amounts(charged(a_hold(ADVANCE, (0, 3), (10, 0)), until=JUNE)) == [(0, 3, 9000)]


def test_a_fee_in_arrears_is_charged_for_the_time_of_each_quantity_at_the_end_of_the_billing_period() -> None:
    assert amounts(charged(a_hold(ARREARS, (0, 2), (15, 4), (25, 0)), until=JUNE)) == [
        (30, 2, 3000),
        (30, 4, 4000),
    ]


def test_a_pause_the_end_and_a_plan_without_it_cut_fees_and_a_plan_with_it_does_not() -> None:
    hold = a_hold(ADVANCE, (0, 1))
    assert amounts(charged(hold, commands=(Pause(day(10), day(20)),))) == [(0, 1, 1000), (20, 1, 1000)]
    assert amounts(charged(hold, commands=(Cancel(day(10)),))) == [(0, 1, 1000)]
    assert amounts(charged(hold, commands=(Change(day(10), "bare"),))) == [(0, 1, 1000)]
    assert amounts(charged(hold, commands=(Change(day(10), "max"),))) == [(0, 1, 3000)]


def test_what_is_paid_once_is_paid_for_each_that_is_more_than_there_ever_were() -> None:
    again = a_hold(ONCE, (20, 3), id="again")
    assert amounts(charged(a_hold(ONCE, (0, 2), (5, 1), (10, 0)), again)) == [(0, 2, 10000), (20, 1, 5000)]


def test_a_unit_that_is_ordered_again_in_the_same_period_is_charged_again_only_after_an_end() -> None:
    """Two holds with a gap between them: the first was over, and what is new is new."""
    again = a_hold(ADVANCE, (15, 1), id="again")
    assert amounts(charged(a_hold(ADVANCE, (0, 1), (10, 0)), again)) == [(0, 1, 3000), (15, 1, 1500)]


def test_usage_is_priced_while_there_is_any_whatever_the_quantity() -> None:
    hold = a_hold(a_price(UNIT), (10, 2), (15, 7), (45, 0))
    found = charged(hold, until=JUNE, commands=(Pause(day(20), day(22)),))
    assert [(one.service.served.start, one.service.served.end, one.at) for one in found] == [
        (day(10), MAY, MAY),
        (MAY, day(45), JUNE),
    ]
    assert {one.count for one in found} == {1}


def test_periods_that_are_long_over_are_left_out_and_the_rest_is_the_same() -> None:
    orders = tuple((number * 11, number % 4 + 1) for number in range(60))
    for card in (ADVANCE, ARREARS, a_price(UNIT)):
        hold, until = a_hold(card, *orders), boundary(APRIL, "P1M", 20)
        life = stretches(Life(APRIL, None, APRIL, begun(APRIL, APRIL, "pro").segments, (hold,)), PLANS)
        whole = list(addon_charges(life, APRIL, until))
        since = boundary(APRIL, "P1M", 15) + 10 * DAY
        recent = list(addon_charges(life, APRIL, until, since))
        assert recent == [one for one in whole if one.service.full.start >= boundary(APRIL, "P1M", 15)]
        assert len(recent) < len(whole)


# --- whatever happens ------------------------------------------------------------------------------------------------

fees = st.decimals("0.01", "999.99", places=2) | st.decimals("0.0001", "9.9999", places=4)
orders = st.dictionaries(st.integers(1, 29 * 24), st.integers(1, 5), max_size=6)


def a_hold_by_hours(card: dict[str, Any], first: int, found: dict[int, int]) -> Hold:
    hold = a_hold(card, (0, first))
    for hour in sorted(found):
        hold = hold.with_order(Order(APRIL + hour * HOUR, found[hour]))
    return hold


def facts(one: AddonCharge) -> tuple[Any, ...]:
    """All that an invoice says of it."""
    return one.card.key, one.service, one.at, one.count, one.earlier


def total(found: list[AddonCharge]) -> int:
    return sum(line.amount_minor for one in found for line in lines(one))


@given(fees, st.integers(1, 5), orders)
def test_the_pieces_of_a_fee_in_arrears_add_up_to_quantity_times_time(
    fee: Decimal, first: int, found: dict[int, int]
) -> None:
    hold = a_hold_by_hours(a_seat_fee(str(fee), "in_arrears"), first, found)
    charges = charged(hold)
    served = [one.service.served for one in charges]
    assert (served[0].start, served[-1].end) == (APRIL, MAY)
    assert all(one.end == following.start for one, following in pairwise(served))
    area = sum(
        (
            Fraction(one.quantity * ((later.at - one.at) // HOUR), 30 * 24)
            for one, later in pairwise([*hold.orders, Order(MAY, 0)])
        ),
        Fraction(0),
    )
    assert total(charges) == share_of(1, Fraction(fee) * 100 * area, USD)


@given(fees, st.integers(1, 5), orders)
def test_the_pieces_of_a_fee_in_advance_add_up_to_what_each_unit_had_before_it(
    fee: Decimal, first: int, found: dict[int, int]
) -> None:
    hold = a_hold_by_hours(a_seat_fee(str(fee)), first, found)
    units = {}  # which one -> the hour since when it is paid
    for order in hold.orders:
        for number in range(order.quantity):
            units.setdefault(number, (order.at - APRIL) // HOUR)
    hours = 30 * 24
    whole = sum((Fraction(hours - since, hours) for since in units.values()), Fraction(0))
    assert total(charged(hold)) == share_of(1, Fraction(fee) * 100 * whole, USD)


@given(fees, st.integers(1, 5), orders, st.integers(1, 29 * 24))
def test_a_charge_never_depends_on_what_is_ordered_after_it(
    fee: Decimal, first: int, found: dict[int, int], cut: int
) -> None:
    """What stands on an invoice stays there."""
    at = APRIL + cut * HOUR
    for term in ("in_advance", "in_arrears"):
        card = a_seat_fee(str(fee), term)
        before = charged(a_hold_by_hours(card, first, {hour: n for hour, n in found.items() if hour < cut}))
        after = charged(a_hold_by_hours(card, first, found))
        settled = [one for one in before if (one.at if term == "in_advance" else one.service.served.end) < at]
        assert [facts(one) for one in after[: len(settled)]] == [facts(one) for one in settled]


@given(fees, st.integers(1, 5), orders, st.integers(1, 29 * 24))
def test_an_order_that_repeats_what_is_there_costs_nothing(
    fee: Decimal, first: int, found: dict[int, int], hour: int
) -> None:
    for term in ("in_advance", "in_arrears"):
        card = a_seat_fee(str(fee), term)
        hold = a_hold_by_hours(card, first, found)
        present = [order.quantity for order in hold.orders if order.at <= APRIL + hour * HOUR][-1]
        again = a_hold_by_hours(card, first, {hour: present} | found)
        assert total(charged(again)) == total(charged(hold))

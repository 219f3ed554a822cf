from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from builders.portal import NOW
from farebox_portal.catalog.tables import Addon, Plan
from farebox_portal.subscriptions.addon_holds import Hold, Offer, Order, pieces, quantities, timeline
from farebox_portal.subscriptions.life import (
    Cancel,
    Change,
    HaveAddon,
    Life,
    Pause,
    UnscheduleCancelation,
    apply,
    begun,
)
from farebox_portal.subscriptions.stretches import Stretch, stretches

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
FOREVER = START + 4000 * DAY


def day(number: int) -> datetime:
    return START + number * DAY


def a_plan(key: str, *phases: dict[str, Any]) -> Plan:
    return Plan(
        id=key,
        key=key,
        version=1,
        name=key,
        currency="USD",
        billing_cadence="P1M",
        phases=list(phases) or [{"key": "default", "name": "Default", "rateCards": []}],
        created_at=NOW,
        updated_at=NOW,
    )


TRIAL = {"key": "trial", "name": "Trial", "duration": "P14D", "rateCards": []}
FULL = {"key": "full", "name": "Full", "rateCards": []}
PLANS = {plan.id: plan for plan in (a_plan("pro"), a_plan("max"), a_plan("bare"), a_plan("phased", TRIAL, FULL))}
OFFERS = (Offer("pro", "default", START), Offer("max", "default", START), Offer("phased", "full", START))
ADDON = Addon(
    id="seats",
    key="seats",
    version=1,
    name="Seats",
    instance_type="multiple",
    currency="USD",
    rate_cards=[],
    created_at=NOW,
    updated_at=NOW,
)


def a_hold(*orders: tuple[int, int], offers: tuple[Offer, ...] = OFFERS) -> Hold:
    return Hold("hold", ADDON, tuple(Order(day(number), quantity) for number, quantity in orders), offers)


def then(life: Life, *commands: Any) -> Life:
    for command in commands:
        after = apply(life, command, START)
        assert after is not None
        life = after
    return life


def of(hold: Hold, *commands: Any, plan: str = "pro") -> list[tuple[int, int]]:
    """(day, quantity) of each change, 0 at the end; of a life that begins on this plan and has these commands."""
    life = then(begun(START, START, plan), HaveAddon(hold), *commands)
    return [((at - START).days, quantity) for at, quantity in quantities(hold, stretches(life, PLANS))]


def test_each_order_counts_until_the_next_and_nothing_ends_the_last() -> None:
    assert of(a_hold((3, 2), (10, 5), (20, 1))) == [(3, 2), (10, 5), (20, 1)]


def test_an_order_of_none_ends_it_for_good() -> None:
    assert of(a_hold((3, 2), (10, 0), (20, 1))) == [(3, 2), (10, 0)]


def test_it_ends_with_the_life_and_goes_on_when_that_is_taken_back() -> None:
    hold = a_hold((3, 2))
    assert of(hold, Cancel(day(30))) == [(3, 2), (30, 0)]
    assert of(hold, Cancel(day(30)), UnscheduleCancelation()) == [(3, 2)]
    assert of(hold, Cancel(day(3))) == [], "called off before it began"


def test_a_pause_ends_nothing() -> None:
    assert of(a_hold((3, 2)), Pause(day(5), day(9))) == [(3, 2)]


def test_a_plan_that_offers_it_too_leaves_it_and_another_ends_it_for_good() -> None:
    hold = a_hold((3, 2), (40, 5))
    assert of(hold, Change(day(10), "max")) == [(3, 2), (40, 5)]
    assert of(hold, Change(day(10), "bare")) == [(3, 2), (10, 0)]
    assert of(hold, Change(day(10), "bare"), Change(day(20), "pro")) == [(3, 2), (10, 0)], "also when it could be back"


def test_what_is_ordered_for_later_does_not_begin_on_a_plan_without_it() -> None:
    assert of(a_hold((30, 2)), Change(day(10), "bare")) == []


def test_a_new_plan_has_to_offer_it_when_it_takes_over() -> None:
    change = Change(day(10), "max")
    for max_offer, expected in (
        (Offer("max", "default", day(9), day(11)), [(3, 2)]),
        (Offer("max", "default", day(11)), [(3, 2), (10, 0)]),
        (Offer("max", "default", day(1), day(10)), [(3, 2), (10, 0)]),
    ):
        assert of(a_hold((3, 2), offers=(OFFERS[0], max_offer)), change) == expected


def test_an_offer_that_is_withdrawn_takes_nothing_away() -> None:
    withdrawn = (Offer("pro", "default", START, day(5)),)
    assert of(a_hold((3, 2), (9, 1), offers=withdrawn), Pause(day(6), day(7))) == [(3, 2), (9, 1)]


def test_it_may_be_had_from_its_phase_on() -> None:
    assert of(a_hold((14, 2)), plan="phased") == [(14, 2)]
    assert of(a_hold((13, 2)), plan="phased") == [], "the trial does not have it"
    assert of(a_hold((3, 2)), Change(day(5), "phased", "trial")) == [(3, 2), (5, 0)]
    assert of(a_hold((3, 2)), Change(day(5), "phased", "full")) == [(3, 2)]


def test_another_order_takes_the_place_of_what_was_planned_for_then_and_later() -> None:
    hold = a_hold((3, 2), (10, 5), (20, 1))
    assert hold.with_order(Order(day(10), 4)).orders == a_hold((3, 2), (10, 4)).orders
    assert hold.with_order(Order(day(15), 7)).orders == a_hold((3, 2), (10, 5), (15, 7)).orders
    assert hold.with_order(Order(day(15), 5)).orders == a_hold((3, 2), (10, 5)).orders, "no change, no order"
    assert hold.with_order(Order(day(1), 0)).orders == ()
    assert hold.begun(day(10)).orders == a_hold((3, 2), (10, 5)).orders


# --- whatever happens ------------------------------------------------------------------------------------------------

days = st.integers(1, 60)
orders = st.dictionaries(days, st.integers(0, 4), min_size=1, max_size=6)
commands = st.lists(
    st.one_of(
        st.builds(Change, days.map(day), st.sampled_from(["pro", "max", "bare"])),
        st.builds(lambda first, length: Pause(day(first), day(first + length)), days, days),
    ),
    max_size=4,
)


def a_life(hold: Hold, wanted: list[Any]) -> tuple[Stretch, ...]:
    life: Life | None = begun(START, START, "pro")
    for command in sorted(wanted, key=lambda one: one.at):
        assert life is not None
        life = apply(life, command, START)
    assert life is not None
    return stretches(Life(life.start, life.end, life.anchor, life.segments, (hold,)), PLANS)


def as_ordered(found: dict[int, int]) -> Hold:
    hold = a_hold((0, 1))
    for number in sorted(found):
        hold = hold.with_order(Order(day(number), found[number]))
    return hold


@given(orders, commands)
def test_pieces_touch_lie_in_their_stretch_and_add_up_to_the_timeline(found: dict[int, int], wanted: list[Any]) -> None:
    hold = as_ordered(found)
    life = a_life(hold, wanted)
    each = list(pieces(hold, life))
    for one, following in pairwise(each):
        assert one.end == following.start
    for stretch in life:
        for piece in stretch.addons:
            assert stretch.start <= piece.start < (piece.end or FOREVER) <= (stretch.end or FOREVER)
    assert [piece for stretch in life for piece in stretch.addons] == each
    whole = timeline(hold, life)
    assert all(one.quantity != following.quantity for one, following in pairwise(whole))
    assert _area(each) == _area(whole)


@given(orders, commands)
def test_every_day_has_what_was_last_ordered_while_each_plan_since_offered_it(
    found: dict[int, int], wanted: list[Any]
) -> None:
    """Against squared paper: day by day, without pieces."""
    hold = as_ordered(found)
    life = a_life(hold, wanted)
    is_over = False
    for number in range(150):
        at = day(number)
        ordered = [order.quantity for order in hold.orders if order.at <= at][-1]
        plan = [stretch for stretch in life if stretch.start <= at][-1].plan.key
        is_over = is_over or plan == "bare" or ordered == 0
        expected = 0 if is_over else ordered
        assert sum(piece.quantity for piece in pieces(hold, life) if piece.is_in_force(at)) == expected


def _area(found: list[Any]) -> timedelta:
    return sum((piece.quantity * ((piece.end or FOREVER) - piece.start) for piece in found), timedelta())

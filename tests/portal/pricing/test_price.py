"""The price models by themselves: quantity -> parts, before anything is rounded."""

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox_portal.pricing.part import Part
from farebox_portal.pricing.price import Dynamic, Flat, Graduated, Package, Price, Unit, Volume
from farebox_portal.pricing.tiers import Tier

D = Decimal
QUANTITIES = st.decimals(0, 10**9, places=3)
amounts = st.decimals(0, 1000, places=6)


@st.composite
def tiers(draw: st.DrawFn) -> tuple[Tier, ...]:
    bounds = sorted(draw(st.sets(st.decimals("0.001", 10**7, places=3), max_size=6)))
    return tuple(Tier(bound, draw(amounts), draw(amounts)) for bound in (*bounds, None))


def three(price: type[Graduated] | type[Volume]) -> Price:
    return price((Tier(D(1000), unit=D("0.10")), Tier(D(10_000), unit=D("0.05")), Tier(None, unit=D("0.01"))))


def cost(price: Price, quantity: str | Decimal) -> Decimal:
    return sum((part.amount for part in price.parts(D(quantity))), D(0))


TIER_1_FLAT = (Tier(D(1_000_000), flat=D(499)), Tier(None, unit=D("0.0005")))
INCLUDED = (Tier(D(1000)), Tier(None, unit=D("0.01")))
STEPPED = (Tier(D(10), D(5), D(1)), Tier(D(20), D(7), D("0.5")), Tier(None, D(9), D(0)))


@pytest.mark.parametrize(
    ("price", "quantity", "expected"),
    [
        (Flat(D("9.99")), "0", "9.99"),
        (Flat(D("9.99")), "5000", "9.99"),
        (Unit(D("0.001")), "100000", "100"),
        (Unit(D("0.001")), "0", "0"),
        (three(Graduated), "15000", "600"),
        (three(Graduated), "1000", "100"),
        (three(Graduated), "1001", "100.05"),
        (three(Volume), "15000", "150"),
        (three(Volume), "1000", "100"),
        (three(Volume), "1000.5", "50.025"),  # not the tier before: a bound belongs to its tier, beyond is beyond
        (three(Volume), "10000", "500"),
        (Package(D("10.00"), D(1000)), "0", "0"),
        (Package(D("10.00"), D(1000)), "500", "10"),
        (Package(D("10.00"), D(1000)), "1000", "10"),
        (Package(D("10.00"), D(1000)), "1001", "20"),
        (Package(D("10.00"), D(1000)), "5500", "60"),
        (Package(D(10), D(20)), "98", "50"),
        (Package(D(10), D(20)), "20.1", "20"),
        (Package(D(10), D("0.3")), "0.9", "30"),
        (Graduated(TIER_1_FLAT), "1200000", "599"),
        (Graduated(TIER_1_FLAT), "0", "499"),  # tier 1's flat amount is owed without usage
        (Volume(TIER_1_FLAT), "0", "499"),
        (Graduated(INCLUDED), "500", "0"),
        (Graduated(INCLUDED), "1500", "5"),
        (Graduated(INCLUDED), "5000", "40"),
        (Graduated(STEPPED), "10", "15"),  # the bound is inclusive: tier 2 is not entered
        (Graduated(STEPPED), "10.001", "22.0005"),
        (Graduated(STEPPED), "20", "27"),
        (Graduated(STEPPED), "21", "36"),
        (Volume(STEPPED), "10", "15"),
        (Volume(STEPPED), "11", "12.5"),
        (Volume(STEPPED), "21", "9"),
        (Dynamic(D("1.2")), "12.34", "14.808"),
        (Dynamic(), "12.34", "12.34"),
        (Dynamic(D(2)), "0", "0"),
    ],
)
def test_a_quantity_costs_what_the_model_says(price: Price, quantity: str, expected: str) -> None:
    assert cost(price, quantity) == D(expected)


def test_a_tier_s_part_says_which_units_it_prices() -> None:
    price = Graduated((Tier(D(1000), D(5), D("0.1")), Tier(D(10_000), unit=D("0.05")), Tier(None)))
    assert price.parts(D(12_000)) == (
        Part("tier-1-flat", "usage", D(1), D(5), 1, "up to 1,000, flat"),
        Part("tier-1", "usage", D(1000), D("0.1"), 1, "up to 1,000"),
        Part("tier-2", "usage", D(9000), D("0.05"), 2, "over 1,000 up to 10,000"),
        Part("tier-3", "usage", D(2000), D(0), 3, "over 10,000"),
    )


@pytest.mark.parametrize("price", [Unit(D(1)), Package(D(1), D(1)), Dynamic(), Graduated((Tier(None, unit=D(1)),))])
def test_without_usage_and_flat_amount_there_is_no_line(price: Price) -> None:
    assert price.parts(D(0)) == ()


def test_a_free_fee_leaves_no_line() -> None:
    assert Flat(D(0)).parts(D(5)) == ()


@pytest.mark.parametrize("model", [Graduated, Volume])
@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ([], "at least one"),
        (["10"], "the last tier"),
        ([None, None], "only the last"),
        ([None, "10"], "only the last"),
        (["10", "10", None], "above the tier before"),
        (["10", "5", None], "above the tier before"),
        (["0", None], "above 0"),
    ],
)
def test_tiers_ascend_and_only_the_last_is_open(
    model: type[Graduated] | type[Volume], bounds: list[str | None], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        model(tuple(Tier(None if bound is None else D(bound)) for bound in bounds))


def test_a_package_holds_something() -> None:
    with pytest.raises(ValueError, match="more than 0"):
        Package(D(1), D(0))


@settings(deadline=None)
@given(tiers(), QUANTITIES)
def test_graduated_tiers_price_each_unit_once(found: tuple[Tier, ...], quantity: Decimal) -> None:
    priced = [part.quantity for part in Graduated(found).parts(quantity) if not part.key.endswith("flat")]
    assert sum(priced, D(0)) == quantity


@settings(deadline=None)
@given(tiers(), QUANTITIES, QUANTITIES)
def test_more_never_costs_less_except_by_volume(found: tuple[Tier, ...], one: Decimal, other: Decimal) -> None:
    less, more = sorted((one, other))
    for price in (Unit(D("0.01")), Graduated(found), Package(D(3), D(7)), Dynamic(D("1.1"))):
        assert cost(price, less) <= cost(price, more)


@settings(deadline=None)
@given(tiers())
def test_a_graduated_price_without_flat_amounts_has_no_jumps(found: tuple[Tier, ...]) -> None:
    price = Graduated(tuple(Tier(tier.up_to, unit=tier.unit) for tier in found))
    tiny = D("0.000001")
    for tier in found[:-1]:
        assert tier.up_to is not None
        step = cost(price, tier.up_to + tiny) - cost(price, tier.up_to)
        assert 0 <= step <= 1000 * tiny


@settings(deadline=None)
@given(tiers(), QUANTITIES)
def test_volume_is_the_tier_reached_times_everything(found: tuple[Tier, ...], quantity: Decimal) -> None:
    reached = next(tier for tier in found if tier.up_to is None or quantity <= tier.up_to)
    assert cost(Volume(found), quantity) == reached.flat + reached.unit * quantity


@settings(deadline=None)
@given(QUANTITIES, st.decimals("0.001", 10**6, places=3))
def test_packages_hold_everything_and_the_last_is_needed(quantity: Decimal, size: Decimal) -> None:
    count = cost(Package(D(1), size), quantity)
    assert count * size >= quantity
    assert not count or (count - 1) * size < quantity

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox_portal.pricing.conversion import Conversion

D = Decimal


@pytest.mark.parametrize(
    ("conversion", "quantity", "expected"),
    [
        (Conversion("divide", D(1000), "ceiling"), "1400", "2"),
        (Conversion("divide", D(1000), "ceiling"), "2700", "3"),  # 1400 and then 1300 are not 2 + 2
        (Conversion("divide", D(1000), "ceiling"), "2000", "2"),
        (Conversion("divide", D(1000), "floor"), "1999", "1"),
        (Conversion("divide", D(1000), "half_up"), "1500", "2"),
        (Conversion("divide", D(1000), "half_up"), "1499.999", "1"),
        (Conversion("divide", D(1000), "ceiling", precision=2), "1401", "1.41"),
        (Conversion("divide", D(1000)), "1401", "1.401"),
        (Conversion("divide", D(3)), "1", "0.333333333333333"),
        (Conversion("divide", D(3), "ceiling", precision=15), "1", "0.333333333333334"),
        (Conversion("multiply", D("2.5")), "3", "7.5"),
        (Conversion("multiply", D("2.5"), "half_up"), "3", "8"),
        (Conversion("multiply", D("2.5"), "floor"), "3", "7"),
        (Conversion("divide", D(1000), "ceiling"), "0", "0"),
    ],
)
def test_a_quantity_is_converted_and_then_rounded(conversion: Conversion, quantity: str, expected: str) -> None:
    assert conversion.convert(D(quantity)) == D(expected)


def test_a_ceiling_sees_a_remainder_however_small() -> None:
    assert Conversion("divide", D(10**30), "ceiling").convert(D(10**45 + 1)) == 10**15 + 1


@pytest.mark.parametrize("fields", [{"factor": D(0)}, {"factor": D(-1)}, {"precision": -1}, {"precision": 16}], ids=str)
def test_a_conversion_without_sense_is_refused(fields: dict[str, Decimal | int]) -> None:
    with pytest.raises(ValueError, match="must"):
        Conversion(**{"operation": "divide", "factor": D(10), **fields})  # type: ignore[arg-type]


@settings(deadline=None)
@given(
    st.decimals(0, 10**12, places=4),
    st.decimals("0.001", 10**6, places=3),
    st.sampled_from(["ceiling", "floor", "half_up"]),
    st.integers(0, 6),
)
def test_rounding_is_off_by_less_than_a_digit_and_in_its_direction(
    quantity: Decimal, factor: Decimal, rounding: str, precision: int
) -> None:
    found = Fraction(Conversion("divide", factor, rounding, precision).convert(quantity))  # type: ignore[arg-type]
    off = (found - Fraction(quantity) / Fraction(factor)) * 10**precision
    bounds = {"ceiling": (0, 1), "floor": (-1, 0), "half_up": (Fraction(-1, 2), Fraction(1, 2))}
    low, high = bounds[rounding]
    assert low <= off <= high
    assert abs(off) < 1

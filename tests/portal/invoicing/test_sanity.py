from decimal import Decimal

import pytest

from farebox_portal.invoicing.minimum import MINIMUM, minimum_minor
from farebox_portal.invoicing.sanity import REASONS, doubts
from farebox_portal.pricing.money import CURRENCIES, currency


@pytest.mark.parametrize(
    ("total", "before", "reasons"),
    [
        (-1, [], ["negative_total"]),
        (0, [], []),
        (5000, [1000, 1000, 1000], []),
        (5001, [1000, 1000, 1000], ["unusual_total"]),
        (5001, [1000, 1000], []),  # too little is known
        (4999, [1, 1, 1], []),  # too little to wake anybody
        (10**9, [0, 0, 0], []),  # there is nothing to compare it with
    ],
)
def test_what_looks_wrong_is_held(total: int, before: list[int], reasons: list[str]) -> None:
    assert doubts(total, {"USD"}, before, 50) == reasons
    assert set(reasons) <= set(REASONS)


def test_two_currencies_are_one_too_many() -> None:
    assert doubts(1, {"USD", "EUR"}, [], 50) == ["mixed_currency"]


def test_the_least_that_can_be_charged_is_in_minor_units_of_its_currency() -> None:
    assert [minimum_minor(currency(code)) for code in ("USD", "JPY", "HUF", "CLP")] == [50, 50, 17_500, 0]
    assert set(MINIMUM) <= set(CURRENCIES)
    assert all(amount > Decimal(0) for amount in MINIMUM.values())

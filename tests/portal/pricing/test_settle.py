from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox_portal.pricing.line import Line, Reduction, Tax
from farebox_portal.pricing.money import currency
from farebox_portal.pricing.part import Kind
from farebox_portal.pricing.period import Period
from farebox_portal.pricing.settle import Credit, apply_credits, percentage_tax, settle

USD = currency("USD")
NOVEMBER = Period(datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC))


def a_line(minor: int, kind: Kind = "usage", key: str = "api_requests/usage") -> Line:
    return Line(key, kind, "API requests", Decimal(1), Decimal(minor) / 100, minor, NOVEMBER)


def a_credit(minor: int, *, id: str = "c1", fees_only: bool = False) -> Credit:
    return Credit(id, "Credit", minor, fees_only)


def test_without_credits_and_tax_the_total_is_the_sum_of_the_lines() -> None:
    bill = settle([a_line(999), a_line(500)])
    assert (bill.total_minor, bill.tax_minor, bill.credits_left) == (1499, 0, ())


def test_a_credit_pays_line_after_line_and_the_rest_stays() -> None:
    bill = settle([a_line(300), a_line(200)], [a_credit(400), a_credit(400, id="c2")])
    assert [line.amount_minor for line in bill.lines] == [0, 0]
    assert bill.lines[1].reductions == (
        Reduction("credit", "c1", "Credit", 100),
        Reduction("credit", "c2", "Credit", 100),
    )
    assert [credit.amount_minor for credit in bill.credits_left] == [0, 300]
    assert bill.total_minor == 0


def test_the_credit_of_a_plan_change_pays_for_fees_alone() -> None:
    bill = settle([a_line(300), a_line(2900, "fee")], [a_credit(5000, fees_only=True)])
    assert [line.amount_minor for line in bill.lines] == [300, 0]
    assert bill.credits_left[0].amount_minor == 2100


def test_a_credit_is_not_paid_out_where_something_is_given_back() -> None:
    bill = settle([a_line(-15_000), a_line(8000), a_line(10_000)], [a_credit(9000)])
    assert bill.total_minor == 0
    assert bill.credits_left[0].amount_minor == 6000
    assert settle([a_line(-100), a_line(50)], [a_credit(9)]).total_minor == -50


def test_a_credit_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="below 0"):
        apply_credits([a_line(1)], [a_credit(-1)])


@pytest.mark.parametrize(
    ("inclusive", "total", "tax"),
    [(False, 1199, 200), (True, 999, 167)],
    ids=["exclusive", "inclusive"],
)
def test_twenty_percent_come_on_top_or_are_in_the_price(inclusive: bool, total: int, tax: int) -> None:
    bill = settle([a_line(999)], tax_rule=percentage_tax("VAT", Decimal(20), USD, inclusive=inclusive))
    assert (bill.total_minor, bill.tax_minor) == (total, tax)
    assert bill.lines[0].taxes == (Tax("VAT", tax, inclusive),)
    assert bill.lines[0].amount_minor == 999


def test_tax_is_on_what_credits_left() -> None:
    bill = settle([a_line(1000)], [a_credit(600)], percentage_tax("VAT", Decimal(20), USD))
    assert (bill.total_minor, bill.tax_minor) == (480, 80)


def test_tax_is_rounded_once_per_line() -> None:
    assert settle([a_line(3), a_line(3)], tax_rule=percentage_tax("VAT", Decimal(20), USD)).tax_minor == 2


def test_a_tax_rule_answers_for_every_line() -> None:
    with pytest.raises(ValueError, match="shorter"):
        settle([a_line(3), a_line(3)], tax_rule=lambda lines: [()])


lines = st.lists(st.builds(a_line, st.integers(-(10**6), 10**6), st.sampled_from(["fee", "usage"])), max_size=8)
credits_ = st.lists(st.builds(a_credit, st.integers(0, 10**6), fees_only=st.booleans()), max_size=4)


@settings(deadline=None)
@given(lines, credits_)
def test_credit_given_is_credit_used_plus_credit_left(found: list[Line], given_: list[Credit]) -> None:
    paid, left = apply_credits(found, given_)
    used = sum(line.amount_minor for line in found) - sum(line.amount_minor for line in paid)
    assert used == sum(c.amount_minor for c in given_) - sum(c.amount_minor for c in left)
    for before, after in zip(found, paid, strict=True):
        assert after.rated_minor == before.amount_minor
        assert min(0, before.amount_minor) <= after.amount_minor <= before.amount_minor
    if used:
        assert sum(line.amount_minor for line in paid) >= 0


@settings(deadline=None)
@given(lines, credits_, st.decimals(0, 50, places=2), st.booleans())
def test_the_total_is_the_sum_of_the_lines_and_the_tax_on_top(
    found: list[Line], given_: list[Credit], percentage: Decimal, inclusive: bool
) -> None:
    bill = settle(found, given_, percentage_tax("VAT", percentage, USD, inclusive=inclusive))
    on_top = 0 if inclusive else bill.tax_minor
    assert bill.total_minor == sum(line.amount_minor for line in bill.lines) + on_top

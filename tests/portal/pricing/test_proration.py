from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox_portal.pricing.card import RateCard
from farebox_portal.pricing.flat import Flat
from farebox_portal.pricing.line import Line
from farebox_portal.pricing.money import currency
from farebox_portal.pricing.period import Period
from farebox_portal.pricing.proration import QuotaUse, consumed_share, fee_minor, kept_of, length_share
from farebox_portal.pricing.rate import Charge
from farebox_portal.pricing.settle import Credit, settle

USD = currency("USD")
START = datetime(2026, 11, 1, tzinfo=UTC)
NOVEMBER = Period(START, START + timedelta(days=30))


def day(number: float) -> datetime:
    return START + timedelta(days=number)


def a_fee(amount_minor: int | Decimal, share: Fraction = Fraction(1), off: Decimal = Decimal(0)) -> Charge:
    """Of November."""
    price = Flat(Decimal(amount_minor) / 100)
    return Charge(RateCard("fee", "Fee", price, None, "P1M", percentage_off=off), USD, NOVEMBER, share=share)


def change_credit(charge: Charge, piece: Fraction, consumed: Fraction) -> int:
    return fee_minor(charge) - fee_minor(kept_of(charge, piece, consumed))


@pytest.mark.parametrize(
    ("at", "quotas", "expected"),
    [
        (day(15), [], 1450),
        (day(15), [QuotaUse(7000, 10_000)], 870),  # 29 x (1 - 70 %)
        (day(24), [QuotaUse(7000, 10_000)], 580),  # time leads: 80 %
        (day(15), [QuotaUse(1, 10), QuotaUse(7000, 10_000), QuotaUse(0, 5)], 870),
        (day(15), [QuotaUse(12_000, 10_000)], 0),  # a soft limit overrun is not owed back
        (day(15), [QuotaUse(10**9, None), QuotaUse(10**9, 0)], 1450),
        (day(15), [QuotaUse(Decimal("0.7"), Decimal(1))], 870),
        (day(0), [], 2900),
        (day(-3), [], 2900),
        (day(30), [], 0),
        (day(31), [], 0),
        (START + timedelta(seconds=1), [], 2900),
        (START + timedelta(hours=1), [], 2896),  # not by days
    ],
)
def test_a_change_gives_back_what_neither_time_nor_quota_used_up(
    at: datetime, quotas: list[QuotaUse], expected: int
) -> None:
    assert change_credit(a_fee(2900), Fraction(1), consumed_share(NOVEMBER, at, quotas)) == expected


def test_no_more_than_everything_can_be_used_up() -> None:
    assert consumed_share(NOVEMBER, day(15), [QuotaUse(12_000, 10_000)]) == 1


@pytest.mark.parametrize(
    ("fee", "charged", "piece", "consumed", "off", "expected"),
    [
        (2901, "1", "1", "1/2", 0, 1450),  # 14.51 are kept, as a line says of half the fee
        (Decimal("1000.49"), "1", "1", "0.9994", 0, 0),  # 9.9988… are kept of 10.00
        (2900, "2/3", "1/3", "1/2", 0, 483),  # 19.33 were charged, 14.50 are kept
        (1000, "1", "1", "1/3", 15, 567),  # 8.50 were charged, 2.83 are kept
    ],
)
def test_what_is_kept_is_rounded_as_a_line_is_and_the_rest_is_given_back(
    fee: int | Decimal, charged: str, piece: str, consumed: str, off: int, expected: int
) -> None:
    whole = a_fee(fee, Fraction(charged), Decimal(off))
    assert change_credit(whole, Fraction(piece), Fraction(consumed)) == expected


def test_what_a_credit_does_not_pay_at_once_pays_for_later_fees() -> None:
    left: tuple[Credit, ...] = (Credit("change-1", "Unused time of Pro", 5000, fees_only=True),)
    totals = []
    for _ in range(4):
        fee = Line("starter/fee", "fee", "Starter", Decimal(1), Decimal(19), 1900, NOVEMBER)
        usage = Line("api_requests/usage", "usage", "API requests", Decimal(1), Decimal(1), 100, NOVEMBER)
        bill = settle([fee, usage], left)
        left = bill.credits_left
        totals.append(bill.total_minor)
    assert totals == [100, 100, 800, 2000]
    assert left[0].amount_minor == 0


def test_a_share_is_what_of_the_whole_lies_in_the_part() -> None:
    assert length_share(Period(day(0), day(10)), NOVEMBER) == Fraction(1, 3)
    assert length_share(Period(day(-5), day(10)), NOVEMBER) == Fraction(1, 3)
    assert length_share(Period(day(25), day(45)), NOVEMBER) == Fraction(1, 6)
    assert length_share(Period(day(40), day(45)), NOVEMBER) == 0
    with pytest.raises(ValueError, match="ends after"):
        length_share(NOVEMBER, Period(day(0), day(0)))


seconds = st.integers(0, 30 * 86_400)


@settings(deadline=None)
@given(st.integers(0, 10**7), seconds, seconds, st.lists(st.integers(0, 100), max_size=3))
def test_the_later_the_change_the_smaller_the_credit(fee: int, one: int, other: int, used: list[int]) -> None:
    quotas = [QuotaUse(units, 100) for units in used]
    earlier, later = (
        change_credit(a_fee(fee), Fraction(1), consumed_share(NOVEMBER, START + timedelta(seconds=at), quotas))
        for at in sorted((one, other))
    )
    assert 0 <= later <= earlier <= fee


@dataclass
class Account:
    """A customer who changes plan at will; a new plan's fee is for the rest of the period."""

    cash: int = 0
    credit: int = 0
    fee: Charge = field(default_factory=lambda: a_fee(0))
    since: datetime = START

    def buy(self, fee: int, at: datetime) -> None:
        self.fee = a_fee(fee, length_share(Period(at, NOVEMBER.end), NOVEMBER))
        self.since = at
        used = min(self.credit, fee_minor(self.fee))
        self.credit -= used
        self.cash += fee_minor(self.fee) - used

    def change(self, fee: int, at: datetime, quota_used: int) -> None:
        rest = Period(self.since, NOVEMBER.end)
        consumed = consumed_share(rest, at, [QuotaUse(quota_used, 100)])
        self.credit += change_credit(self.fee, self.fee.share, consumed)
        self.buy(fee, at)


fees = st.integers(0, 100_000)
changes = st.lists(st.tuples(fees, st.integers(0, 30 * 86_400 - 1), st.integers(0, 120)), max_size=12)


@settings(deadline=None)
@given(fees, changes)
def test_going_back_and_forth_never_makes_money(first: int, found: list[tuple[int, int, int]]) -> None:
    account = Account()
    account.buy(first, START)
    worth = Fraction(0)
    fee, since = first, START
    for number, (next_fee, second, quota_used) in enumerate(sorted(found, key=lambda one: one[1]), start=1):
        at = START + timedelta(seconds=second)
        worth += fee * length_share(Period(since, at), NOVEMBER)
        account.change(next_fee, at, quota_used)
        fee, since = next_fee, at
        assert 0 <= account.credit <= account.cash
        # What was paid and is not there as credit or as time to come, went into time that was had; up to rounding.
        to_come = next_fee * length_share(Period(at, NOVEMBER.end), NOVEMBER)
        assert account.cash - account.credit - to_come >= worth - number - 1


@settings(deadline=None)
@given(fees, fees, seconds.filter(lambda second: second < 30 * 86_400))
def test_there_and_back_in_one_instant_costs_a_cent_at_most(one: int, other: int, second: int) -> None:
    """Where both what was had and what is bought again end in half a cent, and each is rounded up."""
    at = START + timedelta(seconds=second)
    account = Account()
    account.buy(one, at)
    before = account.cash - account.credit
    account.change(other, at, 0)
    account.change(one, at, 0)
    assert 0 <= account.cash - account.credit - before <= 1

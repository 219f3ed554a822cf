from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox_portal.pricing.line import Line
from farebox_portal.pricing.money import currency, share_of
from farebox_portal.pricing.period import Period
from farebox_portal.pricing.proration import QuotaUse, change_credit, consumed_share, cut_amount, length_share
from farebox_portal.pricing.settle import Credit, settle

USD = currency("USD")
START = datetime(2026, 11, 1, tzinfo=UTC)
NOVEMBER = Period(START, START + timedelta(days=30))


def day(number: float) -> datetime:
    return START + timedelta(days=number)


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
    assert change_credit(2900, consumed_share(NOVEMBER, at, quotas), USD, settled_minor=2900) == expected


def test_no_more_than_everything_can_be_used_up() -> None:
    assert consumed_share(NOVEMBER, day(15), [QuotaUse(12_000, 10_000)]) == 1


@pytest.mark.parametrize(
    ("settled", "credited", "expected"),
    [(2900, 0, 2030), (2000, 0, 2000), (0, 0, 0), (2900, 1000, 1900), (2900, 2900, 0), (1000, 2000, 0)],
)
def test_no_more_is_given_back_than_was_settled_and_not_given_back_before(
    settled: int, credited: int, expected: int
) -> None:
    consumed = consumed_share(NOVEMBER, day(9))
    assert change_credit(2900, consumed, USD, settled_minor=settled, credited_minor=credited) == expected


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


def test_an_amount_is_cut_without_losing_a_cent() -> None:
    assert cut_amount(100, NOVEMBER, [day(10), day(20)], USD) == (33, 34, 33)
    assert cut_amount(100, NOVEMBER, [], USD) == (100,)
    for cuts in ([day(20), day(10)], [day(31)], [day(-1)]):
        with pytest.raises(ValueError, match="ascend"):
            cut_amount(100, NOVEMBER, cuts, USD)


seconds = st.integers(0, 30 * 86_400)


@settings(deadline=None)
@given(st.integers(0, 10**9), st.lists(seconds, max_size=8).map(sorted), st.sampled_from(["USD", "JPY", "KWD"]))
def test_pieces_add_up_and_none_is_more_than_a_step_off(steps: int, at: list[int], code: str) -> None:
    of = currency(code)
    amount = steps * of.step_minor
    cuts = [START + timedelta(seconds=second) for second in at]
    pieces = cut_amount(amount, NOVEMBER, cuts, of)
    assert sum(pieces) == amount
    edges = [START, *cuts, NOVEMBER.end]
    for piece, start, end in zip(pieces, edges, edges[1:], strict=False):
        assert piece % of.step_minor == 0
        assert abs(piece - amount * length_share(Period(start, end), NOVEMBER)) <= of.step_minor


@settings(deadline=None)
@given(st.integers(0, 10**7), seconds, seconds, st.lists(st.integers(0, 100), max_size=3))
def test_the_later_the_change_the_smaller_the_credit(fee: int, one: int, other: int, used: list[int]) -> None:
    quotas = [QuotaUse(units, 100) for units in used]
    earlier, later = (
        change_credit(fee, consumed_share(NOVEMBER, START + timedelta(seconds=at), quotas), USD, settled_minor=fee)
        for at in sorted((one, other))
    )
    assert 0 <= later <= earlier <= fee


@dataclass
class Account:
    """A customer who changes plan at will; a new plan's fee is for the rest of the period."""

    cash: int = 0
    credit: int = 0
    fee: int = 0
    since: datetime = START

    def buy(self, fee: int, at: datetime) -> None:
        self.fee = share_of(fee, length_share(Period(at, NOVEMBER.end), NOVEMBER), USD)
        self.since = at
        used = min(self.credit, self.fee)
        self.credit -= used
        self.cash += self.fee - used

    def change(self, fee: int, at: datetime, quota_used: int) -> None:
        rest = Period(self.since, NOVEMBER.end)
        consumed = consumed_share(rest, at, [QuotaUse(quota_used, 100)])
        self.credit += change_credit(self.fee, consumed, USD, settled_minor=self.fee)
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
def test_there_and_back_in_one_instant_costs_nothing(one: int, other: int, second: int) -> None:
    at = START + timedelta(seconds=second)
    account = Account()
    account.buy(one, at)
    before = account.cash - account.credit
    account.change(other, at, 0)
    account.change(one, at, 0)
    assert account.cash - account.credit == before

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox_portal.pricing.card import RateCard
from farebox_portal.pricing.period import CADENCES, Period, aligned, boundary, index_at
from farebox_portal.pricing.price import Flat, Price, Unit
from farebox_portal.pricing.schedule import Service, Span, cut, invoice_at, one_time, service_periods


def utc(year: int, month: int, day: int, hour: int = 0, minute: int = 0) -> datetime:
    return datetime(year, month, day, hour, minute, tzinfo=UTC)


FAR = utc(2100, 1, 1)


def served(anchor: datetime, cadence: str, span: Span, until: datetime = FAR) -> list[Service]:
    return list(service_periods(anchor, cadence, span, until))


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("P1M", "P1M", True),
        ("P1M", "P3M", True),
        ("P1Y", "P1M", True),
        ("P1Y", "P12M", True),
        ("P6M", "P3M", True),
        ("P1W", "P2W", True),
        ("P2W", "P4W", True),
        ("P4W", "P1D", True),
        ("P1D", "P1M", True),
        ("PT1H", "P1Y", True),
        ("P1M", "P4W", False),
        ("P1W", "P1M", False),
        ("P1Y", "P1W", False),
    ],
)
def test_cadences_fit_if_one_is_a_whole_number_of_the_other(one: str, other: str, expected: bool) -> None:
    assert aligned(one, other) is expected
    assert aligned(other, one) is expected


def test_a_cadence_that_does_not_exist_fits_nothing() -> None:
    for one, other in (("P3M", "P2M"), ("P2M", "P2M"), ("P1D", "P9D")):
        with pytest.raises(ValueError, match="is not one of"):
            aligned(one, other)


@settings(deadline=None)
@given(st.sampled_from(CADENCES), st.sampled_from(CADENCES), st.dates())
def test_two_cadences_fit_just_if_each_boundary_of_the_longer_is_one_of_the_shorter(
    one: str, other: str, day: date
) -> None:
    anchor = utc(2000 + day.year % 100, day.month, min(day.day, 28))
    shorter, longer = sorted((one, other), key=lambda cadence: boundary(anchor, cadence, 1))
    ends = [boundary(anchor, longer, n) for n in range(1, 50)]
    assert aligned(one, other) == all(boundary(anchor, shorter, index_at(anchor, shorter, end)) == end for end in ends)


@pytest.mark.parametrize("anchor", [utc(2026, 1, 10), utc(2026, 12, 10)], ids=["before", "after"])
def test_the_first_and_the_last_period_are_stubs(anchor: datetime) -> None:
    found = served(anchor, "P1M", Span(utc(2026, 3, 1), utc(2026, 5, 1)))
    assert [(one.served.start, one.served.end) for one in found] == [
        (utc(2026, 3, 1), utc(2026, 3, 10)),
        (utc(2026, 3, 10), utc(2026, 4, 10)),
        (utc(2026, 4, 10), utc(2026, 5, 1)),
    ]
    assert [one.share for one in found] == [Fraction(9, 28), 1, Fraction(21, 30)]
    assert found[0].full == Period(utc(2026, 2, 10), utc(2026, 3, 10))


def test_periods_are_made_up_to_the_one_that_is_asked_for() -> None:
    anchor = utc(2026, 1, 31)
    found = served(anchor, "P1M", Span(anchor), until=utc(2026, 3, 31))
    assert [one.served.end for one in found] == [utc(2026, 2, 28), utc(2026, 3, 31)]
    assert len(served(anchor, "P1M", Span(anchor), until=utc(2026, 3, 31, 0, 1))) == 3
    assert served(anchor, "P1M", Span(anchor), until=anchor) == []
    assert served(anchor, "P1M", Span(anchor, anchor)) == []


def test_phases_cut_a_life_into_spans_and_periods_do_not_cross_them() -> None:
    start, trial_ends, ends = utc(2026, 3, 1), utc(2026, 3, 15), utc(2026, 5, 1)
    trial, paid = cut(Span(start, ends), [trial_ends, utc(2020, 1, 1), ends, start, trial_ends])
    assert (trial, paid) == (Span(start, trial_ends), Span(trial_ends, ends))
    assert [one.served.end for one in served(start, "P1M", trial)] == [trial_ends]
    assert [one.served.start for one in served(start, "P1M", paid)] == [trial_ends, utc(2026, 4, 1)]
    assert cut(Span(start), [trial_ends])[-1] == Span(trial_ends)


def test_a_one_time_fee_is_charged_whole_with_the_phase_s_first_period() -> None:
    once = one_time(utc(2026, 1, 10), "P1M", Span(utc(2026, 3, 1)))
    assert once.served == Period(utc(2026, 3, 1), utc(2026, 3, 10))
    assert once.share == 1
    with pytest.raises(ValueError, match="ends after"):
        one_time(utc(2026, 1, 10), "P1M", Span(utc(2026, 3, 1), utc(2026, 3, 1)))


ADVANCE, ARREARS, USAGE = Flat(Decimal(9)), Flat(Decimal(9), "in_arrears"), Unit(Decimal(1))


@pytest.mark.parametrize(
    ("price", "period", "span", "expected"),
    [
        (ADVANCE, (utc(2026, 3, 1), utc(2026, 4, 1)), Span(utc(2026, 1, 1)), utc(2026, 3, 1)),
        (ARREARS, (utc(2026, 3, 1), utc(2026, 4, 1)), Span(utc(2026, 1, 1)), utc(2026, 4, 1)),
        (USAGE, (utc(2026, 3, 1), utc(2026, 4, 1)), Span(utc(2026, 1, 1)), utc(2026, 4, 1)),
        (None, (utc(2026, 3, 1), utc(2026, 4, 1)), Span(utc(2026, 1, 1)), utc(2026, 4, 1)),
        # a day's usage waits for the month's invoice
        (USAGE, (utc(2026, 3, 5), utc(2026, 3, 6)), Span(utc(2026, 1, 1)), utc(2026, 4, 1)),
        # a quarter's usage waits for the quarter
        (USAGE, (utc(2026, 1, 1), utc(2026, 4, 1)), Span(utc(2026, 1, 1)), utc(2026, 4, 1)),
        # the end of a phase ends its billing period
        (USAGE, (utc(2026, 3, 5), utc(2026, 3, 6)), Span(utc(2026, 1, 1), utc(2026, 3, 20)), utc(2026, 3, 20)),
        (ADVANCE, (utc(2026, 3, 15), utc(2026, 4, 1)), Span(utc(2026, 3, 15)), utc(2026, 3, 15)),
    ],
)
def test_a_fee_in_advance_is_due_when_service_starts_and_all_else_when_the_billing_period_is_over(
    price: Price | None, period: tuple[datetime, datetime], span: Span, expected: datetime
) -> None:
    card = RateCard("card", "Card", price)
    assert invoice_at(card, Period(*period), utc(2026, 1, 1), "P1M", span) == expected


instants = st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  (hypothesis wants them naive)
long_cadences = st.sampled_from([cadence for cadence in CADENCES if cadence not in ("PT1H", "P1D")])
FIFTY_YEARS = timedelta(days=50 * 366)


def check_tiling(found: list[Service], span: Span, until: datetime) -> None:
    assert found[0].served.start == span.start
    for before, after in pairwise(found):
        assert before.served.end == after.served.start
    assert found[-1].served.end >= min(until, span.end or until)
    for one in found:
        assert one.full.start <= one.served.start < one.served.end <= one.full.end
    assert all(one.share == 1 for one in found[1:-1])


@settings(deadline=None, max_examples=40)
@given(instants, long_cadences, instants, st.booleans())
def test_fifty_years_of_periods_tile(anchor: datetime, cadence: str, start: datetime, ends: bool) -> None:
    until = start + FIFTY_YEARS
    span = Span(start, start + FIFTY_YEARS / 2 if ends else None)
    found = served(anchor, cadence, span, until)
    check_tiling(found, span, until)
    if span.end is not None:
        assert found[-1].served.end == span.end


@settings(deadline=None, max_examples=20)
@given(instants, st.sampled_from(["PT1H", "P1D"]), instants)
def test_a_month_of_short_periods_tiles_fifty_years_on(anchor: datetime, cadence: str, start: datetime) -> None:
    span = Span(start + FIFTY_YEARS)
    until = span.start + timedelta(days=31)
    check_tiling(served(anchor, cadence, span, until), span, until)


@settings(deadline=None, max_examples=50)
@given(instants, long_cadences, instants, st.lists(st.integers(0, 900), max_size=6))
def test_phases_do_not_change_what_is_covered(anchor: datetime, cadence: str, start: datetime, days: list[int]) -> None:
    span = Span(start, start + timedelta(days=800))
    cuts = [start + timedelta(days=number) for number in days]
    pieces = [one for part in cut(span, cuts) for one in served(anchor, cadence, part)]
    whole = served(anchor, cadence, span)
    assert pieces[0].served.start == span.start
    assert pieces[-1].served.end == span.end
    assert all(before.served.end == after.served.start for before, after in pairwise(pieces))
    for one in whole:
        within = [piece for piece in pieces if piece.full == one.full]
        assert sum(piece.share for piece in within) == one.share

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox_portal.pricing.period import CADENCES, Period, boundaries, boundary, index_at, period_at


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)


anchors = st.datetimes(datetime(1990, 1, 1), datetime(2050, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  (hypothesis wants them naive)
cadences = st.sampled_from(CADENCES)


@pytest.mark.parametrize(
    ("anchor", "cadence", "n", "expected"),
    [
        (utc(2026, 1, 31), "P1M", 1, utc(2026, 2, 28)),
        (utc(2026, 1, 31), "P1M", 2, utc(2026, 3, 31)),
        (utc(2026, 1, 31), "P1M", 3, utc(2026, 4, 30)),
        (utc(2027, 1, 31), "P1M", 13, utc(2028, 2, 29)),
        (utc(2026, 1, 31), "P1M", -2, utc(2025, 11, 30)),
        (utc(2024, 2, 29), "P1Y", 1, utc(2025, 2, 28)),
        (utc(2024, 2, 29), "P1Y", 4, utc(2028, 2, 29)),
        (utc(2026, 11, 30), "P3M", 1, utc(2027, 2, 28)),
        (utc(2026, 8, 31), "P6M", 1, utc(2027, 2, 28)),
        (utc(2026, 3, 10, 7, 30), "P1D", 1, utc(2026, 3, 11, 7, 30)),
        (utc(2026, 3, 10), "P4W", 1, utc(2026, 4, 7)),
        (utc(2026, 3, 10), "PT1H", 25, utc(2026, 3, 11, 1)),
    ],
)
def test_a_boundary_is_the_anchor_plus_n_intervals(anchor: datetime, cadence: str, n: int, expected: datetime) -> None:
    assert boundary(anchor, cadence, n) == expected


def test_a_period_begins_at_its_start_and_ends_before_its_end() -> None:
    february = Period(utc(2026, 1, 31), utc(2026, 2, 28))
    assert period_at(utc(2026, 1, 31), "P1M", utc(2026, 1, 31)) == february
    assert period_at(utc(2026, 1, 31), "P1M", utc(2026, 2, 28) - timedelta(microseconds=1)) == february
    assert period_at(utc(2026, 1, 31), "P1M", utc(2026, 2, 28)).start == utc(2026, 2, 28)
    assert utc(2026, 1, 31) in february
    assert utc(2026, 2, 28) not in february


@settings(deadline=None)
@given(anchors, cadences, anchors)
def test_every_instant_lies_in_exactly_the_period_that_is_found_for_it(
    anchor: datetime, cadence: str, at: datetime
) -> None:
    n = index_at(anchor, cadence, at)
    assert at in period_at(anchor, cadence, at)
    for other in (n - 1, n + 1):
        assert at not in Period(boundary(anchor, cadence, other), boundary(anchor, cadence, other + 1))


@settings(deadline=None)
@given(anchors, cadences, anchors)
def test_periods_tile(anchor: datetime, cadence: str, at: datetime) -> None:
    found = boundaries(anchor, cadence, at, 30)
    assert len(found) == 30
    assert found[0] <= at < found[1]
    for start, end in pairwise(found):
        assert period_at(anchor, cadence, start) == Period(start, end)


@settings(deadline=None)
@given(anchors, st.sampled_from([c for c in CADENCES if c.endswith(("M", "Y"))]), st.integers(-100, 100))
def test_a_month_s_boundary_keeps_the_anchor_s_day_or_takes_the_last(anchor: datetime, cadence: str, n: int) -> None:
    found = boundary(anchor, cadence, n)
    assert found.timetz() == anchor.timetz()
    assert found.day == anchor.day or (found + timedelta(days=1)).day == 1


def test_a_cadence_we_do_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="P5M"):
        boundary(utc(2026, 1, 1), "P5M", 1)

from datetime import UTC, datetime, timedelta

import pytest

from farebox_portal.durations import parse_duration

JANUARY_31 = datetime(2026, 1, 31, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("P1M", datetime(2026, 2, 28, tzinfo=UTC)),
        ("P2M", datetime(2026, 3, 31, tzinfo=UTC)),
        ("P1Y", datetime(2027, 1, 31, tzinfo=UTC)),
        ("P1W", JANUARY_31 + timedelta(days=7)),
        ("P1DT2H3M4S", JANUARY_31 + timedelta(days=1, hours=2, minutes=3, seconds=4)),
        ("PT0S", JANUARY_31),
    ],
)
def test_a_duration_leads_to_an_instant(text: str, after: datetime) -> None:
    assert parse_duration(text).after(JANUARY_31) == after


@pytest.mark.parametrize("text", ["", "P", "PT", "P1", "1M", "P1H", "PT1D", "P-1D", "P1.5D", "P1DT", "p1d", "P1D "])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="ISO 8601"):
        parse_duration(text)

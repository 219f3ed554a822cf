from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine
from sqlmodel import Session

from builders.portal import a_batch, a_feature, a_meter, an_account, an_event
from farebox_portal.catalog.tables import Meter
from farebox_portal.db import transaction
from farebox_portal.errors import Conflict, Invalid
from farebox_portal.usage.ingest import apply_batch
from farebox_portal.usage.query import Point, Question, as_csv, as_document, query_meter, step_length_ms, window_edges
from farebox_portal.usage.totals import meter_total

BERLIN = ZoneInfo("Europe/Berlin")


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with transaction(engine) as session:
        yield session


@pytest.fixture
def meter(session: Session) -> Meter:
    found = a_meter(session, "tokens", group_by={"model": "$.model"})
    a_feature(session)
    return found


Use = Callable[..., None]


@pytest.fixture
def use(session: Session, meter: Meter) -> Use:
    """`use(at, quantity, model=…, customer=…)` books one request."""
    subscriptions = {key: an_account(session, key)[1] for key in ("acme", "beta")}
    number = iter(range(1_000_000))

    def book(at: datetime, quantity: int, model: str = "small", customer: str = "acme") -> None:
        dimensions = {"model": model} if model else {}
        event = an_event(subscriptions[customer], f"r{next(number)}", at, dimensions, tokens=quantity)
        apply_batch(session, a_batch(event), at)

    return book


def values(points: list[Point]) -> list[tuple[datetime, datetime, int | float]]:
    return [(point.start, point.end, point.value) for point in points]


def test_without_a_window_there_is_one_value_for_the_whole_time(session: Session, meter: Meter, use: Use) -> None:
    use(utc(2026, 3, 1), 1)
    use(utc(2026, 3, 2), 2)
    use(utc(2026, 3, 3), 4)
    asked = Question(from_=utc(2026, 3, 1), to=utc(2026, 3, 3))
    assert values(query_meter(session, meter, asked)) == [(utc(2026, 3, 1), utc(2026, 3, 3), 3)]


def test_without_a_beginning_the_first_use_is_the_beginning(session: Session, meter: Meter, use: Use) -> None:
    use(utc(2026, 3, 1, 5), 7)
    assert values(query_meter(session, meter, Question(to=utc(2026, 3, 3)))) == [
        (utc(2026, 3, 1, 5), utc(2026, 3, 3), 7)
    ]


def test_a_meter_that_nobody_used_has_no_data(session: Session, meter: Meter, use: Use) -> None:
    assert query_meter(session, meter, Question(to=utc(2026, 3, 3))) == []


def test_a_day_begins_at_midnight_of_the_time_zone(session: Session, meter: Meter, use: Use) -> None:
    use(utc(2026, 3, 28, 22, 59), 1)  # 23:59 in Berlin
    use(utc(2026, 3, 28, 23, 0), 2)  # midnight; the 29th has 23 hours
    use(utc(2026, 3, 29, 21, 59), 4)
    use(utc(2026, 3, 29, 22, 0), 8)  # midnight in summer time
    asked = Question(from_=utc(2026, 3, 28), to=utc(2026, 3, 31), window_size="DAY", zone=BERLIN)
    assert values(query_meter(session, meter, asked)) == [
        (utc(2026, 3, 28), utc(2026, 3, 28, 23), 1),
        (utc(2026, 3, 28, 23), utc(2026, 3, 29, 22), 6),
        (utc(2026, 3, 29, 22), utc(2026, 3, 30, 22), 8),
    ]


def test_months_follow_the_calendar_of_the_time_zone(session: Session, meter: Meter, use: Use) -> None:
    use(utc(2026, 2, 28, 23, 30), 1)  # March in Berlin
    use(utc(2026, 3, 31, 21, 59), 2)
    use(utc(2026, 3, 31, 22, 0), 4)  # April
    asked = Question(from_=utc(2026, 2, 1), to=utc(2026, 5, 1), window_size="MONTH", zone=BERLIN)
    assert values(query_meter(session, meter, asked)) == [
        (utc(2026, 2, 28, 23), utc(2026, 3, 31, 22), 3),
        (utc(2026, 3, 31, 22), utc(2026, 4, 30, 22), 4),
    ]


def test_usage_outside_the_asked_time_does_not_count_though_its_window_does(
    session: Session, meter: Meter, use: Use
) -> None:
    use(utc(2026, 3, 1, 11, 59), 1)
    use(utc(2026, 3, 1, 12), 2)
    use(utc(2026, 3, 1, 18), 4)
    asked = Question(from_=utc(2026, 3, 1, 12), to=utc(2026, 3, 1, 18), window_size="DAY")
    assert values(query_meter(session, meter, asked)) == [(utc(2026, 3, 1, 12), utc(2026, 3, 1, 18), 2)]


def test_groups_are_apart_and_a_missing_dimension_is_a_group_too(session: Session, meter: Meter, use: Use) -> None:
    use(utc(2026, 3, 1), 1, model="small")
    use(utc(2026, 3, 1), 2, model="large")
    use(utc(2026, 3, 1), 4, model="")
    use(utc(2026, 3, 1), 8, model="large", customer="beta")
    points = query_meter(session, meter, Question(to=utc(2026, 3, 2), group_by=["model", "subject"]))
    assert {(p.group["model"], p.group["subject"]): p.value for p in points} == {
        ("small", "acme"): 1,
        ("large", "acme"): 2,
        (None, "acme"): 4,
        ("large", "beta"): 8,
    }


def test_filters_by_subject_customer_subscription_and_dimension(session: Session, meter: Meter, use: Use) -> None:
    use(utc(2026, 3, 1), 1, model="small")
    use(utc(2026, 3, 1), 2, model="large")
    use(utc(2026, 3, 1), 8, customer="beta")

    def total(**asked: object) -> int | float:
        return sum(p.value for p in query_meter(session, meter, Question(to=utc(2026, 3, 2), **asked)))  # type: ignore[arg-type]

    by_customer = query_meter(session, meter, Question(to=utc(2026, 3, 2), group_by=["customerId", "subscriptionId"]))
    beta = next(point.group for point in by_customer if point.value == 8)
    assert total() == 11
    assert total(subjects=["beta"]) == 8
    assert total(subjects=["beta", "acme"]) == 11
    assert total(customer_ids=[beta["customerId"]]) == 8
    assert total(subscription_ids=[beta["subscriptionId"]]) == 8
    assert total(dimensions={"model": ["large"]}) == 2
    assert total(dimensions={"model": ["small", "large"]}, subjects=["acme"]) == 3


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [("SUM", 12), ("COUNT", 12), ("MAX", 7), ("MIN", 2), ("AVG", 4), ("LATEST", 3)],
)
def test_aggregations(session: Session, meter: Meter, use: Use, aggregation: str, expected: int) -> None:
    meter.aggregation = aggregation
    use(utc(2026, 3, 1, 1), 7)
    use(utc(2026, 3, 1, 23), 3)
    use(utc(2026, 3, 1, 12), 2)
    asked = Question(from_=utc(2026, 3, 1), to=utc(2026, 3, 3), window_size="DAY", zone=ZoneInfo("Asia/Kolkata"))
    assert sum(p.value for p in query_meter(session, meter, Question(to=utc(2026, 3, 2)))) == expected
    if aggregation == "SUM":  # 18:30 UTC is midnight in India
        assert [p.value for p in query_meter(session, meter, asked)] == [9, 3]


def test_a_count_of_distinct_values_is_refused(session: Session, meter: Meter) -> None:
    meter.aggregation = "UNIQUE_COUNT"
    with pytest.raises(Conflict) as refused:
        query_meter(session, meter, Question(to=utc(2026, 3, 2)))
    assert refused.value.code == "aggregation_not_supported"


def test_every_unknown_dimension_is_named_with_its_place(session: Session, meter: Meter) -> None:
    asked = Question(to=utc(2026, 3, 2), group_by=["model", "colour"], dimensions={"size": ["1"]})
    with pytest.raises(Invalid) as refused:
        query_meter(session, meter, asked)
    assert [fault["pointer"] for fault in refused.value.errors] == ["/groupBy/1", "/filterGroupBy/size"]


def test_more_windows_than_we_answer_are_refused(session: Session, meter: Meter, use: Use) -> None:
    asked = Question(from_=utc(2020, 1, 1), to=utc(2026, 1, 1), window_size="MINUTE")
    with pytest.raises(Invalid, match="windowSize"):
        query_meter(session, meter, asked)


instants = st.datetimes(datetime(2025, 1, 1), datetime(2026, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001  (hypothesis wants them naive)
zones = st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns", "Asia/Kolkata", "America/Havana", "Africa/Cairo"])


@settings(deadline=None)
@given(
    instants, st.timedeltas(timedelta(minutes=1), timedelta(days=90)), st.sampled_from(["HOUR", "DAY", "MONTH"]), zones
)
def test_windows_tile_what_was_asked_and_begin_where_the_clock_on_the_wall_does(
    start: datetime, length: timedelta, size: str, zone_name: str
) -> None:
    zone = ZoneInfo(zone_name)
    edges = list(window_edges(start, start + length, size, zone))
    assert (edges[0], edges[-1]) == (start, start + length)
    assert all(one < next_ for one, next_ in pairwise(edges))
    inner = [edge.astimezone(zone) for edge in edges[1:-1]]
    assert all(edge.minute == 0 and edge.second == 0 for edge in inner)
    if size != "HOUR":
        # Havana and Cairo put their clocks forward at midnight: that day begins at one.
        assert all(edge.hour in (0, 1) for edge in inner)
        days = [edge.date() for edge in inner]
        assert days == sorted(set(days))
    if size == "MONTH":
        assert all(edge.day == 1 for edge in inner)
    step = step_length_ms(edges)
    assert all(int(edge.timestamp() * 1000) % step == 0 for edge in inner)


def test_the_days_of_a_month_add_up_to_its_total(session: Session, meter: Meter, use: Use) -> None:
    start, end = utc(2026, 3, 1), utc(2026, 4, 1)
    for n in range(60):
        use(start + timedelta(hours=17 * n), n)
    asked = Question(from_=start, to=end, window_size="DAY", zone=BERLIN, group_by=["subscriptionId"])
    points = query_meter(session, meter, asked)
    subscription = points[0].group["subscriptionId"]
    assert subscription is not None
    assert sum(point.value for point in points) == meter_total(session, subscription, "tokens", start, end)


def test_the_document_has_openmeter_s_shape() -> None:
    asked = Question(from_=utc(2026, 3, 1), to=utc(2026, 3, 2), window_size="DAY", group_by=["subject", "model"])
    points = [Point(5, utc(2026, 3, 1), utc(2026, 3, 2), {"subject": "acme", "model": None})]
    assert as_document(asked, points) == {
        "from": "2026-03-01T00:00:00Z",
        "to": "2026-03-02T00:00:00Z",
        "windowSize": "DAY",
        "data": [
            {
                "value": 5,
                "windowStart": "2026-03-01T00:00:00Z",
                "windowEnd": "2026-03-02T00:00:00Z",
                "subject": "acme",
                "groupBy": {"model": None},
            }
        ],
    }


def test_csv_has_a_header_and_no_cell_that_a_spreadsheet_would_run() -> None:
    asked = Question(to=utc(2026, 3, 2), group_by=["model"])
    points = [
        Point(5, utc(2026, 3, 1), utc(2026, 3, 2), {"model": "=cmd|' /C calc'!A0"}),
        Point(6, utc(2026, 3, 1), utc(2026, 3, 2), {"model": 'a,"b"'}),
    ]
    assert as_csv(asked, points).splitlines() == [
        "window_start,window_end,model,value",
        "2026-03-01T00:00:00Z,2026-03-02T00:00:00Z,'=cmd|' /C calc'!A0,5",
        '2026-03-01T00:00:00Z,2026-03-02T00:00:00Z,"a,""b""",6',
    ]

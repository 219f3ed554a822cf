from collections.abc import Iterator
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, delete, update
from sqlmodel import Session

from builders.portal import NOW, a_batch, a_feature, a_meter, an_account, an_event
from farebox_portal.clock import from_ms, to_ms
from farebox_portal.db import transaction
from farebox_portal.subscriptions.tables import Subscription
from farebox_portal.usage.book import HOUR_MS
from farebox_portal.usage.ingest import apply_batch
from farebox_portal.usage.tables import UsageHour, UsageRow
from farebox_portal.usage.totals import _SPANS_IN_ONE_QUERY, Span, meter_total, totals, whole_hours

MS = timedelta(milliseconds=1)
DAY = timedelta(days=1)


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with transaction(engine) as session:
        a_meter(session)
        a_feature(session, meter_slug="api_requests")
        yield session


@pytest.fixture
def subscription(session: Session) -> Subscription:
    return an_account(session)[1]


def test_a_request_belongs_to_the_period_in_which_it_was_admitted_to_the_millisecond(
    session: Session, subscription: Subscription
) -> None:
    instants = {1: NOW - MS, 10: NOW, 100: NOW + DAY - MS, 1000: NOW + DAY}
    events = [an_event(subscription, f"r{units}", at, tokens=units) for units, at in instants.items()]
    apply_batch(session, a_batch(*events), NOW + 5 * DAY)
    assert meter_total(session, subscription.id, "tokens", NOW, NOW + DAY) == 110
    days = [Span(subscription.id, "tokens", to_ms(NOW + n * DAY), to_ms(NOW + (n + 1) * DAY)) for n in range(-1, 3)]
    assert totals(session, days) == [1, 110, 1000, 0]


def test_other_meters_and_other_subscriptions_are_not_in_a_total(session: Session, subscription: Subscription) -> None:
    _, other, _ = an_account(session, "other")
    events = [an_event(subscription, tokens=1, api_requests=10), an_event(other, tokens=100)]
    apply_batch(session, a_batch(*events), NOW)
    assert meter_total(session, subscription.id, "tokens", NOW, NOW + DAY) == 1


def test_a_total_can_be_of_some_dimensions_only(session: Session, subscription: Subscription) -> None:
    tags = [{"model": "large", "tier": "a"}, {"model": "small", "tier": "a"}, {"model": "large", "tier": "b"}, {}]
    events = [an_event(subscription, f"r{n}", NOW, tag, tokens=10**n) for n, tag in enumerate(tags)]
    apply_batch(session, a_batch(*events), NOW)

    def total(**filters: object) -> int:
        return meter_total(session, subscription.id, "tokens", NOW, NOW + DAY, filters)

    assert total() == 1111
    assert total(model="large") == 101
    assert total(model=["large", "small"]) == 111
    assert total(model="large", tier="b") == 100
    assert total(model="unknown") == 0


def test_more_spans_than_travel_at_once_come_back_in_their_order(session: Session, subscription: Subscription) -> None:
    count = _SPANS_IN_ONE_QUERY + 5
    apply_batch(session, a_batch(*(an_event(subscription, f"r{n}", NOW + n * MS, a=n) for n in range(count))), NOW)
    spans = [Span(subscription.id, "a", to_ms(NOW) + n, to_ms(NOW) + n + 1) for n in range(count)]
    assert totals(session, spans) == list(range(count))
    assert totals(session, []) == []


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, 2, (0, 2)),
        (0.5, 2.5, (1, 2)),
        (0.25, 0.75, (0.75, 0.75)),
        (0.25, 1, (1, 1)),
        (1, 1.75, (1, 1)),
        (0.5, 1.5, (1, 1)),
        (1, 1, (1, 1)),
    ],
)
def test_the_whole_hours_of_a_span(start: float, end: float, expected: tuple[float, float]) -> None:
    found = whole_hours(int(start * HOUR_MS), int(end * HOUR_MS))
    assert found == tuple(int(hours * HOUR_MS) for hours in expected)


instants_ms = st.integers(3 * HOUR_MS - 3, 3 * HOUR_MS + 3) | st.integers(1, 6 * HOUR_MS)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    used=st.lists(st.tuples(instants_ms, st.integers(0, 1000)), max_size=8), span=st.tuples(instants_ms, instants_ms)
)
def test_a_total_is_the_sum_of_the_rows_wherever_it_starts_and_ends(
    session: Session, subscription: Subscription, used: list[tuple[int, int]], span: tuple[int, int]
) -> None:
    for table in (UsageRow, UsageHour):
        session.exec(delete(table))
    events = [an_event(subscription, f"r{n}", from_ms(at), a=quantity) for n, (at, quantity) in enumerate(used)]
    apply_batch(session, a_batch(*events), NOW)
    start, end = min(span), max(span)
    found = meter_total(session, subscription.id, "a", from_ms(start), from_ms(end))
    assert found == sum(quantity for at, quantity in used if start <= at < end)


def test_a_total_reads_whole_hours_from_their_sums(session: Session, subscription: Subscription) -> None:
    apply_batch(session, a_batch(an_event(subscription, "r1", NOW, a=1), an_event(subscription, "r2", NOW, a=2)), NOW)
    session.exec(update(UsageHour).values(quantity=50))
    assert meter_total(session, subscription.id, "a", NOW - DAY, NOW + DAY) == 50
    assert meter_total(session, subscription.id, "a", NOW - DAY, NOW + MS) == 3

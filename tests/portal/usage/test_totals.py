from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlmodel import Session

from builders.portal import NOW, a_batch, a_database, a_feature, a_meter, an_account, an_event
from farebox_portal.clock import to_ms
from farebox_portal.db import transaction
from farebox_portal.subscriptions.tables import Subscription
from farebox_portal.usage.ingest import apply_batch
from farebox_portal.usage.totals import meter_total, period_totals

MS = timedelta(milliseconds=1)
DAY = timedelta(days=1)


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    engine = a_database(tmp_path)
    with transaction(engine) as session:
        a_meter(session)
        a_feature(session, meter_slug="api_requests")
        yield session
    engine.dispose()


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
    boundaries = [to_ms(NOW + n * DAY) for n in (-1, 0, 1, 2, 3)]
    assert period_totals(session, subscription.id, "tokens", boundaries) == [1, 110, 1000, 0]


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

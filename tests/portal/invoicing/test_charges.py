from datetime import UTC, datetime, timedelta

import pytest
from sqlmodel import Session

from builders.subscriptions import APRIL, an_order
from farebox_portal.invoicing.charges import Due, charges
from farebox_portal.subscriptions import lifecycle
from farebox_portal.subscriptions.lifecycle import PauseInput
from farebox_portal.subscriptions.rows import read_life, read_plans
from farebox_portal.subscriptions.stretches import stretches
from farebox_portal.subscriptions.tables import Subscription

pytestmark = pytest.mark.usefixtures("shelf")

DAY = timedelta(days=1)
MAY = datetime(2026, 5, 1, tzinfo=UTC)
JUNE = datetime(2026, 6, 1, tzinfo=UTC)


def dues(session: Session, row: Subscription, until: datetime) -> list[Due]:
    life = read_life(session, row)
    return list(charges(stretches(life, read_plans(session, [life])), life.anchor, until))


def test_what_is_charged_in_advance_is_due_at_its_beginning_and_the_rest_at_its_end(session: Session) -> None:
    row = an_order(session, "pro")
    assert [(due.card.key, due.service.served.start, due.at) for due in dues(session, row, MAY)] == [
        ("fee", APRIL, APRIL),
        ("fee", MAY, MAY),
        ("api_requests", APRIL, MAY),
        ("api_requests", MAY, JUNE),
    ]


def test_a_pause_cuts_fees_and_leaves_usage_whole_and_what_is_paid_once_is_not_paid_twice(session: Session) -> None:
    row = an_order(session, "bounded")
    lifecycle.pause(session, row, PauseInput(), APRIL + 10 * DAY)
    lifecycle.resume(session, row, "immediate", APRIL + 20 * DAY)
    found = [(due.card.key, due.service.served.start, due.service.served.end) for due in dues(session, row, MAY - DAY)]
    assert sorted(found) == [
        ("api_requests", APRIL, MAY),
        ("arrears", APRIL, APRIL + 10 * DAY),
        ("arrears", APRIL + 20 * DAY, MAY),
        ("setup", APRIL, APRIL + 10 * DAY),
    ]


def test_a_life_that_was_called_off_is_charged_nothing(session: Session) -> None:
    row = an_order(session, "pro", timing=MAY.isoformat())
    lifecycle.cancel(session, row, "immediate", APRIL)
    assert dues(session, row, JUNE) == []

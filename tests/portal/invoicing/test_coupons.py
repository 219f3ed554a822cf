"""Coupons on real invoices: what they take off, how long, and what a change of plan gives back of a reduced fee."""

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlmodel import Session, select

from builders.invoices import DAY, TERMS, lines_of
from builders.subscriptions import APRIL, an_order
from farebox_portal.catalog import coupons as catalog
from farebox_portal.invoicing import actions, replay
from farebox_portal.invoicing.tables import CreditRow
from farebox_portal.subscriptions import coupons, lifecycle
from farebox_portal.subscriptions.lifecycle import PauseInput
from farebox_portal.subscriptions.tables import Subscription

from .conftest import Run

pytestmark = pytest.mark.usefixtures("shelf")

MAY = datetime(2026, 5, 1, tzinfo=UTC)
JULY = datetime(2026, 7, 1, tzinfo=UTC)


def redeemed(session: Session, plan: str = "flat", **said: Any) -> Subscription:
    row = an_order(session, plan)
    document = {"code": "SPRING", "name": "Spring", "duration": "once", "percentOff": "25"} | said
    document = {name: value for name, value in document.items() if value is not None}
    catalog.create(session, catalog.CouponInput.model_validate(document), APRIL)
    coupons.redeem(session, row, "SPRING", APRIL)
    return row


@pytest.mark.parametrize(
    ("said", "totals"),
    [
        ({}, [750, 1000, 1000, 1000]),
        ({"duration": "forever"}, [750] * 4),
        ({"duration": "repeating", "durationInMonths": 2}, [750, 750, 1000, 1000]),
        ({"percentOff": None, "amountOff": "4.00", "currency": "USD"}, [600, 1000, 1000, 1000]),
        ({"percentOff": None, "amountOff": "40.00", "currency": "USD"}, [0, 1000, 1000, 1000]),
        ({"appliesTo": {"featureKeys": ["api_requests"]}}, [1000] * 4),
    ],
    ids=["once", "forever", "two months", "an amount", "more than it costs", "something else"],
)
def test_a_coupon_takes_off_what_it_says_for_as_long_as_it_says(
    session: Session, run: Run, said: dict[str, Any], totals: list[int]
) -> None:
    redeemed(session, **said)
    found = run(JULY)
    assert [one.total_minor for one in found] == totals
    assert all(replay.show(session, one).is_identical for one in found)


def test_a_reduced_fee_gives_back_what_was_paid_for_the_time(session: Session, run: Run) -> None:
    row = redeemed(session)
    (start,) = run(APRIL)
    actions.pay(session, start, TERMS, APRIL)
    lifecycle.pause(session, row, PauseInput(), APRIL + 15 * DAY)
    run(APRIL + 15 * DAY)
    credit = session.exec(select(CreditRow)).one()
    assert (credit.granted_minor, credit.released_minor) == (375, 500)
    lifecycle.resume(session, row, "immediate", APRIL + 18 * DAY)
    resumed = run(APRIL + 18 * DAY)[-1]
    assert [line.gross_minor for line in lines_of(session, resumed)] == [400]


def test_a_coupon_that_a_voided_invoice_used_up_is_good_again(session: Session, run: Run) -> None:
    redeemed(session)
    (start,) = run(APRIL)
    actions.void(session, start, TERMS, APRIL + DAY, rebill=True)
    _, again = run(APRIL + DAY)
    assert (again.kind, again.total_minor) == ("start", 750)
    assert run(MAY)[-1].total_minor == 1000

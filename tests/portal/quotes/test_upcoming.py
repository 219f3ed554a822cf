from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlmodel import Session

from builders.quotes import Use
from builders.subscriptions import APRIL, an_order
from farebox_portal.errors import NotFound
from farebox_portal.quotes.upcoming import UpcomingInvoice, upcoming
from farebox_portal.subscriptions import lifecycle, plan_change
from farebox_portal.subscriptions.lifecycle import PauseInput
from farebox_portal.subscriptions.plan_change import ChangeInput
from farebox_portal.subscriptions.tables import Subscription
from farebox_portal.testclock import ClockAdvance
from farebox_portal.usage.access import used_share

pytestmark = pytest.mark.usefixtures("shelf")

DAY = timedelta(days=1)
MID = APRIL + 15 * DAY
MAY = datetime(2026, 5, 1, tzinfo=UTC)
JUNE = datetime(2026, 6, 1, tzinfo=UTC)


def lines(invoice: UpcomingInvoice) -> list[tuple[str, str, datetime, datetime]]:
    return [(line.description, line.amount, line.period.from_, line.period.to) for line in invoice.lines if _says(line)]


def _says(line: Any) -> bool:
    return bool(line.amount != "0.00")


def change(session: Session, row: Subscription, plan: str, now: datetime) -> None:
    planned = plan_change.plan_change(
        session, row, ChangeInput.model_validate({"plan": {"key": plan}}), used_share, now
    )
    plan_change.carry_out(session, planned, now)


def test_the_next_invoice_is_the_next_periods_fee_and_this_ones_usage(session: Session, use: Use) -> None:
    row = an_order(session, "pro")
    use(row, APRIL, 1000)
    use(row, MID, 250)
    use(row, MAY, 9000)  # the next period's: not a thing of this invoice, whenever it is asked for
    found = upcoming(session, row.id, MID)
    assert lines(found) == [
        ("Fee", "29.00", MAY, JUNE),
        ("api_requests: over 1,000", "2.50", APRIL, MAY),
    ]
    assert (found.total, found.currency, found.invoice_at, found.computed_at) == ("31.50", "USD", MAY, MID)
    assert (found.period.from_, found.period.to) == (APRIL, MAY)
    usage = next(line for line in found.lines if line.tier == 2)
    assert (usage.kind, usage.meter, usage.feature_key, usage.quantity) == (
        "usage",
        "api_requests",
        "api_requests",
        "250",
    )
    assert usage.plan.key == "pro"


def test_nobody_elses_usage_is_on_it(session: Session, use: Use) -> None:
    row, other = an_order(session, "pro"), an_order(session, "pro", customer="other")
    use(other, MID, 5000)
    assert upcoming(session, row.id, MID).total == "29.00"
    assert upcoming(session, other.id, MID).total == "69.00"


def test_a_plan_that_is_free_has_an_invoice_of_nothing(session: Session) -> None:
    found = upcoming(session, an_order(session, "free").id, MID)
    assert (found.total, found.lines) == ("0.00", [])


def test_the_boundary_belongs_to_the_period_that_it_opens(session: Session, use: Use) -> None:
    row = an_order(session, "pro")
    use(row, MAY - timedelta(milliseconds=1), 1100)
    assert upcoming(session, row.id, MAY - timedelta(microseconds=1)).total == "30.00"
    assert upcoming(session, row.id, MAY).total == "29.00"
    assert upcoming(session, row.id, MAY).period.to == JUNE


def test_whoever_cancels_pays_for_usage_and_no_more_fees(session: Session, use: Use) -> None:
    row = an_order(session, "pro")
    use(row, MID, 1500)
    lifecycle.cancel(session, row, "next_billing_cycle", MID)
    assert lines(upcoming(session, row.id, MID)) == [("api_requests: over 1,000", "5.00", APRIL, MAY)]
    lifecycle.unschedule_cancelation(session, row, MID)
    assert upcoming(session, row.id, MID).total == "34.00"


def test_of_what_is_over_no_invoice_is_upcoming(session: Session) -> None:
    row = an_order(session, "pro")
    lifecycle.cancel(session, row, "immediate", MID)
    with pytest.raises(NotFound) as refused:
        upcoming(session, row.id, MID)
    assert refused.value.code == "no_upcoming_invoice"


def test_what_has_not_begun_owes_its_first_fee(session: Session) -> None:
    row = an_order(session, "pro", timing=MAY.isoformat())
    found = upcoming(session, row.id, APRIL)
    assert lines(found) == [("Fee", "29.00", MAY, JUNE)]
    assert found.invoice_at == MAY


def test_after_a_planned_downgrade_the_next_fee_is_the_new_plans(session: Session, use: Use) -> None:
    row = an_order(session, "max")
    use(row, MID, 2000)
    change(session, row, "pro", MID)
    found = upcoming(session, row.id, MID)
    assert [(line.plan.key, line.description, line.amount) for line in found.lines if _says(line)] == [
        ("max", "api_requests: over 1,000", "5.00"),
        ("pro", "Fee", "29.00"),
    ]


def test_after_an_upgrade_in_the_middle_usage_is_rated_by_the_plan_in_which_it_was_made(
    session: Session, use: Use
) -> None:
    row = an_order(session, "pro")
    use(row, APRIL, 5000)
    change(session, row, "max", MID)
    use(row, MID, 2000)
    assert lines(upcoming(session, row.id, MID + DAY)) == [
        ("Fee", "99.00", MAY, JUNE),
        ("api_requests: over 1,000", "5.00", MID, MAY),
    ]


def test_a_trial_is_closed_where_it_ends_with_the_fee_for_what_is_left_of_the_month(session: Session) -> None:
    row = an_order(session, "trial")
    full = APRIL + 14 * DAY
    found = upcoming(session, row.id, APRIL + DAY)
    assert (found.period.to, found.total) == (full, "10.67")  # 20 × 16/30
    assert lines(found) == [("Fee", "10.67", full, MAY)]
    assert lines(upcoming(session, row.id, full)) == [("Fee", "20.00", MAY, JUNE)]


def test_a_pause_does_not_begin_the_tiers_anew(session: Session, use: Use) -> None:
    row = an_order(session, "pro")
    use(row, APRIL, 800)
    lifecycle.pause(session, row, PauseInput(), APRIL + DAY)
    lifecycle.resume(session, row, "immediate", MID)
    use(row, MID, 800)
    found = upcoming(session, row.id, MID + DAY)
    assert ("api_requests: over 1,000", "6.00", APRIL, MAY) in lines(found)
    assert (found.period.from_, found.period.to) == (APRIL, MAY)


def test_while_it_is_paused_the_next_period_has_no_fee(session: Session, use: Use) -> None:
    row = an_order(session, "pro")
    use(row, APRIL, 1200)
    lifecycle.pause(session, row, PauseInput(), MID)
    assert lines(upcoming(session, row.id, MID + DAY)) == [("api_requests: over 1,000", "2.00", APRIL, MAY)]


def test_minimums_arrears_and_what_was_paid_once(session: Session, use: Use) -> None:
    row = an_order(session, "bounded")
    use(row, MID, 100)
    assert lines(upcoming(session, row.id, MID)) == [
        ("api_requests", "1.00", APRIL, MAY),
        ("api_requests: up to the minimum spend", "4.00", APRIL, MAY),
        ("Fee", "10.00", APRIL, MAY),
    ]
    ahead = an_order(session, "bounded", timing=MAY.isoformat(), customer="other")
    assert lines(upcoming(session, ahead.id, MID))[0][:2] == ("Fee", "50.00")


def test_each_slice_of_a_meter_has_its_own_price(session: Session, use: Use) -> None:
    row = an_order(session, "tokens")
    use(row, MID, model="large", tokens=100)
    use(row, MID, model="small", tokens=1000)
    use(row, MID, model="other", tokens=7)
    assert [(line.feature_key, line.quantity, line.amount) for line in upcoming(session, row.id, MID).lines] == [
        ("large", "100", "10.00"),
        ("small", "1000", "10.00"),
    ]


def test_usage_is_found_where_the_wall_dated_it_when_the_clock_was_put_forward(session: Session, use: Use) -> None:
    row, sliced = an_order(session, "pro"), an_order(session, "tokens", customer="other")
    session.add(ClockAdvance(wall_at=APRIL + DAY, advanced_to=MAY + DAY))
    session.flush()
    use(row, APRIL + 2 * DAY, 1300)  # in the portal's time the third of May
    found = upcoming(session, row.id, MAY + 3 * DAY)
    assert ("api_requests: over 1,000", "3.00", MAY, JUNE) in lines(found)
    use(sliced, APRIL + 2 * DAY, model="large", tokens=10)
    assert upcoming(session, sliced.id, MAY + 3 * DAY).total == "1.00"

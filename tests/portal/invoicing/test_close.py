from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest
from sqlmodel import Session, col, select

from builders.invoices import DAY, HOUR, TERMS, lines_of, told
from builders.quotes import Use
from builders.subscriptions import APRIL, an_order
from farebox_portal.invoicing import actions
from farebox_portal.invoicing.close import close_all
from farebox_portal.invoicing.tables import CreditRow, Invoice, InvoiceLine
from farebox_portal.invoicing.terms import Terms
from farebox_portal.subscriptions import lifecycle, plan_change
from farebox_portal.subscriptions.lifecycle import PauseInput
from farebox_portal.subscriptions.plan_change import ChangeInput
from farebox_portal.subscriptions.tables import Subscription
from farebox_portal.usage.access import used_share

from .conftest import Run

pytestmark = pytest.mark.usefixtures("shelf")

MID = APRIL + 15 * DAY
MAY = datetime(2026, 5, 1, tzinfo=UTC)
JUNE = datetime(2026, 6, 1, tzinfo=UTC)


def change(session: Session, row: Subscription, plan: str, now: datetime, **fields: str) -> None:
    wanted = ChangeInput.model_validate({"plan": {"key": plan}} | fields)
    plan_change.carry_out(session, plan_change.plan_change(session, row, wanted, used_share, now), now)


def pay_all(session: Session, now: datetime) -> None:
    for invoice in session.exec(select(Invoice).where(Invoice.status == "issued")).all():
        actions.pay(session, invoice, TERMS, now)


def left(session: Session) -> int:
    return sum(row.left_minor for row in session.exec(select(CreditRow)))


def test_a_subscription_begins_with_its_fees_and_each_period_adds_the_usage(
    session: Session, use: Use, run: Run
) -> None:
    row = an_order(session, "pro")
    (start,) = run(APRIL)
    assert (start.kind, start.status, start.number, start.total_minor) == ("start", "issued", "INV-000001", 2900)
    assert (start.period_start, start.period_end, start.due_at) == (APRIL, MAY, APRIL + TERMS.due_after)
    use(row, MID, 1250)
    assert len(run(MID)) == 1
    _, draft = run(MAY)
    assert (draft.kind, draft.status, draft.number, told(session, draft)) == ("period", "draft", None, [("Fee", 2900)])
    _, closed = run(MAY + HOUR)
    assert (closed.id, closed.status, closed.number, closed.total_minor) == (draft.id, "issued", "INV-000002", 3150)
    assert told(session, closed) == [("Fee", 2900), ("api_requests: over 1,000", 250)]
    assert (closed.period_start, closed.period_end) == (APRIL, MAY)
    assert len(run(JUNE - DAY)) == 2


def test_usage_of_the_collection_window_is_on_the_invoice_and_later_usage_on_the_next(
    session: Session, use: Use, run: Run
) -> None:
    row = an_order(session, "pro")
    run(MAY)
    use(row, MAY - DAY, 1100)  # delivered within the hour
    run(MAY + HOUR)
    use(row, MAY - DAY, 50, name="late")
    use(row, MAY, 1001)
    _, april, may = run(JUNE + HOUR)
    assert told(session, april) == [("Fee", 2900), ("api_requests: over 1,000", 100)]
    assert told(session, may) == [
        ("Fee", 2900),
        ("api_requests: over 1,000", 1),
        ("api_requests: over 1,000", 50),
    ]
    late = lines_of(session, may)[-1]
    assert (late.revision, late.quantity, late.metered) == (1, 50, 1150)
    assert (late.period_start, late.period_end) == (APRIL, MAY)


def test_late_usage_that_makes_a_period_cheaper_is_given_back(session: Session, use: Use, run: Run) -> None:
    row = an_order(session, "volume")
    use(row, MID, 1000)
    use(row, MAY + DAY, 2000)
    (april,) = run(MAY + HOUR)
    assert april.total_minor == 10_000
    use(row, MID, 1, name="late")  # all of it costs a cent each now
    _, may = run(JUNE + HOUR)
    assert told(session, may) == [
        ("api_requests: over 1,000", 2000),
        ("api_requests: up to 1,000", -10_000),
        ("api_requests: over 1,000", 1001),
    ]
    assert (may.status, may.reasons, may.number) == ("held", ["negative_total"], None)
    actions.finalize(session, may, TERMS, JUNE + DAY)
    assert (may.status, may.number, may.outstanding_minor) == ("paid", "INV-000002", 0)
    assert left(session) == 10_000 - 1001 - 2000
    use(row, JUNE, 90)
    june = run(datetime(2026, 7, 1, 1, tzinfo=UTC))[-1]
    assert (june.status, june.total_minor, left(session)) == ("paid", 0, 6999 - 900)


def test_a_plan_without_usage_waits_for_nothing(session: Session, run: Run) -> None:
    an_order(session, "flat")
    assert [(one.kind, one.status) for one in run(MAY)] == [("start", "issued"), ("period", "issued")]


def test_who_owes_nothing_gets_no_invoice(session: Session, use: Use, run: Run) -> None:
    row = an_order(session, "free")
    use(row, MID, 50)
    assert run(datetime(2027, 4, 1, 2, tzinfo=UTC)) == []


def test_runs_that_were_missed_are_made_up_for_period_by_period(session: Session, use: Use, run: Run) -> None:
    row = an_order(session, "pro")
    use(row, MID, 1250)
    use(row, MAY, 1300)
    found = run(JUNE + HOUR)
    assert [(one.sequence, one.kind, one.period_start, one.total_minor) for one in found] == [
        (1, "start", APRIL, 2900),
        (2, "period", APRIL, 3150),
        (3, "period", MAY, 3200),
    ]
    assert run(JUNE + HOUR) == found


def test_what_is_less_than_can_be_charged_waits_for_the_next_period(session: Session, use: Use, run: Run) -> None:
    row = an_order(session, "cents")
    use(row, MID, 30)
    (draft,) = run(MAY + HOUR)
    assert (draft.status, draft.subtotal_minor) == ("draft", 30)
    use(row, MAY + DAY, 25)
    (closed,) = run(JUNE + HOUR)
    assert (closed.id, closed.status, closed.total_minor, closed.period_start) == (draft.id, "issued", 55, MAY)
    assert told(session, closed) == [("api_requests", 30), ("api_requests", 25)]
    assert [line.period_start for line in lines_of(session, closed)] == [APRIL, MAY]


def test_an_installation_may_issue_small_invoices(session: Session, use: Use, run: Run) -> None:
    row = an_order(session, "cents")
    use(row, MID, 30)
    (closed,) = run(MAY + HOUR, Terms(carries_small=False))
    assert (closed.status, closed.total_minor) == ("issued", 30)


def test_the_last_invoice_is_issued_however_small_it_is(session: Session, use: Use, run: Run) -> None:
    row = an_order(session, "cents")
    use(row, MID, 30)
    lifecycle.cancel(session, row, "immediate", MID + DAY)
    (closed,) = run(MID + DAY + HOUR)
    assert (closed.kind, closed.status, closed.total_minor) == ("final", "issued", 30)
    assert (closed.period_start, closed.period_end) == (APRIL, MID + DAY)


def test_what_was_carried_to_the_end_is_issued_there_though_nothing_is_added(
    session: Session, use: Use, run: Run
) -> None:
    row = an_order(session, "cents")
    use(row, MID, 30)
    (carried,) = run(MAY + HOUR)
    assert (carried.kind, carried.status) == ("period", "draft")
    lifecycle.cancel(session, row, "immediate", MAY + DAY)
    (closed,) = run(MAY + DAY + HOUR)
    assert (closed.id, closed.kind, closed.status, closed.total_minor) == (carried.id, "final", "issued", 30)
    assert (closed.period_start, closed.period_end) == (MAY, MAY + DAY)


def test_usage_that_comes_after_the_last_invoice_makes_one_more(session: Session, use: Use, run: Run) -> None:
    row = an_order(session, "cents")
    use(row, MID, 100)
    lifecycle.cancel(session, row, "immediate", MID + DAY)
    run(MID + DAY + HOUR)
    use(row, MID, 7, name="late")
    assert len(run(MID + 2 * DAY)) == 1
    _, late = run(MID + 2 * DAY + HOUR)
    assert (late.kind, late.status, late.total_minor) == ("late", "issued", 7)
    run(MID + 40 * DAY)
    session.refresh(row)
    assert row.invoice_due_at is None


def test_a_cancelation_gives_nothing_back(session: Session, run: Run) -> None:
    row = an_order(session, "flat")
    run(APRIL)
    pay_all(session, APRIL)
    lifecycle.cancel(session, row, "immediate", MID)
    assert len(run(MID + 30 * DAY)) == 1
    assert left(session) == 0


def test_an_end_that_is_known_beforehand_is_charged_to_the_end_alone(session: Session, run: Run) -> None:
    row = an_order(session, "flat")
    lifecycle.cancel(session, row, MID, APRIL)
    (only,) = run(MAY)
    assert (only.total_minor, only.period_end) == (500, MID)


def test_a_cancelation_that_was_taken_back_charges_the_rest_of_the_fee(session: Session, run: Run) -> None:
    row = an_order(session, "flat")
    lifecycle.cancel(session, row, MID, APRIL)
    run(APRIL)
    lifecycle.unschedule_cancelation(session, row, APRIL + DAY)
    assert [one.total_minor for one in run(APRIL + DAY)] == [500, 500]


def test_an_upgrade_makes_an_invoice_of_its_fee_less_what_is_left_of_the_old_one(
    session: Session, use: Use, run: Run
) -> None:
    row = an_order(session, "pro")
    run(APRIL)
    pay_all(session, APRIL)
    use(row, APRIL + DAY, 700)
    change(session, row, "max", MID)
    _, changed = run(MID)
    # by time alone: the entitlements of these plans are soft, and 0 is included in them
    assert (changed.kind, changed.status, changed.total_minor) == ("change", "issued", 4950 - 1450)
    fee, *_ = lines_of(session, changed)
    assert [(one["kind"], one["amountMinor"]) for one in fee.reductions] == [("credit", 1450)]
    *_, period = run(MAY + HOUR)
    fee, *_ = lines_of(session, period)
    assert (fee.description, fee.meter) == ("Fee", None)
    assert period.total_minor == 9900


def test_a_credit_is_the_fee_less_the_greater_of_the_two_shares(session: Session, run: Run) -> None:
    row = an_order(session, "flat")
    run(APRIL)
    pay_all(session, APRIL)
    change(session, row, "pro", MID)
    life_row = next(iter(session.exec(select(lifecycle.SegmentRow))))
    life_row.used_share = str(Fraction(7, 10))
    session.add(life_row)
    _, changed = run(MID)
    assert changed.total_minor == 1450 - 300


def test_nothing_is_given_back_of_a_fee_before_it_was_paid(session: Session, run: Run) -> None:
    row = an_order(session, "pro")
    run(APRIL)
    change(session, row, "max", MID)
    assert run(MID)[-1].total_minor == 4950
    pay_all(session, MID + DAY)
    *_, period = run(MAY + HOUR)
    assert (period.total_minor, left(session)) == (9900 - 1450, 0)


def test_going_back_and_forth_between_plans_makes_no_money(session: Session, run: Run) -> None:
    row = an_order(session, "flat")
    plans = ["pro", "max", "pro", "flat"]
    for day, plan in enumerate(["", *plans, *plans]):
        now = APRIL + day * DAY
        if plan:
            change(session, row, plan, now, timing="immediate")
        run(now)
        pay_all(session, now)
    paid = sum(one.paid_minor for one in session.exec(select(Invoice)))
    served = [1000, 2900, 9900, 2900, 1000, 2900, 9900, 2900]
    exact = sum(Fraction(fee, 30) for fee in served) + Fraction(1000 * 22, 30)
    assert abs(paid - left(session) - exact) <= len(served)


def test_one_session_may_change_and_invoice_as_often_as_it_likes(session: Session) -> None:
    row = an_order(session, "flat")
    for day, plan in enumerate(["", "pro", "max", "pro"]):
        if plan:
            change(session, row, plan, APRIL + day * DAY, timing="immediate")
        close_all(session, APRIL + day * DAY, TERMS)  # nothing is read anew in between
    fees = [line.gross_minor for line in session.exec(select(InvoiceLine).order_by(col(InvoiceLine.invoice_id)))]
    assert sorted(fees) == sorted([1000, 2803, 9240, 2610])


def test_a_pause_gives_back_the_time_that_is_not_served(session: Session, run: Run) -> None:
    row = an_order(session, "flat")
    run(APRIL)
    pay_all(session, APRIL)
    lifecycle.pause(session, row, PauseInput(), APRIL + 10 * DAY)
    lifecycle.resume(session, row, "immediate", APRIL + 20 * DAY)
    assert len(run(APRIL + 20 * DAY)) == 1
    assert left(session) == 333  # 20 of 30 days are 6.67 of 10.00
    _, may = run(MAY)
    assert (may.total_minor, left(session)) == (667, 0)


def test_a_fee_that_goes_on_is_charged_up_to_the_cent_that_the_whole_would_cost(session: Session, run: Run) -> None:
    row = an_order(session, "flat")
    run(APRIL)
    pay_all(session, APRIL)
    for day in (7, 14, 21):
        lifecycle.pause(session, row, PauseInput(), APRIL + day * DAY)
        lifecycle.cancel(session, row, APRIL + (day + 2) * DAY, APRIL + day * DAY)  # an end is looked at, a pause not
        run(APRIL + (day + 1) * DAY)
        lifecycle.unschedule_cancelation(session, row, APRIL + (day + 1) * DAY)
        lifecycle.resume(session, row, "immediate", APRIL + (day + 1) * DAY)
        found = run(APRIL + (day + 1) * DAY)
    charged = sum(line.gross_minor for one in found for line in lines_of(session, one))
    granted = sum(row.granted_minor for row in session.exec(select(CreditRow)))
    assert charged - granted == 900  # 27 of 30 days


def test_a_pause_over_the_end_of_a_period_is_charged_from_its_own_end_on(session: Session, run: Run) -> None:
    row = an_order(session, "flat")
    run(APRIL)
    pay_all(session, APRIL)
    lifecycle.pause(session, row, PauseInput(), APRIL + 10 * DAY)
    assert len(run(MAY)) == 1
    assert left(session) == 667
    lifecycle.resume(session, row, "immediate", MAY + 10 * DAY)
    _, resumed = run(MAY + 10 * DAY)
    assert (resumed.kind, resumed.status, told(session, resumed)) == ("change", "draft", [("Fee", 677)])
    (_, june) = run(JUNE)  # ten cents were left to pay: too little for an invoice
    assert (june.status, june.total_minor, left(session)) == ("issued", 677 + 1000 - 667, 0)


def test_a_trial_ends_in_the_fee_of_the_phase_after_it(session: Session, run: Run) -> None:
    an_order(session, "trial")
    assert run(APRIL + 13 * DAY) == []
    (first,) = run(APRIL + 14 * DAY)
    assert (first.kind, first.period_start, first.period_end) == ("change", APRIL + 14 * DAY, MAY)
    assert first.total_minor == round(2000 * 16 / 30)


def test_a_setup_fee_an_arrears_fee_and_a_minimum_are_each_charged_once(session: Session, use: Use, run: Run) -> None:
    row = an_order(session, "bounded")
    use(row, MID, 100)
    setup, period = run(MAY + HOUR)
    assert told(session, setup) == [("Fee", 5000)]
    assert told(session, period) == [
        ("Fee", 1000),
        ("api_requests", 100),
        ("api_requests: up to the minimum spend", 400),
    ]
    use(row, MID, 150, name="late")
    *_, may = run(JUNE + HOUR)
    assert told(session, may)[2:] == [
        ("api_requests: up to the minimum spend", -400),
        ("api_requests", 150),
        ("api_requests: up to the minimum spend", 250),
    ]


def test_an_invoice_far_above_what_is_usual_is_held(session: Session, use: Use, run: Run) -> None:
    row = an_order(session, "cents")
    for month in (4, 5, 6):
        use(row, datetime(2026, month, 10, tzinfo=UTC), 1000)
    use(row, datetime(2026, 7, 10, tzinfo=UTC), 5001)
    *usual, odd = run(datetime(2026, 8, 1, 1, tzinfo=UTC))
    assert [one.status for one in usual] == ["issued"] * 3
    assert (odd.status, odd.reasons) == ("held", ["unusual_total"])
    use(row, datetime(2026, 8, 10, tzinfo=UTC), 1000)
    after = run(datetime(2026, 9, 1, 1, tzinfo=UTC))[-1]
    assert (after.status, after.total_minor) == ("issued", 1000)  # nothing of the held one is on it


def test_filtered_meters_are_rated_by_what_passes_the_filter(session: Session, use: Use, run: Run) -> None:
    row = an_order(session, "tokens")
    use(row, MID, model="large", tokens=100)
    use(row, MID, model="small", tokens=100)
    (only,) = run(MAY + HOUR)
    assert told(session, only) == [("large", 1000), ("small", 100)]


def test_a_charge_is_no_earlier_than_it_is_due(session: Session, run: Run) -> None:
    an_order(session, "flat", timing=MAY.isoformat())
    assert run(MAY - timedelta(microseconds=1)) == []
    assert [one.period_start for one in run(MAY)] == [MAY]

"""A replay rates anew: it agrees with what was issued, and with nothing else."""

from datetime import UTC, datetime

import pytest
from sqlmodel import Session, select

from builders.invoices import DAY, HOUR, TERMS, a_shelf
from builders.portal import a_plan
from builders.quotes import Use
from builders.subscriptions import APRIL, a_fee, an_order
from farebox_portal.catalog.tables import Plan
from farebox_portal.errors import Conflict
from farebox_portal.invoicing import actions, replay
from farebox_portal.invoicing.tables import InvoiceLine
from farebox_portal.subscriptions import lifecycle
from farebox_portal.subscriptions.lifecycle import PauseInput

from .conftest import Run

MAY = datetime(2026, 5, 1, tzinfo=UTC)
JULY = datetime(2026, 7, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def sold(session: Session) -> None:
    a_shelf(session)


def test_every_kind_of_line_replays_to_the_byte(session: Session, use: Use, run: Run) -> None:
    for plan in ("pro", "volume", "bounded", "tokens", "trial"):
        row = an_order(session, plan, customer=plan)
        used = {"tokens": 120} if plan == "tokens" else {"api_requests": 1500}
        use(row, APRIL + DAY, model="large" if plan == "tokens" else "", **used)
        lifecycle.pause(session, row, PauseInput(), APRIL + 10 * DAY)
        run(APRIL + 10 * DAY)
        lifecycle.resume(session, row, "immediate", APRIL + 17 * DAY)
        run(MAY + HOUR)
        use(row, APRIL + DAY, model="large" if plan == "tokens" else "", name="late", **used)
    found = [one for one in run(JULY) if one.document is not None]
    assert {one.kind for one in found} >= {"start", "period", "change"}
    for invoice in found:
        again = replay.replay(session, invoice)
        assert again.text == invoice.document
    late = [replay.show(session, one).late_usage for one in found]
    assert any(late), "what came after the issue is told"


def test_a_draft_that_took_up_a_charge_twice_replays(session: Session, use: Use, run: Run) -> None:
    row = an_order(session, "cents")
    use(row, APRIL + DAY, 2)
    run(MAY + HOUR)
    use(row, APRIL + DAY, 962, name="late")
    closed = run(datetime(2026, 6, 1, 1, tzinfo=UTC))[-1]
    lines = session.exec(select(InvoiceLine).where(InvoiceLine.invoice_id == closed.id)).all()
    assert [(line.revision, line.amount_minor) for line in lines] == [(0, 2), (1, 962)]
    assert replay.show(session, closed).is_identical
    assert replay.show(session, closed).late_usage == []
    use(row, APRIL + DAY, 1, name="later")
    told = [(one.invoiced, one.now) for one in replay.show(session, closed).late_usage]
    assert told == [("964", "965")], "against all that the invoice has, and once"


def test_a_draft_that_took_up_a_fee_twice_replays(session: Session, run: Run) -> None:
    """A dollar a month, so that what a pause leaves of it is carried."""
    a_plan(session, a_fee("1"), key="dollar")
    row = an_order(session, "dollar")
    (first,) = run(APRIL)
    actions.pay(session, first, TERMS, APRIL)
    lifecycle.pause(session, row, PauseInput(), APRIL + 10 * DAY)
    run(APRIL + 10 * DAY)
    for begins in (20, 23):
        lifecycle.resume(session, row, "immediate", APRIL + begins * DAY)
        run(APRIL + begins * DAY)
        lifecycle.pause(session, row, PauseInput(), APRIL + (begins + 1) * DAY)
        run(APRIL + (begins + 1) * DAY)
    lifecycle.cancel(session, row, "immediate", MAY + DAY)
    for invoice in run(JULY):
        assert replay.replay(session, invoice).text == invoice.document


def test_a_changed_price_or_quantity_does_not_replay(session: Session, use: Use, run: Run) -> None:
    row = an_order(session, "pro")
    use(row, APRIL, 1250)
    invoice = run(MAY + HOUR)[-1]
    line = session.exec(select(InvoiceLine).where(InvoiceLine.invoice_id == invoice.id, InvoiceLine.tier == 2)).one()
    line.metered = line.metered and line.metered + 1
    session.add(line)
    assert not replay.show(session, invoice).is_identical
    session.rollback()


def test_a_plan_that_was_tampered_with_does_not_replay(session: Session, run: Run) -> None:
    an_order(session, "flat")
    (invoice,) = run(APRIL)
    assert replay.show(session, invoice).is_identical
    plan = session.exec(select(Plan).where(Plan.key == "flat")).one()
    phases = [{**plan.phases[0], "rateCards": [{**plan.phases[0]["rateCards"][0], "name": "Another fee"}]}]
    plan.phases = phases
    session.add(plan)
    session.flush()
    assert not replay.show(session, invoice).is_identical


def test_what_happens_to_it_afterwards_does_not_change_its_document(session: Session, run: Run) -> None:
    an_order(session, "flat")
    (invoice,) = run(APRIL)
    before = invoice.document
    actions.pay(session, invoice, TERMS, APRIL + DAY)
    assert (replay.replay(session, invoice).text, invoice.document) == (before, before)


def test_a_draft_cannot_be_replayed(session: Session, run: Run) -> None:
    an_order(session, "pro")
    with pytest.raises(Conflict, match="not issued"):
        replay.replay(session, run(MAY)[-1])

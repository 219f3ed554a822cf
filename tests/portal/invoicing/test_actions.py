from datetime import UTC, datetime
from itertools import product

import pytest
from sqlmodel import Session, col, select

from builders.invoices import DAY, HOUR, TERMS, told
from builders.quotes import Use
from builders.subscriptions import APRIL, an_order
from farebox_portal.customers.tables import Customer
from farebox_portal.errors import Conflict
from farebox_portal.invoicing import actions, ledger
from farebox_portal.invoicing.status import STATUSES, TABLE, after
from farebox_portal.invoicing.tables import CreditRow, Invoice, LedgerEntry
from farebox_portal.subscriptions import lifecycle
from farebox_portal.subscriptions.lifecycle import PauseInput

from .conftest import Run

pytestmark = pytest.mark.usefixtures("shelf")

MAY = datetime(2026, 5, 1, tzinfo=UTC)


def balances(session: Session) -> dict[str, int]:
    """By account; those of customers and credits under one name each."""
    found: dict[str, int] = {}
    for (account, _), minor in ledger.balances(session.exec(select(LedgerEntry))).items():
        kind = account.partition(":")[0]
        found[kind] = found.get(kind, 0) + minor
    assert sum(found.values()) == 0
    return {kind: minor for kind, minor in found.items() if minor}


def test_a_state_allows_what_the_table_says_and_refuses_the_rest_with_its_code() -> None:
    assert [after("draft", "issue"), after("held", "issue"), after("overdue", "pay")] == ["issued", "issued", "paid"]
    for status, verb in product(STATUSES, TABLE):
        cell = TABLE[verb][STATUSES.index(status)]
        if cell in STATUSES:
            assert after(status, verb) == cell
        else:
            with pytest.raises(Conflict) as refused:
                after(status, verb)
            assert refused.value.code == cell
    assert {TABLE[verb][STATUSES.index("void")] for verb in TABLE} == {"invoice_void"}
    assert all(
        TABLE[verb][STATUSES.index("paid")] in ("paid", "invoice_paid", "invoice_already_issued") for verb in TABLE
    )


def test_money_moves_from_the_issue_to_the_payment(session: Session, run: Run) -> None:
    an_order(session, "flat")
    (invoice,) = run(APRIL)
    assert balances(session) == {"receivable": 1000, "revenue": -1000}
    actions.pay(session, invoice, TERMS, APRIL + DAY, "transfer 7")
    assert (invoice.status, invoice.paid_minor, invoice.outstanding_minor) == ("paid", 1000, 0)
    assert balances(session) == {"cash": 1000, "revenue": -1000}
    with pytest.raises(Conflict, match="paid"):
        actions.pay(session, invoice, TERMS, APRIL + DAY)
    with pytest.raises(Conflict, match="credit note"):
        actions.void(session, invoice, TERMS, APRIL + DAY)


def test_an_invoice_is_overdue_when_its_due_date_comes(session: Session, run: Run) -> None:
    an_order(session, "flat")
    (invoice,) = run(APRIL)
    assert actions.mark_overdue(session, APRIL + TERMS.due_after - DAY) == 0
    assert actions.mark_overdue(session, APRIL + TERMS.due_after) == 1
    session.refresh(invoice)
    assert invoice.status == "overdue"
    actions.pay(session, invoice, TERMS, MAY)
    assert invoice.status == "paid"


def test_what_was_given_up_closes_the_door_until_it_is_paid(session: Session, run: Run) -> None:
    row = an_order(session, "flat")
    (invoice,) = run(APRIL)
    version = session.get_one(Customer, row.customer_id).entitlements_version
    actions.mark_uncollectible(session, invoice, APRIL + DAY)
    session.refresh(row)
    assert (invoice.status, row.payment_status) == ("uncollectible", "uncollectible")
    assert session.get_one(Customer, row.customer_id).entitlements_version == version + 1
    assert balances(session) == {"loss": 1000, "revenue": -1000}
    actions.pay(session, invoice, TERMS, APRIL + 2 * DAY)
    session.refresh(row)
    assert (row.payment_status, balances(session)) == ("paid", {"cash": 1000, "revenue": -1000})


def test_voiding_is_the_exact_reverse_and_waives_what_was_on_it(session: Session, run: Run) -> None:
    row = an_order(session, "flat")
    (start,) = run(APRIL)
    actions.pay(session, start, TERMS, APRIL)
    lifecycle.pause(session, row, PauseInput(), APRIL + 15 * DAY)
    lifecycle.resume(session, row, "immediate", APRIL + 18 * DAY)
    _, may = run(MAY)
    credit = session.exec(select(CreditRow)).one()
    assert (may.total_minor, credit.granted_minor, credit.left_minor) == (900, 100, 0)
    before = {"cash": 1000, "revenue": -900, "credit": -100}
    assert balances(session) == {"cash": 1000, "revenue": -1900, "receivable": 900}
    actions.void(session, may, TERMS, MAY + DAY)
    session.refresh(credit)
    assert (may.status, credit.left_minor, balances(session)) == ("void", 100, before)
    assert len(run(MAY + 2 * DAY)) == 2
    *_, june = run(datetime(2026, 6, 1, tzinfo=UTC))
    assert told(session, june) == [("Fee", 900)]


def test_voiding_for_another_one_makes_it_at_once_with_what_is_known_by_now(
    session: Session, use: Use, run: Run
) -> None:
    row = an_order(session, "pro")
    use(row, APRIL, 1100)
    _, may = run(MAY + HOUR)
    use(row, APRIL, 50, name="late")
    actions.void(session, may, TERMS, MAY + DAY, rebill=True)
    _, old, new = run(MAY + DAY)
    assert (old.status, new.status, new.kind, new.period_start) == ("void", "issued", "period", APRIL)
    assert (old.total_minor, new.total_minor) == (3000, 3050)
    *_, june = run(datetime(2026, 6, 1, 1, tzinfo=UTC))
    assert june.total_minor == 2900


def test_what_is_too_old_is_not_made_anew(session: Session, run: Run) -> None:
    an_order(session, "flat")
    start, *_ = run(datetime(2026, 12, 1, tzinfo=UTC))
    with pytest.raises(Conflict, match="too old"):
        actions.void(session, start, TERMS, datetime(2026, 12, 1, tzinfo=UTC), rebill=True)


def test_a_draft_is_issued_before_its_time_with_what_was_used_until_then(session: Session, use: Use, run: Run) -> None:
    row = an_order(session, "pro")
    use(row, APRIL, 1100)
    _, draft = run(MAY)
    actions.finalize(session, draft, TERMS, MAY + HOUR / 2)
    assert (draft.status, draft.number, draft.total_minor) == ("issued", "INV-000002", 3000)
    use(row, APRIL, 100, name="late")
    *_, late = run(MAY + HOUR)
    assert (late.kind, late.status, late.total_minor) == ("late", "issued", 100)
    with pytest.raises(Conflict, match="issued already"):
        actions.finalize(session, draft, TERMS, MAY + HOUR)


def test_a_credit_is_not_restored_where_it_was_given_back_already(session: Session, run: Run) -> None:
    row = an_order(session, "flat")
    (start,) = run(APRIL)
    actions.pay(session, start, TERMS, APRIL)
    lifecycle.pause(session, row, PauseInput(), APRIL + 15 * DAY)
    lifecycle.resume(session, row, "immediate", APRIL + 27 * DAY)
    _, may = run(MAY)  # 4.00 of its 10.00 are paid by the credit of April; the rest is not paid at all
    lifecycle.pause(session, row, PauseInput(), MAY + DAY)
    lifecycle.resume(session, row, "immediate", MAY + 10 * DAY)
    run(MAY + 10 * DAY)  # a pause of 2.90
    given = session.exec(select(CreditRow).order_by(col(CreditRow.id))).all()
    assert [(one.granted_minor, one.left_minor) for one in given] == [(400, 0), (290, 290)]
    actions.void(session, may, TERMS, MAY + 10 * DAY)
    assert [one.left_minor for one in given] == [110, 290]


def test_an_invoice_is_found_by_its_number_too(session: Session, run: Run) -> None:
    an_order(session, "flat")
    (invoice,) = run(APRIL)
    assert actions.get(session, "INV-000001") == actions.get(session, invoice.id) == invoice


def test_invoices_have_one_customer_each(session: Session, run: Run) -> None:
    for name in ("one", "two"):
        an_order(session, "flat", customer=name)
    assert len({one.customer_id for one in run(APRIL)}) == 2
    assert {one.sequence for one in session.exec(select(Invoice))} == {1}

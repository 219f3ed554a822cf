from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlmodel import Session, select

from builders.invoices import DAY, HOUR, TERMS, lines_of
from builders.quotes import Use
from builders.subscriptions import APRIL, an_order
from farebox_portal.errors import Conflict, Invalid
from farebox_portal.invoicing import actions, credit_notes
from farebox_portal.invoicing.credit_notes import CreditNoteInput
from farebox_portal.invoicing.tables import CreditNote, CreditRow, Invoice, InvoiceLine
from farebox_portal.pricing.money import currency
from farebox_portal.subscriptions import lifecycle
from farebox_portal.subscriptions.lifecycle import PauseInput

from .conftest import Run
from .test_actions import balances

pytestmark = pytest.mark.usefixtures("shelf")

MAY = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture
def invoice(session: Session, use: Use, run: Run) -> Invoice:
    """29.00 fee, 2.50 usage."""
    row = an_order(session, "pro")
    use(row, APRIL, 1250)
    return run(MAY + HOUR)[-1]


def give(session: Session, invoice: Invoice, **said: Any) -> CreditNote:
    return credit_notes.give(session, invoice, CreditNoteInput.model_validate({"reason": "sorry"} | said), MAY + DAY)


def test_what_is_still_owed_becomes_less_before_anything_is_refunded(session: Session, invoice: Invoice) -> None:
    note = give(session, invoice, amount="10.00")
    assert (note.number, note.amount_minor, note.refunded_minor) == ("INV-000002-CN1", 1000, 0)
    assert (invoice.status, invoice.outstanding_minor) == ("issued", 2150)
    actions.pay(session, invoice, TERMS, MAY + DAY)
    assert invoice.paid_minor == 2150
    second = give(session, invoice, amount="1.50")
    assert (second.number, second.refunded_minor, invoice.refunded_minor) == ("INV-000002-CN2", 150, 150)
    assert (invoice.status, invoice.outstanding_minor) == ("paid", 0)
    assert balances(session) == {"cash": 2000, "revenue": -4900, "receivable": 2900}  # of the first invoice


def test_a_line_gives_back_no_more_than_it_took(session: Session, invoice: Invoice) -> None:
    fee, usage = (line for line in lines_of(session, invoice) if line.amount_minor)
    give(session, invoice, lines=[{"lineId": usage.id, "amount": "2.00"}])
    with pytest.raises(Invalid) as refused:
        give(session, invoice, lines=[{"lineId": usage.id, "amount": "0.51"}, {"lineId": "else"}])
    assert [fault["pointer"] for fault in refused.value.errors] == ["/lines/0/amount", "/lines/1/lineId"]
    rest = give(session, invoice, lines=[{"lineId": usage.id}])
    assert (rest.amount_minor, usage.credited_minor, fee.credited_minor) == (50, 250, 0)


def test_all_of_an_open_invoice_taken_back_leaves_nothing_to_pay(session: Session, invoice: Invoice) -> None:
    give(session, invoice, amount="31.50")
    assert (invoice.status, invoice.paid_minor, invoice.outstanding_minor) == ("paid", 0, 0)
    with pytest.raises(Invalid, match=r"only 0\.00 is left"):
        give(session, invoice, amount="0.01")
    with pytest.raises(Conflict, match="Nothing is left"):
        give(session, invoice, amount="0")


@pytest.mark.parametrize("status", ["draft", "held", "void"])
def test_only_what_was_issued_can_be_taken_back(session: Session, invoice: Invoice, status: str) -> None:
    invoice.status = status
    with pytest.raises(Conflict):
        give(session, invoice, amount="1.00")


@pytest.mark.parametrize("amount", ["0.001", "-1", "1e2", "NaN", "", "1.0000"])
def test_an_amount_is_a_decimal_that_the_currency_can_write(session: Session, invoice: Invoice, amount: str) -> None:
    with pytest.raises(ValueError if amount != "0.001" else Invalid):
        give(session, invoice, amount=amount)


def test_a_fee_that_was_refunded_is_not_given_back_once_more(session: Session, run: Run) -> None:
    row = an_order(session, "flat")
    (start,) = run(APRIL)
    actions.pay(session, start, TERMS, APRIL)
    give(session, start, amount="8.00")
    lifecycle.pause(session, row, PauseInput(), APRIL + 15 * DAY)
    run(MAY)
    assert session.exec(select(CreditRow)).one().granted_minor == 200


def test_lines_that_give_something_back_already_leave_less_to_take_back(session: Session, use: Use, run: Run) -> None:
    row = an_order(session, "volume")
    use(row, APRIL, 1000)
    use(row, MAY + DAY, 20_000)
    run(MAY + HOUR)
    use(row, APRIL, 1, name="late")
    may = run(datetime(2026, 6, 1, 1, tzinfo=UTC))[-1]
    assert (may.status, may.total_minor) == ("issued", 20_000 - 10_000 + 1001)
    with pytest.raises(Conflict, match="more than was paid"):
        give(session, may, amount="110.02")
    assert give(session, may, amount="110.01").refunded_minor == 0


def test_a_void_invoice_is_reversed_with_its_credit_notes(session: Session, invoice: Invoice) -> None:
    give(session, invoice, amount="10.00")
    actions.void(session, invoice, TERMS, MAY + DAY)
    assert balances(session) == {"receivable": 2900, "revenue": -2900}


@given(
    amount=st.integers(1, 10**6),
    tax=st.integers(0, 10**5),
    cuts=st.lists(st.integers(1, 1000), min_size=1, max_size=8),
)
def test_notes_over_the_whole_line_take_back_its_tax_exactly(amount: int, tax: int, cuts: list[int]) -> None:
    line = InvoiceLine(
        amount_minor=amount, credited_minor=0, taxes=[{"name": "VAT", "amountMinor": tax, "isInclusive": False}]
    )
    taken = []
    for part in [*(amount * cut // (2 * sum(cuts)) for cut in cuts), None]:
        piece = amount - line.credited_minor if part is None else part
        found = credit_notes._taken(line, piece, currency("USD"))
        line.credited_minor += piece
        taken.append(found.tax_minor)
    assert sum(taken) == tax
    assert min(taken) >= 0

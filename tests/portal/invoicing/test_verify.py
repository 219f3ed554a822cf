"""Each rule of money is broken in the database, on both engines, and the look over all books finds just that."""

from unittest import mock

import pytest
from sqlalchemy import text
from sqlmodel import Session, select

from builders.databases import DIALECTS
from builders.invoices import DAY, HOUR, TERMS
from builders.quotes import Use
from builders.subscriptions import APRIL, an_order
from farebox_portal.errors import Conflict
from farebox_portal.invoicing import actions, close, credit_notes, ledger
from farebox_portal.invoicing.checks import MoneyFault, check_moves
from farebox_portal.invoicing.credit_notes import CreditNoteInput
from farebox_portal.invoicing.tables import Invoice, LedgerEntry
from farebox_portal.invoicing.verify import verify
from farebox_portal.subscriptions import lifecycle

from .conftest import Run

MAY = APRIL.replace(month=5)
pytestmark = pytest.mark.usefixtures("shelf")


@pytest.fixture(scope="session", params=DIALECTS)
def dialect(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def books(session: Session, run: Run, use: Use) -> Session:
    """Fees, usage, a change that gave something back, a payment, a note, one voided, one carried."""
    row = an_order(session, "pro")
    other = an_order(session, "flat", customer="other")
    run(APRIL)
    first = session.exec(select(Invoice).where(Invoice.subscription_id == row.id)).one()
    actions.pay(session, first, TERMS, APRIL)
    use(row, APRIL + 10 * DAY, 1234)
    run(MAY + HOUR)
    last = session.exec(select(Invoice).where(Invoice.subscription_id == row.id, Invoice.kind == "period")).one()
    credit_notes.give(session, last, CreditNoteInput(amount="5", reason="outage"), MAY + HOUR)
    actions.pay(session, last, TERMS, MAY + HOUR)
    credit_notes.give(session, last, CreditNoteInput(amount="1", reason="outage"), MAY + HOUR)
    for one in session.exec(select(Invoice).where(Invoice.subscription_id == other.id)).all():
        actions.void(session, one, TERMS, MAY + HOUR)
    lifecycle.pause(session, row, lifecycle.PauseInput(), MAY + 5 * DAY)
    run(MAY + 5 * DAY)
    session.flush()
    return session


def test_books_in_order_have_no_fault(books: Session) -> None:
    assert verify(books) == []
    assert books.connection().execute(text("SELECT count(*) FROM invoice_credits WHERE left_minor > 0")).scalar_one()


BREAKS = (
    ("UPDATE invoice_lines SET amount_minor = amount_minor + 1, gross_minor = gross_minor + 1", "M2"),
    ("UPDATE invoice_lines SET gross_minor = gross_minor + 1", "M2"),
    ("UPDATE invoices SET total_minor = total_minor + 1, paid_minor = paid_minor + 1 WHERE status = 'paid'", "M2"),
    ("UPDATE invoices SET total_minor = total_minor + 1 WHERE status = 'paid'", "M2"),
    ("UPDATE invoices SET currency = 'KWD'", "M1"),
    ("UPDATE ledger_entries SET amount_minor = amount_minor + 1 WHERE debit LIKE 'receivable%'", "M3"),
    ("UPDATE ledger_entries SET amount_minor = amount_minor + 1 WHERE debit = 'cash'", "M3"),
    ("UPDATE ledger_entries SET amount_minor = 0 WHERE credit = 'revenue'", "M3"),
    ("DELETE FROM ledger_entries WHERE source LIKE '%void'", "M3"),
    ("UPDATE invoice_credits SET released_minor = released_minor + 9999", "M4"),
    ("UPDATE invoices SET document = replace(document, 'acme', 'acne')", "M6"),
    ("UPDATE plans SET phases = JSON(replace(CAST(phases AS TEXT), '\"29\"', '\"28\"')) WHERE key = 'pro'", "M6"),
    ("UPDATE invoice_lines SET metered = '9999' WHERE meter IS NOT NULL", "M6"),
    ("UPDATE invoice_lines SET card_key = 'gone'", "M7"),
    ("UPDATE plans SET published_at = NULL", "M7"),
    ("UPDATE invoice_credits SET left_minor = -1", "M8"),
    ("UPDATE invoice_credits SET left_minor = left_minor - 1", "M8"),
    ("UPDATE invoices SET refunded_minor = paid_minor + 1", "M8"),
    ("UPDATE invoices SET kind = 'final', period_start = '2026-04-15 00\\:00\\:00.0' WHERE kind = 'start'", "M9"),
    ("UPDATE invoices SET credited_minor = credited_minor + 1", "M11"),
    ("UPDATE credit_notes SET refunded_minor = refunded_minor + 1", "M11"),
    ("UPDATE invoice_lines SET credited_minor = amount_minor + 1 WHERE credited_minor > 0", "M11"),
    ("DELETE FROM invoice_lines WHERE invoice_id IN (SELECT id FROM invoices WHERE status = 'void')", "M12"),
    ("UPDATE invoices SET provider_id = id, total_minor = 49 WHERE status = 'paid'", "M13"),
    ("UPDATE invoices SET number = NULL WHERE status = 'void'", "numbers"),
)


def test_what_does_not_hold_is_found(books: Session) -> None:
    for statement, rule in BREAKS:
        is_sqlite = books.connection().dialect.name == "sqlite"
        said = statement if is_sqlite else statement.replace("JSON(", "(").replace(" WHERE key", "::json WHERE key")
        with books.begin_nested() as point:
            books.connection().execute(text(said))
            books.expire_all()
            found = {fault.rule.partition(":")[0].partition(" ")[0] for fault in verify(books)}
            point.rollback()
        books.expire_all()
        assert rule in found, statement


def test_what_moves_has_two_sides_and_makes_what_is_owed() -> None:
    row = {"debit": "receivable:a", "credit": "revenue", "amount_minor": 5}
    check_moves([row, row], "receivable:a", 10)
    for rows in ([row], [row | {"credit": "receivable:a"}], [row, row | {"amount_minor": -5}], [row, row, row]):
        with pytest.raises(MoneyFault, match="M3"):
            check_moves(rows, "receivable:a", 10)


@pytest.mark.parametrize("verb", ["pay", "void", "mark_uncollectible", "note_failure", "credit"])
def test_a_step_after_which_the_ledger_says_another_thing_is_not_taken(session: Session, run: Run, verb: str) -> None:
    an_order(session, "pro")
    (invoice,) = run(APRIL)
    entry = session.exec(select(LedgerEntry)).one()
    session.add(LedgerEntry(**entry.model_dump() | {"number": None, "source": "a fault", "amount_minor": 1}))
    session.flush()
    steps = {
        "pay": lambda: actions.pay(session, invoice, TERMS, APRIL),
        "void": lambda: actions.void(session, invoice, TERMS, APRIL),
        "mark_uncollectible": lambda: actions.mark_uncollectible(session, invoice, APRIL),
        "note_failure": lambda: actions.note_failure(session, invoice, APRIL, "declined"),
        "credit": lambda: credit_notes.give(session, invoice, CreditNoteInput(amount="1", reason="outage"), APRIL),
    }
    with (
        mock.patch.object(ledger, "reversed_entries", return_value=[]),
        pytest.raises(MoneyFault, match="M3"),
    ):
        steps[verb]()
    session.rollback()


def test_nobody_can_release_what_does_not_add_up(session: Session, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    an_order(session, "flat")
    fault = MoneyFault("M2: made up")
    for module in (close, actions):
        monkeypatch.setattr(module, "check_paper", mock.Mock(side_effect=fault))
    (invoice,) = run(APRIL)
    assert (invoice.status, invoice.reasons, invoice.number) == ("held", ["arithmetic"], None)
    with pytest.raises(Conflict) as refused:
        actions.finalize(session, invoice, TERMS, APRIL)
    assert refused.value.code == "invoice_held"
    monkeypatch.undo()
    assert actions.finalize(session, invoice, TERMS, APRIL).number == "INV-000001"

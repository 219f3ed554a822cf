"""What the assertions that stay on find, by breaking each thing that they look at."""

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlmodel import Session, select
from structlog.testing import capture_logs

from builders.invoices import lines_of
from builders.subscriptions import APRIL, an_order
from farebox_portal.invoicing import close
from farebox_portal.invoicing.checks import MoneyFault, check_credits, check_paper
from farebox_portal.invoicing.paper import Paper, read_paper
from farebox_portal.invoicing.tables import Invoice, LedgerEntry

from .conftest import Run

pytestmark = pytest.mark.usefixtures("shelf")

MAY = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture
def paper(session: Session, run: Run) -> Paper:
    an_order(session, "flat")
    (invoice,) = run(APRIL)
    return read_paper(invoice, lines_of(session, invoice))


@pytest.mark.parametrize(
    ("place", "value", "rule"),
    [
        ("subtotal_minor", 999, "M2: lines sum"),
        ("total_minor", 999, "M2: subtotal and tax"),
        ("gross_minor", 999, "M2: a line is"),
        ("amount_minor", 1000.0, "M1: whole"),
    ],
)
def test_a_sum_that_does_not_add_up_is_a_fault(paper: Paper, place: str, value: Any, rule: str) -> None:
    check_paper(paper)
    columns = paper.columns if place in paper.columns else paper.entries[0].columns
    columns[place] = value
    with pytest.raises(MoneyFault, match=rule):
        check_paper(paper)


def test_a_line_that_is_there_twice_is_a_fault(paper: Paper) -> None:
    paper.entries *= 2
    paper.columns |= {"subtotal_minor": 2000, "total_minor": 2000}
    with pytest.raises(MoneyFault, match="billed once"):
        check_paper(paper)


def test_amounts_are_steps_of_the_currency(paper: Paper) -> None:
    paper.columns["currency"] = "KWD"
    paper.entries[0].columns |= {"gross_minor": 1001, "amount_minor": 1001}
    with pytest.raises(MoneyFault, match="M1: steps"):
        check_paper(paper)


def test_a_credit_below_zero_is_a_fault() -> None:
    check_credits([0, 5])
    with pytest.raises(MoneyFault, match="M8"):
        check_credits([5, -1])


def test_an_invoice_with_a_fault_is_held_and_nobody_else_is_kept_from_theirs(
    session: Session, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [an_order(session, "flat", customer=name) for name in ("one", "two")]

    def broken(paper: Paper) -> None:
        if paper.columns["subscription_id"] == rows[0].id:
            raise MoneyFault("M2: made up")

    monkeypatch.setattr(close, "check_paper", broken)
    with capture_logs() as logged:
        found = {one.subscription_id: one for one in run(APRIL)}
    assert (found[rows[0].id].status, found[rows[0].id].reasons) == ("held", ["arithmetic"])
    assert found[rows[1].id].status == "issued"
    assert [line["rule"] for line in logged if line["event"] == "money_fault"] == ["M2: made up"]
    owed = session.exec(select(LedgerEntry.invoice_id)).all()
    assert set(owed) == {found[rows[1].id].id}


def test_there_is_one_draft_of_a_subscription_at_a_time(session: Session, run: Run) -> None:
    row = an_order(session, "pro")
    run(MAY)
    assert [one.status for one in session.exec(select(Invoice).where(Invoice.subscription_id == row.id))] == [
        "issued",
        "draft",
    ]

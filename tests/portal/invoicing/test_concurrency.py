"""Three runs at once, on both databases: every period has one invoice, and the numbers have no gaps."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select

from builders.databases import DIALECTS
from builders.invoices import HOUR, TERMS, a_shelf
from builders.portal import a_batch, an_event
from builders.subscriptions import APRIL, an_order
from farebox_portal.customers import accounts
from farebox_portal.db import transaction
from farebox_portal.invoicing import actions
from farebox_portal.invoicing.close import close_all, close_due, close_slice
from farebox_portal.invoicing.tables import Invoice, InvoiceLine
from farebox_portal.subscriptions.tables import Subscription
from farebox_portal.usage.ingest import apply_batch

MAY = datetime(2026, 5, 1, tzinfo=UTC)
CUSTOMERS = 60


@pytest.fixture(scope="session", params=DIALECTS)
def dialect(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def crowd(engine: Engine) -> list[str]:
    """Subscriptions with usage in April."""
    with transaction(engine) as session:
        a_shelf(session)
        rows = [an_order(session, "pro", customer=f"customer-{number}") for number in range(CUSTOMERS)]
        events = [an_event(row, rid=row.id, at=APRIL, api_requests=1100) for row in rows]
        apply_batch(session, a_batch(*events), APRIL)
        return [row.id for row in rows]


def invoices(engine: Engine) -> list[Invoice]:
    with transaction(engine, read_only=True) as session:
        return list(session.exec(select(Invoice).order_by(col(Invoice.number))))


def test_three_runs_at_once_make_one_invoice_of_each_period(engine: Engine, crowd: list[str]) -> None:
    def runs(_: int) -> None:
        while close_slice(engine, MAY + HOUR, TERMS):
            pass

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(runs, range(3)))
    close_due(engine, MAY + HOUR, TERMS)  # a run that met only customers who were locked leaves
    found = invoices(engine)
    assert sorted((one.subscription_id, one.kind, one.total_minor) for one in found) == sorted(
        (id_, kind, total) for id_ in crowd for kind, total in (("start", 2900), ("period", 3000))
    )
    assert [one.number for one in found] == [f"INV-{number:06d}" for number in range(1, 2 * CUSTOMERS + 1)]


def test_a_period_cannot_have_two_invoices_nor_a_charge_two_lines(engine: Engine, crowd: list[str]) -> None:
    close_due(engine, APRIL, TERMS)
    with transaction(engine) as session:
        invoice = session.exec(select(Invoice)).first()
        assert invoice is not None
        line = session.exec(select(InvoiceLine).where(InvoiceLine.invoice_id == invoice.id)).one()
        again = invoice.model_dump() | {"id": "again", "sequence": 99, "number": None}
        twin = line.model_dump() | {"id": "twin", "position": 99}
    for row in (Invoice(**again), InvoiceLine(**twin)):
        with pytest.raises(IntegrityError), transaction(engine) as session:
            session.add(row)


def test_of_two_who_pay_the_same_invoice_at_once_one_is_refused(engine: Engine, crowd: list[str]) -> None:
    close_due(engine, APRIL, TERMS)
    id_ = invoices(engine)[0].id

    def pay(_: int) -> str:
        try:
            with transaction(engine) as session:
                actions.pay(session, actions.get(session, id_), TERMS, APRIL)
        except Exception as refused:
            return getattr(refused, "code", repr(refused))
        return "paid"

    with ThreadPoolExecutor(3) as pool:
        assert sorted(pool.map(pay, range(3))) == ["invoice_paid", "invoice_paid", "paid"]


def test_what_fails_takes_no_number_and_leaves_nothing(engine: Engine, crowd: list[str]) -> None:
    def fail() -> None:
        with transaction(engine) as session:
            close_all(session, APRIL, TERMS)
            raise RuntimeError("the machine went away before the commit")

    with pytest.raises(RuntimeError):
        fail()
    assert invoices(engine) == []
    assert close_due(engine, APRIL, TERMS) == CUSTOMERS
    assert invoices(engine)[0].number == "INV-000001"


def test_a_customer_who_is_locked_by_somebody_else_keeps_nobody_waiting(engine: Engine, crowd: list[str]) -> None:
    if engine.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer")
    with transaction(engine) as session:
        accounts.touch(session, session.get_one(Subscription, crowd[0]).customer_id)
        close_slice(engine, APRIL, TERMS)
        close_slice(engine, APRIL, TERMS)
    assert crowd[0] not in {one.subscription_id for one in invoices(engine)}
    assert close_due(engine, APRIL, TERMS) >= 1
    assert len(invoices(engine)) == CUSTOMERS

"""A provider whose plans charge fees, usage, packages and minimums; customers' usage in the ledger; invoicing runs."""

from collections.abc import Callable, Iterator
from datetime import datetime

import pytest
from sqlalchemy import Engine
from sqlmodel import Session, col, select

from builders.invoices import TERMS, a_shelf
from builders.portal import a_batch, an_event
from builders.quotes import Use
from farebox_portal.db import transaction
from farebox_portal.invoicing.close import close_all
from farebox_portal.invoicing.tables import Invoice
from farebox_portal.invoicing.terms import Terms
from farebox_portal.subscriptions.tables import Subscription
from farebox_portal.usage.ingest import apply_batch

Run = Callable[..., list[Invoice]]


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with transaction(engine) as session:
        yield session


@pytest.fixture
def shelf(session: Session) -> None:
    a_shelf(session)


@pytest.fixture
def use(session: Session) -> Use:
    def use(row: Subscription, at: datetime, units: int = 0, *, model: str = "", name: str = "", **used: int) -> None:
        name = f"{row.id}-{at.timestamp()}-{model}-{name}"
        used = used or {"api_requests": units}
        event = an_event(row, rid=name, at=at, dimensions={"model": model} if model else None, **used)
        apply_batch(session, a_batch(event, spool=name), at)

    return use


@pytest.fixture
def run(session: Session) -> Run:
    """An invoicing run at an instant; all invoices there are then."""

    def run(now: datetime, terms: Terms = TERMS) -> list[Invoice]:
        close_all(session, now, terms)
        session.expire_all()
        return list(session.exec(select(Invoice).order_by(col(Invoice.subscription_id), col(Invoice.sequence))))

    return run

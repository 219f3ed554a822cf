"""A provider whose plans charge fees, usage, packages and minimums; a customer's usage in the ledger."""

from collections.abc import Iterator
from datetime import datetime

import pytest
from sqlalchemy import Engine
from sqlmodel import Session

from builders.portal import a_batch, a_feature, a_meter, a_plan, an_event
from builders.quotes import Use, a_price, included
from builders.subscriptions import APRIL, a_fee, a_trial
from farebox_portal.catalog import configuration
from farebox_portal.db import transaction
from farebox_portal.subscriptions.tables import Subscription
from farebox_portal.usage.ingest import apply_batch


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with transaction(engine) as session:
        yield session


@pytest.fixture
def shelf(session: Session) -> None:
    """`pro` $29 and `max` $99, each with 1000 requests included; `free`, `trial`, and `tokens` by model."""
    a_meter(session)
    a_meter(session, "tokens", group_by={"model": "$.model"})
    a_feature(session, meter_slug="api_requests")
    for model in ("large", "small"):
        a_feature(session, model, "tokens", filters={"model": [model]})
    a_plan(session)
    a_plan(session, a_fee("29"), a_price(included(1000, "0.01")), key="pro")
    a_plan(session, a_fee("99"), a_price(included(1000, "0.005")), key="max")
    a_plan(session, key="trial", phases=a_trial())
    by_model = [
        a_price({"type": "unit", "amount": amount}, model) for model, amount in (("large", "0.10"), ("small", "0.01"))
    ]
    a_plan(session, *by_model, key="tokens")
    bounded = a_price({"type": "unit", "amount": "0.01", "minimumAmount": "5"})
    arrears = a_fee("10", key="arrears", price={"type": "flat", "amount": "10", "paymentTerm": "in_arrears"})
    once = a_fee("50", key="setup", billingCadence=None)
    a_plan(session, bounded, arrears, once, key="bounded")
    configuration.change(session, {"planOrder": ["free", "pro", "max"]}, APRIL)


@pytest.fixture
def use(session: Session) -> Use:
    def use(row: Subscription, at: datetime, units: int = 0, *, model: str = "", **used: int) -> None:
        name = f"{row.id}-{at.timestamp()}-{model}"
        used = used or {"api_requests": units}
        event = an_event(row, rid=name, at=at, dimensions={"model": model} if model else None, **used)
        apply_batch(session, a_batch(event, spool=name), at)

    return use

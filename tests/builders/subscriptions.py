"""A provider that sells three plans, one above the other, and one whose first phase is a trial."""

from datetime import UTC, datetime
from typing import Any

from sqlmodel import Session, select

from builders.portal import a_card, a_customer, a_feature, a_meter, a_plan
from farebox_portal.catalog import configuration
from farebox_portal.catalog.tables import Plan
from farebox_portal.customers.tables import Customer
from farebox_portal.subscriptions import lifecycle
from farebox_portal.subscriptions.tables import Subscription

APRIL = datetime(2026, 4, 1, tzinfo=UTC)
"""A month of 30 days."""
ORDER = ["free", "pro", "max"]


def a_fee(amount: str, **fields: Any) -> dict[str, Any]:
    """A month's fee in advance."""
    price = {"type": "flat", "amount": amount, "paymentTerm": "in_advance"}
    return {"type": "flat_fee", "key": "fee", "name": "Fee", "billingCadence": "P1M", "price": price} | fields


def a_trial(limit: int = 10) -> list[dict[str, Any]]:
    """Two weeks of a little, then all of it."""
    return [
        {"key": "trial", "name": "Trial", "duration": "P14D", "rateCards": [a_card(limit=limit)]},
        {"key": "full", "name": "Full", "rateCards": [a_card(limit=1000), a_fee("20")]},
    ]


def a_catalog(session: Session) -> dict[str, Plan]:
    """free: 100 requests; pro: 10 000 for $29; max: 100 000 for $99, in this order; and trial, see `a_trial`."""
    a_meter(session)
    a_feature(session, meter_slug="api_requests")
    plans = {
        "free": a_plan(session),
        "pro": a_plan(session, a_card(limit=10_000), a_fee("29"), key="pro"),
        "max": a_plan(session, a_card(limit=100_000), a_fee("99"), key="max"),
        "trial": a_plan(session, key="trial", phases=a_trial()),
    }
    configuration.change(session, {"planOrder": ORDER}, APRIL)
    return plans


def an_order(session: Session, plan: str, now: datetime = APRIL, customer: str = "acme", **fields: Any) -> Subscription:
    """A subscription, of a new customer unless there is one."""
    if session.exec(select(Customer).where(Customer.key == customer)).first() is None:
        a_customer(session, customer)
    document = {"plan": {"key": plan}, "customerKey": customer} | fields
    return lifecycle.create(session, lifecycle.SubscriptionInput.model_validate(document), now)

"""Rows of a small provider: honest defaults, so that a test says only what matters to it."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Engine
from sqlmodel import Session, SQLModel

from farebox.v1.digest import digest, new_api_key
from farebox.v1.usage_pb2 import MeterQuantity, UsageBatch, UsageEvent
from farebox_portal.catalog.tables import Feature, Meter, Plan
from farebox_portal.clock import to_ms
from farebox_portal.customers.tables import Customer
from farebox_portal.db import make_engine
from farebox_portal.entitlements.tables import Publication
from farebox_portal.ids import new_id
from farebox_portal.subscriptions.tables import ApiKey, Subscription
from farebox_portal.usage.tables import UsageRow

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
START = datetime(2026, 1, 31, tzinfo=UTC)
Row = TypeVar("Row", bound=SQLModel)
_ALL_TABLES = (Publication, UsageRow)  # importing them puts them into the metadata


def a_database(folder: Path) -> Engine:
    """A new SQLite database with every table that the imports above know."""
    engine = make_engine(f"sqlite:///{folder / 'farebox.db'}")
    SQLModel.metadata.create_all(engine)
    return engine


def a_meter(session: Session, slug: str = "api_requests", **fields: Any) -> Meter:
    given = {"name": slug, "event_type": slug, "aggregation": "SUM", "created_at": START, "updated_at": START}
    return _put(session, Meter(id=new_id(NOW), slug=slug, **(given | fields)))


def a_feature(session: Session, key: str = "api_requests", meter_slug: str | None = None, **fields: Any) -> Feature:
    given = {"name": key, "created_at": START, "updated_at": START}
    return _put(session, Feature(id=new_id(NOW), key=key, meter_slug=meter_slug, **(given | fields)))


def a_card(key: str = "api_requests", limit: int | None = 100, *, soft: bool = False, **fields: Any) -> dict[str, Any]:
    """A rate card that grants so many units a month."""
    template: dict[str, Any] = {"type": "metered", "isSoftLimit": soft}
    if limit is not None:
        template["issueAfterReset"] = limit
    card = {"type": "flat_fee", "key": key, "name": key, "featureKey": key, "billingCadence": "P1M", "price": None}
    return card | {"entitlementTemplate": template} | fields


def a_plan(session: Session, *cards: dict[str, Any], key: str = "free", **fields: Any) -> Plan:
    """A published plan of one phase; by default 100 requests a month, hard."""
    given: dict[str, Any] = {
        "version": 1,
        "name": key,
        "currency": "USD",
        "billing_cadence": "P1M",
        "phases": [{"key": "default", "name": "Default", "rateCards": list(cards) or [a_card()]}],
        "created_at": START,
        "updated_at": START,
        "published_at": START,
    }
    return _put(session, Plan(id=new_id(NOW), key=key, **(given | fields)))


def a_customer(session: Session, key: str = "acme", **fields: Any) -> Customer:
    given = {"name": key, "created_at": START, "updated_at": START}
    return _put(session, Customer(id=new_id(NOW), key=key, **(given | fields)))


def a_subscription(session: Session, customer: Customer, plan: Plan, **fields: Any) -> Subscription:
    """Active since 31 January."""
    given = {"active_from": START, "billing_anchor": START, "created_at": START, "updated_at": START}
    row = Subscription(id=new_id(NOW), customer_id=customer.id, plan_id=plan.id, **(given | fields))
    return _put(session, row)


def a_key(session: Session, subscription: Subscription, **fields: Any) -> ApiKey:
    secret = new_api_key("test")
    given = {"name": "default", "digest": digest(secret), "start": secret[:12], "created_at": START}
    row = ApiKey(
        id=new_id(NOW), subscription_id=subscription.id, customer_id=subscription.customer_id, **(given | fields)
    )
    return _put(session, row)


def an_account(session: Session, key: str = "acme") -> tuple[Customer, Subscription, ApiKey]:
    """A customer with a subscription of its own plan (100 requests a month, hard) and one key.

    The meter and the feature `api_requests` have to be there.
    """
    customer = a_customer(session, key)
    subscription = a_subscription(session, customer, a_plan(session, key=f"plan_{key}"))
    return customer, subscription, a_key(session, subscription)


def an_event(
    subscription: Subscription,
    rid: str = "r1",
    at: datetime = NOW,
    dimensions: dict[str, str] | None = None,
    **used: int,
) -> UsageEvent:
    """A settled request; by default one `api_requests`."""
    return UsageEvent(
        rid=rid,
        account_id=subscription.customer_id,
        subscription_id=subscription.id,
        key_id="key",
        policy="default",
        admitted_at_ms=to_ms(at),
        status=200,
        meters=[MeterQuantity(meter=meter, quantity=n) for meter, n in (used or {"api_requests": 1}).items()],
        dimensions=dimensions or {},
    )


def a_batch(*events: UsageEvent | bytes, spool: str = "host/0/1", end: int = 100) -> UsageBatch:
    raw = [event if isinstance(event, bytes) else event.SerializeToString() for event in events]
    return UsageBatch(spool=spool, end=end, events=raw)


def _put(session: Session, row: Row) -> Row:
    session.add(row)
    session.flush()
    return row

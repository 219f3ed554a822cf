"""Many customers at once, as rows: over REST ten thousand of them would take longer than the bench."""

from datetime import datetime
from pathlib import Path

from sqlmodel import Session, insert

import farebox_portal.tables  # noqa: F401 - rows refer to tables of packages that are not used here
from farebox.v1.digest import digest, new_api_key
from farebox_portal.customers.tables import Customer
from farebox_portal.db import make_engine, transaction
from farebox_portal.ids import new_id
from farebox_portal.subscriptions.tables import ApiKey, Subscription


def add_accounts(database: Path, like: str, accounts: int, keys_each: int, now: datetime) -> tuple[str, ...]:
    """So many customers on the plan of the subscription ``like``, one subscription each; all their keys, account by
    account. The publisher finds them."""
    engine = make_engine(f"sqlite:///{database}")
    try:
        with transaction(engine) as session:
            return insert_accounts(session, session.get_one(Subscription, like).plan_id, accounts, keys_each, now)
    finally:
        engine.dispose()


def insert_accounts(session: Session, plan_id: str, accounts: int, keys_each: int, now: datetime) -> tuple[str, ...]:
    made = {"created_at": now, "updated_at": now, "metadata_": {}}
    ids = [new_id(now) for _ in range(accounts)]
    customers = [{"id": each, "key": f"bench-{each}", "name": "bench", **made} for each in ids]
    subscriptions = [
        {"id": new_id(now), "customer_id": each, "plan_id": plan_id, "active_from": now,
         "billing_anchor": now, **made}
        for each in ids
    ]  # fmt: skip
    keys = [new_api_key("test") for _ in range(accounts * keys_each)]
    session.execute(insert(Customer), customers)
    session.execute(insert(Subscription), subscriptions)
    session.execute(
        insert(ApiKey),
        [
            {"id": new_id(now), "subscription_id": subscription["id"], "customer_id": subscription["customer_id"],
             "name": "bench", "digest": digest(key), "start": key[:12], "created_at": now}
            for subscription, key in zip((each for each in subscriptions for _ in range(keys_each)), keys, strict=True)
        ],
    )  # fmt: skip
    return tuple(keys)

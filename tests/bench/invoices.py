"""Closing a month for ten thousand subscriptions: rating, freezing, numbering, writing.

Run: PYTHONPATH=tests .venv/bin/python -m bench.invoices [--subscriptions 10000] [--dialect sqlite]

Each is on a plan with a fee and a price by usage, with HOURS hours of usage in the month. What is measured are two
whole runs, with every commit: the one at the start of the month (fees in advance), and the one that closes it.
"""

import argparse
import os
import platform
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time

from sqlalchemy import Engine, insert
from sqlmodel import Session, func, select

from builders.databases import DIALECTS
from builders.invoices import TERMS, a_shelf
from farebox_portal.catalog.tables import Plan
from farebox_portal.clock import to_ms
from farebox_portal.customers.tables import Customer
from farebox_portal.db import make_engine, transaction
from farebox_portal.invoicing.close import close_due
from farebox_portal.invoicing.tables import Invoice, InvoiceLine
from farebox_portal.migrate import migrate
from farebox_portal.subscriptions.tables import AT_ONCE, Subscription
from farebox_portal.usage.tables import UsageHour
from rig.postgres import Postgres

APRIL = datetime(2026, 4, 1, tzinfo=UTC)
CLOSING = datetime(2026, 5, 1, 1, tzinfo=UTC)
HOURS = 100
TARGET_S = 30.0


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--subscriptions", type=int, default=10_000)
    asked.add_argument("--dialect", choices=DIALECTS, action="append")
    options = asked.parse_args()
    print(f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {os.cpu_count()} cores")
    print(f"load average {os.getloadavg()[0]:.1f} before")
    print(f"{options.subscriptions} subscriptions, {HOURS} hours of usage each")
    for dialect in options.dialect or DIALECTS:
        with TemporaryDirectory(prefix="fb-bench-") as folder, _database(dialect, Path(folder)) as engine:
            _measure(dialect, engine, options.subscriptions)


def _measure(dialect: str, engine: Engine, subscriptions: int) -> None:
    with transaction(engine) as session:
        a_shelf(session)
        plan = session.exec(select(Plan).where(Plan.key == "pro")).one()
        _fill(session, plan, subscriptions)
    print(f"\n{dialect}")
    for name, now in (("start", APRIL), ("close", CLOSING)):
        cpu_s, started = process_time(), perf_counter()
        made = close_due(engine, now, TERMS)
        wall_s, cpu_s = perf_counter() - started, process_time() - cpu_s
        assert made == subscriptions
        verdict = "met" if wall_s < TARGET_S else "NOT met"
        print(
            f"  {name}: {wall_s:6.2f} s, CPU of this process {cpu_s:6.2f} s, {wall_s / made * 1e3:.2f} ms an invoice",
            end="",
        )
        print(f"   (target {TARGET_S:.0f} s for 10,000: {verdict})")
    with transaction(engine, read_only=True) as session:
        invoices, lines = (
            session.exec(select(func.count()).select_from(table)).one() for table in (Invoice, InvoiceLine)
        )
        total = session.exec(select(func.sum(Invoice.total_minor))).one()
    assert invoices == 2 * subscriptions
    used = 11 * HOURS
    assert total == subscriptions * (2900 + 2900 + max(0, used - 1000))
    print(f"  {invoices} invoices, {lines} lines, total {total / 100:,.2f} USD")


def _fill(session: Session, plan: Plan, count: int) -> None:
    """Rows as the portal writes them; a customer, a subscription, and hourly sums of 11 requests."""
    names = [f"{number:026d}" for number in range(count)]
    customers = [
        {
            "id": f"c{name}", "key": f"customer-{name}", "name": name, "metadata": {}, "entitlements_version": 1,
            "published_version": 1, "created_at": APRIL, "updated_at": APRIL,
        }
        for name in names
    ]  # fmt: skip
    rows = [
        {
            "id": f"s{name}", "customer_id": f"c{name}", "plan_id": plan.id, "active_from": APRIL,
            "billing_anchor": APRIL, "payment_status": "not_required", "metadata": {}, "created_at": APRIL,
            "updated_at": APRIL, "invoice_due_at": AT_ONCE,
        }
        for name in names
    ]  # fmt: skip
    connection = session.connection()
    connection.execute(insert(Customer), customers)
    connection.execute(insert(Subscription), rows)
    for some in _portions(names, 500):
        hours = [
            {
                "subscription_id": f"s{name}",
                "meter": "api_requests",
                "hour_ms": to_ms(APRIL + timedelta(hours=7 * hour)),
                "quantity": 11,
            }
            for name in some
            for hour in range(HOURS)
        ]
        connection.execute(insert(UsageHour), hours)


def _portions(names: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (names[at : at + size] for at in range(0, len(names), size))


@contextmanager
def _database(dialect: str, folder: Path) -> Iterator[Engine]:
    if dialect == "sqlite":
        engine = make_engine(f"sqlite:///{folder / 'farebox.db'}")
        migrate(engine)
        yield engine
        engine.dispose()
        return
    with Postgres(durable=True) as server, server.database() as url:
        engine = make_engine(url)
        migrate(engine)
        yield engine
        engine.dispose()


if __name__ == "__main__":
    main()

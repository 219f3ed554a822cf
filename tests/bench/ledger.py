"""Requests per second into the ledger, and how much room they take.

Run: PYTHONPATH=tests .venv/bin/python tests/bench/ledger.py

Whole deliveries as the portal handles them: parse the batch, check its events, book rows and hourly sums, move the
cursor, commit with every fsync. Not in it: HTTP. One event in eleven has been delivered before. `--alike 32` is what a
busy account sends: requests that differ in their ids alone share an event.

Then `account_state`, what the portal does for a rebuild, at its worst: ACCOUNT_ROWS rows, all in the hour in the midst
of which the account's period begins, so that no hourly sum helps and each row is read.

CPU per request tells more than requests per second where others use the machine too.
"""

import argparse
import os
import platform
import random
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, process_time

from sqlalchemy import Engine

from builders.databases import DIALECTS
from builders.portal import NOW, a_customer, a_feature, a_meter, a_plan, a_subscription, an_account, an_event
from farebox.v1.usage_pb2 import UsageBatch, UsageEvent
from farebox_portal.clock import to_ms
from farebox_portal.db import make_engine, transaction
from farebox_portal.entitlements.state import account_states
from farebox_portal.migrate import migrate
from farebox_portal.subscriptions.tables import Subscription
from farebox_portal.usage.ingest import apply_batch
from rig.postgres import Postgres

SUBSCRIPTIONS = 100
ACCOUNT_ROWS = 10_000
EVENTS_EACH_SECOND = 2000  # at which they were admitted
_SIZES = {
    "postgresql": "SELECT relname, pg_relation_size(oid) FROM pg_class WHERE relname ~ '^usage_[eh]' ORDER BY 1",
    "sqlite": "SELECT name, sum(pgsize) FROM dbstat WHERE instr(name, 'usage_') > 0 GROUP BY 1 ORDER BY 1",
}


@dataclass(frozen=True)
class Database:
    engine: Engine
    backend_pids: list[int]  # of processes that work for us, beside our own


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--events", type=int, default=100_000)
    asked.add_argument("--batch", type=int, default=2000, help="events in a batch; a keeper sends 2000")
    asked.add_argument(
        "--shippers", type=int, default=2, help="deliveries at the same time; SQLite has one writer and gets one"
    )
    asked.add_argument("--alike", type=int, default=1, help="requests in an event; those of a busy account share one")
    asked.add_argument("--dialect", choices=DIALECTS, action="append")
    options = asked.parse_args()
    print(f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}")
    print(f"{os.cpu_count()} cores, {_processor()}, load average {os.getloadavg()[0]:.1f} before")
    print(f"{options.events} requests, {options.batch} in a batch, {options.alike} in an event")
    for dialect in options.dialect or DIALECTS:
        with TemporaryDirectory(prefix="fb-bench-") as folder, _database(dialect, Path(folder)) as database:
            shippers = 1 if dialect == "sqlite" else options.shippers
            _measure(dialect, database, options.events, options.batch, options.alike, shippers)


def _measure(dialect: str, database: Database, events: int, batch: int, alike: int, shippers: int) -> None:
    with transaction(database.engine) as session:
        a_meter(session)
        a_feature(session, meter_slug="api_requests")
        subscriptions = [an_account(session, f"customer_{number}")[1] for number in range(SUBSCRIPTIONS)]
    batches = list(_batches(subscriptions, events, batch, alike, shippers))
    delivered = sum(1 + len(UsageEvent.FromString(event).alike) for one in batches for event in one.events)

    def deliver(one: UsageBatch) -> int:
        with transaction(database.engine) as session:
            return apply_batch(session, one, NOW).accepted

    own_s, backends_s, started = process_time(), sum(map(_cpu_s, database.backend_pids)), perf_counter()
    with ThreadPoolExecutor(shippers) as pool:
        accepted = sum(pool.map(deliver, batches))
    wall_s = perf_counter() - started
    own_s, backends_s = process_time() - own_s, sum(map(_cpu_s, database.backend_pids)) - backends_s
    assert accepted == events
    print(f"\n{dialect}, {shippers} deliveries at a time: {delivered / wall_s:,.0f} requests/s", end=" ")
    print(f"({delivered} delivered, {accepted} new, {wall_s:.2f} s)")
    print(f"  CPU per request: portal {own_s / delivered * 1e6:.1f} µs, database {backends_s / delivered * 1e6:.1f} µs")
    with database.engine.connect() as connection:
        for name, size in connection.exec_driver_sql(_SIZES[dialect]):
            print(f"  {name:34} {int(size) / accepted:6.1f} bytes a row")
    print(f"  account_state, {ACCOUNT_ROWS} rows: {_state_ms(database.engine):.1f} ms")


def _batches(
    subscriptions: list[Subscription], events: int, size: int, alike: int, shippers: int
) -> Iterator[UsageBatch]:
    chance = random.Random(1)
    before: list[bytes] = []
    for at in range(0, events, size):
        fresh = []
        for first in range(at, min(at + size, events), alike):
            instants = [
                NOW + timedelta(seconds=number / EVENTS_EACH_SECOND)
                for number in range(first, min(first + alike, at + size, events))
            ]
            rids = [f"{to_ms(admitted_at):x}-{chance.getrandbits(64):016x}" for admitted_at in instants]
            event = an_event(chance.choice(subscriptions), rids[0], instants[0], api_requests=1)
            event.alike.extend(rids[1:])
            fresh.append(event.SerializeToString())
        yield UsageBatch(spool=f"host/{at // size % shippers}/1", end=at + size, events=[*fresh, *before])
        before = chance.sample(fresh, len(fresh) // 10)


def _state_ms(engine: Engine) -> float:
    """The median of ten."""
    began_at = NOW - timedelta(minutes=90)  # at half past
    with transaction(engine) as session:
        account, plan = a_customer(session, "rebuilt"), a_plan(session, key="rebuilt")
        subscription = a_subscription(session, account, plan, active_from=began_at, billing_anchor=began_at)
        instants = (began_at + n * timedelta(milliseconds=100) for n in range(ACCOUNT_ROWS))
        events = [an_event(subscription, f"{to_ms(at):x}", at).SerializeToString() for at in instants]
        assert apply_batch(session, UsageBatch(spool="host/0/2", end=1, events=events), NOW).accepted == ACCOUNT_ROWS
    taken_s = []
    for _ in range(10):
        started = perf_counter()
        with transaction(engine, read_only=True) as session:
            (counter,) = account_states(session, [account.id], NOW, "host", NOW)[0].counters
        taken_s.append(perf_counter() - started)
        assert counter.used == ACCOUNT_ROWS
    return median(taken_s) * 1e3


@contextmanager
def _database(dialect: str, folder: Path) -> Iterator[Database]:
    if dialect == "sqlite":
        with _migrated(f"sqlite:///{folder / 'farebox.db'}") as engine:
            yield Database(engine, [])
        return
    with Postgres(durable=True) as server, server.database() as url, _migrated(url) as engine:
        # A pool that is filled before anything is measured: these are the processes that will do the work.
        connections = [engine.connect() for _ in range(5)]
        pids = [connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one() for connection in connections]
        for connection in connections:
            connection.close()
        yield Database(engine, pids)


@contextmanager
def _migrated(url: str) -> Iterator[Engine]:
    engine = make_engine(url)
    migrate(engine)
    yield engine
    engine.dispose()


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / float(os.sysconf("SC_CLK_TCK"))


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown processor")


if __name__ == "__main__":
    main()

"""The database: engine, one transaction per request or job, and the column types that keep both dialects honest.

SQLite and PostgreSQL run the same code. What SQLite gets wrong by itself is put right here and only here: it drops time
zones (``UTCDateTime``), stores decimals as floats (``DecimalText``), starts transactions too late for a writer to wait
its turn (``BEGIN IMMEDIATE``), and does not check foreign keys unless asked.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from decimal import Decimal
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import DateTime, Dialect, Engine, String, TypeDecorator, create_engine, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, SQLModel


class UTCDateTime(TypeDecorator[datetime]):
    """An instant. Refuses naive datetimes; comes back aware and in UTC on every dialect."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("naive datetime: say which zone it is in")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class DecimalText(TypeDecorator[Decimal]):
    """An exact decimal, stored as text. For unit prices; never compared or summed in SQL."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> str | None:
        return None if value is None else format(value, "f")

    def process_result_value(self, value: str | None, dialect: Dialect) -> Decimal | None:
        return None if value is None else Decimal(value)


# SQLite lets one write at a time, and who has to wait looks again at intervals: two that deliver without a pause can
# shut out a third until its patience (busy_timeout) is over. Within a process, writers therefore queue.
_WRITERS: WeakKeyDictionary[Engine, Lock] = WeakKeyDictionary()
_TURN_S = 5.0

_PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "foreign_keys=ON",
    "busy_timeout=10000",
    # By default 2 MB of pages and a checkpoint every 4 MB: a busy ledger would write the same index pages to the file
    # again and again.
    "cache_size=-65536",  # KiB
    "wal_autocheckpoint=8192",  # pages, 32 MB
)


def make_engine(url: str) -> Engine:
    """An engine for ``sqlite:///…`` or ``postgresql+psycopg://…``."""
    # hide_parameters: an error's text goes to the log, and a statement's parameters are a customer's data.
    if not url.startswith("sqlite"):
        return create_engine(url, pool_pre_ping=True, hide_parameters=True)
    engine = create_engine(url, connect_args={"check_same_thread": False, "timeout": 10}, hide_parameters=True)
    _WRITERS[engine] = Lock()

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # the driver's own BEGIN is deferred; ours (below) is not
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        # A deferred transaction that reads first and writes later fails at once with SQLITE_BUSY_SNAPSHOT when another
        # writer came between, and busy_timeout does not help. A read-only request takes a plain BEGIN.
        mode = "" if connection.get_execution_options().get("read_only") else " IMMEDIATE"
        connection.exec_driver_sql(f"BEGIN{mode}")

    return engine


@contextmanager
def _turn(engine: Engine) -> Iterator[None]:
    """Wait for the writers before, but not for ever: then SQLite's own waiting decides, with its own error."""
    lock = _WRITERS.get(engine)
    is_ours = lock is not None and lock.acquire(timeout=_TURN_S)
    try:
        yield
    finally:
        if lock is not None and is_ours:
            lock.release()


@contextmanager
def transaction(engine: Engine, *, read_only: bool = False) -> Iterator[Session]:
    """One transaction: commits when the block ends, rolls back when it raises."""
    options: dict[str, Any] = {"read_only": read_only}
    if read_only and engine.dialect.name == "postgresql":
        # All reads see one moment, as on SQLite: sums and cursors of two moments would rebuild wrong counters.
        options["isolation_level"] = "REPEATABLE READ"
    with (
        nullcontext() if read_only else _turn(engine),
        engine.connect().execution_options(**options) as connection,
        connection.begin(),
        Session(bind=connection, expire_on_commit=False) as session,
    ):
        yield session
        session.flush()


def insert_into(session: Session, table: type[SQLModel]) -> sqlite.Insert | postgresql.Insert:
    """An INSERT that can say ON CONFLICT, which each dialect spells in its own class."""
    if session.connection().dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)

"""Rows -> the ledger and its hourly sums, each row once. The one place where the ledger is written.

This is what a delivery spends its time on, so each dialect gets what is quickest there, on the driver's own cursor.
PostgreSQL takes the rows with COPY into a table of this session, and one statement does the rest. SQLite is a library:
a call for each row costs next to nothing, tells which rows were new, and the sums are added up here.

Rows first, then sums, both in the order of their keys: two deliveries with the same events or hours then wait for each
other instead of deadlocking.
"""

from collections import Counter
from typing import Any, TypeAlias

from sqlmodel import Session

from farebox_portal.usage.tables import UsageHour, UsageRow

HOUR_MS = 3_600_000

# In this order rows are tuples: 50 000 events a second leave no time for an object each.
COLUMNS = (
    "customer_id", "rid", "meter", "quantity", "subscription_id", "key_id", "policy", "admitted_at_ms", "status",
    "dimensions", "flags",
)  # fmt: skip
Row: TypeAlias = tuple[str, str, str, int, str, str, str, int, int, str, str]  # dimensions are JSON

_ROWS, _HOURS = UsageRow.__tablename__, UsageHour.__tablename__
_ADD_TO_HOURS = (
    f"ON CONFLICT (subscription_id, meter, hour_ms) DO UPDATE SET quantity = {_HOURS}.quantity + excluded.quantity"
)

# Empty after each transaction, and before each delivery in it.
_INCOMING = f"""
    CREATE TEMP TABLE IF NOT EXISTS usage_incoming (LIKE {_ROWS}) ON COMMIT DELETE ROWS;
    DELETE FROM usage_incoming"""  # noqa: S608  (constants)
_COPY = f"COPY usage_incoming ({', '.join(COLUMNS)}) FROM STDIN"
# They are sorted already, and a sort that finds them so is quick; but a table promises no order. By bytes, because a
# database's own collation may compare slowly.
_IN_ORDER = ", ".join(f'{column} COLLATE "C"' for column in COLUMNS[:3])
_POSTGRESQL = f"""
    WITH new AS (
        INSERT INTO {_ROWS} ({", ".join(COLUMNS)})
        SELECT {", ".join(COLUMNS)} FROM usage_incoming ORDER BY {_IN_ORDER}
        ON CONFLICT DO NOTHING RETURNING customer_id, rid, subscription_id, meter, admitted_at_ms, quantity
    ), summed AS (
        INSERT INTO {_HOURS} (subscription_id, meter, hour_ms, quantity)
        SELECT subscription_id, meter, admitted_at_ms - admitted_at_ms % {HOUR_MS}, sum(quantity)
        FROM new GROUP BY 1, 2, 3 ORDER BY 1, 2, 3 {_ADD_TO_HOURS}
    )
    SELECT count(*) FROM (SELECT DISTINCT customer_id, rid FROM new) AS events"""  # noqa: S608  (constants)

_PLACES = ", ".join("?" * len(COLUMNS))
_SQLITE_ROW = f"INSERT INTO {_ROWS} ({', '.join(COLUMNS)}) VALUES ({_PLACES}) ON CONFLICT DO NOTHING"  # noqa: S608
_SQLITE_HOUR = f"INSERT INTO {_HOURS} (subscription_id, meter, hour_ms, quantity) VALUES (?, ?, ?, ?) {_ADD_TO_HOURS}"  # noqa: S608
_SQLITE_MAX = (1 << 63) - 1


def book(session: Session, rows: list[Row]) -> int:
    """Insert the rows that are not there yet, and add them to the hourly sums; of how many events those were.

    Sorts `rows`. Two rows with the same key: the first counts.
    """
    if not rows:
        return 0
    rows.sort()
    connection = session.connection()
    into = _into_postgresql if connection.dialect.name == "postgresql" else _into_sqlite
    return into(connection.connection.cursor(), rows)


def _into_postgresql(cursor: Any, rows: list[Row]) -> int:
    cursor.execute(_INCOMING)
    with cursor.copy(_COPY) as incoming:
        for row in rows:
            incoming.write_row(row)
    return int(cursor.execute(_POSTGRESQL).fetchone()[0])


def _into_sqlite(cursor: Any, rows: list[Row]) -> int:
    events: set[tuple[str, str]] = set()
    hours: Counter[tuple[str, str, int]] = Counter()
    for row in rows:
        cursor.execute(_SQLITE_ROW, row)
        if cursor.rowcount:
            customer_id, rid, meter, quantity, subscription_id, _, _, admitted_at_ms, *_ = row
            events.add((customer_id, rid))
            hours[subscription_id, meter, admitted_at_ms - admitted_at_ms % HOUR_MS] += quantity
    # SQLite goes on with a float where 64 bits end; its driver has to be told.
    sums = [(*hour, total if total <= _SQLITE_MAX else float(total)) for hour, total in sorted(hours.items())]
    cursor.executemany(_SQLITE_HOUR, sums)
    return len(events)

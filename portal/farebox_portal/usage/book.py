"""Rows -> the ledger and its hourly sums, each row once. The one place where the ledger is written.

This is what a delivery spends its time on, so each dialect gets the statements that are quickest there. PostgreSQL
takes the rows as one JSON text (executemany costs it four times as much) and does all in one statement. SQLite has no
such statement; but its writer is alone, so the rows that were new are those with a rowid behind the last one before.

Rows first, then sums, both in the order of their keys: two deliveries with the same events or hours then wait for each
other instead of deadlocking.
"""

from typing import Any, TypeAlias

import orjson
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
_INTO_ROWS = f"INSERT INTO {_ROWS} ({', '.join(COLUMNS)})"
_ADD_TO_HOURS = (
    f"ON CONFLICT (subscription_id, meter, hour_ms) DO UPDATE SET quantity = {_HOURS}.quantity + excluded.quantity"
)


def _into_hours(source: str) -> str:
    """Add up what is in `source` (a FROM clause, maybe with a WHERE) and add that to the sums."""
    return f"""
        INSERT INTO {_HOURS} (subscription_id, meter, hour_ms, quantity)
        SELECT subscription_id, meter, admitted_at_ms - admitted_at_ms % {HOUR_MS}, sum(quantity)
        FROM {source} GROUP BY 1, 2, 3 ORDER BY 1, 2, 3 {_ADD_TO_HOURS}"""  # noqa: S608  (constants)


_TYPES = {"quantity": "bigint", "admitted_at_ms": "bigint", "status": "int"}
# Names of one letter: they travel with each row.
_LETTERS = "abcdefghijk"
_RECORD = ", ".join(f"{letter} {_TYPES.get(column, 'text')}" for letter, column in zip(_LETTERS, COLUMNS, strict=True))
_VALUES = ", ".join(
    f"{letter}::json" if column == "dimensions" else letter for letter, column in zip(_LETTERS, COLUMNS, strict=True)
)
_POSTGRESQL = f"""
    WITH new AS (
        {_INTO_ROWS} SELECT {_VALUES} FROM json_to_recordset(%s::json) AS incoming({_RECORD})
        ON CONFLICT DO NOTHING RETURNING customer_id, rid, subscription_id, meter, admitted_at_ms, quantity
    ), summed AS ({_into_hours("new").replace("%", "%%")})
    SELECT count(*) FROM (SELECT DISTINCT customer_id, rid FROM new) AS events"""  # noqa: S608  (constants)

_SQLITE_INSERT = f"{_INTO_ROWS} VALUES ({', '.join('?' * len(COLUMNS))}) ON CONFLICT DO NOTHING"
_SQLITE_LAST = f"SELECT coalesce(max(rowid), 0) FROM {_ROWS}"  # noqa: S608  (constants)
_SQLITE_ADD_UP = _into_hours(f"{_ROWS} WHERE rowid > ?")
_SQLITE_COUNT = f"SELECT count(*) FROM (SELECT DISTINCT customer_id, rid FROM {_ROWS} WHERE rowid > ?)"  # noqa: S608  (constants)


def book(session: Session, rows: list[Row]) -> int:
    """Insert the rows that are not there yet, and add them to the hourly sums; of how many events those were.

    Sorts `rows`. Two rows with the same key: the first counts.
    """
    if not rows:
        return 0
    rows.sort()
    return _into_postgresql(session, rows) if _is_postgresql(session) else _into_sqlite(session, rows)


def _is_postgresql(session: Session) -> bool:
    return session.connection().dialect.name == "postgresql"


def _into_postgresql(session: Session, rows: list[Row]) -> int:
    document = orjson.dumps([dict(zip(_LETTERS, row, strict=True)) for row in rows]).decode()
    return int(session.connection().exec_driver_sql(_POSTGRESQL, (document,)).scalar_one())


def _into_sqlite(session: Session, rows: list[Row]) -> int:
    connection = session.connection()
    last: tuple[Any] = (connection.exec_driver_sql(_SQLITE_LAST).scalar_one(),)
    connection.exec_driver_sql(_SQLITE_INSERT, rows)
    connection.exec_driver_sql(_SQLITE_ADD_UP, last)
    return int(connection.exec_driver_sql(_SQLITE_COUNT, last).scalar_one())

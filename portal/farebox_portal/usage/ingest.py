"""A piece of a plugin's spool -> rows of the ledger and the spool's cursor, in one transaction.

Delivery is at least once, in any order; the ledger counts once. Three things make that so: a row's key is the request's
own (account, rid, meter), the cursor is absolute and only ever rises, and rows and cursor are committed together.

An event that cannot be booked is put aside with the reason instead of refusing the batch: the queue behind it goes on.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from google.protobuf.message import DecodeError
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, SQLModel, col, select

from farebox.v1.usage_pb2 import Receipt, UsageBatch, UsageEvent
from farebox_portal.customers.tables import Customer
from farebox_portal.subscriptions.tables import Subscription
from farebox_portal.usage.tables import QuarantinedEvent, SpoolCursor, UsageRow

QUANTITY_MAX = 1 << 53  # what Lua's numbers still count exactly; no request uses that much of anything
NAME_LENGTH_MAX = 255
_EPOCH_END_MS = 253_402_300_800_000  # the year 10000: behind it there is no datetime
_IDS_IN_ONE_QUERY = 500

# In this order rows are tuples, and go to the driver as they are: 50 000 events a second leave no time for a dict each.
_COLUMNS = (
    "customer_id", "rid", "meter", "quantity", "subscription_id", "key_id", "policy", "admitted_at_ms", "status",
    "dimensions", "flags",
)  # fmt: skip
Row = tuple[str, str, str, int, str, str, str, int, int, str, str]


@dataclass(frozen=True)
class Owners:
    """Whom the events of a batch can belong to: the accounts that exist, and each subscription's account."""

    accounts: frozenset[str]
    account_of: dict[str, str]


@dataclass
class Sorted:
    """A batch taken apart. An event's first row stands in `first`, the rows of its other meters in `rest`."""

    first: list[Row] = field(default_factory=list)
    rest: list[Row] = field(default_factory=list)
    unbookable: list[tuple[bytes, str]] = field(default_factory=list)


def apply_batch(session: Session, batch: UsageBatch, now: datetime) -> Receipt:
    """Book a batch. Applying it again changes nothing, and answers with all its events as duplicates.

    An event without meters (a response that is not billed) leaves no row and is in none of the receipt's counts.
    """
    events = [(payload, _parsed(payload)) for payload in batch.events]
    found = sort_events(events, _owners(session, [event for _, event in events if event is not None]))
    accepted = _book(session, found.first)
    _book(session, found.rest)
    quarantined = _put_aside(session, batch, found.unbookable, now)
    return Receipt(
        spool=batch.spool,
        end=_move_cursor(session, batch.spool, batch.end, now),
        accepted=accepted,
        duplicates=len(found.first) - accepted + len(found.unbookable) - quarantined,
        quarantined=quarantined,
    )


def sort_events(events: Iterable[tuple[bytes, UsageEvent | None]], owners: Owners) -> Sorted:
    """Events into rows, or into the reason why they are none. Pure."""
    found = Sorted()
    for payload, event in events:
        rows = "unreadable: not a UsageEvent" if event is None else _rows(event, owners)
        if isinstance(rows, str):
            found.unbookable.append((payload, rows))
        elif rows:
            found.first.append(rows[0])
            found.rest += rows[1:]
    return found


def _parsed(payload: bytes) -> UsageEvent | None:
    try:
        return UsageEvent.FromString(payload)
    except DecodeError:
        return None


def _rows(event: UsageEvent, owners: Owners) -> list[Row] | str:
    """One row for each meter, by name, so that the first is the same however they are listed; or why there is none."""
    rid, account_id, subscription_id, admitted_at_ms = (
        event.rid, event.account_id, event.subscription_id, event.admitted_at_ms,
    )  # fmt: skip
    if not rid:
        return "no request id"
    if account_id not in owners.accounts:
        return "unknown account"
    if owners.account_of.get(subscription_id) != account_id:
        return "unknown subscription"
    if not 0 < admitted_at_ms < _EPOCH_END_MS:
        return "impossible instant of admission"
    quantities: dict[str, int] = {}
    for used in event.meters:
        if used.quantity < 0:
            return "negative quantity"
        quantities[used.meter] = quantities.get(used.meter, 0) + used.quantity
    if max(quantities.values(), default=0) > QUANTITY_MAX:
        return "quantity out of range"
    if "" in quantities or max(map(len, quantities), default=0) > NAME_LENGTH_MAX or len(rid) > NAME_LENGTH_MAX:
        return "name empty or too long"
    key_id, policy, flags, dimensions = event.key_id, event.policy, ",".join(event.flags), dict(event.dimensions)
    if "\0" in "".join((rid, key_id, policy, flags, *quantities, *dimensions, *dimensions.values())):
        return "text with a NUL"
    shared = (subscription_id, key_id, policy, admitted_at_ms, event.status, _json(dimensions), flags)
    return [(account_id, rid, meter, quantities[meter], *shared) for meter in sorted(quantities)]


def _json(dimensions: dict[str, str]) -> str:
    return json.dumps(dimensions, sort_keys=True) if dimensions else "{}"


def _owners(session: Session, events: Sequence[UsageEvent]) -> Owners:
    """Read who owns what, for just the ids that the events name."""
    accounts: set[str] = set()
    account_of: dict[str, str] = {}
    for ids in _portions({event.account_id for event in events}):
        accounts.update(session.exec(select(Customer.id).where(col(Customer.id).in_(ids))))
    for ids in _portions({event.subscription_id for event in events}):
        known = select(Subscription.id, Subscription.customer_id).where(col(Subscription.id).in_(ids))
        account_of.update((subscription, account) for subscription, account in session.exec(known))
    return Owners(frozenset(accounts), account_of)


def _portions(ids: set[str]) -> Iterable[list[str]]:
    clean = sorted(text for text in ids if "\0" not in text)  # PostgreSQL refuses a query with a NUL in it
    return (clean[at : at + _IDS_IN_ONE_QUERY] for at in range(0, len(clean), _IDS_IN_ONE_QUERY))


def _book(session: Session, rows: list[Row]) -> int:
    """Insert the rows that are not there yet; how many those were."""
    if not rows:
        return 0
    rows.sort()  # two batches with the same events then wait for each other instead of deadlocking
    connection = session.connection()
    mark = "%s" if connection.dialect.name == "postgresql" else "?"
    statement = (
        f"INSERT INTO {UsageRow.__tablename__} ({', '.join(_COLUMNS)}) "  # noqa: S608  (constants)
        f"VALUES ({', '.join([mark] * len(_COLUMNS))}) ON CONFLICT DO NOTHING"
    )
    return connection.exec_driver_sql(statement, rows).rowcount


def _put_aside(session: Session, batch: UsageBatch, unbookable: list[tuple[bytes, str]], now: datetime) -> int:
    """Keep what cannot be booked, each once; how many were new."""
    if not unbookable:
        return 0
    rows = [
        {
            "spool": batch.spool,
            "digest": hashlib.sha256(payload).hexdigest(),
            "end": batch.end,
            "reason": reason,
            "payload": payload,
            "created_at": now,
        }
        for payload, reason in unbookable
    ]
    statement = insert_into(session, QuarantinedEvent).on_conflict_do_nothing()
    return session.connection().execute(statement, rows).rowcount


def _move_cursor(session: Session, spool: str, end: int, now: datetime) -> int:
    """Raise the spool's cursor to `end` unless it is further already; where it stands."""
    new = insert_into(session, SpoolCursor).values(spool=spool, end=end, updated_at=now)
    session.connection().execute(
        new.on_conflict_do_update(
            index_elements=["spool"],
            set_={"end": new.excluded.end, "updated_at": new.excluded.updated_at},
            where=new.excluded.end > SpoolCursor.end,
        )
    )
    return session.exec(select(SpoolCursor.end).where(SpoolCursor.spool == spool)).one()


def insert_into(session: Session, table: type[SQLModel]) -> sqlite.Insert | postgresql.Insert:
    """An INSERT that can say ON CONFLICT, which each dialect spells in its own class."""
    if session.connection().dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)

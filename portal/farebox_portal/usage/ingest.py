"""A piece of a plugin's spool -> rows of the ledger and the spool's cursor, in one transaction.

Delivery is at least once, in any order; the ledger counts once. Three things make that so: a row's key is the request's
own (account, rid, meter), the cursor is absolute and only ever rises, and rows and cursor are committed together.

An event that cannot be booked is put aside with the reason instead of refusing the batch: the queue behind it goes on.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import TypeAlias

import orjson
from google.protobuf.message import DecodeError
from sqlmodel import Session, col, select

from farebox.v1.rid import rid_time_ms
from farebox.v1.usage_pb2 import Receipt, UsageBatch, UsageEvent
from farebox_portal.customers.tables import Customer
from farebox_portal.db import insert_into
from farebox_portal.subscriptions.tables import Subscription
from farebox_portal.usage.book import Row, book
from farebox_portal.usage.tables import QuarantinedEvent, SpoolCursor

QUANTITY_MAX = 1 << 53  # what Lua's numbers still count exactly; no request uses that much of anything
NAME_LENGTH_MAX = 255
_EPOCH_END_MS = 253_402_300_800_000  # the year 10000: behind it there is no datetime
_IDS_IN_ONE_QUERY = 500


Owner: TypeAlias = tuple[str, str]  # (account, subscription)


@dataclass
class Sorted:
    """A batch taken apart: rows of so many events, whom those name, and what can be no row."""

    rows: list[Row] = field(default_factory=list)
    requests: int = 0
    owners: set[Owner] = field(default_factory=set)
    unbookable: list[tuple[bytes, str]] = field(default_factory=list)


class Unbookable(Exception):
    """An event that can be no row; says why."""


def apply_batch(session: Session, batch: UsageBatch, now: datetime) -> Receipt:
    """Book a batch. Applying it again changes nothing, and answers with all its events as duplicates.

    An event without meters (a response that is not billed) leaves no row and is in none of the receipt's counts.
    """
    found = sort_events(batch.events)
    if strangers := _strangers(session, found.owners):
        found = sort_events(batch.events, strangers)
    accepted = book(session, found.rows)
    quarantined = _put_aside(session, batch, found.unbookable, now)
    return Receipt(
        spool=batch.spool,
        end=_move_cursor(session, batch.spool, batch.end, now),
        accepted=accepted,
        duplicates=found.requests - accepted + len(found.unbookable) - quarantined,
        quarantined=quarantined,
    )


def sort_events(payloads: Iterable[bytes], strangers: Mapping[Owner, str] = MappingProxyType({})) -> Sorted:
    """Events into rows, or into the reason why they are none; `strangers` are refused with theirs. Pure."""
    found = Sorted()
    for payload in payloads:
        try:
            # Taken apart and dropped at once: to keep the messages of a batch costs as much as to parse them.
            event = UsageEvent.FromString(payload)
            owner = event.account_id, event.subscription_id
            if owner in strangers:
                raise Unbookable(strangers[owner])
            rows = _rows(payload, event, *owner)
        except DecodeError:
            found.unbookable.append((payload, "unreadable: not a UsageEvent"))
        except Unbookable as reason:
            found.unbookable.append((payload, str(reason)))
        else:
            found.owners.add(owner)
            if rows:
                found.rows += rows
                found.requests += 1 + len(event.alike)
    return found


def _rows(payload: bytes, event: UsageEvent, account_id: str, subscription_id: str) -> list[Row]:
    """One row for each request and meter. Raises Unbookable."""
    requests = [(event.rid, event.admitted_at_ms)]
    if event.alike:
        requests += [(rid, _time_ms(rid)) for rid in event.alike]
    for rid, admitted_at_ms in requests:
        if not rid:
            raise Unbookable("no request id")
        if not 0 < admitted_at_ms < _EPOCH_END_MS:
            raise Unbookable("impossible instant of admission")
        if len(rid) > NAME_LENGTH_MAX:
            raise Unbookable("name empty or too long")
    quantities: dict[str, int] = {}
    for used in event.meters:
        meter, quantity = used.meter, used.quantity
        if quantity < 0:
            raise Unbookable("negative quantity")
        if not 0 < len(meter) <= NAME_LENGTH_MAX:
            raise Unbookable("name empty or too long")
        quantities[meter] = total = quantities.get(meter, 0) + quantity
        if total > QUANTITY_MAX:
            raise Unbookable("quantity out of range")
    # Without a zero byte there can be no NUL in a text; with one it may also be an empty text's length.
    if 0 in payload and _has_nul(event):
        raise Unbookable("text with a NUL")
    # Most events have neither dimensions nor flags, and asking is cheaper than making empty ones.
    dimensions = _json(event.dimensions) if event.dimensions else "{}"
    flags = ",".join(event.flags) if event.flags else ""
    whose, how = (subscription_id, event.key_id, event.policy), (event.status, dimensions, flags)
    return [
        (account_id, rid, meter, quantity, *whose, admitted_at_ms, *how)
        for rid, admitted_at_ms in requests
        for meter, quantity in quantities.items()
    ]


def _time_ms(rid: str) -> int:
    try:
        return rid_time_ms(rid)
    except ValueError:
        raise Unbookable("impossible instant of admission") from None


def _has_nul(event: UsageEvent) -> bool:
    texts = [event.rid, *event.alike, event.key_id, event.policy, *event.flags, *(used.meter for used in event.meters)]
    return any("\0" in text for text in (*texts, *event.dimensions, *event.dimensions.values()))


def _json(dimensions: Mapping[str, str]) -> str:
    return orjson.dumps(dict(dimensions), option=orjson.OPT_SORT_KEYS).decode()


def _strangers(session: Session, owners: Collection[Owner]) -> dict[Owner, str]:
    """Those of the (account, subscription) that there are not, and which of the two is unknown."""
    account_of: dict[str, str] = {}
    for ids in _portions({subscription_id for _, subscription_id in owners}):
        known = select(Subscription.id, Subscription.customer_id).where(col(Subscription.id).in_(ids))
        account_of.update((subscription, account) for subscription, account in session.exec(known))
    # Whoever has a subscription exists, so most batches need no second query.
    strangers = [owner for owner in owners if account_of.get(owner[1]) != owner[0]]
    accounts: set[str] = set()
    for ids in _portions({account_id for account_id, _ in strangers}):
        accounts.update(session.exec(select(Customer.id).where(col(Customer.id).in_(ids))))
    return {owner: "unknown subscription" if owner[0] in accounts else "unknown account" for owner in strangers}


def _portions(ids: set[str]) -> Iterable[list[str]]:
    clean = sorted(text for text in ids if "\0" not in text)  # PostgreSQL refuses a query with a NUL in it
    return (clean[at : at + _IDS_IN_ONE_QUERY] for at in range(0, len(clean), _IDS_IN_ONE_QUERY))


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
    rows.sort(key=lambda row: str(row["digest"]))  # as in `book`: no deadlock with another delivery of the same
    statement = insert_into(session, QuarantinedEvent).on_conflict_do_nothing().returning(col(QuarantinedEvent.digest))
    return len(session.connection().execute(statement, rows).all())


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

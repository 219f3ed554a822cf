"""What changed in SQL -> Valkey. Everything here may be done twice, or half and then again.

An account's document is published whole with its version, and an older version never replaces a newer one; so two
publishers, or one that was slow, do no harm. What was published is noted in SQL only afterwards: a crash between the
two publishes the same document once more.
"""

import math
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import Engine, update
from sqlmodel import Session, col, select

from farebox.v1 import layout
from farebox.v1.entitlements_pb2 import KeyRecord
from farebox_portal.catalog.tables import Policy
from farebox_portal.customers.tables import Customer
from farebox_portal.db import insert_into, transaction
from farebox_portal.entitlements.compile import (
    compile_account,
    compile_policies,
    counters_digest,
    recompile_at,
    serialized,
)
from farebox_portal.entitlements.facts import AccountFacts, read_facts
from farebox_portal.entitlements.tables import Publication

STORE_TIMEOUT_S = 0.4
_ACCOUNTS_AT_ONCE = 200
_ACCOUNTS_IN_A_SLICE = 50

# KEYS  counters hash, account document      ARGV  version, document, "1" if the counters have to be rebuilt
# Without `gen` the next request loads the account again, from ledger and spools.
_PUBLISH = """
local stored = redis.call('HGET', KEYS[1], 'ver')
if stored and tonumber(stored) > tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[2], ARGV[2])
redis.call('HSET', KEYS[1], 'ver', ARGV[1])
if ARGV[3] == '1' then redis.call('HDEL', KEYS[1], 'gen') end
return 1
"""

# KEYS  directory      ARGV  the mark that is believed to be there, what comes in its place
_MOVE_ON = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""


@dataclass(frozen=True)
class Mark:
    """How far everything has been republished; lies in the directory until it is complete.

    It is drawn anew with each start. So whoever moves it on knows that nobody emptied the server since it was there,
    and that nobody else began from the front.
    """

    generation: str
    token: str
    last_id: str  # of the accounts in their order; "" = none yet

    def __str__(self) -> str:
        return f"publishing {self.generation} {self.token} {self.last_id}"

    def after(self, last_id: str) -> "Mark":
        return replace(self, last_id=last_id)

    @classmethod
    def found(cls, raw: bytes | None, generation: str) -> "Mark | None":
        """The mark that lies in the directory, if it was set on this incarnation of the server."""
        words = (raw or b"").decode(errors="replace").split(" ")
        if len(words) != 4 or words[:2] != ["publishing", generation]:
            return None
        return cls(*words[1:])


@dataclass(frozen=True)
class Compiled:
    """An account's document, ready to be published."""

    account_id: str
    version: int
    document: bytes
    key_records: tuple[tuple[str, bytes], ...]  # digest, record
    counters_digest: str
    recompile_at: datetime | None


def connect(url: str) -> redis.Redis:
    """A client that gives up soon and never tries again by itself: the loop that uses it does, with fresher facts."""
    return redis.Redis.from_url(
        url,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=STORE_TIMEOUT_S,
        socket_connect_timeout=STORE_TIMEOUT_S,
    )


def publish_pending(engine: Engine, store: redis.Redis, now: datetime) -> int:
    """Publish every account that changed or whose document runs short; how many those were.

    An account that cannot be compiled holds up no other: the first such error is raised when all others are done.
    """
    _renew(engine, now)
    with transaction(engine, read_only=True) as session:
        changed = select(Customer.id).where(col(Customer.published_version) < col(Customer.entitlements_version))
        pending = session.exec(changed.order_by(col(Customer.id))).all()
    published, errors = 0, list[Exception]()
    for ids in _portions(pending):
        compiled, failed = _read_and_compile(engine, ids, now)
        errors += failed
        if compiled:
            _put_accounts(store, compiled, rebuild=_with_other_counters(engine, compiled))
            _note(engine, compiled)
            published += len(compiled)
    if errors:
        raise errors[0]
    return published


def ensure_directory(engine: Engine, store: redis.Redis, now: datetime, for_s: float = math.inf) -> bool:
    """Republish everything into a server that is not the one we published to, or was emptied; whether that was needed.

    It stops after about `for_s` and is to be called again then: changes must not wait until 100 000 accounts are out.
    A mark in the directory says how far it came; not before the end is what is there declared complete. If somebody
    empties the server meanwhile the mark is gone too, and all begins anew.
    """
    until_s = time.monotonic() + for_s
    generation = layout.generation({name: str(value) for name, value in store.info("server", "replication").items()})
    raw = cast("bytes | None", store.get(layout.DIRECTORY))
    if raw == generation.encode():
        return False
    mark = Mark.found(raw, generation)
    if mark is None:
        mark = Mark(generation, secrets.token_hex(8), "")
        store.set(layout.DIRECTORY, str(mark))
        publish_policies(engine, store)
    errors: list[Exception] = []
    while ids := _next_accounts(engine, mark.last_id):
        compiled, failed = _read_and_compile(engine, ids, now)
        errors += failed
        # A plan change that is not published yet goes out here as well, and its new counters need their history.
        _put_accounts(store, compiled, rebuild=_with_other_counters(engine, compiled))
        mark, before = mark.after(ids[-1]), mark
        if not _move_on(store, before, str(mark)) or time.monotonic() >= until_s:
            break
    else:
        _move_on(store, mark, generation)
    if errors:
        raise errors[0]
    return True


def publish_policies(engine: Engine, store: redis.Redis) -> bool:
    """Publish the policies if they differ from those in Valkey; whether they did."""
    with transaction(engine, read_only=True) as session:
        document = serialized(compile_policies(session.exec(select(Policy)).all()))
    if store.get(layout.POLICIES) == document:
        return False
    store.set(layout.POLICIES, document)
    return True


def compiled_account(facts: AccountFacts, now: datetime) -> Compiled:
    """Facts -> what is published of them.

    A key that the document does not list (revoked) gets no new record. One that is there already leads to an account
    without that key, which is how the plugin knows that it was revoked.
    """
    account = compile_account(facts, now)
    digests = {key.id: key.digest for key in facts.keys}
    return Compiled(
        account_id=account.id,
        version=account.version,
        document=serialized(account),
        key_records=tuple(
            (digests[key.id], KeyRecord(account_id=account.id, key_id=key.id).SerializeToString())
            for key in account.keys
        ),
        counters_digest=counters_digest(facts, account),
        recompile_at=recompile_at(facts, account, now),
    )


def _next_accounts(engine: Engine, last_id: str) -> Sequence[str]:
    """One that appears behind us meanwhile is not missed: it is pending, and published as such."""
    following = select(Customer.id).where(col(Customer.id) > last_id).order_by(col(Customer.id))
    with transaction(engine, read_only=True) as session:
        return session.exec(following.limit(_ACCOUNTS_IN_A_SLICE)).all()


def _move_on(store: redis.Redis, mark: Mark, successor: str) -> bool:
    """Replace the mark, unless it is gone: the server was emptied, or another publisher was quicker."""
    return bool(store.eval(_MOVE_ON, 1, layout.DIRECTORY, str(mark), successor))


def _renew(engine: Engine, now: datetime) -> None:
    """Give accounts whose document runs short a new version: a version names one document, also when time made it."""
    due = select(Publication.customer_id).where(col(Publication.recompile_at) <= now)
    with transaction(engine, read_only=True) as session:
        if session.exec(due.limit(1)).first() is None:
            return
    with transaction(engine) as session:
        unchanged = col(Customer.published_version) == col(Customer.entitlements_version)
        raised = {"entitlements_version": col(Customer.entitlements_version) + 1}
        session.exec(update(Customer).where(col(Customer.id).in_(due), unchanged).values(raised))


def _read_and_compile(engine: Engine, ids: Sequence[str], now: datetime) -> tuple[list[Compiled], list[Exception]]:
    with transaction(engine, read_only=True) as session:
        facts = read_facts(session, ids)
    compiled, errors = [], []
    for account in facts:
        try:
            compiled.append(compiled_account(account, now))
        except Exception as error:
            error.add_note(f"while compiling account {account.customer.id}")
            errors.append(error)
    return compiled, errors


def _put_accounts(store: redis.Redis, compiled: Sequence[Compiled], rebuild: frozenset[str]) -> None:
    """Write documents and key records in one round trip. `rebuild`: accounts whose counters have to be loaded anew."""
    batch = store.pipeline(transaction=False)
    for one in compiled:
        names = layout.counters(one.account_id), layout.account(one.account_id)
        batch.eval(_PUBLISH, 2, *names, one.version, one.document, "1" if one.account_id in rebuild else "0")
        for digest, record in one.key_records:
            batch.set(layout.api_key(digest), record)
    batch.execute()


def _with_other_counters(engine: Engine, compiled: Sequence[Compiled]) -> frozenset[str]:
    """The accounts whose documents need other counters than the documents published before."""
    with transaction(engine, read_only=True) as session:
        asked = select(Publication).where(col(Publication.customer_id).in_([one.account_id for one in compiled]))
        before = {publication.customer_id: publication.counters_digest for publication in session.exec(asked)}
    return frozenset(one.account_id for one in compiled if before.get(one.account_id) != one.counters_digest)


def _note(engine: Engine, compiled: Sequence[Compiled]) -> None:
    """Remember what was published. Never below a version that somebody else noted meanwhile."""
    with transaction(engine) as session:
        for one in compiled:
            _note_version(session, one)
            new = insert_into(session, Publication).values(
                customer_id=one.account_id, recompile_at=one.recompile_at, counters_digest=one.counters_digest
            )
            session.connection().execute(
                new.on_conflict_do_update(
                    index_elements=["customer_id"],
                    set_={"recompile_at": new.excluded.recompile_at, "counters_digest": new.excluded.counters_digest},
                )
            )


def _note_version(session: Session, one: Compiled) -> None:
    older = (col(Customer.id) == one.account_id, col(Customer.published_version) < one.version)
    session.exec(update(Customer).where(*older).values(published_version=one.version))


def _portions(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[at : at + _ACCOUNTS_AT_ONCE] for at in range(0, len(ids), _ACCOUNTS_AT_ONCE))

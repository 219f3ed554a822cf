"""What changed in SQL -> Valkey. Everything here may be done twice, or half and then again.

An account's document is published whole with its version, and an older version never replaces a newer one; so two
publishers, or one that was slow, do no harm. What was published is noted in SQL only afterwards: a crash between the
two publishes the same document once more.

On a cluster one node's trouble is its own: what lies on the others is published, and what could not be is tried again.
"""

import math
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import cast

import redis
from sqlalchemy import Engine, bindparam, update
from sqlmodel import col, select

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
from farebox_portal.entitlements.store import Client, Command, generations, node_of, send
from farebox_portal.entitlements.tables import Publication
from farebox_portal.entitlements.used import with_usage

_ACCOUNTS_AT_ONCE = 200
_ACCOUNTS_IN_A_SLICE = 50

# KEYS  counters hash, account document      ARGV  version, document, version with the same counters ("" = none)
# Without `gen` the next request loads the account again, from ledger and spools.
_PUBLISH = """
local stored = redis.call('HGET', KEYS[1], 'ver')
if stored and tonumber(stored) > tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[2], ARGV[2])
redis.call('HSET', KEYS[1], 'ver', ARGV[1])
if ARGV[3] == '' or (stored ~= ARGV[1] and stored ~= ARGV[3]) then redis.call('HDEL', KEYS[1], 'gen') end
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


def publish_pending(engine: Engine, store: Client, now: datetime) -> int:
    """Publish every account that changed or whose document runs short; how many those were.

    An account that cannot be compiled, or whose node does not take it, holds up no other: the first such error is
    raised when all others are done.
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
            refused = _put_accounts(store, compiled, _with_same_counters(engine, compiled))
            errors += refused.values()
            taken = [one for one in compiled if one.account_id not in refused]
            _note(engine, taken)
            published += len(taken)
    if errors:
        raise errors[0]
    return published


def ensure_directory(engine: Engine, store: Client, now: datetime, for_s: float = math.inf) -> bool:
    """Republish everything into a server that is not the one we published to, or was emptied; whether that was needed.

    It stops after about `for_s` and is to be called again then: changes must not wait until 100 000 accounts are out.
    A mark in the directory says how far it came; not before the end is what is there declared complete. If somebody
    empties the server meanwhile the mark is gone too, and all begins anew.

    On a cluster every part of the directory has its mark, and what lies on the nodes of those that are not complete is
    republished; so each node is treated like a server of its own.
    """
    until_s = time.monotonic() + for_s
    incarnations, unreachable = generations(store)
    marks = _incomplete(store, incarnations)
    if not marks:
        if unreachable:
            raise unreachable[0]
        return False
    marks = _begun(engine, store, marks)
    nodes = frozenset(node_of(store, name) for name in marks)
    errors: list[Exception] = list(unreachable)
    while ids := _next_accounts(engine, next(iter(marks.values())).last_id):
        compiled, failed = _read_and_compile(engine, ids, now)
        errors += failed
        # A plan change that is not published yet goes out here as well, and its new counters need their history.
        refused = _put_accounts(store, compiled, _with_same_counters(engine, compiled), nodes)
        if refused:
            raise next(iter(refused.values()))
        before, marks = marks, {name: mark.after(ids[-1]) for name, mark in marks.items()}
        if not _move_on(store, before, {name: str(mark) for name, mark in marks.items()}):
            break
        if time.monotonic() >= until_s:
            break
    else:
        _publish_policies_there(engine, store, marks)  # whoever began may have got no further than the marks
        _move_on(store, marks, {name: mark.generation for name, mark in marks.items()})
    if errors:
        raise errors[0]
    return True


def _incomplete(store: Client, incarnations: dict[str, str]) -> dict[str, Mark]:
    """The marks that do not say "complete", by their keys; without a token if republishing has not begun."""
    whole = isinstance(store, redis.Redis)
    found: dict[str, Mark] = {}
    for name in [layout.DIRECTORY] if whole else [layout.directory_part(part) for part in layout.PARTS]:
        generation = incarnations.get(node_of(store, name))
        if generation is None:
            continue
        raw = cast("bytes | None", store.get(name))
        if raw != generation.encode():
            found[name] = Mark.found(raw, generation) or Mark(generation, "", "")
    return found


def _begun(engine: Engine, store: Client, marks: dict[str, Mark]) -> dict[str, Mark]:
    """Marks to go on from: those that are there, if they all are at the same place; else all begin anew."""
    places = {(mark.token, mark.last_id) for mark in marks.values()}
    if len(places) == 1 and not any(token == "" for token, _ in places):
        return marks
    token = secrets.token_hex(8)
    begun = {name: Mark(mark.generation, token, "") for name, mark in marks.items()}
    for name, mark in begun.items():
        store.set(name, str(mark))
    _publish_policies_there(engine, store, begun)
    return begun


def _publish_policies_there(engine: Engine, store: Client, marks: dict[str, Mark]) -> None:
    """Publish the policies if one of these marks speaks of them."""
    if layout.DIRECTORY in marks or layout.directory_part(layout.PARTS[0]) in marks:
        publish_policies(engine, store)


def publish_policies(engine: Engine, store: Client) -> bool:
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
        counters_digest=counters_digest(facts, account, now),
        recompile_at=recompile_at(facts, account, now),
    )


def _next_accounts(engine: Engine, last_id: str) -> Sequence[str]:
    """One that appears behind us meanwhile is not missed: it is pending, and published as such."""
    following = select(Customer.id).where(col(Customer.id) > last_id).order_by(col(Customer.id))
    with transaction(engine, read_only=True) as session:
        return session.exec(following.limit(_ACCOUNTS_IN_A_SLICE)).all()


def _move_on(store: Client, marks: dict[str, Mark], successors: dict[str, str]) -> bool:
    """Replace each mark, unless it is gone: the server was emptied, or another publisher was quicker."""
    moved = [store.eval(_MOVE_ON, 1, name, str(mark), successors[name]) for name, mark in marks.items()]
    return all(moved)


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
        facts = with_usage(session, read_facts(session, ids), now)
    compiled, errors = [], []
    for account in facts:
        try:
            compiled.append(compiled_account(account, now))
        except Exception as error:
            error.add_note(f"while compiling account {account.customer.id}")
            errors.append(error)
    return compiled, errors


def _put_accounts(
    store: Client, compiled: Sequence[Compiled], same_counters: Mapping[str, int], only: frozenset[str] | None = None
) -> dict[str, Exception]:
    """Write documents and key records in one round trip (on a cluster: to each node); the accounts that a node did not
    take, and why. A single server takes all, or RedisError is raised.

    `same_counters`: account -> version whose counters serve this document too; others' have to be loaded anew.
    `only`: the nodes of a cluster that are to be written to.
    """
    commands = {
        command: one.account_id for one in compiled for command in _commands(one, same_counters.get(one.account_id, ""))
    }
    if isinstance(store, redis.Redis):
        batch = store.pipeline(transaction=False)
        for _, words in commands:
            batch.execute_command(*words)  # type: ignore[no-untyped-call]
        batch.execute()
        return {}
    wanted = [command for command in commands if only is None or node_of(store, command[0]) in only]
    return {commands[command]: error for command, error in send(store, wanted).items()}


def _commands(one: Compiled, same_counters: int | str) -> Iterator[Command]:
    counters = layout.counters(one.account_id)
    document = layout.account(one.account_id)
    yield counters, ("EVAL", _PUBLISH, 2, counters, document, one.version, one.document, same_counters)
    for digest, record in one.key_records:
        name = layout.api_key(digest)
        yield name, ("SET", name, record)


def _with_same_counters(engine: Engine, compiled: Sequence[Compiled]) -> dict[str, int]:
    """The accounts whose documents need the same counters as the documents published before, and those's versions.

    A rebuild may have loaded a document that was never published, with other counters than both: so it is the version
    in Valkey that must be one of the two.
    """
    asked = (
        select(Customer.id, Customer.published_version, Publication.counters_digest)
        .join(Publication, col(Publication.customer_id) == col(Customer.id))
        .where(col(Customer.id).in_([one.account_id for one in compiled]))
    )
    with transaction(engine, read_only=True) as session:
        before = {account_id: (version, digest) for account_id, version, digest in session.exec(asked)}
    return {
        one.account_id: before[one.account_id][0]
        for one in compiled
        if one.account_id in before and before[one.account_id][1] == one.counters_digest
    }


def _note(engine: Engine, compiled: Sequence[Compiled]) -> None:
    """Remember what was published. Never below a version that somebody else noted meanwhile."""
    if not compiled:
        return
    # Two statements for all: made one by one for each account they took longer than everything else here.
    higher = (
        update(Customer)
        .where(col(Customer.id) == bindparam("account"), col(Customer.published_version) < bindparam("version"))
        .values(published_version=bindparam("version"))
    )
    noted = [
        {"customer_id": one.account_id, "recompile_at": one.recompile_at, "counters_digest": one.counters_digest}
        for one in compiled
    ]
    with transaction(engine) as session:
        connection = session.connection()
        connection.execute(higher, [{"account": one.account_id, "version": one.version} for one in compiled])
        new = insert_into(session, Publication)
        connection.execute(
            new.on_conflict_do_update(
                index_elements=["customer_id"],
                set_={"recompile_at": new.excluded.recompile_at, "counters_digest": new.excluded.counters_digest},
            ),
            noted,
        )


def _portions(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[at : at + _ACCOUNTS_AT_ONCE] for at in range(0, len(ids), _ACCOUNTS_AT_ONCE))

"""What the plugin's tests start from: accounts as the portal publishes them, and calls as Envoy makes them."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from farebox.v1 import layout
from farebox.v1.digest import digest, new_api_key
from farebox.v1.entitlements_pb2 import Account, KeyRecord, MeterRule, Policies, Policy, StatusRange
from farebox.v1.envoy_authz_pb2 import CheckRequest
from farebox.v1.usage_pb2 import AccountState, UsageBatch
from farebox_plugin.admission import Admission, Admitted, Decision, Ticket
from farebox_plugin.call import read_call
from farebox_plugin.directory import Directory, read_policy
from farebox_plugin.estimates import RecentUse
from farebox_plugin.extension import Extensions
from farebox_plugin.keeper.index import Index
from farebox_plugin.keeper.peers import Peers
from farebox_plugin.keeper.rebuild import Rebuilder
from farebox_plugin.link import Link
from farebox_plugin.records import Call
from farebox_plugin.settlement import Settlements
from farebox_plugin.spool import SpoolReader, SpoolWriter, segments
from farebox_plugin.terms import Hold, Terms, hold_for
from rig.valkey import Valkey, ValkeyCluster

DAY_MS = 86_400_000
_streams = count(1)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


START_MS = now_ms() - DAY_MS  # of every account's current period


def an_account(
    limit: int = 10,
    *,
    id: str = "acct1",
    version: int = 1,
    meter: str = "api_requests",
    hard: bool = True,
    rate: tuple[int, int] | None = None,
    features: tuple[str, ...] = (),
    concurrency: int = 0,
    expires_at_ms: int = 0,
    **more_limits: int,
) -> Account:
    """One subscription `sub1` with a hard monthly limit on one meter, one key `key1`. `more_limits`: meter=limit."""
    account = Account(id=id, customer_key=f"{id}-customer", version=version)
    account.keys.add(id="key1", subscription_id="sub1", expires_at_ms=expires_at_ms)
    subscription = account.subscriptions.add(id="sub1", plan_key="free", features=features)
    subscription.access.add(from_ms=0, refusal="")
    subscription.concurrency_limit = concurrency
    if rate is not None:
        subscription.rate_limit.requests, subscription.rate_limit.per_ms = rate
    for name, units in {meter: limit, **more_limits}.items():
        resets = [START_MS, START_MS + 30 * DAY_MS, START_MS + 60 * DAY_MS]
        subscription.quotas.add(id=f"{name}.P1M", meter=name, limit=units, hard=hard, resets_ms=resets)
    return account


def a_policy(key: str = "default", meters: dict[str, int | str] | None = None, **fields: Any) -> Policy:
    policy = Policy(key=key, meter_on_status=[StatusRange(first=200, last=299)], **fields)
    for meter, rule in (meters if meters is not None else {"api_requests": 1}).items():
        policy.meters.append(
            MeterRule(meter=meter, fixed=rule) if isinstance(rule, int) else MeterRule(meter=meter, expression=rule)
        )
    return policy


def a_check(api_key: str | None = None, *, policy: str = "", stream: int | None = None, **headers: str) -> bytes:
    """A CheckRequest as Envoy sends it; header names with `_` for `-`."""
    message = CheckRequest()
    request = message.attributes.request
    at = now_ms()
    request.time.seconds, request.time.nanos = at // 1000, at % 1000 * 1_000_000
    request.http.id = str(next(_streams) if stream is None else stream)
    request.http.method, request.http.path = "GET", "/v1/echo?secret=1"
    request.http.headers["x-request-id"] = "req-1"
    if api_key is not None:
        request.http.headers["authorization"] = f"Bearer {api_key}"
    for name, value in headers.items():
        request.http.headers[name.replace("_", "-")] = value
    if policy:
        message.attributes.context_extensions["farebox.policy"] = policy
    return message.SerializeToString()


@dataclass
class LedgerInMemory:
    """The portal's side of the two internal endpoints, over a dictionary: for what the plugin does with the answers."""

    accounts: dict[str, Account] = field(default_factory=dict)
    state: AccountState = field(default_factory=AccountState)
    batches: list[UsageBatch] = field(default_factory=list)

    async def account_state(self, account: str, gateway: str) -> tuple[Account, AccountState]:
        state = AccountState()
        state.CopyFrom(self.state)
        state.account = self.accounts[account].SerializeToString()
        return self.accounts[account], state


@dataclass
class Part:
    """One worker's parts on a real Valkey, without Envoy in front."""

    link: Link
    directory: Directory
    spool: SpoolWriter
    settlements: Settlements
    extensions: Extensions
    admission: Admission
    recent: RecentUse
    index: Index
    rebuilder: Rebuilder
    ledger: LedgerInMemory
    folder: Path

    def records(self) -> list[tuple[bytes, list[str]]]:
        """Everything in this worker's spool: (kind, fields)."""
        return read_spool(self.folder, self.spool.spool)

    async def publish(self, account: Account, *policies: Policy, api_key: str | None = None) -> str:
        """Publish as the portal does; the API key."""
        api_key = api_key or new_api_key("test")
        self.ledger.accounts[account.id] = account
        await self.link.ask("SET", layout.account(account.id), account.SerializeToString())
        await self.link.ask("HSET", layout.counters(account.id), "ver", account.version)
        record = KeyRecord(account_id=account.id, key_id="key1").SerializeToString()
        await self.link.ask("SET", layout.api_key(digest(api_key)), record)
        published = Policies(version=1, policies=policies or [a_policy()]).SerializeToString()
        await self.link.ask("SET", layout.POLICIES, published)
        parts = [layout.directory_part(part) for part in layout.PARTS]
        for mark in parts if self.link.is_cluster else [layout.DIRECTORY]:
            await self.link.ask("SET", mark, self.link.server_of(mark).generation)
        return api_key

    async def counter(self, account: str = "acct1") -> dict[str, int]:
        """Committed units by meter."""
        raw = await self.link.ask("HGETALL", layout.counters(account))
        pairs = raw.items() if isinstance(raw, dict) else zip(raw[::2], raw[1::2], strict=True)
        return {
            name.decode().partition("/")[2].partition(".")[0]: int(units)
            for name, units in pairs
            if name.startswith(b"v:")
        }

    async def holds(self, account: str = "acct1") -> dict[str, str]:
        """Open holds and tombstones by rid."""
        raw = await self.link.ask("HGETALL", layout.holds(account))
        pairs = raw.items() if isinstance(raw, dict) else zip(raw[::2], raw[1::2], strict=True)
        return {name.decode(): value.decode() for name, value in pairs}


def read_spool(folder: Path, spool: str) -> list[tuple[bytes, list[str]]]:
    reader = SpoolReader(folder, spool, segments(folder)[spool][0][0])
    found: list[tuple[bytes, list[str]]] = []
    while frames := reader.read():
        found += [(each.kind, each.fields() if each.kind != b"S" else []) for frame in frames for each in frame.records]
    return found


@asynccontextmanager
async def a_part(
    valkey: Valkey | ValkeyCluster, folder: Path, name: str = "w0", *, gateway: str = "host", timeout_s: float = 10.0
) -> AsyncIterator[Part]:
    """A connected worker without a server."""
    directory: Directory
    link = Link(valkey.url, lambda keys: directory.invalidated(keys))
    directory = Directory(link)
    ledger = LedgerInMemory()
    index = Index(folder)
    rebuilder = Rebuilder(link, Peers(link, index, gateway), ledger)  # type: ignore[arg-type]
    spool = SpoolWriter(folder, name)
    recent = RecentUse()
    settlements = Settlements(link, spool, recent, rebuilder.load, name)
    admission = Admission(link, spool, directory, settlements, rebuilder.load, name, timeout_s)
    await link.open()
    try:
        extensions = Extensions(link, directory, spool, rebuilder.load)
        yield Part(link, directory, spool, settlements, extensions, admission, recent, index, rebuilder, ledger, folder)
    finally:
        await link.close()
        spool.close()


@dataclass
class Asker:
    """Who waits for a decision, and wants it as it is, not in Envoy's words; it may have gone meanwhile."""

    done: Callable[[Decision], None]
    has_left: Callable[[], bool] = lambda: False

    @property
    def is_abandoned(self) -> bool:
        return self.has_left()

    def send(self, message: bytes, unread: object = None) -> None:
        raise AssertionError("it is told by a_ticket's `answered`")

    def fail(self, status: int, detail: str) -> None:
        raise AssertionError(detail)


def a_ticket(call: Call, terms: Terms, hold: Hold, *askers: Asker) -> Ticket:
    def answered(ticket: Ticket, decision: Decision) -> None:
        for each in ticket.waiting:
            assert isinstance(each, Asker)
            each.done(decision)

    return Ticket(call, terms, hold, [*askers], answered)


async def ask(
    part: Part, *, stream: int | None = None, account: str = "acct1", units: int = 1, abandoned: bool = False
) -> Decision:
    """One request of an account whose document is in memory."""
    call = read_call(a_check("x", stream=stream)) if stream is None else a_call_of(stream)
    entry = part.directory.find_account(account) or part.directory.put_account(
        part.ledger.accounts[account].SerializeToString()
    )
    policy = read_policy(a_policy(f"costs-{units}", {"api_requests": units}))
    terms = part.directory.terms_of(entry, "key1", policy, call.admitted_at_ms)
    assert isinstance(terms, Terms)
    answer: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
    looks = count()  # the peer is still there at the first look, when the question is sent
    asker = Asker(answer.set_result, lambda: abandoned and next(looks) > 0)
    part.admission.submit(a_ticket(call, terms, hold_for(terms, None, {}), asker))
    return await answer


_calls: dict[int, Call] = {}


def a_call_of(stream: int) -> Call:
    """The same Check again: Envoy repeats time and id."""
    if stream not in _calls:
        _calls[stream] = read_call(a_check("x", stream=stream))
    return _calls[stream]


def code(decision: Decision) -> str:
    return "allowed" if isinstance(decision, Admitted) else decision.refusal.code


async def settled(part: Part) -> None:
    await asyncio.sleep(0)
    while not part.settlements.is_idle:  # noqa: ASYNC110
        await asyncio.sleep(0.01)

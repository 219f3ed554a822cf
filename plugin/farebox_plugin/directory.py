"""What the plugin knows: which key is whose, which account may do what, what a route costs.

Everything here is a cache of what the portal published, read through the link and invalidated by the server when it
changes. A cache cannot let anybody past a limit or a revocation: admission names the account's version, and the script
refuses one that is not current. The time to live is a backstop for a lost invalidation, no more; and what lies on a
node of a cluster that is gone is believed until there is another one, so that keys and policies there stop nobody whose
account lies elsewhere.

A key that is not found is only *invalid* if the directory is complete for this very server (its generation stands in
``fb:directory``, on a cluster in the mark beside the key). Otherwise the server has lost its memory and the portal has
not republished yet: "unavailable". An account is only believed if it was loaded into this very server.
"""

import asyncio
import sys
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import TypeVar, cast

from farebox.v1 import entitlements_pb2, layout
from farebox_plugin.link import Link
from farebox_plugin.recent import Recent
from farebox_plugin.records import KeyOwner, Refusal, Unavailable
from farebox_plugin.terms import Account, Key, Policy, Quota, Stage, Subscription, Terms, terms

TTL_S = 30.0
UNWATCHED_S = 0.5
# While the store is away: the bound on how late a revocation may act under `onStoreFailure: allow`.
STALE_S = 30.0
ENTRIES_MAX = 100_000
T = TypeVar("T")
DEFAULT_POLICY = Policy(key="default", meters={"api_requests": 1})


@dataclass(slots=True)
class AccountEntry:
    account: Account
    expires_at: float
    terms: dict[tuple[str, str], Terms] = field(default_factory=dict)


_Keys = Recent[str, tuple[float, KeyOwner | None]]  # digest -> believed until, whose it is
_Accounts = Recent[str, AccountEntry]


@dataclass(frozen=True, slots=True)
class _Memory:
    """What was known when the connection was lost. No revocation can reach it, so it is believed for a short time."""

    keys: "_Keys"
    accounts: "_Accounts"
    until: float


class Directory:
    """Caches over one link. Lookups are synchronous when they hit; `load_*` fetch what `find_*` did not have."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._keys: _Keys = Recent(ENTRIES_MAX)
        self._accounts: _Accounts = Recent(ENTRIES_MAX)
        self._policies: dict[str, Policy] | None = None
        self._policies_expire_at = 0.0
        self._policies_last_known: dict[str, Policy] = {}
        self._before_loss = _Memory(self._keys, self._accounts, 0.0)
        self._reading: dict[str, object] = {}  # what is being read, and was not invalidated since

    def invalidated(self, keys: list[bytes] | None) -> None:
        """The server says these keys changed (None: all may have)."""
        if keys is None:
            self._reading.clear()
            self._before_loss = _Memory(self._keys, self._accounts, asyncio.get_running_loop().time() + STALE_S)
            self._keys, self._accounts, self._policies = Recent(ENTRIES_MAX), Recent(ENTRIES_MAX), None
            return
        for raw in keys:
            key = raw.decode()
            self._reading.pop(key, None)
            if key == layout.POLICIES:
                self._policies = None
                self._accounts = Recent(ENTRIES_MAX)  # the terms in them were made with the old policies
            elif key.startswith("fb:key:"):
                self._keys.pop(key.rpartition(":")[2])
            elif key.endswith(":e"):
                self.forget_account(key[len("fb:{") : -len("}:e")])

    def find_terms(self, digest: str, policy_key: str, at_ms: int) -> Terms | None:
        """What this key is held to under this policy, if all of it is known already; None: look closer (`find_*`).

        Nearly every request is answered here, in one step instead of one for each thing that terms stand on.
        """
        now = asyncio.get_running_loop().time()
        believed_until, owner = self._keys.get(digest) or (0.0, None)
        if owner is None or believed_until < now or self._policies is None or self._policies_expire_at < now:
            return None
        entry = self._accounts.get(owner.account_id)
        if entry is None or entry.expires_at < now:
            return None
        made = entry.terms.get((owner.key_id, policy_key))
        return made if made is not None and made.holds_at(at_ms) else None

    def find_key(self, digest: str) -> KeyOwner | Refusal | None:
        """Whose key this is; a refusal if it is nobody's; None if that has to be asked (`load_key`)."""
        entry = self._keys.get(digest)
        if entry is None:
            return None
        if entry[0] < asyncio.get_running_loop().time() and not (
            entry[1] is not None and self._link.is_away(layout.api_key(digest))
        ):
            return None
        return entry[1] or Refusal("invalid_api_key", "The API key is not valid or was revoked.")

    async def load_key(self, digest: str) -> None:
        """Raises Unavailable, also when the directory is not complete."""
        record, expires_at = await self._watched(layout.api_key(digest), self._read_key(digest))
        found = None if record is None else _read_owner(entitlements_pb2.KeyRecord.FromString(record))
        self._keys[digest] = (expires_at, found)

    async def _read_key(self, digest: str) -> bytes | None:
        key = layout.api_key(digest)
        return await self._link.ask("GET", key) or await self._read_complete(key, digest[0])

    def terms_before_loss(self, digest: str, policy: Policy, at_ms: int) -> Terms | Refusal | None:
        """For policies that let requests pass while the store is away: the terms as they stood when it went away."""
        memory = self._before_loss
        _, record = memory.keys.get(digest) or (0.0, None)
        entry = memory.accounts.get(record.account_id) if record is not None else None
        if record is None or entry is None or memory.until < asyncio.get_running_loop().time():
            return None
        return terms(entry.account, record.key_id, policy, at_ms)

    def find_policy(self, key: str) -> Policy | None:
        """None: has to be asked (`load_policies`). An unknown name raises LookupError: the route is misconfigured."""
        if self._policies is None:
            return None
        if self._policies_expire_at < asyncio.get_running_loop().time() and not self._link.is_away(layout.POLICIES):
            return None
        policy = self._policies.get(key)
        if policy is None:
            raise LookupError(key)
        return policy

    def known_policy(self, key: str) -> Policy | None:
        """The policy as it was last seen, however long ago: for settling what was admitted under it."""
        return self._policies_last_known.get(key)

    async def load_policies(self) -> None:
        """Raises Unavailable, also when the server has lost them and the portal has not published them again."""
        reading = self._read_complete(layout.POLICIES, layout.PARTS[0])
        raw, expires_at = await self._watched(layout.POLICIES, reading)
        message = entitlements_pb2.Policies.FromString(raw or b"")
        self._policies = {"default": DEFAULT_POLICY} | {policy.key: read_policy(policy) for policy in message.policies}
        # A policy that is gone settles what it let in.
        self._policies_last_known |= self._policies
        self._policies_expire_at = expires_at

    async def _watched(self, key: str, reading: Awaitable[T]) -> tuple[T, float]:
        """(what was read, until when it is good). Not for long if it was overtaken: its invalidation is dealt with as
        soon as it is there, the answer before it only when this task has its turn.
        """
        self._reading[key] = mine = object()
        try:
            found = await reading
        finally:
            is_watched = self._reading.get(key) is mine
            if is_watched:
                del self._reading[key]
        return found, asyncio.get_running_loop().time() + (TTL_S if is_watched else UNWATCHED_S)

    async def _read_complete(self, key: str, part: str) -> bytes | None:
        """What stands there; None if nothing does, and nothing should. One read, at one moment of one server."""
        mark = layout.directory_part(part) if self._link.is_cluster else layout.DIRECTORY
        raw, complete = await self._link.ask("MGET", key, mark)
        if raw is None and (complete is None or complete.decode() != self._link.server_of(key).generation):
            raise Unavailable("the directory is being republished")
        return cast("bytes | None", raw)

    def find_account(self, account_id: str) -> AccountEntry | None:
        entry = self._accounts.get(account_id)
        return entry if entry is not None and entry.expires_at >= asyncio.get_running_loop().time() else None

    async def load_account(self, account_id: str) -> AccountEntry | None:
        """Read it from Valkey; None if it is not there, or from another incarnation (the keeper can rebuild it)."""
        counters, document = layout.counters(account_id), layout.account(account_id)
        # In this order: what was loaded when the first was read is in the second, or something newer.
        reading = asyncio.gather(self._link.ask("HGET", counters, "gen"), self._link.ask("GET", document))
        (loaded, raw), expires_at = await self._watched(document, reading)
        if raw is None or loaded is None or loaded.decode() != self._link.server_of(counters).generation:
            return None
        return self.put_account(raw, expires_at)

    def put_account(self, raw: bytes, expires_at: float | None = None) -> AccountEntry:
        """Without `expires_at` it was not read from the server, which tells of no change then: it is soon read."""
        account = read_account(entitlements_pb2.Account.FromString(raw))
        entry = AccountEntry(account, expires_at or asyncio.get_running_loop().time() + UNWATCHED_S)
        self._accounts[account.id] = entry
        return entry

    def forget_account(self, account_id: str) -> None:
        self._accounts.pop(account_id)

    def terms_of(self, entry: AccountEntry, key_id: str, policy: Policy, at_ms: int) -> Terms | Refusal:
        """The terms of a call, made once for each key and policy until something about them changes."""
        made = entry.terms.get((key_id, policy.key))
        if made is not None and made.holds_at(at_ms):
            return made
        fresh = terms(entry.account, key_id, policy, at_ms)
        if isinstance(fresh, Terms):
            entry.terms[(key_id, policy.key)] = fresh
        return fresh


def _read_owner(message: entitlements_pb2.KeyRecord) -> KeyOwner:
    # One text for all keys of an account; a message would take three times the room.
    return KeyOwner(sys.intern(message.account_id), message.key_id)


def read_account(message: entitlements_pb2.Account) -> Account:
    """The message as records; subscriptions and keys by id."""
    return Account(
        id=message.id,
        customer_key=message.customer_key,
        version=message.version,
        subscriptions={subscription.id: _read_subscription(subscription) for subscription in message.subscriptions},
        keys={key.id: Key(key.id, key.subscription_id, key.expires_at_ms) for key in message.keys},
    )


def _read_subscription(message: entitlements_pb2.Subscription) -> Subscription:
    return Subscription(
        id=message.id,
        access=tuple((step.from_ms, step.refusal) for step in message.access),
        stages=(_read_stage(message, 0), *(_read_stage(stage, stage.from_ms) for stage in message.stages)),
    )


def _read_stage(message: entitlements_pb2.Subscription | entitlements_pb2.Stage, from_ms: int) -> Stage:
    return Stage(
        from_ms=from_ms,
        plan_key=message.plan_key,
        rate=(message.rate_limit.requests, message.rate_limit.per_ms) if message.rate_limit.requests else None,
        quotas=tuple(Quota(q.id, q.meter, q.limit, q.hard, tuple(q.resets_ms)) for q in message.quotas),
        features=frozenset(message.features),
        concurrency_limit=message.concurrency_limit,
    )


def read_policy(message: entitlements_pb2.Policy) -> Policy:
    return Policy(
        key=message.key,
        meters={
            rule.meter: rule.fixed if rule.WhichOneof("quantity") == "fixed" else rule.expression
            for rule in message.meters
        },
        required=tuple(message.required_entitlements),
        billable=tuple((status.first, status.last) for status in message.meter_on_status),
        reserve=dict(message.reserve),
        dimensions=dict(message.dimensions),
        allow_on_store_failure=message.allow_on_store_failure,
        status_codes=dict(message.status_codes),
        cut_off=message.cut_off,
    )

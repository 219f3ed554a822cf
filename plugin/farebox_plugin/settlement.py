"""The way back: what a request really used -> the spool (billable from that moment) -> the hold in Valkey.

The spool first, synchronously, so that no await stands between knowing and keeping. SETTLE then turns the hold into the
truth; it applies only to an open hold, so it is repeated without harm until the server has acknowledged it. If this
process dies before, the spool has the truth and the keeper repeats it.
"""

import asyncio
from collections import Counter as Tally
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import structlog

from farebox.v1 import layout, usage_pb2
from farebox_plugin.encode import field, number_tag, tag, texts, varint
from farebox_plugin.estimates import RecentUse
from farebox_plugin.link import Link, Reply
from farebox_plugin.records import Settlement, Unavailable
from farebox_plugin.scripts import SETTLE
from farebox_plugin.spool import VOID, SpoolWriter, record, settled_record

log = structlog.get_logger()

BATCH_MAX = 256
RETRY_S = 0.2
REPLY_TIMEOUT_S = 2.0
# Longer than any admission can be late (admission.LATE_AFTER_MS) together with the answer to it.
TOMBSTONE_S = 3.0


_Used = tuple[tuple[str, int], ...]  # (meter, units) of each that was used


class _Item(NamedTuple):
    """One SETTLE on its way, of requests alike; nothing used = give their holds back."""

    rids: Sequence[str]
    account: str
    owner: str = ""
    used: _Used = ()


class Settlements:
    """Settles for one worker. Everything it is told reaches the spool before it returns."""

    def __init__(
        self,
        link: Link,
        spool: SpoolWriter,
        recent: RecentUse,
        load_account: Callable[[str], Awaitable[bytes]],
        owner: str,
    ) -> None:
        self._link = link
        self._spool = spool
        self._recent = recent
        self._load_account = load_account
        self._owner = owner
        self._waiting: deque[_Item] = deque()
        self._in_flight = 0
        # When they are due, and rids by account: texts alone, as tens of thousands are kept.
        self._tombstones: deque[tuple[float, dict[str, list[str]]]] = deque()
        self._is_sweeping = False
        self._distrusted: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.counts: Tally[str] = Tally()

    @property
    def is_idle(self) -> bool:
        return not self._waiting and not self._in_flight and not self._tasks

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Keep the truth about these requests, then release their holds in the background.

        Raises SpoolFull when the disk does not take it: the caller keeps it and tries again.
        """
        if not settlements:
            return
        records, items = [], []
        for settlement in settlements:
            account, rids = settlement.grant.account, settlement.rids
            used = _used(settlement.quantities)
            if used:
                records.append(settled_record(serialized_event(settlement, used)))
            else:
                records.append(record(VOID, account, *rids))
            items.append(_Item(rids, account, "", used))
        self._spool.append(records)
        for settlement in settlements:
            count = 1 + len(settlement.alike)
            if settlement.is_measured:
                for meter, quantity in settlement.quantities.items():
                    self._recent.learn(settlement.grant.policy, meter, quantity)
            for flag in settlement.flags:
                self.counts[flag] += count
            self.counts["settled" if settlement.quantities else "void"] += count
        self._enqueue(items)

    def take_back(self, rid: str, account: str, owner: str = "") -> None:
        """Give back what an admission of this worker (or `owner`) may have held; a spool says that it was given up."""
        self._enqueue([_Item((rid,), account, owner=owner or self._owner)])

    def distrust(self, account: str) -> None:
        """Have an account's counters rebuilt before they are believed again: the store has not seen all of its use."""
        if account not in self._distrusted:
            self._distrusted.add(account)
            self._spawn(self._forget_generation(account))

    async def _forget_generation(self, account: str) -> None:
        while True:
            try:
                await self._link.ask("HDEL", layout.counters(account), "gen")
                break
            except Unavailable:
                await asyncio.sleep(RETRY_S)
        self._distrusted.discard(account)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def repeat(self, events: Sequence[tuple[str, str, Mapping[str, int]]]) -> None:
        """Settle (rid, account, quantities) that the spool has already: a worker died before it could tell Valkey."""
        self._enqueue([_Item((rid,), account, used=_used(quantities)) for rid, account, quantities in events])

    def _enqueue(self, items: Sequence[_Item]) -> None:
        if not items:
            return
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._flush)
        self._waiting.extend(items)

    def _flush(self) -> None:
        while self._waiting:
            if not self._link.is_up:
                asyncio.get_running_loop().call_later(RETRY_S, self._flush)
                return
            for together in self._link.batches(self._next_batch(), _counters_of):
                self._send(together)

    def _next_batch(self) -> list[_Item]:
        """What has waited longest, `BATCH_MAX` requests at most."""
        batch: list[_Item] = []
        room = BATCH_MAX
        while self._waiting and room:
            item = self._waiting.popleft()
            if len(item.rids) > room:
                self._waiting.appendleft(item._replace(rids=item.rids[room:]))
                item = item._replace(rids=item.rids[:room])
            batch.append(item)
            room -= len(item.rids)
        return batch

    def _send(self, batch: Sequence[_Item]) -> None:
        alike: dict[tuple[str, str, _Used], list[str]] = {}
        for item in batch:
            alike.setdefault((item.account, item.owner, item.used), []).extend(item.rids)
        keys: list[str] = []
        arguments: list[bytes | str | int] = [self._link.server_of(_counters_of(batch[0])).generation]
        for (account, owner, used), rids in alike.items():
            keys += (layout.counters(account), layout.holds(account))
            arguments += (owner, len(used))
            for meter_and_units in used:
                arguments += meter_and_units
            arguments.append(len(rids))
            arguments += rids
        groups = [_Item(rids, account, owner, used) for (account, owner, used), rids in alike.items()]
        self._in_flight += 1
        is_over = False

        def finished(reply: Reply | Exception) -> None:
            nonlocal is_over
            if is_over:
                return
            is_over = True
            timer.cancel()
            self._in_flight -= 1
            self._replied(groups, reply)

        timer = asyncio.get_running_loop().call_later(REPLY_TIMEOUT_S, lambda: finished(Unavailable("timeout")))
        self._link.run(SETTLE, keys, arguments, finished)

    def _replied(self, groups: Sequence[_Item], reply: Reply | Exception) -> None:
        if isinstance(reply, Exception):
            if not isinstance(reply, Unavailable):
                log.error("settle_script_refused", reason=str(reply))
            self._again(groups)
            return
        done: dict[str, list[str]] = {}
        unloaded: dict[str, list[_Item]] = {}
        for group, still_owned in zip(groups, reply, strict=True):
            if still_owned == -4:
                unloaded.setdefault(group.account, []).append(group)
                continue
            finished = (
                [rid for at, rid in enumerate(group.rids, 1) if at not in still_owned] if still_owned else group.rids
            )
            if finished:
                done.setdefault(group.account, []).extend(finished)
        if done:
            self._tombstones.append((asyncio.get_running_loop().time() + TOMBSTONE_S, done))
            if not self._is_sweeping:
                self._is_sweeping = True
                asyncio.get_running_loop().call_later(TOMBSTONE_S, self._sweep_tombstones)
        for account, items in unloaded.items():
            self._spawn(self._load_then_again(account, items))

    async def _load_then_again(self, account: str, items: list[_Item]) -> None:
        # The rebuild knows these settlements from the spool. It may have read the spool a moment before they were in
        # it, though, and then holds them open: so they are settled again, which is nothing where it was not needed.
        try:
            await self._load_account(account)
        except Unavailable:
            await asyncio.sleep(RETRY_S)
        self._enqueue(items)

    def _again(self, batch: Sequence[_Item]) -> None:
        asyncio.get_running_loop().call_later(RETRY_S, self._enqueue, batch)

    def _sweep_tombstones(self) -> None:
        now = asyncio.get_running_loop().time()
        by_account: dict[str, list[str]] = {}
        while self._tombstones and self._tombstones[0][0] <= now:
            for account, rids in self._tombstones.popleft()[1].items():
                by_account.setdefault(account, []).extend(rids)
        for account, rids in by_account.items():
            self._link.call(("HDEL", layout.holds(account), *rids), lambda reply: None)
        self._is_sweeping = bool(self._tombstones)
        if self._is_sweeping:
            asyncio.get_running_loop().call_later(max(self._tombstones[0][0] - now, 0.05), self._sweep_tombstones)


def _counters_of(item: _Item) -> str:
    return layout.counters(item.account)


def _used(quantities: Mapping[str, int]) -> _Used:
    return tuple([(meter, units) for meter, units in quantities.items() if units])


def serialized_event(settlement: Settlement, used: _Used) -> bytes:
    """A UsageEvent. Messages laid end to end are one, so what requests have in common is made once."""
    grant = settlement.grant
    event = (
        _whose(grant.account, grant.subscription, grant.key, grant.policy)
        + field(_RID, grant.rid.encode())
        + _ADMITTED_AT_MS
        + varint(grant.admitted_at_ms)
        + _how_much(settlement.status, used)
    )
    if settlement.alike:
        event += texts(_ALIKE, settlement.alike)
    if settlement.dimensions or settlement.flags:
        rest = usage_pb2.UsageEvent(dimensions=dict(settlement.dimensions), flags=settlement.flags)
        event += rest.SerializeToString()
    return event


_RID, _ADMITTED_AT_MS, _ALIKE = tag(1), number_tag(6), tag(11)


@lru_cache(maxsize=50_000)
def _whose(account: str, subscription: str, key: str, policy: str) -> bytes:
    event = usage_pb2.UsageEvent(account_id=account, subscription_id=subscription, key_id=key, policy=policy)
    return event.SerializeToString()


@lru_cache(maxsize=4096)
def _how_much(status: int, used: _Used) -> bytes:
    event = usage_pb2.UsageEvent(status=status)
    for meter, quantity in used:
        event.meters.add(meter=meter, quantity=quantity)
    return event.SerializeToString()

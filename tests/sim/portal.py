"""The portal, in memory: a ledger with the real semantics, the accounts' documents, and their publisher.

The ledger keeps the first quantity that it is told for (account, rid, meter), its cursors are absolute and only rise,
and both change in one instant. An account's state is its sums and the cursors of one instant. Every gateway is live: to
go on without one that is lost is a bounded loss by decision, and none of the protocol's.
"""

import asyncio
from collections.abc import Iterable
from functools import cache
from random import Random

from farebox.v1 import layout
from farebox.v1.entitlements_pb2 import Account
from farebox.v1.rid import singles
from farebox.v1.usage_pb2 import (
    AccountState,
    CounterValue,
    Gateway,
    Heartbeat,
    HeartbeatReceipt,
    Receipt,
    UsageBatch,
    UsageEvent,
)
from farebox_plugin.records import Unavailable
from farebox_portal.entitlements import publish
from sim.link import EPOCH_MS, Process, Server

LONG_MS = 1 << 40
WINDOW_MS = 5_000
WINDOWS = 20  # longer than any world lasts


class Portal:
    """Ledger, documents, publisher. `limits`: account -> quota id -> limit; the quota `extra.*` comes and goes."""

    def __init__(
        self, server: Server, random: Random, limits: dict[str, dict[str, int]], gateways: tuple[str, ...]
    ) -> None:
        self.is_up = True
        self.is_smooth = False  # no lost receipts, no crashes of the publisher
        self.rows: dict[tuple[str, str, str], int] = {}
        self.flags: dict[tuple[str, str], tuple[str, ...]] = {}
        self._admitted_at_ms: dict[str, int] = {}
        self._cursors: dict[str, int] = {}
        self.retired = 0
        self._server = server
        self._random = random
        self._limits = limits
        self._gateways = gateways
        self._version = dict.fromkeys(limits, 1)
        self._has_extra = dict.fromkeys(limits, False)
        self._noted: dict[str, tuple[int, bool]] = {}  # account -> (version, has extra) last noted as published

    def change(self, account: str, *, plan: bool) -> None:
        """Something about the account changes: with `plan`, also which quotas there are."""
        self._version[account] += 1
        self._has_extra[account] ^= plan

    def document(self, account: str) -> Account:
        document = Account(id=account, customer_key=account, version=self._version[account])
        document.keys.add(id="key1", subscription_id=f"{account}-sub")
        subscription = document.subscriptions.add(id=f"{account}-sub", plan_key="plan")
        subscription.access.add(from_ms=0, refusal="")
        for quota, limit in self._limits[account].items():
            if quota.startswith("extra.") and not self._has_extra[account]:
                continue
            meter, resets = quota_shape(quota)
            subscription.quotas.add(id=quota, meter=meter, limit=limit, hard=True, resets_ms=resets)
        return document

    def total(self, account: str, field: str) -> int:
        """Units in the ledger that stand on one counter."""
        return sum(
            quantity
            for (owner, rid, meter), quantity in self.rows.items()
            if owner == account and field in fields_of(account, meter, self._admitted_at_ms[rid], self._limits[account])
        )

    async def keep_published(self) -> None:
        while True:
            await asyncio.sleep(0.05 + 0.4 * self._random.random())
            if self._server.is_up:
                self.publish_all()

    def publish_all(self) -> None:
        """`entitlements.publish`: what changed, and everything into a server that was emptied or is another one."""
        mark = self._server.execute("GET", layout.DIRECTORY)
        is_complete = mark == self._server.generation.encode()
        for account, version in self._version.items():
            noted = self._noted.get(account)
            if is_complete and noted is not None and noted[0] == version:
                continue
            same = noted[0] if noted is not None and noted[1] == self._has_extra[account] else ""
            names = (layout.counters(account), layout.account(account))
            document = self.document(account).SerializeToString()
            self._server.execute("EVAL", publish._PUBLISH, 2, *names, version, document, same)
            if self.is_smooth or self._random.random() < 0.7:  # else it died before it noted what it had done
                self._noted[account] = (version, self._has_extra[account])
        self._server.execute("SET", layout.DIRECTORY, self._server.generation)

    def client(self, process: Process) -> "Client":
        return Client(self, process, self._random)

    def store(self, batch: UsageBatch) -> Receipt:
        accepted = 0
        for payload in batch.events:
            for event in singles(UsageEvent.FromString(payload)):
                self._admitted_at_ms[event.rid] = event.admitted_at_ms
                for used in event.meters:
                    row = (event.account_id, event.rid, used.meter)
                    if row not in self.rows:
                        accepted += 1
                        self.rows[row] = used.quantity
                        self.flags[row[:2]] = tuple(event.flags)
        self._cursors[batch.spool] = max(self._cursors.get(batch.spool, 0), batch.end)
        return Receipt(spool=batch.spool, end=self._cursors[batch.spool], accepted=accepted)

    def retire(self, spools: Iterable[str]) -> None:
        for spool in spools:
            self.retired += self._cursors.pop(spool, None) is not None

    def state(self, account: str) -> AccountState:
        document = self.document(account)
        gateways = [Gateway(name=name, is_live=True) for name in self._gateways]
        state = AccountState(account=document.SerializeToString(), cursors=self._cursors, gateways=gateways)
        quotas = {quota.id for quota in document.subscriptions[0].quotas}
        sums: dict[tuple[str, int], int] = {}
        for (owner, rid, meter), quantity in self.rows.items():
            if owner == account:
                for quota in quotas:
                    if quota_shape(quota)[0] == meter:
                        start = period_start(quota, self._admitted_at_ms[rid])
                        sums[(quota, start)] = sums.get((quota, start), 0) + quantity
        for (quota, start), used in sorted(sums.items()):
            subscription = f"{account}-sub"
            state.counters.append(
                CounterValue(subscription_id=subscription, quota_id=quota, period_start_ms=start, used=used)
            )
        return state


class Client:
    """`keeper.portal.Portal` for one keeper, over a network that loses and delays."""

    def __init__(self, portal: Portal, process: Process, random: Random) -> None:
        self._portal = portal
        self._process = process
        self._random = random

    async def store_usage(self, batch: UsageBatch) -> Receipt:
        await self._travel()
        if not self._portal.is_smooth and self._random.random() < 0.05:
            # It is stored after the shipper gave up, perhaps after it delivered the same again.
            asyncio.get_running_loop().call_later(2.0 * self._random.random(), self._portal.store, batch)
            raise Unavailable("timeout")
        receipt = self._portal.store(batch)
        await self._travel()
        if not self._portal.is_smooth and self._random.random() < 0.1:
            raise Unavailable("the receipt was lost")
        return receipt

    async def account_state(self, account: str, gateway: str) -> tuple[Account, AccountState]:
        await self._travel()
        state = self._portal.state(account)
        await self._travel()
        return Account.FromString(state.account), state

    async def beat(self, heartbeat: Heartbeat) -> HeartbeatReceipt:
        await self._travel()
        self._portal.retire(heartbeat.retired)
        await self._travel()
        return HeartbeatReceipt()

    async def _travel(self) -> None:
        self._process.check()
        await asyncio.sleep(self._random.random() * (0.3 if self._random.random() < 0.1 else 0.005))
        self._process.check()
        if not self._portal.is_up:
            raise Unavailable("the portal does not answer")


@cache
def quota_shape(quota: str) -> tuple[str, list[int]]:
    """A quota's meter and boundaries, from its id ``<total|window|extra>.<meter>``. Independent of the plugin's."""
    kind, _, meter = quota.partition(".")
    if kind == "window":
        return meter, [EPOCH_MS + n * WINDOW_MS for n in range(WINDOWS)]
    return meter, [EPOCH_MS, EPOCH_MS + LONG_MS]


def period_start(quota: str, at_ms: int) -> int:
    return at_ms - (at_ms - EPOCH_MS) % WINDOW_MS if quota.startswith("window.") else EPOCH_MS


def fields_of(account: str, meter: str, at_ms: int, quotas: dict[str, int]) -> list[str]:
    """The counters on which a unit of this meter, admitted at this instant, stands."""
    return [
        layout.counter_field(f"{account}-sub", quota, period_start(quota, at_ms))
        for quota in quotas
        if quota_shape(quota)[0] == meter
    ]

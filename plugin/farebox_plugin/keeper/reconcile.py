"""Valkey's counters and holds against the truth: the ledger, and what the spools have beyond it.

The truth is the one a rebuild would put into place (rebuild.admission_state). The two are compared while the account is
quiet: looked at before and after the truth was read, and unchanged between. Two differences are none even then: a
request whose end stands in the spool, and whose SETTLE is on its way, is still held; and one that only an intent is
known of is not held when it was refused, or is to be admitted yet.

What differs is put right by a rebuild, which is fenced: it cannot undo what happens meanwhile.
"""

import asyncio
from collections import Counter as Tally
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass

import structlog

from farebox.v1 import layout
from farebox.v1.entitlements_pb2 import Account
from farebox_plugin.keeper.index import Index
from farebox_plugin.keeper.peers import Peers
from farebox_plugin.keeper.portal import Portal
from farebox_plugin.keeper.rebuild import AdmissionState, Rebuilder, admission_state
from farebox_plugin.link import Link
from farebox_plugin.records import Unavailable
from farebox_plugin.scripts import LOOK
from farebox_plugin.terms import held_units

log = structlog.get_logger()

INTERVAL_S = 60.0
QUIET_TRIES = 5
QUIET_WAIT_S = 0.3


@dataclass(frozen=True, slots=True)
class Drift:
    """One thing in Valkey that is not as the truth has it: a counter's units, or a hold (1 = there, 0 = not)."""

    what: str
    expected: int
    found: int


@dataclass(frozen=True, slots=True)
class Finding:
    """One account. `result`: right, drift, repaired, unloaded (its next request rebuilds it), busy (never quiet)."""

    account: str
    result: str
    drifts: tuple[Drift, ...] = ()


@dataclass(frozen=True, slots=True)
class Look:
    """What Valkey holds of an account."""

    generation: str
    counters: Mapping[str, int]
    holds: Mapping[str, str]  # open ones, without tombstones


def current_counters(account: Account) -> set[str]:
    """The fields that the account's document counts on now. Counters of periods long gone stay until the next rebuild.

    What a later stage counts is among them from the moment on that anything counts there.
    """
    fields = {
        layout.counter_field(subscription.id, quota.id, start_ms)
        for subscription in account.subscriptions
        for quota in subscription.quotas
        for start_ms in quota.resets_ms[:-1]
    }
    return fields | {
        layout.concurrency_field(each.id)
        for each in account.subscriptions
        if each.concurrency_limit or any(stage.concurrency_limit for stage in each.stages)
    }


def drifts(
    look: Look, truth: AdmissionState, ended: Mapping[str, Mapping[str, int]], current: set[str]
) -> Iterator[Drift]:
    """Where Valkey differs from the truth, as far as `current` counters go. Pure.

    `ended`: rid -> quantities of requests that ended a moment ago, and whose SETTLE may be on its way.
    """
    expected = dict(truth.counters)
    for rid, hold in look.holds.items():
        if rid in truth.holds:
            continue
        if rid not in ended:
            yield Drift(f"hold {rid}", 0, 1)
            continue
        for field, (meter, units) in held_units(hold).items():
            expected[field] = expected.get(field, 0) + units - ended[rid].get(meter, 0)
    for rid in truth.holds.keys() - look.holds.keys():
        if truth.holds[rid].startswith("?"):
            for field, (_, units) in held_units(truth.holds[rid]).items():
                expected[field] -= units
            continue
        yield Drift(f"hold {rid}", 1, 0)
    for field in sorted((expected.keys() | look.counters.keys()) & current):
        wanted, found = expected.get(field, 0), look.counters.get(field, 0)
        if wanted != found:
            yield Drift(field, wanted, found)


class Reconciler:
    """Compares accounts; repairs them if asked to."""

    def __init__(self, link: Link, index: Index, peers: Peers, portal: Portal, rebuilder: Rebuilder) -> None:
        self._link = link
        self._index = index
        self._peers = peers
        self._portal = portal
        self._rebuilder = rebuilder
        self.counts: Tally[str] = Tally()

    async def run(self) -> None:
        """Every minute, the accounts that were in use since the last time."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            for account in self._index.take_touched():
                try:
                    finding = await self.reconcile(account, repair=True)
                except Unavailable:
                    self._index.touched.add(account)  # the next round
                    continue
                if finding.drifts:
                    log.error("drift_found", account=account, result=finding.result, drifts=_in_words(finding))

    async def reconcile(self, account: str, *, repair: bool) -> Finding:
        """Compare one account. Raises Unavailable when Valkey or the portal does not answer."""
        finding = await self._compare(account)
        if finding.drifts and repair:
            await self.rebuild(account)
            finding = Finding(account, "repaired", finding.drifts)
        self.counts[finding.result] += 1
        self.counts["drifts"] += len(finding.drifts)
        return finding

    async def rebuild(self, account: str) -> None:
        """Put the truth into place, whatever Valkey holds. Raises Unavailable."""
        await self._link.ask("HDEL", layout.counters(account), "gen")
        await self._rebuilder.load(account)

    async def accounts(self) -> AsyncIterator[str]:
        """Every account that Valkey knows."""
        async for key in self._link.scan(layout.counters("*")):
            yield key.decode()[len("fb:{") : -len("}:c")]

    async def _compare(self, account: str) -> Finding:
        for _ in range(QUIET_TRIES):
            before = await self._look(account)
            if before.generation != self._link.server_of(layout.counters(account)).generation:
                return Finding(account, "unloaded")
            message, state = await self._portal.account_state(account, self._peers.name)
            pending = await self._peers.gather(account, state, is_rebuild=False, holds=before.holds)
            if pending is not None and await self._look(account) == before:
                truth = admission_state(message, state, pending.unshipped, pending.open_requests)
                found = tuple(drifts(before, truth, pending.ended, current_counters(message)))
                return Finding(account, "drift" if found else "right", found)
            await asyncio.sleep(QUIET_WAIT_S)
        return Finding(account, "busy")

    async def _look(self, account: str) -> Look:
        reply = await self._link.ask_script(LOOK, [layout.counters(account), layout.holds(account)], [])
        counters, holds = (
            {name.decode(): value.decode() for name, value in zip(flat[::2], flat[1::2], strict=True)} for flat in reply
        )
        return Look(
            counters.get("gen", ""),
            {name: int(units) for name, units in counters.items() if name.startswith(("v:", "n:"))},
            {rid: hold for rid, hold in holds.items() if not hold.startswith("!")},
        )


def _in_words(finding: Finding) -> list[str]:
    return [f"{drift.what}: {drift.found} instead of {drift.expected}" for drift in finding.drifts]

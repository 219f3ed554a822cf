"""Ledger + spools -> an account's admission state in Valkey.

    claim a token -> the ledger's view (sums and cursors, one transaction) -> the spools of all gateways -> LOAD

The order matters. A token is given only for an account that is not loaded, and that it stays until LOAD: the spools
cannot miss what is admitted after they were read. What was settled after the ledger's view stands behind its cursors in
a spool, and the spools are read after the view: nothing falls between, and nothing counts twice. LOAD is refused if the
token is no longer ours, or if the server is another one than the one it was claimed on. How the other gateways are
asked: peers.py.
"""

import asyncio
import secrets
from dataclasses import dataclass

import structlog

from farebox.v1 import layout
from farebox.v1.entitlements_pb2 import Account
from farebox.v1.usage_pb2 import AccountState, UsageEvent
from farebox_plugin.directory import read_account
from farebox_plugin.keeper.index import OpenRequest
from farebox_plugin.keeper.peers import Peers
from farebox_plugin.keeper.portal import Portal
from farebox_plugin.link import Elsewhere, Link, StoreFault
from farebox_plugin.records import Unavailable
from farebox_plugin.scripts import BEGIN, LOAD, RELEASE
from farebox_plugin.terms import Subscription, counters_at, held_by_meter, held_units

log = structlog.get_logger()

TOKEN_TTL_MS = 10_000
ATTEMPTS_MAX = 20
WAIT_S = 0.05


@dataclass(frozen=True, slots=True)
class AdmissionState:
    """What LOAD puts into place."""

    counters: dict[str, int]  # field -> units committed
    holds: dict[str, str]  # rid -> hold


def admission_state(
    account: Account, state: AccountState, unshipped: list[UsageEvent], open_requests: list[OpenRequest]
) -> AdmissionState:
    """Committed units = ledger + what the ledger does not have yet + what is held by open requests. Pure.

    An intent without an outcome is held too, as a suspect: it may have been let in by a worker that died. If its
    admission comes (again), the script releases the suspect and decides anew.
    """
    counters: dict[str, int] = {}
    for counter in state.counters:
        field = layout.counter_field(counter.subscription_id, counter.quota_id, counter.period_start_ms)
        counters[field] = counters.get(field, 0) + counter.used
    subscriptions = read_account(account).subscriptions
    for event in unshipped:
        for field, units in _on_counters(subscriptions.get(event.subscription_id), event):
            counters[field] = counters.get(field, 0) + units
    holds: dict[str, str] = {}
    for request in open_requests:
        hold = _on_todays_counters(subscriptions.get(request.grant.subscription), request)
        holds[request.grant.rid] = hold if request.is_allowed else "?" + hold
        for field, (_, units) in held_units(hold).items():
            counters[field] = counters.get(field, 0) + units
    return AdmissionState(counters, holds)


def _on_todays_counters(subscription: Subscription | None, request: OpenRequest) -> str:
    """A hold as the document of today would make it: what its plan counts may have changed since it was made."""
    if subscription is None:
        return request.hold_of_all
    owners = request.hold_of_all.partition(";")[0]
    held = held_by_meter(request.hold)
    at_ms = request.grant.admitted_at_ms
    stage, _ = subscription.stage_at(at_ms)
    parts = [
        f"{counter.field}|{counter.meter}|{held[counter.meter]}"
        for counter in counters_at(subscription.id, stage, at_ms)
        if counter.meter in held
    ]
    if stage.concurrency_limit:
        parts.append(f"{layout.concurrency_field(subscription.id)}|{layout.OPEN_REQUEST}|1")
    return f"{owners};{','.join(parts)}"


def _on_counters(subscription: Subscription | None, event: UsageEvent) -> list[tuple[str, int]]:
    if subscription is None:
        return []
    used = {meter.meter: meter.quantity for meter in event.meters}
    stage, _ = subscription.stage_at(event.admitted_at_ms)
    counters = counters_at(subscription.id, stage, event.admitted_at_ms)
    return [(counter.field, used[counter.meter]) for counter in counters if counter.meter in used]


class Rebuilder:
    """Rebuilds accounts, each once at a time."""

    def __init__(self, link: Link, peers: Peers, portal: Portal) -> None:
        self._link = link
        self._peers = peers
        self._portal = portal
        self._running: dict[str, asyncio.Task[bytes]] = {}
        self.rebuilt_count = 0

    async def load(self, account: str) -> bytes:
        """Make sure that this server holds the account's state; the serialized ``Account``. Raises Unavailable."""
        task = self._running.get(account)
        if task is None:
            task = asyncio.ensure_future(self._load(account))
            self._running[account] = task
            task.add_done_callback(lambda task: self._finished(account, task))
        return await asyncio.shield(task)

    def _finished(self, account: str, task: asyncio.Task[bytes]) -> None:
        self._running.pop(account, None)
        if not task.cancelled():
            task.exception()  # everybody who asked may have gone; then nobody else looks at it

    async def _load(self, account: str) -> bytes:
        token = f"{self._peers.name}/{secrets.token_hex(8)}"
        try:
            return await self._load_with(token, account)
        except Unavailable:
            # Perhaps another gateway can; it need not wait until the token expires.
            self._link.run(RELEASE, [layout.rebuild_token(account)], [token], lambda reply: None)
            raise
        except StoreFault as fault:
            log.error("rebuild_refused", account=account, reason=str(fault))
            raise Unavailable(str(fault)) from fault

    async def _load_with(self, token: str, account: str) -> bytes:
        for _ in range(ATTEMPTS_MAX):
            generation = self._link.server_of(layout.counters(account)).generation
            try:
                claimed: int | bytes = await self._link.ask_script(
                    BEGIN,
                    [layout.rebuild_token(account), layout.counters(account), layout.account(account)],
                    [token, f"{self._peers.name}/", TOKEN_TTL_MS, generation],
                )
            except Elsewhere:  # its slot has another master now, or is about to have one
                claimed = 0
            if isinstance(claimed, bytes):
                return claimed
            if claimed != 1:
                await asyncio.sleep(WAIT_S)
                continue
            message, state = await self._portal.account_state(account, self._peers.name)
            pending = await self._peers.gather(account, state, is_rebuild=True)
            if pending is None or self._link.server_of(layout.counters(account)).generation != generation:
                continue
            rebuilt = admission_state(message, state, pending.unshipped, pending.open_requests)
            if await self._put(account, generation, token, message.version, state.account, rebuilt) >= 0:
                return state.account
        raise Unavailable("somebody else keeps rebuilding this account")

    async def _put(
        self, account: str, generation: str, token: str, version: int, document: bytes, state: AdmissionState
    ) -> int:
        keys = [layout.counters(account), layout.holds(account), layout.rebuild_token(account), layout.account(account)]
        arguments: list[bytes | str | int] = [generation, token, version, document, len(state.counters)]
        for field, units in state.counters.items():
            arguments += (field, units)
        arguments.append(len(state.holds))
        for rid, hold in state.holds.items():
            arguments += (rid, hold)
        loaded: int = await self._link.ask_script(LOAD, keys, arguments)
        if loaded == 1:
            self.rebuilt_count += 1
            log.info("account_rebuilt", account=account, open=len(state.holds), counters=len(state.counters))
        return loaded

"""Feed 1: Envoy's access log, batched: status, flags and exact body bytes of every request that was let in.

It settles what a policy can know from these (counts, bytes). Where the policy charges for what stands in the body,
ext_proc settles, and the entry here is the safety net: it waits until ext_proc has surely spoken, looks whether the
hold is still open, and only then settles at the hold, flagged.

Entries of one Envoy thread all land in one worker, seldom the one that admitted: nothing here relies on memory.
"""

import asyncio
from collections import Counter as Tally
from collections.abc import Callable, Iterable
from typing import NamedTuple

import structlog
from google.protobuf.message import DecodeError

from farebox.v1 import layout
from farebox.v1.envoy_access_log_pb2 import DownstreamEnd, HTTPAccessLogEntry, StreamAccessLogsMessage
from farebox_plugin.answer import METADATA_NAMESPACE, grant_text, parse_grant
from farebox_plugin.directory import Directory
from farebox_plugin.link import Link
from farebox_plugin.measure.quantity import Facts, dimensions, quantities
from farebox_plugin.records import NO_LABELS, Grant, Settlement, Unavailable
from farebox_plugin.settlement import Settlements
from farebox_plugin.spool import SpoolFull
from farebox_plugin.terms import Policy
from farebox_plugin.transport import StreamReply

log = structlog.get_logger()

# ext_proc gets the end of a response at the time Envoy logs it; its settlement takes a store round trip.
SAFETY_NET_S = 2.0
RETRY_S = 0.5


class Finished(NamedTuple):
    """A request that is over, as the access log tells it; or several of which it tells the same."""

    grant: Grant
    status: int
    request_bytes: int
    response_bytes: int
    is_aborted: bool  # the client left before the end; what it got is charged
    alike: list[str]  # rids of the others

    @property
    def facts(self) -> Facts:
        return Facts(self.status, self.request_bytes, self.response_bytes)


class AccessLog:
    """Settles from the access log."""

    def __init__(self, link: Link, directory: Directory, settlements: Settlements) -> None:
        self._link = link
        self._directory = directory
        self._settlements = settlements
        self._waiting: set[asyncio.Task[None]] = set()
        self.counts: Tally[str] = Tally()

    def open(self, reply: StreamReply) -> "_Feed":
        """StreamAccessLogs: one endless stream for each Envoy thread; it expects no answer."""
        return _Feed(self)

    @property
    def is_idle(self) -> bool:
        return not self._waiting

    def receive(self, message: bytes) -> None:
        """One batch of entries."""
        try:
            entries = StreamAccessLogsMessage.FromString(message).http_logs.log_entry
        except DecodeError:
            self.counts["undecodable"] += 1
            return
        finished = gather(entries, self._directory.known_policy)
        self.counts["entries"] += sum([1 + len(each.alike) for each in finished])
        self._settle(finished)

    def _settle(self, finished: list[Finished]) -> None:
        now: list[Settlement] = []
        unknown: list[Finished] = []
        for each in finished:
            policy = self._directory.known_policy(each.grant.policy)
            if policy is None:
                unknown.append(each)
            elif policy.settled_by_body and policy.is_billable(each.status):
                self._spawn(self._settle_if_open(each, policy))
            else:
                now.append(settlement(each, policy))
        try:
            self._settlements.settle(now)
        except SpoolFull as fault:
            log.error("spool_full", reason=str(fault))
            unknown = finished
        if unknown:
            self._spawn(self._settle_later(unknown))

    async def _settle_later(self, finished: list[Finished]) -> None:
        """This worker has just started and knows no policies yet, or the disk was full: keep them and try again."""
        await asyncio.sleep(RETRY_S)
        try:
            await self._directory.load_policies()
        except Unavailable:
            self.counts["policies_unavailable"] += 1
        self._settle(finished)

    async def _settle_if_open(self, finished: Finished, policy: Policy) -> None:
        """The safety net under ext_proc."""
        await asyncio.sleep(SAFETY_NET_S)
        grant = finished.grant
        while True:
            try:
                raw = await self._link.ask("HGET", layout.holds(grant.account), grant.rid)
                break
            except Unavailable:
                await asyncio.sleep(RETRY_S)
        if raw is None or raw.startswith(b"!"):
            return
        self.counts["settled_by_safety_net"] += 1
        try:
            self._settlements.settle([settlement(finished, policy)])
        except SpoolFull:
            self._spawn(self._settle_if_open(finished, policy))

    def _spawn(self, work: object) -> None:
        task = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)


class _Feed:
    def __init__(self, reader: AccessLog) -> None:
        self._reader = reader

    def receive(self, message: bytes) -> None:
        self._reader.receive(message)

    def closed(self) -> None:
        """Envoy opens another one by itself; what was in flight is the sweeper's."""


def gather(entries: Iterable[HTTPAccessLogEntry], find_policy: Callable[[str], Policy | None]) -> list[Finished]:
    """What the entries tell: nothing of requests that we did not let in, and of those still running. Pure.

    Requests with the same grant (but for their ids) of which the same is told are one: most of a busy account are.
    """
    found: dict[tuple[str, int, int, int, bool], Finished] = {}
    needs: dict[str, tuple[bool, bool]] = {}  # what is granted -> (whether bytes are charged, whether each is apart)
    for entry in entries:
        common = entry.common_properties
        if common.access_log_type != DownstreamEnd:
            continue
        text = grant_text(common.metadata.filter_metadata.get(METADATA_NAMESPACE))
        if not text:
            continue
        rid, _, granted = text.partition(" ")
        if granted not in needs:
            policy = find_policy(parse_grant(text).policy)
            needs[granted] = policy is None or policy.fixed is None, policy is None or policy.settled_by_body
        by_bytes, is_apart = needs[granted]
        request_bytes = response_bytes = 0
        response, flags = entry.response, common.response_flags
        if by_bytes:
            request_bytes, response_bytes = entry.request.request_body_bytes, response.response_body_bytes
        is_aborted = flags.downstream_connection_termination or flags.downstream_remote_reset
        told = (response.response_code.value, request_bytes, response_bytes, is_aborted)
        key = (text if is_apart else granted, *told)
        first = found.get(key)
        if first is None:
            found[key] = Finished(parse_grant(text), *told, [])
        else:
            first.alike.append(rid)
    return list(found.values())


def settlement(finished: Finished, policy: Policy) -> Settlement:
    """What a finished request owes under its policy: nothing where its status is not billable."""
    grant, status, alike = finished.grant, finished.status, finished.alike
    if not policy.is_billable(status):
        return Settlement(grant, status, {}, alike=alike)
    flags: tuple[str, ...] = ("aborted",) if finished.is_aborted else ()
    if policy.fixed is not None:
        return Settlement(grant, status, policy.fixed, flags, is_measured=False, alike=alike)
    facts = finished.facts
    used, doubts = quantities(policy.meters, facts, grant.held)
    labels = dimensions(policy.dimensions, facts) if policy.dimensions else NO_LABELS
    return Settlement(grant, status, used, doubts + flags, labels, alike=alike)

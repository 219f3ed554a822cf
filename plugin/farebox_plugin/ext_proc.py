"""Feed 2: the response body, for policies that charge for what stands in it.

The filter runs in observability mode: Envoy sends copies and waits for nothing, so metering costs the client no time.
This side must keep reading and must end the stream itself at the end of the response; otherwise Envoy holds every
stream for its deferred-close timeout, and its circuit breaker silently stops metering at a few hundred requests a
second.

A second filter, `farebox.guard`, asks: Envoy holds back each piece of the body until it is answered. It is for policies
with `cutOff`, whose responses end where a limit ends (guard.py). There a stream that ends early with OK would let the
rest of the response pass unseen, so every message is answered, in order, and the stream ends only after the last.

It never authenticates. A stream without our metadata belongs to a request that was refused, and is ignored.
"""

import asyncio
from collections import Counter as Tally
from collections import deque
from collections.abc import Mapping

import structlog
from google.protobuf.message import DecodeError

from farebox.v1.envoy_ext_proc_pb2 import HttpHeaders, ProcessingRequest, ProcessingResponse
from farebox_plugin.answer import METADATA_NAMESPACE, read_grant
from farebox_plugin.directory import Directory
from farebox_plugin.extension import Extensions
from farebox_plugin.guard import Guard, cut, next_stop
from farebox_plugin.measure.body import BodyMeter, Reading
from farebox_plugin.measure.quantity import Facts, body_wants, dimensions, quantities
from farebox_plugin.records import Grant, Settlement, Unavailable
from farebox_plugin.settlement import Settlements
from farebox_plugin.spool import SpoolFull
from farebox_plugin.terms import Policy
from farebox_plugin.transport import StreamReply

log = structlog.get_logger()


class ExtProc:
    """Opens one `Watch` for each response."""

    def __init__(self, directory: Directory, settlements: Settlements, extensions: Extensions) -> None:
        self.directory = directory
        self.settlements = settlements
        self.extensions = extensions
        self.counts: Tally[str] = Tally()

    def open(self, reply: StreamReply) -> "Watch":
        self.counts["streams"] += 1
        return Watch(self, reply)


class Watch:
    """One response on its way to the client."""

    def __init__(self, feed: ExtProc, reply: StreamReply) -> None:
        self._feed = feed
        self._reply = reply
        self._grant: Grant | None = None
        self._status = 0
        self._headers: Mapping[str, str] = {}
        self._meter: BodyMeter | None = None
        self._request_bytes = 0
        self._response_bytes = 0
        self._is_plain_sse = False
        self._guard: Guard | None = None
        self._asking: asyncio.Task[None] | None = None
        self._behind: deque[ProcessingRequest] = deque()  # came while more was asked for
        self._is_over = False

    def receive(self, message: bytes) -> None:
        """One ProcessingRequest."""
        if self._is_over:
            return
        try:
            request = ProcessingRequest.FromString(message)
        except DecodeError:
            self._feed.counts["undecodable"] += 1
            return
        if self._asking is not None:
            self._behind.append(request)
        else:
            self._take(request)

    def closed(self) -> None:
        """The client hung up, the upstream broke off, or Envoy is gone: charge for what was seen."""
        self._finish(is_complete=False)

    def _take(self, request: ProcessingRequest) -> None:
        if self._grant is None and request.HasField("metadata_context"):
            self._grant = read_grant(request.metadata_context.filter_metadata.get(METADATA_NAMESPACE))
        kind = request.WhichOneof("request")
        if kind == "request_body":
            self._request_bytes += len(request.request_body.body)
        elif kind == "response_headers":
            self._begin(request.response_headers, is_asked=not request.observability_mode)
        elif kind == "response_body":
            self._response_bytes += len(request.response_body.body)
            if self._meter is not None and self._guard is not None:
                self._take_guarded(request, 0, self._meter, self._guard)
                return
            if self._meter is not None:
                self._meter.feed(request.response_body.body)
        self._pass(request)

    def _take_guarded(self, request: ProcessingRequest, start: int, meter: BodyMeter, guard: Guard) -> None:
        """A piece of the body from `start` on: it passes when all of it is covered."""
        piece = request.response_body.body
        before = meter.so_far()
        while start < len(piece):
            end = next_stop(piece, start) if self._is_plain_sse else len(piece)
            meter.feed(piece[start:end])
            after = meter.so_far()
            if lacks := guard.lacks(before, after):
                asking = self._ask_for_more(request, start, end, meter, guard, lacks, before)
                self._asking = asyncio.ensure_future(asking)
                return
            start, before = end, after
        self._pass(request)

    def _pass(self, request: ProcessingRequest) -> None:
        """Let this message go on, and end with the last one."""
        kind = request.WhichOneof("request")
        if not request.observability_mode:
            self._reply.send(_go_on(kind))
        if (
            kind == "response_trailers"
            or (kind == "response_headers" and request.response_headers.end_of_stream)
            or (kind == "response_body" and request.response_body.end_of_stream)
        ):
            self._finish(is_complete=True)
            self._reply.finish()

    async def _ask_for_more(
        self,
        request: ProcessingRequest,
        start: int,
        end: int,
        meter: BodyMeter,
        guard: Guard,
        lacks: Mapping[str, tuple[int, int]],
        before: Reading,
    ) -> None:
        """The piece waits at Envoy until what it needs is held; if that cannot be, the response ends here."""
        assert self._grant is not None
        code = "quota_exceeded"
        try:
            held = await self._feed.extensions.extend(self._grant, guard.policy, lacks)
        except Unavailable as fault:
            self._feed.counts["extension_unavailable"] += 1
            log.warning("extension_unavailable", rid=self._grant.rid, reason=str(fault))
            code = "metering_unavailable"
            # What the policy says of new requests, it says of running ones.
            held = {m: most for m, (_, most) in lacks.items()} if guard.policy.allow_on_store_failure else None
        self._asking = None
        if self._is_over:
            return
        guard.held = {**guard.held, **(held or {})}
        if held is None or guard.lacks(before, meter.so_far()):
            piece, is_last = request.response_body.body, request.response_body.end_of_stream
            covered = piece[:start] + guard.covered(piece[start:end], before)
            messages, passing = cut(covered, code, explain=self._is_plain_sse, is_last=is_last)
            self._response_bytes -= len(piece) - passing
            self._cut_off(guard, messages)
            return
        self._take_guarded(request, end, meter, guard)
        while self._behind and self._asking is None and not self._is_over:
            self._take(self._behind.popleft())

    def _cut_off(self, guard: Guard, messages: list[bytes]) -> None:
        self._feed.counts["cut_off"] += 1
        for message in messages:
            self._reply.send(message)
        self._finish(is_complete=False, cut_off=guard)
        self._reply.finish()

    def _begin(self, headers: HttpHeaders, *, is_asked: bool) -> None:
        found = {header.key: header.raw_value.decode("latin-1") or header.value for header in headers.headers.headers}
        self._headers = found
        status = found.get(":status", "0")
        self._status = int(status) if status.isdigit() else 0
        if self._grant is None:
            return
        self._is_plain_sse = (
            found.get("content-type", "").startswith("text/event-stream")
            and found.get("content-encoding", "identity") == "identity"
        )
        policy = self._feed.directory.known_policy(self._grant.policy)
        if policy is None:
            return
        wanted = body_wants(policy.meters, policy.dimensions)
        self._meter = BodyMeter(found.get("content-type", ""), found.get("content-encoding", ""), wanted)
        if policy.cut_off and policy.is_billable(self._status):
            if is_asked:
                self._guard = Guard(policy, self._grant.held)
            else:
                self._feed.counts["cut_off_impossible"] += 1
                log.warning("route_only_watched", policy=policy.key, remedy="its route needs farebox.guard: cutOff")

    def _finish(self, *, is_complete: bool, cut_off: Guard | None = None) -> None:
        if self._is_over:
            return
        self._is_over = True
        grant = self._grant
        if grant is None or not self._status:
            # Refused requests come by here too. One that never got a response is the access log's to void.
            return
        policy = self._feed.directory.known_policy(grant.policy)
        if policy is None or not policy.settled_by_body:
            return
        settlement = self._settlement(grant, policy, is_complete=is_complete)
        if cut_off is not None:
            charged = cut_off.charge(settlement.quantities)
            settlement = settlement._replace(quantities=charged, flags=(*settlement.flags, "cut_off"))
        try:
            self._feed.settlements.settle([settlement])
        except SpoolFull as fault:
            log.error("spool_full", reason=str(fault))  # the access log's safety net tries again

    def _settlement(self, grant: Grant, policy: Policy, *, is_complete: bool) -> Settlement:
        if not policy.is_billable(self._status):
            return Settlement(grant, self._status, {})
        facts = Facts(
            status=self._status,
            request_bytes=self._request_bytes,
            response_bytes=self._response_bytes,
            reading=self._meter.finish(complete=is_complete) if self._meter is not None else None,
            headers=self._headers,
        )
        used, flags = quantities(policy.meters, facts, grant.held)
        return Settlement(grant, self._status, used, flags, dimensions(policy.dimensions, facts))


def _go_on(kind: str | None) -> bytes:
    """The empty answer that lets a message pass."""
    response = ProcessingResponse()
    if kind is not None:
        getattr(response, kind).SetInParent()
    return response.SerializeToString()

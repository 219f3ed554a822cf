"""Feed 2: the response body, for policies that charge for what stands in it.

The filter runs in observability mode: Envoy sends copies and waits for nothing, so metering costs the client no time.
This side must keep reading and must end the stream itself at the end of the response; otherwise Envoy holds every
stream for its deferred-close timeout, and its circuit breaker silently stops metering at a few hundred requests a
second.

It never authenticates. A stream without our metadata belongs to a request that was refused, and is ignored. In the
replying (guarding) modes a stream that ends early with OK lets the rest of the response pass unseen, so there every
message is answered and the stream ends only after the last.
"""

from collections import Counter as Tally
from collections.abc import Mapping

import structlog
from google.protobuf.message import DecodeError

from farebox.v1.envoy_ext_proc_pb2 import HttpHeaders, ProcessingRequest, ProcessingResponse
from farebox_plugin.answer import METADATA_NAMESPACE, read_grant
from farebox_plugin.directory import Directory
from farebox_plugin.measure.body import BodyMeter
from farebox_plugin.measure.quantity import Facts, body_wants, dimensions, meters_on, quantities
from farebox_plugin.records import Grant, Settlement
from farebox_plugin.settlement import Settlements
from farebox_plugin.spool import SpoolFull
from farebox_plugin.terms import Policy
from farebox_plugin.transport import StreamReply

log = structlog.get_logger()


class ExtProc:
    """Opens one `Watch` for each response."""

    def __init__(self, directory: Directory, settlements: Settlements) -> None:
        self.directory = directory
        self.settlements = settlements
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
        kind = request.WhichOneof("request")
        ends = False
        if self._grant is None and request.HasField("metadata_context"):
            self._grant = read_grant(request.metadata_context.filter_metadata[METADATA_NAMESPACE])
        if kind == "request_body":
            self._request_bytes += len(request.request_body.body)
        elif kind == "response_headers":
            self._begin(request.response_headers)
            ends = request.response_headers.end_of_stream
        elif kind == "response_body":
            body = request.response_body.body
            self._response_bytes += len(body)
            if self._meter is not None:
                self._meter.feed(body)
            ends = request.response_body.end_of_stream
        elif kind == "response_trailers":
            ends = True
        if not request.observability_mode:
            self._reply.send(_go_on(kind))
        if ends:
            self._finish(is_complete=True)
            self._reply.finish()

    def closed(self) -> None:
        """The client hung up, the upstream broke off, or Envoy is gone: charge for what was seen."""
        self._finish(is_complete=False)

    def _begin(self, headers: HttpHeaders) -> None:
        found = {header.key: header.raw_value.decode("latin-1") or header.value for header in headers.headers.headers}
        self._headers = found
        status = found.get(":status", "0")
        self._status = int(status) if status.isdigit() else 0
        if self._grant is not None:
            policy = self._feed.directory.known_policy(self._grant.policy)
            if policy is not None:
                wanted = body_wants(policy.meters, policy.dimensions)
                self._meter = BodyMeter(found.get("content-type", ""), found.get("content-encoding", ""), wanted)

    def _finish(self, *, is_complete: bool) -> None:
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
        try:
            self._feed.settlements.settle([self._settlement(grant, policy, is_complete=is_complete)])
        except SpoolFull as fault:
            log.error("spool_full", reason=str(fault))  # the access log's safety net tries again

    def _settlement(self, grant: Grant, policy: Policy, *, is_complete: bool) -> Settlement:
        if not meters_on(self._status, policy.billable):
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

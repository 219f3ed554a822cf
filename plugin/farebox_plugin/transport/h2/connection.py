"""One HTTP/2 connection of a gRPC peer, receiving side: read frames, keep the rules, hand each to its call.

Read from the top: bytes become frames (`data_received`), a frame goes to the method of its type, HEADERS open calls
and DATA feeds them. What a peer does wrong ends one stream (`StreamFault`) or all of them (`ConnectionFault`), with the
error that RFC 9113 names; the sending side is in `sending`, gRPC itself in `calls`.

Servicers take each message at once, so both windows are topped up whenever half of one is used. They keep frames
coming; what bounds memory is counted in bytes.

What a peer can make us hold is bounded: one unfinished frame, one unfinished header block, `UNFINISHED_BYTES_MAX` of
messages, `CALLS_MAX` calls. A cancelled call counts until its servicer has let go of it, so that opening and resetting
streams in a circle ("rapid reset") runs into that limit and is answered REFUSED_STREAM. That hurts nobody else, and it
matters: one Envoy carries all its clients' calls on one connection, so hanging up on it for a client that cancels a lot
would be the worse denial of service. Frames that only make work (pings, settings, empty data, priorities, our own
resets) are on a `Patience` that a working peer does not feel; they end the connection. A peer that does not read what
it asked for is not read from either.
"""

import asyncio
from collections.abc import Callable
from typing import cast

import structlog

from farebox_plugin.recent import Recent
from farebox_plugin.transport import UNAVAILABLE, Services
from farebox_plugin.transport.h2.calls import Call, StreamCall, UnaryCall
from farebox_plugin.transport.h2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FRAME_BYTES_DEFAULT,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HEAD,
    HEAD_BYTES,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    INTERNAL_ERROR,
    MAX_CONCURRENT_STREAMS,
    MAX_HEADER_LIST_SIZE,
    NO_ERROR,
    PADDED,
    PING,
    PREFACE,
    PRIORITIZED,
    PRIORITY,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    STREAM_CLOSED,
    STREAM_ID_MAX,
    WINDOW_DEFAULT,
    WINDOW_UPDATE,
    ConnectionFault,
    StreamFault,
    frame,
    goaway,
    read_settings,
    read_word,
    rst_stream,
    settings,
    window_update,
    without_padding,
)
from farebox_plugin.transport.h2.headers import HEADER_LIST_BYTES_MAX, UNIMPLEMENTED, HeaderReader, check_trailers
from farebox_plugin.transport.h2.sending import Budget, Outgoing, Sending

log = structlog.get_logger()

CALLS_MAX = 2048
CALL_WINDOW = 1024 * 1024
CONNECTION_WINDOW = 16 * 1024 * 1024
UNFINISHED_BYTES_MAX = 64 * 1024 * 1024
BLOCK_BYTES_MAX = 32 * 1024
CONTINUATIONS_MAX = 8
PATIENCE_FRAMES = 2000
PATIENCE_PER_S = 200.0
_ENDED_EARLY_MAX = 4096
_ANSWERED_MAX = CALLS_MAX  # answers are read in order, so more than this many cannot be unread
_SOCKET_BUFFER_BYTES = 1024 * 1024
_DRAIN_PING = b"fareboxd"

_OUR_SETTINGS = settings(
    {
        MAX_CONCURRENT_STREAMS: CALLS_MAX,
        INITIAL_WINDOW_SIZE: CALL_WINDOW,
        MAX_HEADER_LIST_SIZE: HEADER_LIST_BYTES_MAX,
    }
)


class Patience:
    """A token bucket for frames that carry nothing."""

    def __init__(self, now: float) -> None:
        self._left = float(PATIENCE_FRAMES)
        self._at = now

    def spend(self, now: float) -> None:
        """Raises ConnectionFault when there is none left."""
        self._left = min(PATIENCE_FRAMES, self._left + (now - self._at) * PATIENCE_PER_S) - 1
        self._at = now
        if self._left < 0:
            raise ConnectionFault(ENHANCE_YOUR_CALM, "too many frames that carry nothing")


class HeaderBlock:
    """HEADERS that its CONTINUATIONs have not ended yet."""

    def __init__(self, stream_id: int, flags: int, start: bytes) -> None:
        self.stream_id = stream_id
        self.flags = flags
        self.data = bytearray(start)
        self.continuations = 0


class Connection(asyncio.Protocol):
    """``connected`` and ``lost`` keep the server's list of its connections."""

    def __init__(
        self,
        services: Services,
        call_soon: Callable[[Callable[[], None]], object],
        clock: Callable[[], float],
        connected: Callable[["Connection"], None] = lambda _: None,
        lost: Callable[["Connection"], None] = lambda _: None,
    ) -> None:
        self.call_soon = call_soon
        self.clock = clock
        self.sending = Sending(self._write, call_soon, self._call_ended)
        self.unfinished = Budget(UNFINISHED_BYTES_MAX)
        self.abandoned = 0
        self._services = services
        self._connected, self._lost = connected, lost
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._has_preface = False
        self._has_settings = False
        self._now = clock()
        self._patience = Patience(self._now)
        self._headers = HeaderReader()
        self._block: HeaderBlock | None = None
        self._calls: dict[int, Call] = {}
        self._last_id = 0  # the highest stream the peer has opened
        self._final_id = STREAM_ID_MAX  # those above are not served any more
        self._ended_early: Recent[int, bool] = Recent(_ENDED_EARLY_MAX)  # and the peer may not know it yet
        self.answered: Recent[int, Callable[[], None]] = Recent(_ANSWERED_MAX)
        self._window = CONNECTION_WINDOW
        self._is_draining = False
        self._is_closed = False

    # The connection's life.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by name
        self._transport.set_write_buffer_limits(high=_SOCKET_BUFFER_BYTES)
        self.sending.put(_OUR_SETTINGS + window_update(0, CONNECTION_WINDOW - WINDOW_DEFAULT))
        self._connected(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_closed = True
        self._rest, self._block = b"", None
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.cancel()
        self._lost(self)

    def pause_writing(self) -> None:
        assert self._transport is not None
        self.sending.pause()
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        assert self._transport is not None
        self.sending.resume()
        if not self._is_closed:
            self._transport.resume_reading()

    def drain(self) -> None:
        """Take no new calls (6.8): first say so; once the peer must have heard it (its answer to a ping), mean it."""
        if self._is_draining or self._is_closed:
            return
        self._is_draining = True
        if self._has_settings:
            self.sending.put(goaway(STREAM_ID_MAX, NO_ERROR) + frame(PING, 0, 0, _DRAIN_PING))
        else:
            self._mean_it()

    def end(self) -> None:
        """Give up what still runs, and hang up."""
        for call in list(self._calls.values()):
            call.give_up(UNAVAILABLE, "the server is shutting down")
        if not self._is_closed:
            self._mean_it()
            self._close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _mean_it(self) -> None:
        if self._final_id == STREAM_ID_MAX:
            self._final_id = self._last_id
            self.sending.put(goaway(self._last_id, NO_ERROR))
        self._close_if_drained()

    def _close_if_drained(self) -> None:
        if self._final_id != STREAM_ID_MAX and not self._calls:
            self._close()

    def _close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._rest, self._block = b"", None
        self.sending.flush()
        if self._transport is not None:
            self._transport.close()

    def _fail(self, fault: ConnectionFault) -> None:
        log.warning("connection_failed", code=fault.code, reason=str(fault))
        self.sending.put(goaway(self._last_id, fault.code, str(fault)))
        self._close()

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    # Bytes to frames.

    def data_received(self, data: bytes) -> None:
        if self._is_closed:
            return
        self._now = self.clock()
        buffer = self._rest + data if self._rest else data
        try:
            self._rest = self._read(buffer if self._has_preface else self._read_preface(buffer))
        except ConnectionFault as fault:
            self._fail(fault)
        except Exception:
            log.exception("connection_failed")
            self._fail(ConnectionFault(INTERNAL_ERROR, "internal error"))

    def _read_preface(self, buffer: bytes) -> bytes:
        if not buffer.startswith(PREFACE[: len(buffer)]):
            raise ConnectionFault(PROTOCOL_ERROR, "this is not HTTP/2")
        if len(buffer) < len(PREFACE):
            return buffer
        self._has_preface = True
        return buffer[len(PREFACE) :]

    def _read(self, buffer: bytes) -> bytes:
        """Handle all whole frames; give back what is left."""
        if not self._has_preface:
            return buffer
        at, size = 0, len(buffer)
        while size - at >= HEAD_BYTES:
            high, low, kind, flags, stream_id = HEAD.unpack_from(buffer, at)
            length = high << 8 | low
            if length > FRAME_BYTES_DEFAULT:
                raise ConnectionFault(FRAME_SIZE_ERROR, "the frame is too large")
            end = at + HEAD_BYTES + length
            if end > size:
                break
            self._handle(kind, flags, stream_id & STREAM_ID_MAX, buffer[at + HEAD_BYTES : end])
            if self._is_closed:
                return b""
            at = end
        return buffer[at:]

    def _handle(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if self._block is not None and (kind != CONTINUATION or stream_id != self._block.stream_id):
            raise ConnectionFault(PROTOCOL_ERROR, "a header block is interrupted")
        if not self._has_settings and kind != SETTINGS:
            raise ConnectionFault(PROTOCOL_ERROR, "the first frame is not SETTINGS")
        handler = _HANDLERS.get(kind)
        if handler is None:
            self._patience.spend(self._now)  # unknown frames are ignored (5.5)
            return
        try:
            handler(self, flags, stream_id, payload)
        except StreamFault as fault:
            self._patience.spend(self._now)
            self._reset(stream_id, fault.code)

    # Calls.

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not stream_id & 1:
            raise ConnectionFault(PROTOCOL_ERROR, "HEADERS on a stream that is not the client's")
        if flags & (PADDED | PRIORITIZED):
            payload = without_padding(flags, payload)
        if flags & END_HEADERS:
            if stream_id > self._last_id:
                self._open(flags, stream_id, payload)
            else:
                self._on_trailers(flags, stream_id, payload)
        else:
            self._block = HeaderBlock(stream_id, flags, payload)

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        block = self._block
        if block is None:
            raise ConnectionFault(PROTOCOL_ERROR, "CONTINUATION of nothing")
        block.data += payload
        block.continuations += 1
        if len(block.data) > BLOCK_BYTES_MAX or block.continuations > CONTINUATIONS_MAX:
            raise ConnectionFault(ENHANCE_YOUR_CALM, "the header block does not end")
        if flags & END_HEADERS:
            self._block = None
            self._on_headers(block.flags & ~(PADDED | PRIORITIZED) | END_HEADERS, stream_id, bytes(block.data))

    def _on_trailers(self, flags: int, stream_id: int, block: bytes) -> None:
        call = self._known(stream_id, PROTOCOL_ERROR)  # "stream ids must grow" (5.1.1)
        fields = self._headers.fields(block)
        if call is None:
            self._forget_if_ended(flags, stream_id)
            return
        check_trailers(fields)
        if not flags & END_STREAM:
            raise StreamFault(PROTOCOL_ERROR, "trailers do not end their stream")
        call.take(b"", ends=True)

    def _open(self, flags: int, stream_id: int, block: bytes) -> None:
        self._last_id = stream_id
        head = self._headers.head(block)
        if stream_id > self._final_id:
            return
        if len(self._calls) + self.abandoned >= CALLS_MAX:
            raise StreamFault(REFUSED_STREAM, "too many calls at one time")
        ends = flags & END_STREAM != 0
        unary = self._services.unary.get(head.path)
        if unary is not None and head.is_grpc:
            deadline = self._now + head.timeout_s if head.timeout_s is not None else None
            call: Call = UnaryCall(self, stream_id, CALL_WINDOW, unary, deadline)
            self._calls[stream_id] = call
            if ends:
                call.take(b"", ends=True)
            return
        self._open_stream(stream_id, head.path, ends=ends, is_grpc=head.is_grpc)

    def _open_stream(self, stream_id: int, path: str, *, ends: bool, is_grpc: bool) -> None:
        """A call of many messages, or one that nobody serves."""
        call = StreamCall(self, stream_id, CALL_WINDOW)
        call.is_peer_done = ends
        self._calls[stream_id] = call
        opener = self._services.streams.get(path)
        if not is_grpc:
            call.is_over = True
            self.sending.refuse(call)
        elif opener is None:
            call.give_up(UNIMPLEMENTED, f"no such method: {path}")
        else:
            call.open(opener)
            if ends:
                call.take(b"", ends=True)

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        size = len(payload)
        self._window -= size
        if self._window < CONNECTION_WINDOW // 2:
            self.sending.put(window_update(0, CONNECTION_WINDOW - self._window))
            self._window = CONNECTION_WINDOW
        call = self._calls.get(stream_id)
        if call is None:
            self._known(stream_id, STREAM_CLOSED)
            self._forget_if_ended(flags, stream_id)
            return
        if call.is_peer_done:
            raise StreamFault(STREAM_CLOSED, "DATA after the end of its stream")
        if flags & PADDED:
            payload = without_padding(flags & PADDED, payload)
        if flags & END_STREAM:
            call.take(payload, ends=True)
            return
        if not payload:
            self._patience.spend(self._now)
        call.receive_window -= size
        if call.receive_window < CALL_WINDOW // 2:
            self.sending.put(window_update(stream_id, CALL_WINDOW - call.receive_window))
            call.receive_window = CALL_WINDOW
        call.take(payload, ends=False)

    def _known(self, stream_id: int, code: int) -> Call | None:
        """The call of a frame that needs one; None if we ended it before the peer could know. ``code``: for others."""
        call = self._calls.get(stream_id)
        if call is None and stream_id not in self._ended_early:
            self._check_not_idle(stream_id)
            if stream_id <= self._final_id:
                raise ConnectionFault(code, "the stream is closed")
        return call

    def _check_not_idle(self, stream_id: int) -> None:
        if not stream_id & 1 or stream_id > self._last_id:
            raise ConnectionFault(PROTOCOL_ERROR, "the stream is idle")

    def _call_ended(self, call: Outgoing) -> None:
        """Its last frame is on its way."""
        if not call.is_peer_done:
            self._remember(call.id)
        del self._calls[call.id]
        if self._is_draining:
            self.call_soon(self._close_if_drained)  # not now: a servicer is in the middle of saying something

    def _reset(self, stream_id: int, code: int) -> None:
        call = self._calls.pop(stream_id, None)
        if call is None or not call.is_peer_done:
            self._remember(stream_id)
        self.sending.put(rst_stream(stream_id, code))
        if call is not None:
            call.cancel()
            self._close_if_drained()

    def reset(self, call: Call, code: int) -> None:
        if self._calls.get(call.id) is call:
            self._reset(call.id, code)

    def _remember(self, stream_id: int) -> None:
        self._ended_early[stream_id] = True

    def _forget_if_ended(self, flags: int, stream_id: int) -> None:
        if flags & END_STREAM:
            self._ended_early.pop(stream_id)

    def _on_rst_stream(self, _: int, stream_id: int, payload: bytes) -> None:
        read_word(payload, "RST_STREAM")
        self._check_not_idle(stream_id)
        self._ended_early.pop(stream_id)
        call = self._calls.pop(stream_id, None)
        unread = self.answered.pop(stream_id)
        if call is not None:
            call.cancel()
            self._close_if_drained()
        if unread is not None:
            # A peer that has read the end of our answer has no stream left that it could reset (5.1).
            try:
                unread()
            except Exception:
                log.exception("unary_call_failed")

    def _on_window_update(self, _: int, stream_id: int, payload: bytes) -> None:
        increment = read_word(payload, "WINDOW_UPDATE") & STREAM_ID_MAX
        if not stream_id:
            self.sending.widen_connection(increment)
            return
        self._check_not_idle(stream_id)
        call = self._calls.get(stream_id)
        if call is not None:
            self.sending.widen_call(call, increment)

    # The connection's own frames.

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        _check_stream_zero(stream_id, "SETTINGS")
        if flags & ACK:
            if payload:
                raise ConnectionFault(FRAME_SIZE_ERROR, "an acknowledgement is empty")
            return
        if self._has_settings:
            self._patience.spend(self._now)
        self._has_settings = True
        found = read_settings(payload)
        self.sending.apply(found, self._calls.values())
        self.sending.put(frame(SETTINGS, ACK, 0))

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        _check_stream_zero(stream_id, "PING")
        if len(payload) != 8:
            raise ConnectionFault(FRAME_SIZE_ERROR, "a ping is eight bytes")
        self._patience.spend(self._now)
        if not flags & ACK:
            self.sending.put(frame(PING, ACK, 0, payload))
        elif self._is_draining and payload == _DRAIN_PING:
            self._mean_it()

    def _on_goaway(self, _: int, stream_id: int, payload: bytes) -> None:
        """The peer opens no more calls on this connection."""
        _check_stream_zero(stream_id, "GOAWAY")
        if len(payload) < 8:
            raise ConnectionFault(FRAME_SIZE_ERROR, "GOAWAY is at least eight bytes")
        self._patience.spend(self._now)
        self._is_draining = True
        self._mean_it()

    def _on_priority(self, _: int, stream_id: int, payload: bytes) -> None:
        """Deprecated (5.3.2): checked and ignored."""
        if not stream_id:
            raise ConnectionFault(PROTOCOL_ERROR, "PRIORITY on stream 0")
        self._patience.spend(self._now)
        if len(payload) != 5:
            raise ConnectionFault(FRAME_SIZE_ERROR, "a priority is five bytes")

    def _on_push_promise(self, _: int, stream_id: int, payload: bytes) -> None:
        raise ConnectionFault(PROTOCOL_ERROR, "a client does not push")


def _check_stream_zero(stream_id: int, what: str) -> None:
    if stream_id:
        raise ConnectionFault(PROTOCOL_ERROR, f"{what} belongs on stream 0")


_HANDLERS = {
    DATA: Connection._on_data,
    HEADERS: Connection._on_headers,
    PRIORITY: Connection._on_priority,
    RST_STREAM: Connection._on_rst_stream,
    SETTINGS: Connection._on_settings,
    PUSH_PROMISE: Connection._on_push_promise,
    PING: Connection._on_ping,
    GOAWAY: Connection._on_goaway,
    WINDOW_UPDATE: Connection._on_window_update,
    CONTINUATION: Connection._on_continuation,
}

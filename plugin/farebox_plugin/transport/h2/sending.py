"""The sending side of one connection: everything that leaves it, in order and within the peer's windows.

Frames gather in a list and leave in one write per turn of the event loop: a batch of answers is one system call.
DATA goes out as far as the peer's windows and the socket allow; what does not fit waits in its call's backlog, up to
limits for a call and for the connection. A peer that does not read loses its calls, and costs no more memory.
"""

from collections.abc import Callable, Iterable

from farebox_plugin.transport.h2.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_BYTES_DEFAULT,
    HEAD_BYTES,
    HEADER_TABLE_BYTES_DEFAULT,
    HEADER_TABLE_SIZE,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_FRAME_SIZE,
    NO_ERROR,
    PROTOCOL_ERROR,
    WINDOW_DEFAULT,
    WINDOW_MAX,
    ConnectionFault,
    StreamFault,
    frame,
    rst_stream,
)
from farebox_plugin.transport.h2.headers import HEADERS_BLOCK, NOT_GRPC, TABLE_UNUSED, TRAILERS_OK, trailers_block

CALL_BACKLOG_BYTES_MAX = 8 * 1024 * 1024  # that and one message more: it is compared before a message is added
BACKLOG_BYTES_MAX = 64 * 1024 * 1024
_FRAME_BYTES_MAX = 64 * 1024  # a peer may allow more, but a frame of one call makes all others wait

# A frame's bytes up to its stream id.
_HEADERS_START = frame(HEADERS, END_HEADERS, 0, HEADERS_BLOCK)[: HEAD_BYTES - 4]
_TRAILERS_START = frame(HEADERS, END_HEADERS | END_STREAM, 0, TRAILERS_OK)[: HEAD_BYTES - 4]
_DATA_START = bytes([DATA, 0])  # behind the length
_RAW = b"\x00"  # in front of a message's length: not compressed


class Budget:
    """Bytes that may be held at one time."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def has_room(self, size: int) -> bool:
        return self.used + size <= self.limit


class Outgoing:
    """What sending has to know of one call."""

    __slots__ = ("backlog", "ending", "id", "is_begun", "is_peer_done", "window")

    def __init__(self, stream_id: int, window: int) -> None:
        self.id = stream_id
        self.window = window
        self.is_peer_done = False  # the peer has ended its half of the stream
        self.is_begun = False  # our headers are out
        self.backlog: bytearray | None = None
        self.ending: tuple[int, str] | None = None  # status and detail, once the backlog is out


class Sending:
    """``write`` takes bytes to the socket; ``call_soon`` runs something later in this turn; ``ended`` is told when the
    last frame of a call is out."""

    def __init__(
        self,
        write: Callable[[bytes], None],
        call_soon: Callable[[Callable[[], None]], object],
        ended: Callable[[Outgoing], None],
    ) -> None:
        self._write = write
        self._call_soon = call_soon
        self._ended = ended
        self._out: list[bytes] = []
        self._waiting: dict[int, Outgoing] = {}
        self._window = WINDOW_DEFAULT
        self._frame_bytes = FRAME_BYTES_DEFAULT
        self._owes_table_update = False
        self._is_paused = False
        self.initial_window = WINDOW_DEFAULT
        self.backlog = Budget(BACKLOG_BYTES_MAX)

    # What calls say.

    def answer(self, call: Outgoing, message: bytes) -> None:
        """All of a unary answer. Raises StreamFault when it has to wait, and there is no more room to wait in."""
        size = len(message) + 5
        if (
            size > self._window
            or size > call.window
            or size > self._frame_bytes
            or self._is_paused
            or self._owes_table_update
        ):
            self.message(call, message)
            self.end(call, 0, "")
            return
        self._window -= size
        stream_id = call.id.to_bytes(4, "big")
        self.put(
            b"".join((
                _HEADERS_START, stream_id, HEADERS_BLOCK,
                size.to_bytes(3, "big"), _DATA_START, stream_id, _RAW, (size - 5).to_bytes(4, "big"), message,
                _TRAILERS_START, stream_id, TRAILERS_OK,
            ))
        )  # fmt: skip
        self._close(call)

    def message(self, call: Outgoing, message: bytes) -> None:
        """One message of a stream. Raises StreamFault when the peer reads so slowly that there is no more room."""
        if not call.is_begun:
            call.is_begun = True
            self._put_block(call, 0, HEADERS_BLOCK)
        data = _RAW + len(message).to_bytes(4, "big") + message
        if call.backlog is None:
            if len(data) <= min(self._window, call.window, self._frame_bytes) and not self._is_paused:
                self._put_data(call, data)
                return
            call.backlog = bytearray()
            self._waiting[call.id] = call
        if len(call.backlog) > CALL_BACKLOG_BYTES_MAX or not self.backlog.has_room(len(data)):
            raise StreamFault(ENHANCE_YOUR_CALM, "the peer does not read what it asked for")
        call.backlog += data
        self.backlog.used += len(data)
        self._pump(call)

    def end(self, call: Outgoing, status: int, detail: str) -> None:
        """End the call when everything before is out. Where nothing was: an answer of trailers only."""
        call.ending = (status, detail)
        if call.backlog is None:
            self._finish(call)

    def refuse(self, call: Outgoing) -> None:
        """The HTTP answer to a request that is none of gRPC."""
        self._put_block(call, END_STREAM, NOT_GRPC)
        self._close(call)

    def forget(self, call: Outgoing) -> None:
        """The stream was reset: what waits is dropped."""
        if call.backlog is not None:
            self.backlog.used -= len(call.backlog)
            call.backlog = None
            del self._waiting[call.id]

    # What the peer allows.

    def widen_connection(self, increment: int) -> None:
        """WINDOW_UPDATE on stream 0 (6.9)."""
        if not increment:
            raise ConnectionFault(PROTOCOL_ERROR, "a window update of zero")
        self._window += increment
        if self._window > WINDOW_MAX:
            raise ConnectionFault(FLOW_CONTROL_ERROR, "the connection's window overflows")
        self._pump_all()

    def widen_call(self, call: Outgoing, increment: int) -> None:
        """WINDOW_UPDATE on a call's stream (6.9)."""
        if not increment:
            raise StreamFault(PROTOCOL_ERROR, "a window update of zero")
        call.window += increment
        if call.window > WINDOW_MAX:
            raise StreamFault(FLOW_CONTROL_ERROR, "the stream's window overflows")
        if call.backlog is not None:
            self._pump(call)

    def apply(self, settings: list[tuple[int, int]], calls: Iterable[Outgoing]) -> None:
        """The peer's settings. Its limits on streams are none of ours: we open no stream."""
        for number, value in settings:
            if number == HEADER_TABLE_SIZE and value < HEADER_TABLE_BYTES_DEFAULT:
                self._owes_table_update = True
        last = dict(settings)  # one frame may repeat a setting thousands of times
        self._frame_bytes = min(last.get(MAX_FRAME_SIZE, self._frame_bytes), _FRAME_BYTES_MAX)
        self._change_initial_window(last.get(INITIAL_WINDOW_SIZE, self.initial_window), calls)
        self._pump_all()

    def pause(self) -> None:
        """The socket takes no more."""
        self._is_paused = True

    def resume(self) -> None:
        self._is_paused = False
        self._pump_all()

    # Frames.

    def put(self, data: bytes) -> None:
        """Whole frames, to leave with this turn's write."""
        if not self._out:
            self._call_soon(self.flush)
        self._out.append(data)

    def flush(self) -> None:
        if self._out:
            out, self._out = self._out, []
            self._write(b"".join(out))

    def _change_initial_window(self, value: int, calls: Iterable[Outgoing]) -> None:
        """It moves the window of every open stream, even below zero (6.9.2)."""
        change = value - self.initial_window
        if not change:
            return
        self.initial_window = value
        for call in calls:
            call.window += change
            if call.window > WINDOW_MAX:
                raise ConnectionFault(FLOW_CONTROL_ERROR, "a stream's window overflows")

    def _pump_all(self) -> None:
        """One frame of each call in turn, so that none starves, until nothing more fits."""
        has_moved = True
        while has_moved and self._waiting:
            has_moved = False
            for call in list(self._waiting.values()):
                has_moved |= self._pump_frame(call)

    def _pump(self, call: Outgoing) -> None:
        while self._pump_frame(call):
            pass

    def _pump_frame(self, call: Outgoing) -> bool:
        backlog = call.backlog
        if backlog is None or self._is_paused:
            return False
        size = min(len(backlog), self._window, call.window, self._frame_bytes)
        if size <= 0:
            return False
        self._put_data(call, bytes(backlog[:size]))
        del backlog[:size]
        self.backlog.used -= size
        if not backlog:
            self.forget(call)
            if call.ending is not None:
                self._finish(call)
        return True

    def _put_data(self, call: Outgoing, data: bytes) -> None:
        self._window -= len(data)
        call.window -= len(data)
        self.put(frame(DATA, 0, call.id, data))

    def _put_block(self, call: Outgoing, flags: int, block: bytes) -> None:
        if self._owes_table_update:
            self._owes_table_update = False
            block = TABLE_UNUSED + block
        self.put(frame(HEADERS, END_HEADERS | flags, call.id, block))

    def _finish(self, call: Outgoing) -> None:
        assert call.ending is not None
        block = trailers_block(*call.ending)
        self._put_block(call, END_STREAM, block if call.is_begun else HEADERS_BLOCK + block)
        self._close(call)

    def _close(self, call: Outgoing) -> None:
        """After our last frame: a peer that still sends may stop (8.1)."""
        if not call.is_peer_done:
            self.put(rst_stream(call.id, NO_ERROR))
        self._ended(call)

"""An HTTP/2 peer in memory: it sends frames to one connection of the h2 transport, right or wrong ones, and reads
what comes back with hyperframe and hpack. Time and the event loop are moved by hand."""

import asyncio
from collections.abc import Callable
from typing import Any

from hpack import Decoder, Encoder
from hyperframe.frame import DataFrame, Frame, GoAwayFrame, HeadersFrame, RstStreamFrame

from farebox_plugin.transport import Services, StreamReply, UnaryReply
from farebox_plugin.transport.h2 import frames
from farebox_plugin.transport.h2.connection import Connection

UNARY, STREAM = "/test.Service/Unary", "/test.Service/Stream"


class Socket(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.is_closed = False
        self.is_reading = True

    def write(self, data: Any) -> None:
        assert not self.is_closed, "written after the end"
        self.written.append(bytes(data))

    def close(self) -> None:
        self.is_closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


class Listener:
    def __init__(self, reply: StreamReply) -> None:
        self.reply = reply
        self.messages: list[bytes] = []
        self.closed_count = 0

    def receive(self, message: bytes) -> None:
        assert not self.closed_count
        self.messages.append(message)
        if message == b"fail":
            raise ValueError("a servicer's own fault")
        if message == b"finish":
            self.reply.finish()

    def closed(self) -> None:
        self.closed_count += 1


class Peer:
    """A connection, and everything around it that the tests move by hand."""

    def __init__(self, *, shake_hands: bool = True) -> None:
        self.now = 1000.0
        self.later: list[Callable[[], None]] = []
        self.asked: list[tuple[bytes, UnaryReply]] = []
        self.listeners: list[Listener] = []
        services = Services({UNARY: lambda message, reply: self.asked.append((message, reply))}, {STREAM: self._open})
        self.connection = Connection(services, self.later.append, lambda: self.now)
        self.socket = Socket()
        self.connection.connection_made(self.socket)
        self.encoder = Encoder()
        self.decoder = Decoder()
        if shake_hands:
            self.send(frames.PREFACE + frames.settings({}))
            self.received()

    def _open(self, reply: StreamReply) -> Listener:
        self.listeners.append(Listener(reply))
        return self.listeners[-1]

    def send(self, *data: bytes) -> None:
        for piece in data:
            self.connection.data_received(piece)
        self.turn()

    def turn(self) -> None:
        while self.later:
            self.later.pop(0)()

    def received(self) -> list[Frame]:
        """What has been written since the last time."""
        data = memoryview(b"".join(self.socket.written))
        self.socket.written.clear()
        found = []
        while data:
            frame, length = Frame.parse_frame_header(data[:9])
            frame.parse_body(data[9 : 9 + length])
            found.append(frame)
            data = data[9 + length :]
        return found

    def head(self, stream_id: int, path: str = UNARY, flags: int = frames.END_HEADERS, **fields: str) -> bytes:
        return frames.frame(frames.HEADERS, flags, stream_id, self.block(path, **fields))

    def block(self, path: str = UNARY, **fields: str) -> bytes:
        named = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "plugin"}
        named |= {"te": "trailers", "content-type": "application/grpc"}
        named |= {name.replace("_", "-"): value for name, value in fields.items()}
        return bytes(self.encoder.encode(list(named.items())))

    def call(self, stream_id: int, message: bytes = b"", path: str = UNARY) -> bytes:
        return self.head(stream_id, path) + data_frame(stream_id, grpc(message), end=True)

    def fields(self, frame: Frame) -> dict[str, str]:
        assert isinstance(frame, HeadersFrame)
        return {str(name): str(value) for name, value in self.decoder.decode(frame.data)}

    def goaway(self) -> GoAwayFrame:
        """The last words of a connection that failed."""
        assert self.socket.is_closed
        last = self.received()[-1]
        assert isinstance(last, GoAwayFrame)
        return last

    def data(self, stream_id: int = 1) -> bytes:
        """What has come on a stream since the last time."""
        found = [frame for frame in self.received() if frame.stream_id == stream_id]
        return b"".join(frame.data for frame in found if isinstance(frame, DataFrame))

    def status(self) -> str:
        """Of a call that was answered by trailers alone."""
        (head,) = (frame for frame in self.received() if isinstance(frame, HeadersFrame))
        assert "END_STREAM" in head.flags
        return self.fields(head)["grpc-status"]

    def reset_code(self) -> int:
        (reset,) = (frame for frame in self.received() if isinstance(frame, RstStreamFrame))
        assert not self.socket.is_closed
        return int(reset.error_code)


def grpc(message: bytes, *, compressed: int = 0, size: int | None = None) -> bytes:
    return bytes([compressed]) + (len(message) if size is None else size).to_bytes(4, "big") + message


def data_frame(stream_id: int, payload: bytes, *, end: bool = False) -> bytes:
    return frames.frame(frames.DATA, frames.END_STREAM if end else 0, stream_id, payload)

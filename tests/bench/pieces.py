"""An upstream that answers every request with a stream of small pieces, as a language model does.

    python -m bench.pieces --listen 127.0.0.1:8002

HTTP/2 over plain TCP to one Envoy, and no more of it than that takes: each event of the answer is a DATA frame of its
own, which Envoy hands on as a piece of its own, however many of them arrive together. Over HTTP/1.1 it would not.
"""

import argparse
import asyncio
import signal
from typing import cast

import uvloop

from bench.answers import SSE_EVENTS

DATA, HEADERS, SETTINGS, PING, WINDOW_UPDATE = 0x0, 0x1, 0x4, 0x6, 0x8
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# HPACK: `:status: 200` from the static table; `content-type` as a literal that is not remembered.
_FIELDS = b"\x88\x0f\x10\x11text/event-stream"


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def answer(stream: int) -> bytes:
    """The whole answer on this stream."""
    pieces = [frame(HEADERS, END_HEADERS, stream, _FIELDS)]
    pieces += [frame(DATA, 0, stream, event) for event in SSE_EVENTS[:-1]]
    pieces.append(frame(DATA, END_STREAM, stream, SSE_EVENTS[-1]))
    return b"".join(pieces)


class Connection(asyncio.Protocol):
    """Reads frames, and answers a request when it has ended."""

    def __init__(self) -> None:
        self._received = b""
        self._is_greeted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by descent
        self._transport.write(frame(SETTINGS, 0, 0, b""))

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._is_greeted:
            if len(self._received) < len(PREFACE):
                return
            self._received = self._received[len(PREFACE) :]
            self._is_greeted = True
        at, received, out = 0, self._received, []
        while (
            len(received) >= (end := at + 9 + int.from_bytes(received[at : at + 3], "big")) and len(received) >= at + 9
        ):
            stream = int.from_bytes(received[at + 5 : at + 9], "big")
            out.append(self._reply(received[at + 3], received[at + 4], stream, received[at + 9 : end]))
            at = end
        self._received = received[at:]
        self._transport.write(b"".join(out))

    def _reply(self, kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        if kind in (SETTINGS, PING) and not flags & ACK:
            return frame(kind, ACK, 0, payload if kind == PING else b"")
        room = frame(WINDOW_UPDATE, 0, 0, len(payload).to_bytes(4, "big")) if kind == DATA and payload else b""
        return room + (answer(stream) if kind in (DATA, HEADERS) and flags & END_STREAM else b"")


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", required=True)
    host, _, port = parser.parse_args().listen.rpartition(":")
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, host, int(port))
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    server.close()


if __name__ == "__main__":
    uvloop.run(main())

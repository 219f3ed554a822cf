"""Where one JSON text ends and the next begins: Server-Sent Events, JSON lines, AWS event streams.

Each framer takes the body cut anywhere and gives `sink` one JSON text at a time. It keeps no more than the unfinished
one, and of that at most `TEXT_BYTES_MAX`: a longer one is skipped and remembered in `oversized`.
"""

import zlib
from base64 import b64decode
from collections.abc import Callable
from typing import Protocol

from farebox_plugin.measure.decoding import Undecodable

TEXT_BYTES_MAX = 1 << 20

Text = bytes | bytearray
Sink = Callable[[Text], None]


class Framer(Protocol):
    @property
    def oversized(self) -> bool: ...

    def feed(self, piece: bytes) -> None: ...

    def finish(self) -> None:
        """Hand on what stands unfinished: senders leave out the last line's end, and usage is often last."""


class Lines:
    """JSON lines (NDJSON): one text a line."""

    def __init__(self, sink: Sink) -> None:
        self.oversized = False
        self._sink = sink
        self._open = bytearray()  # the line whose end has not come
        self._skipping = False

    def feed(self, piece: bytes) -> None:
        first, *rest = piece.split(b"\n")
        if not rest:
            self._extend(first)
            return
        if self._open or self._skipping:
            self._extend(first)
            self.finish()
        else:
            self._sink(first)
        last = rest.pop()
        for line in rest:
            self._sink(line)
        if last:
            self._extend(last)

    def finish(self) -> None:
        line, self._open = self._open, bytearray()
        if line:
            self._sink(line)
        self._skipping = False

    def _extend(self, part: bytes) -> None:
        if self._skipping:
            return
        if len(self._open) + len(part) > TEXT_BYTES_MAX:
            self._open = bytearray()
            self._skipping = self.oversized = True
            return
        self._open += part


class ServerSentEvents:
    """https://html.spec.whatwg.org/multipage/server-sent-events.html, of which only the `data` fields matter here."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._lines = Lines(self._line)
        self._data: Text | None = None  # of the event whose blank line has not come
        self._after_cr = False
        self._at_start = True
        self._too_long = False

    @property
    def oversized(self) -> bool:
        return self._too_long or self._lines.oversized

    def feed(self, piece: bytes) -> None:
        if self._after_cr or b"\r" in piece:
            piece = self._newlines(piece)
        self._lines.feed(piece)

    def finish(self) -> None:
        self._lines.finish()
        self._dispatch()

    def _newlines(self, piece: bytes) -> bytes:
        """CR, LF and CRLF all end a line, also where the cut runs through a CRLF."""
        if not piece:
            return piece
        if self._after_cr:
            piece = piece.removeprefix(b"\n")
        self._after_cr = piece.endswith(b"\r")
        return piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _line(self, line: Text) -> None:
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line:
            self._dispatch()
        elif line.startswith(b"data:"):
            self._append(line[5:])

    def _append(self, value: Text) -> None:
        if self._data is None:
            self._data = value
            return
        if len(self._data) + len(value) >= TEXT_BYTES_MAX:
            self._too_long = True
            return
        if isinstance(self._data, bytes):
            self._data = bytearray(self._data)
        self._data += b"\n" + value

    def _dispatch(self) -> None:
        if self._data is not None:
            data, self._data = self._data, None
            self._sink(data)


class AwsEventStream:
    """`application/vnd.amazon.eventstream`, the binary frames in which Bedrock streams.

    A frame is: its length, its headers' length, a CRC-32 of these two (4 bytes each), headers, payload, a CRC-32.
    ConverseStream puts JSON into the payload, InvokeModelWithResponseStream JSON with the model's own JSON as base64.
    https://docs.aws.amazon.com/AmazonS3/latest/API/RESTSelectObjectAppendix.html
    """

    _PRELUDE_BYTES = 12
    _CRC_BYTES = 4
    _WRAPPED = b'{"bytes":"'

    def __init__(self, sink: Sink) -> None:
        self.oversized = False
        self._sink = sink
        self._open = bytearray()
        self._skip_bytes = 0

    def feed(self, piece: bytes) -> None:
        """Raises Undecodable at a wrong prelude: where the next frame begins is then unknown."""
        self._open += piece
        while True:
            skipped = min(self._skip_bytes, len(self._open))
            del self._open[:skipped]
            self._skip_bytes -= skipped
            if len(self._open) < self._PRELUDE_BYTES:
                return
            frame_bytes = int.from_bytes(self._open[:4], "big")
            payload_at = self._PRELUDE_BYTES + int.from_bytes(self._open[4:8], "big")
            crc = int.from_bytes(self._open[8:12], "big")
            if crc != zlib.crc32(self._open[:8]) or frame_bytes < payload_at + self._CRC_BYTES:
                raise Undecodable("not an AWS event stream")
            if frame_bytes > TEXT_BYTES_MAX:
                self.oversized = True
                self._skip_bytes = frame_bytes
                continue
            if len(self._open) < frame_bytes:
                return
            payload = self._open[payload_at : frame_bytes - self._CRC_BYTES]
            del self._open[:frame_bytes]
            self._unwrap(payload)

    def finish(self) -> None:
        """An unfinished frame holds no JSON text that could be told apart from its checksum."""

    def _unwrap(self, payload: bytearray) -> None:
        if payload.startswith(self._WRAPPED):
            end = payload.find(b'"', len(self._WRAPPED))
            try:
                payload = bytearray(b64decode(payload[len(self._WRAPPED) : end]))
            except ValueError:
                return
        self._sink(payload)

"""Content-Encoding, undone piece by piece and never further than a bound.

A compressed body is hostile until shown otherwise: one kilobyte of it can stand for a gigabyte. Every decoder here
hands its output on in pieces of about `PIECE_BYTES`, so that the work can be stopped in the middle of a chunk.
"""

import zlib
from collections.abc import Callable
from typing import Protocol

import brotli
import zstandard

PIECE_BYTES = 64 << 10
DECODED_BYTES_MAX = 64 << 20
# Text that repeats itself compresses well (equal events reach 100), so the ratio binds only above a floor.
RATIO_MAX = 256
RATIO_FLOOR_BYTES = 1 << 20
ZSTD_WINDOW_BYTES_MAX = 8 << 20  # what RFC 9659 lets a sender of the `zstd` content coding use

Sink = Callable[[bytes], None]


class Undecodable(Exception):
    """The body is not in the encoding it claims, uses one we do not know, or expands past its bounds."""


class Decoder(Protocol):
    def feed(self, chunk: bytes) -> None:
        """Hand on what this chunk stands for. Raises Undecodable; the decoder is then spent."""


def decoder(content_encoding: str, sink: Sink) -> Decoder:
    """The decoder of one body; `content_encoding` is the header's value. Raises Undecodable for one we do not know."""
    names = [name for part in content_encoding.lower().split(",") if (name := part.strip()) not in ("", "identity")]
    if not names:
        return _Identity(sink)
    if len(names) > 1:
        raise Undecodable(f"several encodings at once: {content_encoding!r}")
    make = _DECODERS.get(names[0])
    if make is None:
        raise Undecodable(f"unknown encoding {names[0]!r}")
    return _Bounded(make, sink)


class _Identity:
    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def feed(self, chunk: bytes) -> None:
        if len(chunk) <= PIECE_BYTES:
            self._sink(chunk)
            return
        for start in range(0, len(chunk), PIECE_BYTES):
            self._sink(chunk[start : start + PIECE_BYTES])


class _Bounded:
    """Counts both sides of a decoder and stops it where the output gets out of proportion."""

    def __init__(self, make: Callable[[Sink], Decoder], sink: Sink) -> None:
        self._sink = sink
        self._inner = make(self._take)
        self._encoded_bytes = 0
        self._decoded_bytes = 0

    def feed(self, chunk: bytes) -> None:
        self._encoded_bytes += len(chunk)
        try:
            self._inner.feed(chunk)
        except (zlib.error, brotli.error, zstandard.ZstdError) as fault:
            raise Undecodable(str(fault)) from fault

    def _take(self, piece: bytes) -> None:
        self._decoded_bytes += len(piece)
        if self._decoded_bytes > min(RATIO_FLOOR_BYTES + RATIO_MAX * self._encoded_bytes, DECODED_BYTES_MAX):
            raise Undecodable(f"{self._encoded_bytes} bytes expand to {self._decoded_bytes} or more")
        self._sink(piece)


class _Gzip:
    """RFC 1952: one or more members; what follows the last one is padding and is ignored."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._member = zlib.decompressobj(31)
        self._behind = b""  # what follows a member, until two bytes tell whether it is another one
        self._ended = False

    def feed(self, chunk: bytes) -> None:
        while chunk and not self._ended:
            if self._member.eof:
                chunk, self._behind = self._behind + chunk, b""
                if len(chunk) < 2:
                    self._behind = chunk
                    return
                if not chunk.startswith(b"\x1f\x8b"):
                    self._ended = True
                    return
                self._member = zlib.decompressobj(31)
            _inflate(self._member, chunk, self._sink)
            chunk = self._member.unused_data


class _Deflate:
    """RFC 9110 says zlib, many senders mean raw deflate; the first two bytes tell which."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._head = b""
        self._stream: zlib._Decompress | None = None

    def feed(self, chunk: bytes) -> None:
        if self._stream is None:
            chunk = self._head + chunk
            if len(chunk) < 2:
                self._head = chunk
                return
            is_zlib = chunk[0] & 15 == 8 and int.from_bytes(chunk[:2], "big") % 31 == 0
            self._stream = zlib.decompressobj(15 if is_zlib else -15)
        if not self._stream.eof:
            _inflate(self._stream, chunk, self._sink)


def _inflate(stream: "zlib._Decompress", data: bytes, sink: Sink) -> None:
    while not stream.eof:
        piece = stream.decompress(data, PIECE_BYTES)
        if piece:
            sink(piece)
        data = stream.unconsumed_tail
        # A full piece may leave output inside zlib although all input is taken.
        if not data and len(piece) < PIECE_BYTES:
            return


class _Brotli:
    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._stream = brotli.Decompressor()

    def feed(self, chunk: bytes) -> None:
        while not self._stream.is_finished():
            piece = self._stream.process(chunk, output_buffer_limit=PIECE_BYTES)
            if piece:
                self._sink(piece)
            elif self._stream.can_accept_more_data():  # also says so while there is output left
                return
            chunk = b""


class _Zstd:
    """The writer form of zstandard: the only one that hands its output on in bounded pieces while it works."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES_MAX)
        self._writer = decompressor.stream_writer(self, write_size=PIECE_BYTES)  # type: ignore[arg-type]

    def feed(self, chunk: bytes) -> None:
        self._writer.write(chunk)

    def write(self, piece: bytes) -> int:
        self._sink(bytes(piece))
        return len(piece)


_DECODERS: dict[str, Callable[[Sink], Decoder]] = {
    "gzip": _Gzip,
    "x-gzip": _Gzip,
    "deflate": _Deflate,
    "br": _Brotli,
    "zstd": _Zstd,
}

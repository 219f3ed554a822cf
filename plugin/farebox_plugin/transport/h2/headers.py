"""Header blocks: what a call asks for, and what an answer says.

Reading. Envoy sends the same few header blocks over and over. A block whose decoding leaves HPACK's dynamic table as
it was means the same until the table changes, so it is decoded once and then found by its bytes. Any block that does
change the table (an indexed literal, a size update) makes all that is remembered worthless, and is not remembered.

Writing. Blocks we send never touch the peer's dynamic table, so they are constants. The one duty left is to say so when
the peer makes its table smaller than it may think ours is (RFC 7541, 4.2): see `TABLE_UNUSED`.
"""

import re
from dataclasses import dataclass
from urllib.parse import quote

from hpack import Decoder, HPACKError, OversizedHeaderListError
from hpack.table import HeaderTable

from farebox_plugin.transport.h2.frames import (
    COMPRESSION_ERROR,
    ENHANCE_YOUR_CALM,
    PROTOCOL_ERROR,
    ConnectionFault,
    StreamFault,
)

# Status codes of gRPC that the transport itself sends.
RESOURCE_EXHAUSTED, UNIMPLEMENTED = 8, 12

HEADER_LIST_BYTES_MAX = 32 * 1024
_REMEMBERED_MAX = 256
_REMEMBERED_BYTES_MAX = 2048

_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNIT_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_PSEUDO = {b":method", b":scheme", b":path", b":authority"}
_OF_A_CONNECTION = {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}  # 8.2.2
_UPPERCASE = re.compile(rb"[A-Z]")

Fields = list[tuple[bytes, bytes]]


def _literal(name: bytes, value: bytes) -> bytes:
    """A field without indexing and without Huffman coding (RFC 7541, 6.2.2); both parts shorter than 127 bytes."""
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


_OK = b"\x88"  # ":status: 200" stands in the static table
_KIND = b"application/grpc"
HEADERS_BLOCK = _OK + _literal(b"content-type", _KIND)
TRAILERS_OK = _literal(b"grpc-status", b"0")
TABLE_UNUSED = b"\x20"  # "our dynamic table has size 0", at the start of a block
NOT_GRPC = _literal(b":status", b"415")
DETAIL_BYTES_MAX = 1000


def trailers_block(status: int, detail: str) -> bytes:
    """How a call ends. The detail is percent-encoded as gRPC wants it, and cut to `DETAIL_BYTES_MAX` before that."""
    if not status and not detail:
        return TRAILERS_OK
    cut = detail.encode()[:DETAIL_BYTES_MAX].decode(errors="ignore")
    value = quote(cut, safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~").encode()
    block = _literal(b"grpc-status", str(status).encode())
    if status == UNIMPLEMENTED:
        block += _literal(b"grpc-accept-encoding", b"identity")
    return block + b"\x00" + bytes([12]) + b"grpc-message" + _integer(len(value)) + value


def _integer(value: int) -> bytes:
    """RFC 7541, 5.1, with a prefix of seven bits."""
    if value < 127:
        return bytes([value])
    encoded, value = bytearray([127]), value - 127
    while value >= 128:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


@dataclass(frozen=True, slots=True)
class Head:
    """What the first header block of a call says. Without `is_grpc` the rest is meaningless."""

    path: str
    timeout_s: float | None
    is_grpc: bool = True


class HeaderReader:
    """The decoding side of one connection. Every block must pass through here, in order, wanted or not."""

    def __init__(self) -> None:
        self._decoder = Decoder(max_header_list_size=HEADER_LIST_BYTES_MAX)
        self._table = self._decoder.header_table = _WatchedTable()
        self._heads: dict[bytes, Head] = {}

    def head(self, block: bytes) -> Head:
        """Of a new call. Raises ConnectionFault when the table is lost, StreamFault for a malformed request."""
        found = self._heads.get(block)
        if found is not None:
            return found
        additions = self._table.additions
        head = read_head(self.fields(block))
        if additions == self._table.additions and not _resizes(block) and len(block) <= _REMEMBERED_BYTES_MAX:
            if len(self._heads) >= _REMEMBERED_MAX:
                self._heads.clear()
            self._heads[block] = head
        return head

    def fields(self, block: bytes) -> Fields:
        """Any block: trailers, or those of a stream that nobody waits for."""
        additions = self._table.additions
        try:
            found = self._decoder.decode(block, raw=True)
        except OversizedHeaderListError as fault:
            raise ConnectionFault(ENHANCE_YOUR_CALM, "the header list is too large") from fault
        except HPACKError as fault:
            raise ConnectionFault(COMPRESSION_ERROR, "the header block cannot be decoded") from fault
        if additions != self._table.additions or _resizes(block):
            self._heads.clear()
        return [(bytes(name), bytes(value)) for name, value in found]


class _WatchedTable(HeaderTable):
    """HPACK's dynamic table, which tells whether it has been added to."""

    def __init__(self) -> None:
        super().__init__()
        self.additions = 0

    def add(self, name: bytes, value: bytes) -> None:
        self.additions += 1
        super().add(name, value)


def _resizes(block: bytes) -> bool:
    """Size updates stand at the start of a block, or it does not decode."""
    return bool(block) and block[0] & 0xE0 == 0x20


def read_head(fields: Fields) -> Head:
    """Check a request's fields (8.3) and take what gRPC needs. Raises StreamFault when it is malformed."""
    pseudo: dict[bytes, bytes] = {}
    regular: dict[bytes, bytes] = {}
    for name, value in fields:
        if not name.startswith(b":"):
            _check_regular(name, value)
            regular[name] = value
        elif regular or name in pseudo or name not in _PSEUDO:
            raise StreamFault(PROTOCOL_ERROR, "a pseudo-header field that may not stand there")
        else:
            pseudo[name] = value
    if not pseudo.get(b":path") or b":method" not in pseudo or b":scheme" not in pseudo:
        raise StreamFault(PROTOCOL_ERROR, "a pseudo-header field is missing")
    kind = regular.get(b"content-type", b"")
    is_grpc = pseudo[b":method"] == b"POST" and (kind == _KIND or kind.startswith((_KIND + b"+", _KIND + b";")))
    return Head(pseudo[b":path"].decode("latin-1"), _timeout_s(regular.get(b"grpc-timeout")), is_grpc)


def check_trailers(fields: Fields) -> None:
    for name, value in fields:
        if name.startswith(b":"):
            raise StreamFault(PROTOCOL_ERROR, "a pseudo-header field in trailers")
        _check_regular(name, value)


def _check_regular(name: bytes, value: bytes) -> None:
    if not name or _UPPERCASE.search(name) or name in _OF_A_CONNECTION or (name == b"te" and value != b"trailers"):
        raise StreamFault(PROTOCOL_ERROR, "a header field that HTTP/2 forbids")


def _timeout_s(value: bytes | None) -> float | None:
    if value is None:
        return None
    found = _TIMEOUT.fullmatch(value)
    if found is None:
        raise StreamFault(PROTOCOL_ERROR, "a malformed grpc-timeout")
    return int(found[1]) * _UNIT_S[found[2]]

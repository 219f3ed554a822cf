"""The frames of HTTP/2: their numbers, how they are read and written, and the two ways in which a peer can be wrong.

Section numbers here and in the rest of this package are those of RFC 9113.
"""

from struct import Struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# Types (6)
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

# Flags (6)
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITIZED = 0x20

# Error codes (7)
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED, FRAME_SIZE_ERROR = range(
    7
)
REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, CONNECT_ERROR, ENHANCE_YOUR_CALM = range(7, 12)

# Settings (6.5.2)
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = range(1, 5)
MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = 5, 6

HEAD_BYTES = 9
FRAME_BYTES_DEFAULT = 16_384
FRAME_BYTES_LIMIT = (1 << 24) - 1
HEADER_TABLE_BYTES_DEFAULT = 4096
WINDOW_DEFAULT = 65_535
WINDOW_MAX = (1 << 31) - 1
STREAM_ID_MAX = (1 << 31) - 1

HEAD = Struct(">HBBBI")  # length (upper 16 bits, lower 8), type, flags, stream id with a reserved bit on top
_SETTING = Struct(">HI")


class ConnectionFault(Exception):
    """The connection cannot go on (5.4.1): GOAWAY, then hang up."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class StreamFault(Exception):
    """One stream cannot go on (5.4.2): RST_STREAM."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(detail)
        self.code = code


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    size = len(payload)
    return HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream_id) + payload


def settings(values: dict[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(number, value) for number, value in values.items()))


def rst_stream(stream_id: int, code: int) -> bytes:
    return frame(RST_STREAM, 0, stream_id, code.to_bytes(4, "big"))


def window_update(stream_id: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream_id, increment.to_bytes(4, "big"))


def goaway(last_stream_id: int, code: int, detail: str = "") -> bytes:
    return frame(GOAWAY, 0, 0, last_stream_id.to_bytes(4, "big") + code.to_bytes(4, "big") + detail.encode())


def without_padding(flags: int, payload: bytes) -> bytes:
    """What a DATA or HEADERS frame carries between its padding (6.1), and after its priority (6.2)."""
    start, end = 0, len(payload)
    if flags & PADDED:
        if not payload or payload[0] >= len(payload):
            raise ConnectionFault(PROTOCOL_ERROR, "padding is longer than its frame")
        start, end = 1, end - payload[0]
    if flags & PRIORITIZED:
        start += 5
        if start > end:
            raise ConnectionFault(FRAME_SIZE_ERROR, "a priority is five bytes")
    return payload[start:end]


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """Number and value of each setting, checked (6.5.2). Unknown ones are the reader's to ignore."""
    if len(payload) % _SETTING.size:
        raise ConnectionFault(FRAME_SIZE_ERROR, "a setting is six bytes")
    found: list[tuple[int, int]] = list(_SETTING.iter_unpack(payload))
    for number, value in found:
        if number == ENABLE_PUSH and value > 1:
            raise ConnectionFault(PROTOCOL_ERROR, "ENABLE_PUSH is 0 or 1")
        if number == INITIAL_WINDOW_SIZE and value > WINDOW_MAX:
            raise ConnectionFault(FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE is too large")
        if number == MAX_FRAME_SIZE and not FRAME_BYTES_DEFAULT <= value <= FRAME_BYTES_LIMIT:
            raise ConnectionFault(PROTOCOL_ERROR, "MAX_FRAME_SIZE is out of range")
    return found


def read_word(payload: bytes, what: str) -> int:
    """The payload of a RST_STREAM or WINDOW_UPDATE: 32 bits."""
    if len(payload) != 4:
        raise ConnectionFault(FRAME_SIZE_ERROR, f"{what} is four bytes")
    return int.from_bytes(payload, "big")

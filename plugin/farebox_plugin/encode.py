"""A few protobuf fields by hand, for the messages that are made for every request.

Filling a message object costs several times as much. Tests compare what is made here with what the generated classes
make. Source: https://protobuf.dev/programming-guides/encoding/
"""

from collections.abc import Sequence

_ONE_BYTE = [bytes([size]) for size in range(128)]


def tag(number: int) -> bytes:
    """In front of a length-delimited field: a text, bytes or a message."""
    return bytes([number << 3 | 2])


def number_tag(number: int) -> bytes:
    """In front of a varint field: an integer that is not negative, a bool or an enum."""
    return bytes([number << 3])


def field(tag: bytes, payload: bytes) -> bytes:
    size = len(payload)
    return tag + (_ONE_BYTE[size] if size < 128 else varint(size)) + payload


def texts(tag: bytes, values: Sequence[str]) -> bytes:
    """A repeated field."""
    return b"".join([field(tag, value.encode()) for value in values])


def varint(number: int) -> bytes:
    """Of a number that is not negative."""
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)

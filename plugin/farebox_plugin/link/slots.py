"""Keys and slots, as Valkey Cluster's specification has them. Pure."""

from binascii import crc_hqx
from collections.abc import Iterator
from typing import Any

SLOTS = 16384


def slot_of(key: str) -> int:
    """The slot of a key: CRC-16/XMODEM of its hash tag, or of all of it if it has none."""
    opening = key.find("{")
    if opening >= 0:
        closing = key.find("}", opening + 1)
        if closing > opening + 1:
            key = key[opening + 1 : closing]
    return crc_hqx(key.encode(), 0) % SLOTS


def masters(reply: list[Any], asked: str) -> Iterator[tuple[str, int, range]]:
    """CLUSTER SLOTS' reply -> (host, port, slots) of each range. A node that does not know its host is the `asked`."""
    for first, last, master, *_ in reply:
        host = (master[0] or b"").decode()
        yield host if host not in ("", "?") else asked, int(master[1]), range(int(first), int(last) + 1)

"""Loopback ports for the demo: the one that was asked for, or the next free one.

A free port is free until somebody takes it, and whether a child got its port only the child knows. So nothing is
reserved here: whoever starts a child on a port and sees it die looks again (``is_free``), and picks another.
"""

import socket
from collections.abc import Collection

from farebox_portal.errors import CannotStart

_TRIED_MAX = 500


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now. Connections that are just closing do not count."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def require_free(port: int, option: str) -> None:
    """Raise CannotStart, naming the port and the option that asked for it, unless a server could listen there."""
    if not 0 < port < 65536:
        raise CannotStart(f"{option} {port}: a port is a number from 1 to 65535")
    if not is_free(port):
        raise CannotStart(f"{option} {port}: something else listens on 127.0.0.1:{port}, or it may not be used")


def next_free(near: int, taken: Collection[int]) -> int:
    """The first free port from ``near`` on that is not in ``taken``. Raises CannotStart when there is none nearby."""
    for port in range(near, near + _TRIED_MAX):
        if port not in taken and is_free(port):
            return port
    raise CannotStart(f"no free port from {near} to {near + _TRIED_MAX - 1}")

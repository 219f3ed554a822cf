"""Listen, and stop without losing a call."""

import asyncio

from farebox_plugin.transport import Services
from farebox_plugin.transport.h2.connection import Connection

BACKLOG = 512  # connections that wait to be accepted
_FLUSH_S = 1.0  # for a peer to read what was said before it was hung up on


async def serve(services: Services, address: str) -> "H2Transport":
    """Listen on ``unix:/path`` or ``host:port``, without TLS. Raises OSError when the address cannot be bound."""
    loop = asyncio.get_running_loop()
    transport = H2Transport()

    def connection() -> Connection:
        return Connection(services, loop.call_soon, loop.time, transport.connections.add, transport.lost)

    try:
        if address.startswith("unix:"):
            path = address.removeprefix("unix:")
            transport.server = await loop.create_unix_server(connection, path, backlog=BACKLOG)
        else:
            host, _, port = address.rpartition(":")
            transport.server = await loop.create_server(connection, host.strip("[]"), int(port), backlog=BACKLOG)
    except (OSError, ValueError) as fault:
        raise OSError(f"cannot listen on {address}: {fault}") from fault
    return transport


class H2Transport:
    """The open connections of one listening socket."""

    def __init__(self) -> None:
        self.server: asyncio.AbstractServer | None = None
        self.connections: set[Connection] = set()
        self._is_empty = asyncio.Event()

    def lost(self, connection: Connection) -> None:
        self.connections.discard(connection)
        if not self.connections:
            self._is_empty.set()

    async def stop(self, grace_s: float) -> None:
        """Say goodbye, let running calls finish for `grace_s` seconds, give up the rest, hang up."""
        if self.server is not None:
            self.server.close()
        for connection in list(self.connections):
            connection.drain()
        await self._gone(grace_s)
        for connection in list(self.connections):
            connection.end()
        await self._gone(_FLUSH_S)
        for connection in list(self.connections):
            connection.abort()
        await self._gone(_FLUSH_S)

    async def _gone(self, within_s: float) -> None:
        """Return when no connection is left, or after that time."""
        self._is_empty.clear()
        if not self.connections:
            return
        try:
            async with asyncio.timeout(within_s):
                await self._is_empty.wait()
        except TimeoutError:
            return

"""A request that gets no answer at all: its connection is closed under the client, as a broken network would.

An ASGI application cannot close a connection, and the server would answer 500 for it. So the server's protocol class
notes its transports here, by the client's address.
"""

import asyncio
from typing import cast

from starlette.types import Receive, Scope
from uvicorn.protocols.http.h11_impl import H11Protocol

_open: dict[tuple[str, int], asyncio.Transport] = {}


class Dropped(Exception):
    """This request is not to be answered."""


class Connection(H11Protocol):
    """Uvicorn's own, and remembered while it is open."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.client is not None:
            _open[self.client] = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self.client is not None:
            _open.pop(self.client, None)
        super().connection_lost(exc)


async def drop(scope: Scope, receive: Receive) -> None:
    """Close the connection of this request, and wait until the server has seen it."""
    transport = _open.get(cast("tuple[str, int]", tuple(scope["client"])))
    assert transport is not None, "the stand-in is served by `Connection`"
    transport.abort()
    while (await receive())["type"] != "http.disconnect":
        pass

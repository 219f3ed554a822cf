"""A worker's way to have an account rebuilt: it asks the keeper, which sees all spools, over a Unix socket.

request   "load", space, account id, newline
reply     u8 status (0 rebuilt, 1 not possible now) · u32 length · serialized Account, or the reason in words
"""

import asyncio
import struct

from farebox_plugin.records import Unavailable

REPLY = struct.Struct("<BI")
REBUILT, FAILED = 0, 1
TIMEOUT_S = 3.0


class Loader:
    """Loads that are asked for at the same time are one load."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._running: dict[str, asyncio.Task[bytes]] = {}

    async def load(self, account: str) -> bytes:
        """Have the account's admission state rebuilt; its serialized ``Account``. Raises Unavailable."""
        task = self._running.get(account)
        if task is None:
            task = asyncio.ensure_future(self._ask(account))
            self._running[account] = task
            task.add_done_callback(lambda done: self._finished(account, done))
        # Shielded: one caller that is cancelled must not take the answer from the others.
        return await asyncio.shield(task)

    def _finished(self, account: str, task: asyncio.Task[bytes]) -> None:
        self._running.pop(account, None)
        if not task.cancelled():
            task.exception()  # looked at: all who waited for it may have gone

    async def _ask(self, account: str) -> bytes:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                reader, writer = await asyncio.open_unix_connection(self._socket)
                try:
                    writer.write(b"load " + account.encode() + b"\n")
                    status, length = REPLY.unpack(await reader.readexactly(REPLY.size))
                    body = await reader.readexactly(length)
                finally:
                    writer.close()
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as fault:
            raise Unavailable(f"the keeper does not answer: {fault}") from fault
        if status != REBUILT:
            raise Unavailable(body.decode())
        return body

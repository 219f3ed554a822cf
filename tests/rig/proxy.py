"""A proxy between two processes that hurts their connections on command, while they run.

What it does to each direction is a ``Fault``, switched at any time from the test's thread:

    proxy.replies = Fault(delay_s=0.05)       latency; order and throughput stay
    proxy.requests = Fault(is_stalled=True)   nothing arrives until the fault is lifted, then all of it, late
    proxy.replies = Fault(is_lost=True)       the other side works, and nobody hears of it
    proxy.replies = Fault(cut_after=0)        the next bytes cut the connection, once; then all is well again
    proxy.cut(); proxy.is_open = False        live connections are reset; new ones too

TCP loses no bytes in the middle of a connection, so neither does this: a connection that lost some carries nothing any
more, and is reset with the first bytes after the fault.

It runs on an event loop in a thread of its own. Addresses are ``unix:/path`` and ``tcp:127.0.0.1:port``.
"""

import asyncio
import shutil
import tempfile
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class Fault:
    """What happens to the bytes of one direction."""

    delay_s: float = 0.0
    is_stalled: bool = False
    is_lost: bool = False
    cut_after: int | None = None  # so many bytes still pass, then the connection that carried them is reset


NONE = Fault()


@dataclass(eq=False)
class _Side:
    """One direction of all connections."""

    fault: Fault = NONE
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    passed_bytes: int = 0

    def set(self, fault: Fault) -> None:
        self.fault = fault
        self.changed.set()
        self.changed = asyncio.Event()


@dataclass(eq=False)
class _Connection:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    is_torn: bool = False

    def reset(self) -> None:
        for writer in (self.client, self.server):
            writer.transport.abort()


class Proxy:
    """``with Proxy("unix:/run/valkey.sock") as proxy: connect(proxy.address)``. Listens as the target does.

    ``target`` may be another one at any time: connections that are made from then on go there.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.address = ""
        self._folder: Path | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._requests, self._replies = _Side(), _Side()
        self._is_open = True
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def requests(self) -> Fault:
        return self._requests.fault

    @requests.setter
    def requests(self, fault: Fault) -> None:
        self._call(lambda: self._requests.set(fault))

    @property
    def replies(self) -> Fault:
        return self._replies.fault

    @replies.setter
    def replies(self, fault: Fault) -> None:
        self._call(lambda: self._replies.set(fault))

    @property
    def is_open(self) -> bool:
        return self._is_open

    @is_open.setter
    def is_open(self, is_open: bool) -> None:
        """Whether new connections are taken; when not, they are reset at once."""
        self._is_open = is_open

    @property
    def connections(self) -> int:
        return len(self._connections)

    @property
    def reply_bytes(self) -> int:
        """Bytes that have come back through here since the start."""
        return self._replies.passed_bytes

    def cut(self) -> None:
        """Reset every connection that is open now."""
        self._call(self._reset_all)

    def heal(self) -> None:
        """No fault in any direction, and open."""
        self.requests = self.replies = NONE
        self.is_open = True

    def start(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, work: Callable[[], None]) -> None:
        """Do it on the loop, and return when it is done."""

        async def step() -> None:
            work()

        asyncio.run_coroutine_threadsafe(step(), self._loop).result(10)

    async def _listen(self) -> None:
        if self.target.startswith("unix:"):
            self._folder = Path(tempfile.mkdtemp(prefix="fbx-", dir="/tmp"))
            path = self._folder / "proxy.sock"
            self._server = await asyncio.start_unix_server(self._serve, path)
            self.address = f"unix:{path}"
        else:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            self.address = f"tcp:127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _end(self) -> None:
        assert self._server is not None
        self._server.close()
        self._reset_all()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _reset_all(self) -> None:
        for connection in list(self._connections):
            connection.reset()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._is_open:
            writer.transport.abort()
            return
        try:
            back, there = await self._reach()
        except OSError:
            writer.transport.abort()
            return
        connection = _Connection(writer, there)
        self._connections.add(connection)
        self._spawn(self._carry(connection, reader, there, self._requests))
        self._spawn(self._carry(connection, back, writer, self._replies))

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.target.startswith("unix:"):
            return await asyncio.open_unix_connection(self.target.removeprefix("unix:"))
        _, host, port = self.target.split(":")
        return await asyncio.open_connection(host, int(port))

    async def _carry(
        self, connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, side: _Side
    ) -> None:
        """One direction of one connection, until either end is gone: then both are."""
        arrived: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        delivering = asyncio.ensure_future(self._deliver(connection, arrived, writer, side))
        delivering.add_done_callback(lambda _: connection.reset())
        try:
            while data := await reader.read(_CHUNK_BYTES):
                arrived.put_nowait((self._loop.time() + side.fault.delay_s, data))
            arrived.put_nowait((self._loop.time() + side.fault.delay_s, b""))
            await delivering
        except OSError:
            pass
        finally:
            delivering.cancel()
            with suppress(asyncio.CancelledError, OSError):
                await delivering
            self._connections.discard(connection)

    async def _deliver(
        self,
        connection: _Connection,
        arrived: asyncio.Queue[tuple[float, bytes]],
        writer: asyncio.StreamWriter,
        side: _Side,
    ) -> None:
        while True:
            due, data = await arrived.get()
            if due > self._loop.time():
                await asyncio.sleep(due - self._loop.time())
            while side.fault.is_stalled:
                await side.changed.wait()
            if not data or (connection.is_torn and not side.fault.is_lost):
                return
            if side.fault.is_lost:
                connection.is_torn = True
                continue
            left = side.fault.cut_after
            if left is not None:
                side.set(NONE if len(data) >= left else Fault(cut_after=left - len(data)))
            passing = data if left is None else data[:left]
            if passing:
                writer.write(passing)
                await writer.drain()
                side.passed_bytes += len(passing)
            if left is not None and len(data) >= left:
                return

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

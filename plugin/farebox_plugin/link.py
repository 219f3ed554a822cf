"""The plugin's connection to Valkey: pipelined, batched by its callers, and never retrying by itself.

A retry belongs to who knows the request id: a library that repeats a command after a lost reply turns one admission
into two. So a command whose reply did not come is reported as `Unavailable` (its outcome is unknown), the connection is
dropped, and another one is made in the background.

GET and MGET are tracked by the server (RESP3 client-side caching): when a key that was read so changes, `invalidated`
is called before any later reply on the same connection. Losing the connection invalidates everything.
"""

import asyncio
import contextlib
import hashlib
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

import hiredis
import structlog

from farebox.v1 import layout
from farebox_plugin.records import Unavailable

log = structlog.get_logger()

RECONNECT_DELAYS_S = (0.02, 0.05, 0.1, 0.2, 0.5)
CONNECT_TIMEOUT_S = 1.0
# A server that was demoted and promoted again keeps its connections, and is another incarnation all the same.
IDENTITY_INTERVAL_S = 0.5
# What a server says when it is there but cannot do its work now. Anything else that it refuses is our fault.
_UNAVAILABLE = ("LOADING", "READONLY", "MISCONF", "BUSY", "OOM", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS",
                "NOAUTH", "WRONGPASS", "NOPERM")  # fmt: skip
_NOTHING = object()
# What these read is remembered by whoever asks (directory.py), so the server is to tell when it changes.
CACHED = ("GET", "MGET")

Reply = Any  # bytes | int | list | None
Done = Callable[[Reply | Exception], None]


class StoreFault(Exception):
    """The server refused a command for a reason that waiting does not mend: a fault in a script or in our use of it."""


class Script:
    """A Lua script and its SHA-1 name."""

    def __init__(self, source: str) -> None:
        self.source = source.encode()
        self.sha = hashlib.sha1(self.source, usedforsecurity=False).hexdigest().encode()


class _Connection(asyncio.Protocol):
    """One TCP or Unix-socket connection: commands out, replies in, in order."""

    def __init__(
        self,
        invalidated: Callable[[list[bytes] | None], None],
        heard: Callable[[bytes, bytes], None],
        lost: Callable[["_Connection"], None],
    ) -> None:
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._waiting: deque[Done] = deque()
        self._invalidated = invalidated
        self._heard = heard
        self._lost = lost
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def send(self, packed: bytes, done: Done) -> None:
        assert self._transport is not None
        self._waiting.append(done)
        self._transport.write(packed)

    def subscribe(self, channel: str) -> None:
        """Its confirmation is a push: nothing waits for it."""
        assert self._transport is not None
        self._transport.write(_pack(("SUBSCRIBE", channel)))

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while True:
            try:
                reply = self._reader.gets()
            except hiredis.ProtocolError:
                self.close()
                return
            if reply is _NOTHING:
                return
            if isinstance(reply, hiredis.PushNotification):
                if reply[0] == b"invalidate":
                    self._invalidated(reply[1])
                elif reply[0] == b"message":
                    self._heard(reply[1], reply[2])
            elif self._waiting:
                self._waiting.popleft()(_fault(reply) if isinstance(reply, hiredis.ReplyError) else reply)

    def connection_lost(self, exc: Exception | None) -> None:
        waiting, self._waiting = self._waiting, deque()
        self._lost(self)
        for done in waiting:
            done(Unavailable("the connection to Valkey was lost"))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def _pack(arguments: tuple[bytes | str | int, ...]) -> bytes:
    packed: bytes = hiredis.pack_command(arguments)  # type: ignore[arg-type]  # its stub takes tuples of one element
    return packed


def _fault(error: Exception) -> Exception:
    text = str(error)
    if text.startswith("NOSCRIPT"):
        return error
    return Unavailable(text) if text.startswith(_UNAVAILABLE) else StoreFault(text)


_CACHE_NEXT = _pack(("CLIENT", "CACHING", "YES"))


def _nobody(_: Reply | Exception) -> None:
    """Waits for this reply."""


class Link:
    """A connection that is remade whenever it is lost."""

    def __init__(self, url: str, invalidated: Callable[[list[bytes] | None], None] = lambda keys: None) -> None:
        self.generation = ""  # of the server at the other end; "" while there is none
        self.fault: StoreFault | None = None  # why the last attempt to connect was refused for good
        self._url = urlsplit(url)
        self._invalidated = invalidated
        self._connection: _Connection | None = None
        self._channels: dict[str, Callable[[bytes], None]] = {}
        self._clock_offset_ms = 0.0
        self._wake = asyncio.Event()
        self._closed = False
        self._task: asyncio.Task[None] | None = None

    @property
    def is_up(self) -> bool:
        return self._connection is not None

    async def open(self) -> None:
        """Connect; keeps trying in the background when the first attempt fails."""
        try:
            await self._connect()
        except StoreFault as fault:
            self.fault = fault
        except (OSError, Unavailable, TimeoutError):
            pass
        self._task = asyncio.create_task(self._stay_connected())

    async def close(self) -> None:
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._connection is not None:
            self._connection.close()

    def server_now_ms(self) -> float:
        """The server's clock, as seen from here: scripts bound their own lateness by it."""
        return asyncio.get_running_loop().time() * 1000 + self._clock_offset_ms

    def heard_server_time(self, now_ms: int) -> None:
        self._clock_offset_ms = now_ms - asyncio.get_running_loop().time() * 1000

    def call(self, arguments: tuple[bytes | str | int, ...], done: Done) -> None:
        """Send a command; `done` gets the reply or the exception, exactly once, never before this returns."""
        if self._connection is None:
            asyncio.get_running_loop().call_soon(done, Unavailable("no connection to Valkey"))
            return
        if arguments[0] in CACHED:
            self._connection.send(_CACHE_NEXT, _nobody)
        self._connection.send(_pack(arguments), done)

    def run(self, script: Script, keys: list[str], arguments: list[bytes | str | int], done: Done) -> None:
        """EVALSHA, loading the script first where the server does not know it."""
        tail = (len(keys), *keys, *arguments)

        def after(reply: Reply | Exception) -> None:
            # Nothing ran when the script was unknown, so sending it again is not a retry of an effect.
            if isinstance(reply, Exception) and str(reply).startswith("NOSCRIPT"):
                self.call((b"EVAL", script.source, *tail), done)
            else:
                done(reply)

        self.call((b"EVALSHA", script.sha, *tail), after)

    async def ask(self, *arguments: bytes | str | int, timeout_s: float = 1.0) -> Reply:
        """A command whose reply is awaited. Raises Unavailable or StoreFault."""
        return await _awaited(lambda done: self.call(arguments, done), timeout_s)

    async def ask_script(self, script: Script, keys: list[str], arguments: list[bytes | str | int]) -> Reply:
        return await _awaited(lambda done: self.run(script, keys, arguments, done), 1.0)

    def subscribe(self, channel: str, heard: Callable[[bytes], None]) -> None:
        """Hear what is published on this channel from now on; what is said while there is no connection is missed."""
        self._channels[channel] = heard
        if self._connection is not None:
            self._connection.subscribe(channel)

    def drop(self) -> None:
        """Give this connection up: what was sent on it has an unknown outcome."""
        if self._connection is not None:
            self._connection.close()

    async def _check_identity(self) -> None:
        """Drop a connection whose server is not the one it was greeted by, or that does not answer any more."""
        try:
            info = _parse_info(await self.ask("INFO", "server", "replication"))
        except (Unavailable, StoreFault):
            self.drop()
            return
        if self._connection is not None and (info["role"] != "master" or layout.generation(info) != self.generation):
            log.warning("valkey_changed_identity", role=info["role"])
            self.drop()

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()

        def protocol() -> _Connection:
            return _Connection(self._invalidated, self._on_message, self._on_lost)

        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            if self._url.scheme == "unix":
                _, connection = await loop.create_unix_connection(protocol, self._url.path)
            else:
                context = ssl.create_default_context() if self._url.scheme == "rediss" else None
                host, port = self._url.hostname or "127.0.0.1", self._url.port or 6379
                _, connection = await loop.create_connection(protocol, host, port, ssl=context)
            try:
                await self._greet(connection)
            except BaseException:
                connection.close()
                raise
        self._invalidated(None)
        self._connection = connection
        for channel in self._channels:
            connection.subscribe(channel)

    async def _greet(self, connection: _Connection) -> None:
        def ask(*arguments: bytes | str) -> asyncio.Future[Reply]:
            return _future(lambda done: connection.send(_pack(arguments), done))

        login: tuple[bytes | str, ...] = ()
        if self._url.password:
            login = ("AUTH", unquote(self._url.username or "default"), unquote(self._url.password))
        await ask("HELLO", "3", *login)
        if database := self._url.path.strip("/") if self._url.scheme != "unix" else "":
            await ask("SELECT", database)
        # OPTIN: only what is read to be cached. Scripts read counters: each request would be told of its own writes.
        await ask("CLIENT", "TRACKING", "ON", "OPTIN")
        info = _parse_info(await ask("INFO"))
        if info.get("maxmemory_policy", "noeviction") != "noeviction":
            raise StoreFault(
                "Valkey's maxmemory-policy must be noeviction: evicting a counter lets requests past a limit"
            )
        if info.get("role") != "master":
            raise Unavailable("READONLY: this Valkey is a replica")
        seconds, micros = await ask("TIME")
        self.heard_server_time(int(seconds) * 1000 + int(micros) // 1000)
        self.generation = layout.generation(info)

    def _on_message(self, channel: bytes, message: bytes) -> None:
        self._channels[channel.decode()](message)

    def _on_lost(self, connection: _Connection) -> None:
        if connection is self._connection:
            self._connection = None
            self.generation = ""
            self._invalidated(None)
            self._wake.set()

    async def _stay_connected(self) -> None:
        attempt = 0
        reported = False
        while not self._closed:
            if self._connection is not None:
                self._wake.clear()
                try:
                    async with asyncio.timeout(IDENTITY_INTERVAL_S):
                        await self._wake.wait()
                except TimeoutError:
                    await self._check_identity()
                attempt = 0
                continue
            try:
                await self._connect()
                if reported:
                    log.info("valkey_connected", generation=self.generation)
                reported = False
            except (OSError, Unavailable, StoreFault, TimeoutError) as fault:
                if not reported:
                    log.warning("valkey_unavailable", reason=str(fault) or type(fault).__name__)
                    reported = True
                await asyncio.sleep(RECONNECT_DELAYS_S[min(attempt, len(RECONNECT_DELAYS_S) - 1)])
                attempt += 1


def _future(send: Callable[[Done], None]) -> asyncio.Future[Reply]:
    future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    def done(reply: Reply | Exception) -> None:
        if future.done():
            return
        if isinstance(reply, Exception):
            future.set_exception(reply)
        else:
            future.set_result(reply)

    send(done)
    return future


async def _awaited(send: Callable[[Done], None], timeout_s: float) -> Reply:
    try:
        async with asyncio.timeout(timeout_s):
            return await _future(send)
    except TimeoutError:
        raise Unavailable("Valkey did not answer in time") from None


def _parse_info(info: bytes | str) -> dict[str, str]:
    text = info.decode() if isinstance(info, bytes) else info
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)

"""One Valkey server: pipelined commands over a connection that is remade whenever it is lost. Never a retry by itself.

A retry belongs to who knows the request id: a library that repeats a command after a lost reply turns one admission
into two. So a command whose reply did not come is reported as `Unavailable` (its outcome is unknown), the connection is
dropped, and another one is made in the background.

GET and MGET are tracked by the server (RESP3 client-side caching): when a key that was read so changes, `invalidated`
is called before any later reply on the same connection. A connection that is made anew invalidates everything.
"""

import asyncio
import contextlib
import hashlib
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, unquote

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
# What is read where a slot is moving to cannot be tracked (ASKING must be the last word before a command).
UNTRACKED_FOR_S = 1.0

Reply = Any  # bytes | int | list | None
Done = Callable[[Reply | Exception], None]


class StoreFault(Exception):
    """The server refused a command for a reason that waiting does not mend: a fault in a script or in our use of it."""


class Elsewhere(Unavailable):
    """This node of a cluster did not run the command: the key's slot is another one's, or (ASK) moving there now."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        kind, slot, address = text.split(" ")[:3]
        host, _, port = address.rpartition(":")
        self.is_moving = kind == "ASK"
        self.slot = int(slot)
        self.host, self.port = host, int(port)


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
    if text.startswith(("MOVED ", "ASK ")):
        return Elsewhere(text)
    return Unavailable(text) if text.startswith(_UNAVAILABLE) else StoreFault(text)


_CACHE_NEXT = _pack(("CLIENT", "CACHING", "YES"))
_ASKING = _pack(("ASKING",))


def _nobody(_: Reply | Exception) -> None:
    """Waits for this reply."""


@dataclass(frozen=True, slots=True)
class Listener:
    """Who is told what a server says by itself."""

    invalidated: Callable[[list[bytes] | None], None]  # these keys changed; None: all may have
    heard: Callable[[bytes, bytes], None]  # channel, message
    changed: Callable[["Server"], None]  # it can be asked now, or it cannot any more


class Server:
    """One server, or one node of a cluster."""

    def __init__(self, url: SplitResult, listener: Listener) -> None:
        self.generation = ""  # which incarnation it is; "" while it is not connected, or a replica
        self.is_cluster = False
        self.fault: StoreFault | None = None  # why the last attempt to connect was refused for good
        self._url = url
        self._listener = listener
        self._connection: _Connection | None = None
        self._clock_offset_ms = 0.0
        self._wake = asyncio.Event()
        self._closed = False
        self._task: asyncio.Task[None] | None = None

    @property
    def is_up(self) -> bool:
        return self._connection is not None

    @property
    def host(self) -> str:
        return self._url.hostname or "127.0.0.1"

    @property
    def port(self) -> int:
        return self._url.port or 6379

    async def open(self) -> None:
        """Connect; keeps trying in the background when the first attempt fails."""
        try:
            await self._connect()
        except StoreFault as fault:
            self.fault = fault
        except (OSError, Unavailable, TimeoutError):
            pass
        if self._closed:  # meanwhile
            self.drop()
            return
        self._task = asyncio.create_task(self._stay_connected())

    async def close(self) -> None:
        self._closed = True
        self.drop()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def now_ms(self) -> float:
        """The server's clock, as seen from here: scripts bound their own lateness by it."""
        return asyncio.get_running_loop().time() * 1000 + self._clock_offset_ms

    def heard_time(self, now_ms: int) -> None:
        self._clock_offset_ms = now_ms - asyncio.get_running_loop().time() * 1000

    def call(self, arguments: tuple[bytes | str | int, ...], done: Done) -> None:
        """Send a command; `done` gets the reply or the exception, exactly once, never before this returns."""
        if self._connection is None:
            asyncio.get_running_loop().call_soon(done, Unavailable("no connection to Valkey"))
            return
        if arguments[0] in CACHED:
            self._connection.send(_CACHE_NEXT, _nobody)
        self._connection.send(_pack(arguments), done)

    def call_asking(self, arguments: tuple[bytes | str | int, ...], done: Done) -> None:
        """A command about a slot that is moving here."""
        if self._connection is None:
            asyncio.get_running_loop().call_soon(done, Unavailable("no connection to Valkey"))
            return
        self._connection.send(_ASKING, _nobody)
        self._connection.send(_pack(arguments), done)
        if arguments[0] in CACHED:
            read = [key if isinstance(key, bytes) else str(key).encode() for key in arguments[1:]]
            asyncio.get_running_loop().call_later(UNTRACKED_FOR_S, self._listener.invalidated, read)

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
        return await awaited(lambda done: self.call(arguments, done), timeout_s)

    def subscribe(self, channel: str) -> None:
        """On the connection of this moment."""
        if self._connection is not None:
            self._connection.subscribe(channel)

    def drop(self) -> None:
        """Give this connection up: what was sent on it has an unknown outcome."""
        if self._connection is not None:
            self._connection.close()

    @property
    def _name(self) -> str:
        return self._url.path if self._url.scheme == "unix" else f"{self.host}:{self.port}"

    async def _check_identity(self) -> None:
        """Drop a connection whose server is not the one it was greeted by, or that does not answer any more."""
        try:
            info = _parse_info(await self.ask("INFO", "server", "replication"))
        except (Unavailable, StoreFault):
            self.drop()
            return
        if self._connection is not None and _incarnation(info) != self.generation:
            log.warning("valkey_changed_identity", server=self._name, role=info["role"])
            self.drop()

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()

        def protocol() -> _Connection:
            return _Connection(self._listener.invalidated, self._listener.heard, self._on_lost)

        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            if self._url.scheme == "unix":
                _, connection = await loop.create_unix_connection(protocol, self._url.path)
            else:
                context = ssl.create_default_context() if self._url.scheme == "rediss" else None
                _, connection = await loop.create_connection(protocol, self.host, self.port, ssl=context)
            try:
                await self._greet(connection)
            except BaseException:
                connection.close()
                raise
        self._listener.invalidated(None)
        self._connection = connection
        self._listener.changed(self)

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
        self.is_cluster = info.get("cluster_enabled") == "1"
        # A cluster's replica can say who the masters are.
        if info.get("role") != "master" and not self.is_cluster:
            raise Unavailable("READONLY: this Valkey is a replica")
        seconds, micros = await ask("TIME")
        self.heard_time(int(seconds) * 1000 + int(micros) // 1000)
        self.generation = _incarnation(info)

    def _on_lost(self, connection: _Connection) -> None:
        if connection is self._connection:
            self._connection = None
            self.generation = ""
            self._wake.set()
            self._listener.changed(self)

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
                    log.info("valkey_connected", server=self._name, generation=self.generation)
                reported = False
            except (OSError, Unavailable, StoreFault, TimeoutError) as fault:
                if not reported:
                    log.warning("valkey_unavailable", server=self._name, reason=str(fault) or type(fault).__name__)
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


async def awaited(send: Callable[[Done], None], timeout_s: float) -> Reply:
    try:
        async with asyncio.timeout(timeout_s):
            return await _future(send)
    except TimeoutError:
        raise Unavailable("Valkey did not answer in time") from None


def _incarnation(info: dict[str, str]) -> str:
    """Nothing that a replica holds is believed."""
    return layout.generation(info) if info["role"] == "master" else ""


def _parse_info(info: bytes | str) -> dict[str, str]:
    text = info.decode() if isinstance(info, bytes) else info
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)

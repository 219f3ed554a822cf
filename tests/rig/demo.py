"""The whole product as a user starts it: ``farebox demo --json`` in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 30.0


class Demo:
    """``with Demo(tmp_path) as demo: httpx2.get(demo.gateway + "/v1/echo", headers=demo.bearer("free"))``.

    State lies in ``folder / "state"`` and outlives ``stop``, so that a second start finds it again.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.options = options
        self.state = folder / "state"
        self.document: dict[str, Any] = {}
        self._process: subprocess.Popen[str] | None = None

    @property
    def gateway(self) -> str:
        return str(self.document["gateway"])

    @property
    def portal(self) -> str:
        return str(self.document["portal"])

    @property
    def upstream(self) -> str:
        return str(self.document["upstream"])

    @property
    def envoy_admin(self) -> str:
        return str(self.document["envoyAdmin"])

    @property
    def admin_token(self) -> str:
        return str(self.document["adminToken"])

    @property
    def pids(self) -> dict[str, int]:
        """Of the children at the start; a child that was started again has another one since."""
        return dict(self.document["pids"])

    @property
    def pid(self) -> int:
        assert self._process is not None, "the demo is not running"
        return self._process.pid

    @property
    def log(self) -> str:
        """What the demo has said on stderr."""
        return (self.folder / "demo.log").read_text(errors="replace")

    def child_log(self, name: str) -> str:
        return (self.state / "logs" / f"{name}.log").read_text(errors="replace")

    def api_key(self, plan: str) -> str:
        return str(self.document["customers"][plan]["apiKey"])

    def bearer(self, plan: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.api_key(plan)}"}

    @property
    def admin(self) -> dict[str, str]:
        """The operator's header, for the portal."""
        return {"authorization": f"Bearer {self.admin_token}"}

    def launch(self) -> None:
        """Start the process and do not wait."""
        assert self._process is None, "the demo is already running"
        command = [sys.executable, "-m", "farebox_portal", "demo", "--json", "--state", str(self.state), *self.options]
        with (self.folder / "demo.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True, cwd=self.folder
            )

    def start(self) -> Self:
        """Start and read the line that says it is ready."""
        self.launch()
        assert self._process is not None
        assert self._process.stdout is not None
        watchdog = _kill_after(self._process.pid, START_TIMEOUT_S)
        try:
            line = self._process.stdout.readline()
        finally:
            watchdog.cancel()
        if not line:
            status = self.wait()
            raise RuntimeError(f"the demo did not start (exit status {status}):\n{self.log}")
        self.document = json.loads(line)
        return self

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to stop and return its exit status."""
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(how)
        return self.wait()

    def wait(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Its exit status, once it has ended by itself."""
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            status = self._process.wait(timeout_s)
        finally:
            if self._process.poll() is None:
                self._process.kill()  # the kernel ends its children
                self._process.wait()
            self._process.stdout.close()
            self._process = None
        return status

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def is_running(pid: int) -> bool:
    """Whether this process exists and is not just waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def ended(pid: int, within_s: float = 15.0) -> bool:
    """Wait for a process that is nobody's child of ours to end."""
    deadline = time.monotonic() + within_s
    while is_running(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _kill_after(pid: int, seconds: float) -> threading.Timer:
    timer = threading.Timer(seconds, os.kill, (pid, signal.SIGKILL))
    timer.daemon = True
    timer.start()
    return timer

"""A child process under supervision: started with a log file, waited for, stopped, and never left behind.

It leads a session of its own. So Ctrl-C at a terminal reaches the demo alone, which then ends its children in order;
and whatever a child has started can be ended with it. Should the demo itself be killed, the kernel ends its children
(Linux; elsewhere they would go on).
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event

from farebox_portal.errors import CannotStart

_LOG_TAIL_BYTES = 16 * 1024
_POLL_S = 0.03
_PR_SET_PDEATHSIG = 1
# Loaded here and not after the fork: between fork and exec, nothing may allocate or take a lock that it can do without.
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class Stopped(Exception):
    """Raised while waiting for a child when the demo has been told to stop."""


class Child:
    """A command with a name. ``environment`` is added to our own; the log is started afresh with the first start."""

    def __init__(
        self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.command = list(command)
        self.log = log
        self.environment = dict(environment or {})
        self.log.write_bytes(b"")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id, also of one that has just died; None before the first start and after ``stop``."""
        return None if self._process is None else self._process.pid

    @property
    def exit_status(self) -> str | None:
        """How it ended, in words; None while it runs or was never started."""
        code = None if self._process is None else self._process.poll()
        if code is None:
            return None
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"

    def start(self) -> None:
        """Start it, or start it again. Raises CannotStart when there is no such program."""
        self._end_group()
        mother = os.getpid()
        with self.log.open("ab") as log:
            try:
                self._process = subprocess.Popen(  # noqa: S603 - our own commands
                    self.command,
                    env=os.environ | self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=lambda: _die_with(mother),
                )
            except OSError as error:
                raise CannotStart(f"{self.name}: cannot run {self.command[0]}: {error.strerror}") from None

    def wait_ready(self, ready: Callable[[], bool], timeout_s: float, stop: Event) -> None:
        """Return once ``ready()``. Raises CannotStart if it dies or takes too long, Stopped when ``stop`` is set."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            if stop.wait(_POLL_S):
                raise Stopped
            if self.exit_status is not None:
                raise CannotStart(self.obituary())
            if time.monotonic() > deadline:
                raise CannotStart(
                    f"{self.name} was not ready within {timeout_s:.0f} s; its log ends:\n{self.last_lines()}"
                )

    def stop(self, grace_s: float) -> None:
        """SIGTERM, ``grace_s`` seconds to end in order, then SIGKILL; nothing that it started outlives it."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_s)
        self._end_group()
        self._process = None

    def last_lines(self, count: int = 10) -> str:
        """The end of its log, indented; at most ``count`` lines."""
        with self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - _LOG_TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-count:]) or "  (nothing)"

    def obituary(self) -> str:
        """That it died, how, and its last words."""
        return f"{self.name} {self.exit_status}; its log ends:\n{self.last_lines()}"

    def _end_group(self) -> None:
        """Kill what is left of its session: itself, or the workers of one that was killed."""
        if self._process is None:
            return
        with suppress(ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _die_with(mother: int) -> None:
    if _LIBC is None:
        return
    # SIGTERM rather than SIGKILL: a store or a spool that has lost its demo still ends in order.
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != mother:
        os._exit(1)  # she died before we asked to be told

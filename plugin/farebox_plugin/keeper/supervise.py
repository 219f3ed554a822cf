"""Keeps the workers alive: starts them, starts a dead one again, ends them in order.

Every worker inherits the reading end of a pipe that the keeper never writes to: when the keeper dies, however it dies,
the worker reads the end of file and leaves. So no worker serves on with nobody to ship its spool or rebuild accounts.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

import structlog

log = structlog.get_logger()

RESTART_DELAYS_S = (0.05, 0.2, 0.5, 1.0, 2.0)
# A worker that lived this long was healthy: its next restart is quick again.
HEALTHY_AFTER_S = 10.0
STOP_GRACE_S = 5.0


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """How one worker is started."""

    index: int
    listen: str


@dataclass(slots=True)
class Running:
    process: asyncio.subprocess.Process
    spool: str
    started_at: float


class Supervisor:
    """`died(index)` is called after a worker has gone unasked, before the next one starts."""

    def __init__(
        self, plans: list[WorkerPlan], keeper_socket: str, spool_prefix: str, died: Callable[[int], None]
    ) -> None:
        self._plans = plans
        self._keeper_socket = keeper_socket
        self._spool_prefix = spool_prefix
        self._died = died
        self._running: dict[int, Running] = {}
        self._incarnation = 0
        self._is_stopping = False
        self._pipe_read, self._pipe_write = os.pipe()
        self.restart_count = 0

    @property
    def live_spools(self) -> set[str]:
        return {running.spool for running in self._running.values()}

    @property
    def live_count(self) -> int:
        return len(self._running)

    async def run(self) -> None:
        """Runs until cancelled; then every worker is gone."""
        try:
            async with asyncio.TaskGroup() as group:
                for plan in self._plans:
                    group.create_task(self._keep_alive(plan))
        finally:
            await asyncio.shield(self._stop())

    async def _keep_alive(self, plan: WorkerPlan) -> None:
        attempt = 0
        while not self._is_stopping:
            running = await self._start(plan)
            self._running[plan.index] = running
            code = await running.process.wait()
            del self._running[plan.index]
            if self._is_stopping:
                return
            lived_s = asyncio.get_running_loop().time() - running.started_at
            attempt = 0 if lived_s > HEALTHY_AFTER_S else attempt + 1
            self.restart_count += 1
            log.warning("worker_died", worker=plan.index, exit_code=code, lived_s=round(lived_s, 1))
            self._died(plan.index)
            await asyncio.sleep(RESTART_DELAYS_S[min(attempt, len(RESTART_DELAYS_S) - 1)])

    async def _start(self, plan: WorkerPlan) -> Running:
        self._incarnation += 1
        spool = f"{self._spool_prefix}.{self._incarnation}w{plan.index}"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "farebox_plugin.worker",
            "--listen", plan.listen, "--spool", spool, "--keeper-socket", self._keeper_socket,
            "--parent-fd", str(self._pipe_read),
            pass_fds=(self._pipe_read,), stdin=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        return Running(process, spool, asyncio.get_running_loop().time())

    async def _stop(self) -> None:
        self._is_stopping = True
        processes = [running.process for running in self._running.values()]
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        waits = [asyncio.ensure_future(process.wait()) for process in processes]
        if waits:
            _, late = await asyncio.wait(waits, timeout=STOP_GRACE_S)
            if late:
                for process in processes:
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()
                await asyncio.wait(late)
        os.close(self._pipe_write)
        os.close(self._pipe_read)

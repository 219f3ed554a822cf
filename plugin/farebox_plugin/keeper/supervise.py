"""Keeps the workers alive: starts them, starts a dead one again, replaces them one by one, ends them in order.

Every worker inherits the reading end of a pipe that the keeper never writes to: when the keeper dies, however it dies,
the worker reads the end of file and leaves. So no worker serves on with nobody to ship its spool or rebuild accounts.

A reload (SIGHUP) starts a worker's successor first. It takes over the socket's name when it is ready to serve, and only
then is the old one told to go: it says goodbye (GOAWAY) to Envoy, which finds the successor under the same name.
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
READY_WITHIN_S = 30.0


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
    ready: asyncio.Event


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
        self._successors: dict[int, Running] = {}  # started, and not in charge yet
        self._leaving: dict[str, asyncio.Task[None]] = {}  # told to go
        self._incarnation = 0
        self._is_stopping = False
        self._reloading: asyncio.Task[None] | None = None
        self._pipe_read, self._pipe_write = os.pipe()
        self.restart_count = 0
        self.reload_count = 0

    @property
    def live_spools(self) -> set[str]:
        processes = [*self._running.values(), *self._successors.values()]
        return {running.spool for running in processes} | self._leaving.keys()

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

    def serves(self, spool: str) -> None:
        """The worker with this spool says that it serves."""
        for running in (*self._running.values(), *self._successors.values()):
            if running.spool == spool:
                running.ready.set()

    def reload(self) -> None:
        """Replace all workers, one after the other; nothing if that is going on already."""
        if self._reloading is None or self._reloading.done():
            self._reloading = asyncio.create_task(self._replace_all())

    async def _replace_all(self) -> None:
        for plan in self._plans:
            if self._is_stopping or not await self._replace(plan):
                return
        self.reload_count += 1
        log.info("workers_reloaded", workers=len(self._plans))

    async def _replace(self, plan: WorkerPlan) -> bool:
        """Whether the successor serves now; if it does not come up, the old one stays, and so do the others."""
        successor = self._successors[plan.index] = await self._start(plan)
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                await successor.ready.wait()
        except TimeoutError:
            log.error("reload_failed", worker=plan.index, reason="the new worker does not serve; the old one goes on")
            del self._successors[plan.index]
            await self._dismiss(successor)
            return False
        # The one before has no part in what comes: `_keep_alive` finds its successor in its place.
        old = self._running.get(plan.index)
        self._running[plan.index] = self._successors.pop(plan.index)
        if old is not None:
            await self._dismiss(old)
            self._died(plan.index)  # it had time to settle all; what it could not tell Valkey is told again
        return True

    async def _dismiss(self, running: Running) -> None:
        """Tell it to go, and wait until it has."""
        task = self._leaving[running.spool] = asyncio.create_task(_end(running.process))
        await task
        del self._leaving[running.spool]

    async def _keep_alive(self, plan: WorkerPlan) -> None:
        attempt = 0
        running = self._running[plan.index] = await self._start(plan)
        while not self._is_stopping:
            code = await running.process.wait()
            if self._is_stopping:
                return
            successor = self._running[plan.index]
            if successor is not running:
                running = successor
                continue
            del self._running[plan.index]
            lived_s = asyncio.get_running_loop().time() - running.started_at
            attempt = 0 if lived_s > HEALTHY_AFTER_S else attempt + 1
            self.restart_count += 1
            log.warning("worker_died", worker=plan.index, exit_code=code, lived_s=round(lived_s, 1))
            self._died(plan.index)
            await asyncio.sleep(RESTART_DELAYS_S[min(attempt, len(RESTART_DELAYS_S) - 1)])
            # A reload may have put one in its place meanwhile.
            running = self._running.get(plan.index) or await self._start(plan)
            self._running[plan.index] = running

    async def _start(self, plan: WorkerPlan) -> Running:
        self._incarnation += 1
        spool = f"{self._spool_prefix}.{self._incarnation}w{plan.index}"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "farebox_plugin.worker",
            "--listen", plan.listen, "--spool", spool, "--keeper-socket", self._keeper_socket,
            "--parent-fd", str(self._pipe_read),
            pass_fds=(self._pipe_read,), stdin=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        return Running(process, spool, asyncio.get_running_loop().time(), asyncio.Event())

    async def _stop(self) -> None:
        self._is_stopping = True
        if self._reloading is not None:
            self._reloading.cancel()
        ends = [
            asyncio.ensure_future(_end(each.process)) for each in (*self._running.values(), *self._successors.values())
        ]
        if ends or self._leaving:
            await asyncio.wait([*ends, *self._leaving.values()])
        os.close(self._pipe_write)
        os.close(self._pipe_read)


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(STOP_GRACE_S):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()

"""One serving process: composes the request path and the response path on one event loop.

Started by the keeper, never by hand.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from collections import Counter as Tally
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import orjson
import structlog

from farebox.v1.health_pb2 import HealthCheckResponse
from farebox_plugin.access_log import AccessLog
from farebox_plugin.admission import Admission
from farebox_plugin.authz import Authz
from farebox_plugin.directory import Directory
from farebox_plugin.estimates import RecentUse
from farebox_plugin.ext_proc import ExtProc
from farebox_plugin.extension import Extensions
from farebox_plugin.garbage import collect_seldom
from farebox_plugin.link import Link, StoreFault
from farebox_plugin.loader import Loader
from farebox_plugin.observe import configure_logging
from farebox_plugin.records import Unavailable
from farebox_plugin.settings import Settings, load_settings
from farebox_plugin.settlement import Settlements
from farebox_plugin.spool import SpoolWriter
from farebox_plugin.transport import Services, Stream, StreamReply, Transport, UnaryReply

log = structlog.get_logger()

DRAIN_S = 1.0
SETTLE_S = 2.5  # the access log's safety net included
STATS_INTERVAL_S = 1.0

CHECK = "/envoy.service.auth.v3.Authorization/Check"
PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
ACCESS_LOGS = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
HEALTH_CHECK = "/grpc.health.v1.Health/Check"
HEALTH_WATCH = "/grpc.health.v1.Health/Watch"


class Health:
    """grpc.health.v1: serving until it is told to drain.

    Valkey being away does not make a worker unhealthy: Envoy would find no healthy worker and answer for us, with a
    bare 503. A worker without Valkey still says precisely what is wrong, and when to come again.
    """

    def __init__(self) -> None:
        self._status = HealthCheckResponse.SERVING
        self._watchers: set[StreamReply] = set()

    def check(self, _: bytes, reply: UnaryReply) -> None:
        reply.send(HealthCheckResponse(status=self._status).SerializeToString())

    def watch(self, reply: StreamReply) -> Stream:
        self._watchers.add(reply)
        reply.send(HealthCheckResponse(status=self._status).SerializeToString())
        return _Watcher(lambda: self._watchers.discard(reply))

    def drain(self) -> None:
        self._status = HealthCheckResponse.NOT_SERVING
        for reply in self._watchers:
            reply.send(HealthCheckResponse(status=self._status).SerializeToString())


class _Watcher:
    def __init__(self, gone: Callable[[], None]) -> None:
        self._gone = gone

    def receive(self, message: bytes) -> None:
        """The request says which service; all of ours share one fate."""

    def closed(self) -> None:
        self._gone()


class Worker:
    """Everything one process serves with."""

    def __init__(self, settings: Settings, spool_name: str, keeper_socket: str) -> None:
        self.link = Link(settings.redis_url, self._invalidated)
        self.directory = Directory(self.link)
        self.spool = SpoolWriter(settings.spool_dir, spool_name, budget_bytes=settings.spool_budget_mb * 1024 * 1024)
        recent = RecentUse()
        loader = Loader(keeper_socket)
        self.settlements = Settlements(self.link, self.spool, recent, loader.load, spool_name)
        self.admission = Admission(
            self.link,
            self.spool,
            self.directory,
            self.settlements,
            loader.load,
            owner=spool_name,
            timeout_s=settings.store_timeout_ms / 1000,
        )
        self.authz = Authz(
            self.directory, self.admission, recent, loader.load, settings.pepper, settings.public_url.rstrip("/")
        )
        self.access_log = AccessLog(self.link, self.directory, self.settlements)
        extensions = Extensions(self.link, self.directory, self.spool, loader.load)
        self.ext_proc = ExtProc(self.directory, self.settlements, extensions)
        self.health = Health()
        self.services = Services(
            unary={CHECK: self.authz.check, HEALTH_CHECK: self.health.check},
            streams={
                ACCESS_LOGS: self.access_log.open,
                PROCESS: self.ext_proc.open,
                HEALTH_WATCH: self.health.watch,
            },
        )

    def _invalidated(self, keys: list[bytes] | None) -> None:
        self.directory.invalidated(keys)

    def counts(self) -> dict[str, dict[str, int]]:
        """All counters since the start, for the keeper's metrics."""
        parts: dict[str, Tally[str]] = {
            "checks": self.authz.counts,
            "admission": self.admission.counts,
            "settlement": self.settlements.counts,
            "access_log": self.access_log.counts,
            "ext_proc": self.ext_proc.counts,
        }
        return {name: dict(tally) for name, tally in parts.items()}


async def run(settings: Settings, listen: str, spool_name: str, keeper_socket: str, parent_fd: int) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    orphaned = False

    def parent_died() -> None:
        nonlocal orphaned
        orphaned = True
        loop.remove_reader(parent_fd)
        stop.set()

    loop.add_reader(parent_fd, parent_died)
    worker = Worker(settings, spool_name, keeper_socket)
    await worker.link.open()
    with contextlib.suppress(Unavailable, StoreFault):
        await worker.directory.load_policies()
    transport = await listen_on(serve_over(settings.transport), worker.services, listen)

    failed = False

    def spool_failed(fault: OSError) -> None:
        nonlocal failed
        failed = True
        log.error("spool_sync_failed", reason=str(fault))
        stop.set()

    background = [
        asyncio.create_task(worker.spool.keep_synced(spool_failed)),
        asyncio.create_task(_report(worker, keeper_socket)),
    ]
    await _tell_keeper(keeper_socket, b"serves " + spool_name.encode())
    log.info("worker_ready", listen=listen, spool=spool_name)
    await stop.wait()
    worker.health.drain()
    await transport.stop(0 if orphaned else DRAIN_S)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.2 if orphaned else SETTLE_S):
            while not (worker.settlements.is_idle and worker.access_log.is_idle):  # noqa: ASYNC110 - at exit only
                await asyncio.sleep(0.02)
    for task in background:
        task.cancel()
    await worker.link.close()
    if not failed:
        worker.spool.close()
    return 1 if failed else 0


def serve_over(transport: str) -> Callable[[Services, str], Awaitable[Transport]]:
    """The transport of this name; only that one is imported."""
    if transport == "h2":
        from farebox_plugin.transport import h2

        return h2.serve
    from farebox_plugin.transport import grpcio

    return grpcio.serve


async def _report(worker: Worker, keeper_socket: str) -> None:
    """Tell the keeper the counters once a second."""
    while True:
        await asyncio.sleep(STATS_INTERVAL_S)
        await _tell_keeper(
            keeper_socket, b"stats " + worker.spool.spool.encode() + b" " + orjson.dumps(worker.counts())
        )


async def _tell_keeper(keeper_socket: str, line: bytes) -> None:
    with contextlib.suppress(OSError):
        _, writer = await asyncio.open_unix_connection(keeper_socket)
        writer.write(line + b"\n")
        writer.close()


async def listen_on(
    serve: Callable[[Services, str], Awaitable[Transport]], services: Services, listen: str
) -> Transport:
    """Serve under this address, taking it over from a predecessor that may still serve.

    A Unix socket is made under a name of its own and moved to its place: from then on Envoy's new connections come
    here, and what the predecessor removes when it goes is its own former name.
    """
    if not listen.startswith("unix:"):
        return await serve(services, listen)
    path = Path(listen.removeprefix("unix:"))
    own = path.with_name(f"{path.name}.{os.getpid()}")
    own.unlink(missing_ok=True)
    transport = await serve(services, f"unix:{own}")
    own.replace(path)
    return transport


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", required=True)
    parser.add_argument("--spool", required=True)
    parser.add_argument("--keeper-socket", required=True)
    parser.add_argument("--parent-fd", type=int, required=True)
    arguments = parser.parse_args()
    configure_logging()
    collect_seldom()
    settings = load_settings(dict(os.environ))
    work = run(settings, arguments.listen, arguments.spool, arguments.keeper_socket, arguments.parent_fd)
    sys.exit(_run_loop(work))


def _run_loop(work: Coroutine[Any, Any, int]) -> int:
    try:
        import uvloop
    except ImportError:  # Windows
        return asyncio.run(work)
    return uvloop.run(work)


if __name__ == "__main__":
    main()

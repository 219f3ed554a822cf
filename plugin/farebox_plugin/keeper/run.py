"""The parent process: one spool directory, one lock, one loop."""

import asyncio
import contextlib
import fcntl
import os
import secrets
import signal
from collections import Counter as Tally
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import structlog

from farebox_plugin.estimates import RecentUse
from farebox_plugin.keeper.index import Index
from farebox_plugin.keeper.membership import Membership, read_identity
from farebox_plugin.keeper.peers import Peers
from farebox_plugin.keeper.portal import Portal
from farebox_plugin.keeper.rebuild import TOKEN_TTL_MS, Rebuilder
from farebox_plugin.keeper.reconcile import Finding, Reconciler
from farebox_plugin.keeper.ship import Shipper
from farebox_plugin.keeper.supervise import Supervisor, WorkerPlan
from farebox_plugin.keeper.sweep import Sweeper
from farebox_plugin.link import Link
from farebox_plugin.loader import FAILED, REBUILT, REPLY
from farebox_plugin.observe import Gauges, serve_metrics
from farebox_plugin.records import Unavailable
from farebox_plugin.settings import Settings, SettingsError
from farebox_plugin.settlement import Settlements
from farebox_plugin.spool import BALLAST_SUFFIX, SpoolDamaged, SpoolWriter, segments

log = structlog.get_logger()

CHECKPOINT = "checkpoint.json"
ADDRESS = "keeper.address"
CHECKPOINT_INTERVAL_S = 5.0
LAST_DELIVERY_S = 3.0


async def run_keeper(settings: Settings, listen: str, workers: int) -> int:
    """Serve until SIGTERM. Raises SettingsError when it cannot begin."""
    lock = lock_spool_dir(settings.spool_dir)
    try:
        return await _Keeper(settings, listen, workers).run()
    finally:
        os.close(lock)


class _Keeper:
    def __init__(self, settings: Settings, listen: str, workers: int) -> None:
        self._settings = settings
        self._socket = keeper_socket(listen)
        identity = read_identity(settings.spool_dir, settings.gateway_name)
        boot = secrets.token_hex(4)
        self._own_spool = f"{identity.name}.{boot}.keeper"
        self._index = Index(settings.spool_dir)
        self._link = Link(settings.redis_url)
        self._portal = Portal(settings.portal_url, settings.plugin_token.get_secret_value())
        self._peers = Peers(self._link, self._index, identity.name)
        self._rebuilder = Rebuilder(self._link, self._peers, self._portal)
        self._shipper = Shipper(self._index, self._portal)
        self._reconciler = Reconciler(self._link, self._index, self._peers, self._portal, self._rebuilder)
        self._writer = SpoolWriter(settings.spool_dir, self._own_spool)
        self._settlements = Settlements(
            self._link, self._writer, RecentUse(), self._rebuilder.load, owner=self._own_spool
        )
        plans = [WorkerPlan(number, worker_address(listen, number)) for number in range(workers)]
        self._supervisor = Supervisor(plans, self._socket, f"{identity.name}.{boot}", self._worker_died)
        self._sweeper = Sweeper(self._index, self._settlements, self._live_spools, settings.orphan_after_s)
        self._membership = Membership(
            self._portal, self._index, settings.spool_dir, identity, boot, self._rebuild_pending
        )
        self._worker_counts: dict[str, dict[str, dict[str, int]]] = {}

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._supervisor.reload)
        self._restore()
        try:
            self._index.catch_up(loop.time())
        except SpoolDamaged as fault:
            raise SettingsError(f"FAREBOX_SPOOL_DIR: {fault}; move that spool aside to go on without it") from fault
        await self._link.open()
        if self._link.fault is not None:
            raise SettingsError(f"FAREBOX_REDIS_URL: {self._link.fault}")
        self._peers.listen()
        if not await self._joined(stop):
            await self._close()
            return 0
        failed = await self._serve_until(stop)
        await self._deliver_last()
        if failed is None:
            await self._membership.leave()
        await self._close()
        if failed is not None:
            log.error("keeper_failed", exc_info=failed)
            return 1
        return 0

    async def _joined(self, stop: asyncio.Event) -> bool:
        """Whether the portal knows of us; else it is time to stop. Raises SettingsError."""
        joining, stopping = asyncio.create_task(self._membership.join()), asyncio.create_task(stop.wait())
        await asyncio.wait([joining, stopping], return_when=asyncio.FIRST_COMPLETED)
        for task in (joining, stopping):
            task.cancel()
        await asyncio.gather(joining, stopping, return_exceptions=True)
        if joining.cancelled():
            return False
        joining.result()
        return True

    async def _serve_until(self, stop: asyncio.Event) -> BaseException | None:
        """Everything runs, until it is time to stop or a part fails; what it failed with."""
        _remove(self._socket)
        _note_address(self._settings.spool_dir, self._socket)
        server = await asyncio.start_unix_server(self._serve, self._socket)
        metrics = serve_metrics(self._settings.metrics_port, self._gauges) if self._settings.metrics_port else None
        supervising = asyncio.create_task(self._supervisor.run())
        background = [
            asyncio.create_task(self._shipper.run()),
            asyncio.create_task(self._sweeper.run()),
            asyncio.create_task(self._writer.keep_synced(lambda fault: stop.set())),
            asyncio.create_task(self._keep_checkpoint()),
            asyncio.create_task(self._reconciler.run()),
            asyncio.create_task(self._membership.run()),
        ]
        stopping = asyncio.create_task(stop.wait())
        done, _ = await asyncio.wait([stopping, supervising, *background], return_when=asyncio.FIRST_COMPLETED)
        faults = [fault for task in done if (fault := task.exception()) is not None]
        supervising.cancel()
        await asyncio.gather(supervising, return_exceptions=True)
        for task in (*background, stopping):
            task.cancel()
        await asyncio.gather(*background, stopping, return_exceptions=True)
        server.close()
        _remove(self._socket)
        if metrics is not None:
            metrics.shutdown()
        return faults[0] if faults else None

    async def _close(self) -> None:
        await self._link.close()
        await self._portal.close()
        self._writer.close()

    def _live_spools(self) -> set[str]:
        return self._supervisor.live_spools

    def _worker_died(self, _: int) -> None:
        self._sweeper.worker_died(asyncio.get_running_loop().time())

    def _rebuild_pending(self) -> None:
        """Others may have rebuilt accounts without what we have of them; or are about to, with what they gathered."""
        accounts = self._index.pending_accounts()

        def distrust() -> None:
            for account in accounts:
                self._settlements.distrust(account)

        distrust()
        if accounts:
            asyncio.get_running_loop().call_later(TOKEN_TTL_MS / 1000, distrust)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One line asks: a worker for `load ACCOUNT`, or to note its counters (`stats SPOOL JSON`), or that it serves
        (`serves SPOOL`); an operator for
        `reconcile ACCOUNT|*`, `repair ACCOUNT|*` or `rebuild ACCOUNT|*`."""
        try:
            verb, _, rest = (await reader.readline()).strip().partition(b" ")
            if verb == b"stats":
                spool, _, document = rest.partition(b" ")
                self._worker_counts[spool.decode()] = orjson.loads(document)
            elif verb == b"serves":
                self._supervisor.serves(rest.decode())
            elif verb == b"load":
                writer.write(await self._load(rest.decode()))
                await writer.drain()
            elif verb in (b"reconcile", b"repair", b"rebuild"):
                async for finding in self._look_over(verb.decode(), rest.decode()):
                    writer.write(orjson.dumps(finding) + b"\n")
                    await writer.drain()
        except ConnectionError:
            """Who asked has gone."""
        finally:
            writer.close()

    async def _load(self, account: str) -> bytes:
        try:
            body = await self._rebuilder.load(account)
            return REPLY.pack(REBUILT, len(body)) + body
        except Unavailable as fault:
            body = str(fault).encode()
            return REPLY.pack(FAILED, len(body)) + body

    async def _look_over(self, verb: str, account: str) -> AsyncIterator[Finding]:
        """The findings of one account, or of all that Valkey knows; an account that cannot be compared says why."""
        async for each in self._reconciler.accounts() if account == "*" else _just(account):
            try:
                if verb == "rebuild":
                    await self._reconciler.rebuild(each)
                    yield Finding(each, "rebuilt")
                else:
                    yield await self._reconciler.reconcile(each, repair=verb == "repair")
            except Unavailable as fault:
                yield Finding(each, f"not possible: {fault}")

    def _restore(self) -> None:
        path = self._settings.spool_dir / CHECKPOINT
        if not path.exists():
            return
        try:
            self._index.restore(orjson.loads(path.read_bytes()), asyncio.get_running_loop().time())
        except (ValueError, KeyError, TypeError) as fault:
            # Without it the spools are read from their beginning, and what was voided long ago might be charged.
            raise SettingsError(f"FAREBOX_SPOOL_DIR: {path} is damaged; restore it or move the spools aside") from fault

    async def _keep_checkpoint(self) -> None:
        while True:
            await asyncio.sleep(CHECKPOINT_INTERVAL_S)
            self._checkpoint()

    def _checkpoint(self) -> None:
        """Note how far everything is; then delete the segments that nobody needs any more."""
        path = self._settings.spool_dir / CHECKPOINT
        with path.with_suffix(".new").open("wb") as file:
            file.write(orjson.dumps(self._index.checkpoint()))
            file.flush()
            os.fsync(file.fileno())
        path.with_suffix(".new").replace(path)
        live = self._live_spools() | {self._own_spool}
        for ballast in self._settings.spool_dir.glob(f"*{BALLAST_SUFFIX}"):
            if ballast.name.removesuffix(BALLAST_SUFFIX) not in live:
                ballast.unlink(missing_ok=True)
        for spool, parts in segments(self._settings.spool_dir).items():
            if spool not in self._index.spools:
                continue
            # What ends behind the last shipped usage needs no shipping; what is read is in the checkpoint.
            has_unshipped = self._index.next_batch(spool, 1) is not None
            done_to = self._index.shipped_to(spool) if has_unshipped else self._index.position(spool)
            for index, (base, segment) in enumerate(parts):
                is_last = index == len(parts) - 1
                end = base + segment.stat().st_size if is_last else parts[index + 1][0]
                if end <= done_to and not (is_last and spool in live):
                    segment.unlink()
                    if is_last:
                        self._index.forget_spool(spool, asyncio.get_running_loop().time())

    async def _deliver_last(self) -> None:
        """The workers are gone: what they wrote is delivered if the portal takes it now, else after the next start."""
        self._index.catch_up(asyncio.get_running_loop().time())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_DELIVERY_S):
                await self._shipper.ship_all()
        self._checkpoint()

    def _gauges(self) -> Gauges:
        totals: dict[str, Tally[str]] = {}
        for counts in self._worker_counts.values():
            for part, tally in counts.items():
                totals.setdefault(part, Tally()).update(tally)
        totals["ship"] = self._shipper.counts
        totals["sweep"] = self._sweeper.counts
        totals["reconcile"] = self._reconciler.counts
        totals["peers"] = self._peers.counts
        return Gauges(
            totals=totals,
            workers=self._supervisor.live_count,
            restarts=self._supervisor.restart_count,
            open_requests=self._index.open_count,
            unshipped_events=self._index.unshipped_count,
            rebuilds=self._rebuilder.rebuilt_count,
            is_ready=self._link.is_up and self._supervisor.live_count > 0,
        )


def worker_address(listen: str, number: int) -> str:
    """``unix:/path/w%d.sock`` -> the address of one worker."""
    return listen.replace("%d", str(number))


def keeper_socket(listen: str) -> str:
    """Beside the workers' sockets, which are known to be short enough and writable."""
    return str(Path(listen.removeprefix("unix:")).parent / "keeper.sock")


def _note_address(spool_dir: Path, socket: str) -> None:
    """For `farebox reconcile`, which knows the spool directory and asks who keeps it."""
    (spool_dir / ADDRESS).write_text(socket)


async def _just(account: str) -> AsyncIterator[str]:
    yield account


def _remove(socket: str) -> None:
    Path(socket).unlink(missing_ok=True)


def lock_spool_dir(directory: Path) -> int:
    """One keeper for each spool directory. Raises SettingsError."""
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as fault:
        raise SettingsError(f"FAREBOX_SPOOL_DIR: cannot write to {directory}: {fault.strerror}") from fault
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise SettingsError(f"FAREBOX_SPOOL_DIR: another plugin already uses {directory}") from None
    return lock

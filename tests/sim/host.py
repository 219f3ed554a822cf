"""The plugin's processes on one host, a gateway: the real protocol code and real spools, on a simulated wire, mortal.

A worker is made of the real Directory, Admission, Settlements and SpoolWriter; a keeper of the real Index, Peers,
Membership, Rebuilder, Shipper, Sweeper, Settlements, and the keeper's own checkpointing. Only what starts processes is
ours.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

from builders.plugin import Asker, a_ticket
from farebox.v1.rid import singles
from farebox.v1.usage_pb2 import UsageEvent
from farebox_plugin.admission import DECIDE_WITHIN_S, Admission, Refused, unavailable
from farebox_plugin.directory import Directory
from farebox_plugin.estimates import RecentUse
from farebox_plugin.keeper.index import Index
from farebox_plugin.keeper.membership import Identity, Membership
from farebox_plugin.keeper.peers import Peers
from farebox_plugin.keeper.rebuild import Rebuilder
from farebox_plugin.keeper.run import _Keeper
from farebox_plugin.keeper.ship import Shipper
from farebox_plugin.keeper.sweep import Sweeper
from farebox_plugin.records import Call, Refusal, Unavailable
from farebox_plugin.settlement import Settlements
from farebox_plugin.spool import ALLOWED, SETTLED, SpoolWriter, parse_records
from farebox_plugin.terms import Policy, hold_for
from sim.link import Faults, Killed, Process, Server, SimLink
from sim.portal import Portal

SEGMENT_BYTES = 4096  # small, so that segments are rotated and deleted all the time
STORE_TIMEOUT_S = 0.1
LOAD_WITHIN_S = 3.0
ORPHAN_AFTER_S = 6.0


class Chronicle:
    """What the spools really said, gathered as it was written."""

    def __init__(self) -> None:
        self.allowed: set[str] = set()
        self.ended: dict[str, UsageEvent | None] = {}  # rid -> the first end that was written; None: nothing is owed

    def note(self, records: Sequence[bytes]) -> None:
        for record in parse_records(b"".join(records)):
            if record.kind == ALLOWED:
                self.allowed.update(record.fields()[1:])
            elif record.kind == SETTLED:
                for event in singles(UsageEvent.FromString(record.body)):
                    self.ended.setdefault(event.rid, event)
            elif record.kind == b"V":
                for rid in record.fields()[1:]:
                    self.ended.setdefault(rid, None)


class MortalSpool(SpoolWriter):
    """A spool whose process may die before, in the middle of, or right after a write."""

    def __init__(self, directory: Path, process: Process, random: Random, chronicle: Chronicle) -> None:
        super().__init__(directory, process.name, SEGMENT_BYTES)
        self._process = process
        self._random = random
        self._chronicle = chronicle
        process.died.append(lambda: os.close(self._file))

    def append(self, records: list[bytes]) -> None:
        self._process.check()
        how = self._process.dies_at_append
        if how == "before":
            self._process.kill()
            raise Killed
        before = self.end
        super().append(records)
        if how == "torn":
            frame = self.end - before
            os.ftruncate(self._file, self._size - self._random.randint(1, min(frame, self._size)))
        else:
            self._chronicle.note(records)
        if how:
            self._process.kill()
            raise Killed


class Worker:
    """One serving process, behind its gRPC server."""

    def __init__(
        self,
        name: str,
        server: Server,
        random: Random,
        faults: Faults,
        folder: Path,
        chronicle: Chronicle,
        keeper: "Keeper",
    ) -> None:
        self.process = Process(name)
        self._random = random
        self._keeper = keeper
        self.link = SimLink(server, self.process, random, faults, lambda keys: self.directory.invalidated(keys))
        self.directory = Directory(self.link)
        self.link.connect()
        spool = MortalSpool(folder, self.process, random, chronicle)
        self.settlements = Settlements(self.link, spool, RecentUse(), self._load, name)
        self.admission = Admission(
            self.link, spool, self.directory, self.settlements, self._load, name, STORE_TIMEOUT_S
        )

    async def check(self, call: Call, account: str, policy: Policy, asker: Asker) -> None:
        """What Authz does when the key and the policy are known."""
        self.process.check()
        entry = self.directory.find_account(account)
        try:
            if entry is None:
                async with asyncio.timeout(DECIDE_WITHIN_S):
                    entry = await self.directory.load_account(account)
                    if entry is None:
                        entry = self.directory.put_account(await self._load(account))
        except (Unavailable, TimeoutError):
            asker.done(Refused(unavailable()))
            return
        terms = self.directory.terms_of(entry, "key1", policy, call.admitted_at_ms)
        if isinstance(terms, Refusal):
            asker.done(Refused(terms))
        else:
            self.admission.submit(a_ticket(call, terms, hold_for(terms, None, {}), asker))

    async def _load(self, account: str) -> bytes:
        """`Loader`: asks the keeper over a socket."""
        self.process.check()
        await asyncio.sleep(0.002 * self._random.random())
        try:
            async with asyncio.timeout(LOAD_WITHIN_S):
                self._keeper.process.check()
                document = await self._keeper.rebuilder.load(account)
        except (Killed, TimeoutError) as fault:
            self.process.check()
            raise Unavailable("the keeper does not answer") from fault
        self.process.check()
        return document


class Keeper:
    """The parent process: starts its workers, again when they die, and looks after the spools."""

    def __init__(
        self,
        gateway: str,
        boot: int,
        workers: int,
        server: Server,
        portal: Portal,
        random: Random,
        faults: Faults,
        folder: Path,
        chronicle: Chronicle,
        failed: Callable[[BaseException], None],
    ) -> None:
        self.gateway = gateway
        self.process = Process(f"{gateway}.{boot:04d}.keeper")
        self.workers: dict[int, Worker] = {}
        self._boot = boot
        self._incarnation = 0
        self._failed = failed
        self._server, self._random, self._faults, self._folder = server, random, faults, folder
        self._chronicle = chronicle
        self.index = Index(folder)
        self._kept = _Keeper.__new__(_Keeper)  # its checkpointing alone
        self._kept._settings = SimpleNamespace(spool_dir=folder)  # type: ignore[assignment]
        self._kept._index = self.index
        self._kept._own_spool = self.process.name
        self._kept._live_spools = self.live_spools  # type: ignore[method-assign]
        self.link = SimLink(server, self.process, random, faults)
        self.link.connect()
        client: Any = portal.client(self.process)
        self.peers = Peers(self.link, self.index, gateway)
        self.peers.listen()
        self.rebuilder = Rebuilder(self.link, self.peers, client)
        self.shipper = Shipper(self.index, client)
        spool = MortalSpool(folder, self.process, random, chronicle)
        self.settlements = Settlements(self.link, spool, RecentUse(), self.rebuilder.load, self.process.name)
        self.sweeper = Sweeper(self.index, self.settlements, self.live_spools, ORPHAN_AFTER_S)
        self._kept._restore()
        self.index.catch_up(asyncio.get_running_loop().time())
        known = Identity(gateway, gateway, is_known=True)
        self._membership = Membership(client, self.index, folder, known, f"{boot:04d}", lambda: None)
        for number in range(workers):
            self._start(number)
        for work in (self._ship(), self.sweeper.run(), self._keep_checkpoint(), self._keep_beating()):
            self._watch(asyncio.ensure_future(work))

    def live_spools(self) -> set[str]:
        """As the supervisor knows: a worker that died a moment ago is still among them."""
        return {worker.process.name for worker in self.workers.values()}

    def _start(self, number: int) -> None:
        if not self.process.is_alive:
            return
        self._incarnation += 1
        name = f"{self.gateway}.{self._boot:04d}.{self._incarnation:04d}w{number}"
        worker = Worker(name, self._server, self._random, self._faults, self._folder, self._chronicle, self)
        self.workers[number] = worker
        loop = asyncio.get_running_loop()
        worker.process.died.append(lambda: loop.call_later(0.05 * self._random.random(), self._reap, number))

    def _reap(self, number: int) -> None:
        if not self.process.is_alive:
            return
        loop = asyncio.get_running_loop()
        del self.workers[number]
        self.sweeper.worker_died(loop.time())
        loop.call_later(0.5 * self._random.random(), self._start, number)

    async def _ship(self) -> None:
        while True:
            self.process.check()
            self.index.catch_up(asyncio.get_running_loop().time())
            await self.shipper.ship_all()
            await asyncio.sleep(0.05 + self._random.random())

    async def _keep_checkpoint(self) -> None:
        while True:
            await asyncio.sleep(0.5 + 2.0 * self._random.random())
            self.process.check()
            self._kept._checkpoint()

    async def _keep_beating(self) -> None:
        while True:
            await asyncio.sleep(1.0 + self._random.random())
            with contextlib.suppress(Unavailable):
                await self._membership.beat()

    def _watch(self, task: "asyncio.Future[None]") -> None:
        def done(task: "asyncio.Future[None]") -> None:
            fault = None if task.cancelled() else task.exception()
            if fault is not None and not isinstance(fault, Killed):
                self._failed(fault)

        task.add_done_callback(done)

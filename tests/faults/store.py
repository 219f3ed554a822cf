"""C: damage to Valkey, and to the connection to it."""

import json
import shutil
import socket
import subprocess
import time
from collections import Counter as Tally
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import redis

from farebox.v1 import layout
from faults.check import Customer, Evidence, counters_are_the_ledger, gather
from faults.replica import Replica
from faults.run import RATE, Run, under_load
from rig.proxy import NONE, Fault
from rig.valkey import Valkey, answers_ping

RECONCILED_S = 130.0
SMALL_DISK_BYTES = 32_000_000  # room for what all experiments before have sold


def kill_valkey(run: Run) -> None:
    run.rig.valkey.kill9()
    run.pause(0.2, 0.6)
    run.rig.valkey.start()


def flush_valkey(run: Run) -> None:
    run.rig.store.flushall()


def forget_generations(run: Run) -> None:
    """Every account has to be rebuilt, again and again, with requests in flight and usage that the ledger has not.

    FLUSHALL does not get there: it takes the keys too, and until they are published again everything has come to rest.
    The portal is a little slow, so that the spools are ahead of the ledger.
    """
    run.rig.to_portal.requests = Fault(delay_s=0.15)
    for _ in range(8):
        for customer in run.customers:
            run.rig.store.hdel(layout.counters(customer.id), "gen")
        run.pause(0.1, 0.3)
    time.sleep(0.3)
    run.rig.to_portal.requests = NONE


def lose_replies(run: Run) -> None:
    """The script runs, and nobody hears of it: once, twice, and for a while."""
    for _ in range(3):
        run.rig.to_valkey.replies = Fault(cut_after=0)
        run.pause(0.1, 0.3)
    run.rig.to_valkey.replies = Fault(is_lost=True)
    run.pause(0.3, 0.6)
    run.rig.to_valkey.replies = NONE


def late_replies(run: Run) -> None:
    """Replies that come after everybody has given up."""
    for _ in range(3):
        run.rig.to_valkey.replies = Fault(is_stalled=True)
        time.sleep(0.4)
        run.rig.to_valkey.replies = NONE
        run.pause(0.1, 0.3)


def late_requests(run: Run) -> None:
    """Scripts that arrive after everybody has given up: soon enough to be tried, and too late for it."""
    for stalled_s in (0.3, 0.8, 1.6):
        run.rig.to_valkey.requests = Fault(is_stalled=True)
        time.sleep(stalled_s)
        run.rig.to_valkey.requests = NONE
        run.pause(0.1, 0.3)


def cut_in_a_script(run: Run) -> None:
    for _ in range(6):
        run.rig.to_valkey.requests = Fault(cut_after=run.random.randrange(2000))
        run.pause(0.1, 0.3)


def freeze_valkey(run: Run) -> None:
    run.rig.valkey.freeze()
    time.sleep(2)
    run.rig.valkey.thaw()
    time.sleep(0.5)
    run.rig.store.client_pause(2000, all=False)
    time.sleep(2)


def slow_valkey(run: Run) -> None:
    run.rig.to_valkey.requests = run.rig.to_valkey.replies = Fault(delay_s=0.02)
    time.sleep(2)
    run.rig.to_valkey.requests = run.rig.to_valkey.replies = NONE


def full_memory(run: Run) -> None:
    run.rig.store.config_set("maxmemory", "1mb")
    time.sleep(1)
    run.rig.store.config_set("maxmemory", "0")


def forget_scripts(run: Run) -> None:
    for _ in range(20):
        run.rig.store.script_flush()
        time.sleep(0.05)


def become_replica(run: Run) -> None:
    """Demoted and promoted again, as in a failover and a failback: another generation."""
    run.rig.store.replicaof("127.0.0.1", "1")
    time.sleep(0.7)
    run.rig.store.replicaof("NO", "ONE")


def old_data(run: Run) -> None:
    """The server comes back with the data of a moment ago."""
    folder = run.rig.valkey.folder
    kept = run.rig.folder / "kept"
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(folder / "appendonlydir", kept)
    time.sleep(1.5)
    run.rig.valkey.kill9()
    shutil.rmtree(folder / "appendonlydir")
    shutil.copytree(kept, folder / "appendonlydir")
    run.rig.valkey.start()


def lenient_without_valkey(run: Run) -> None:
    """A policy that lets pass while the store is away: nobody who is known is refused, and all of it is billed."""
    sold = run.sell(None)
    run.ask(sold)
    with run.load(sold, paths=("/v1/echo/lenient/{tag}/{number}",), rate=RATE) as load:
        time.sleep(0.7)
        run.rig.valkey.kill9()
        time.sleep(1)
        passed = sum(answer.status == 200 for answer in load.answers[-50:])
        run.rig.valkey.start()
        time.sleep(1)
        load.stop()
    run.demand(passed > 0, "nobody was let pass")


def drift(run: Run) -> None:
    """Somebody has changed counters by hand; something has to find it."""
    run.sell(250)
    run.sell(None)
    with run.load(count=200):
        pass
    run.rest()
    for customer, units in zip(run.customers, (37, -5), strict=False):
        name = layout.counters(customer.id)
        for field in cast(list[bytes], run.rig.store.hkeys(name)):
            if field.startswith(b"v:"):
                run.rig.store.hincrby(name, field.decode(), units)
    # A reconciler looks at active accounts every minute, and corrects what two looks agree on.
    with suppress(TimeoutError):
        run.rig.wait_until(lambda: not any(map(has_drift, gather(run.rig, run.customers, ()))), "found", RECONCILED_S)


def look_for_drift(run: Run) -> None:
    """Nothing is wrong, and the reconciler is asked again and again while requests are let in, settled and refused."""
    sold = run.sell(250)
    said: Tally[str] = Tally()
    drifts: list[str] = []
    with run.load(rate=RATE, connections=12, strangers_in=0) as load:
        load.reached(30)  # before, the account is not loaded
        while said.total() < 60 or not any(answer.problem == "quota_exceeded" for answer in load.answers):
            finding = reconciled(run, sold)
            said[finding["result"]] += 1
            drifts += [
                f"{drift['what']}: {drift['found']} instead of {drift['expected']}" for drift in finding["drifts"]
            ]
        load.stop()
    run.notes.append(f"the reconciler said {dict(said)}")
    run.demand(not drifts, f"the reconciler found drift where there was none, such as {drifts[:1]}")


def reconciled(run: Run, customer: Customer) -> dict[str, Any]:
    """What the reconciler finds on one account."""
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(20)
        link.connect(str(run.rig.sockets / "keeper.sock"))
        link.sendall(f"reconcile {customer.id}\n".encode())
        answer = b"".join(iter(lambda: link.recv(4096), b""))
    return dict(json.loads(answer))


def has_drift(found: Evidence) -> bool:
    return any(fault.startswith("I6") for fault in counters_are_the_ledger(found))


def fail_over(run: Run) -> None:
    """A replica that has not heard of the last moments becomes the primary: its counters have forgotten admissions."""
    primary = run.rig.valkey
    replica = run.afterwards.enter_context(Replica(run.rig.folder / f"replica-{time.monotonic_ns()}", primary))
    run.pause(0.1, 0.3)
    replica.fall_behind()
    time.sleep(0.3)
    known = counted(run.rig.store, run.customers)
    primary.kill9()
    promoted = replica.promote()
    forgotten = known - counted(replica.store, run.customers)
    run.rig.move_to(promoted)
    run.notes.append(f"the replica that took over had forgotten {forgotten} units")
    run.demand(forgotten > 0, "the replica did not lag, so nothing was tried")


def isolate_primary(run: Run) -> None:
    """A primary that lost its only replica stops admitting by itself (min-replicas-to-write), before a new one begins.

    What it lets in until then is what two primaries at once could let in too many.
    """
    primary = run.rig.valkey
    replica = run.afterwards.enter_context(Replica(run.rig.folder / f"replica-{time.monotonic_ns()}", primary))
    run.rig.store.config_set("min-replicas-max-lag", 1)
    run.rig.store.config_set("min-replicas-to-write", 1)
    run.pause(0.1, 0.3)
    replica.fall_behind()
    isolated_at, before = time.monotonic(), counted(run.rig.store, run.customers)
    run.rig.wait_until(lambda: not _takes_writes(run.rig.store), "the isolated primary refuses to write")
    lasted_s = time.monotonic() - isolated_at
    more = counted(run.rig.store, run.customers) - before
    run.notes.append(f"{more} units were let in within the {lasted_s:.1f} s until the isolated primary refused")
    time.sleep(0.5)
    run.demand(counted(run.rig.store, run.customers) - before <= more, "the isolated primary goes on admitting")
    run.rig.move_to(replica.promote())


def _takes_writes(store: redis.Redis) -> bool:
    try:
        store.set("fb:rig", "1")
    except redis.ResponseError as refused:
        return not str(refused).startswith("NOREPLICAS")
    return True


def counted(store: redis.Redis, customers: Sequence[Customer]) -> int:
    """Units that a server has for these customers."""
    states = [cast(dict[bytes, bytes], store.hgetall(layout.counters(customer.id))) for customer in customers]
    return sum(int(units) for state in states for field, units in state.items() if field.startswith(b"v:"))


def full_disk(fsync: str) -> Callable[[Run], None]:
    """Valkey's disk is full under load, and then it is not any more.

    With `everysec` it lives on and refuses to write (MISCONF); with `always` it ends itself, and somebody starts it
    again when there is room.
    """

    def fill(run: Run) -> None:
        server = run.rig.valkey
        ballast = server.folder.parent / "ballast"
        with ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        if fsync == "always":
            run.rig.wait_until(lambda: not answers_ping(server.socket), "Valkey ends on a full disk")
        else:
            run.rig.wait_until(lambda: _cannot_write(run.rig.store), "Valkey sees that its disk is full")
        time.sleep(2)
        ballast.unlink()
        if fsync == "always":
            server.kill9()
            server.start()
        else:
            run.rig.wait_until(lambda: not _cannot_write(run.rig.store), "Valkey sees that there is room")

    def body(run: Run) -> None:
        disk = run.rig.folder / f"disk-{time.monotonic_ns()}"
        disk.mkdir()
        if not _mount(disk):
            run.notes.append("left out: a small disk needs the right to mount one")
            return
        run.afterwards.callback(subprocess.run, ["umount", "--lazy", str(disk)], check=False)
        small = Valkey(disk / "valkey").start()
        run.afterwards.callback(_move_away, run)
        run.rig.move_to(small)
        run.rig.store.config_set("appendfsync", fsync)
        run.rig.heal()
        under_load(fill)(run)
        unavailable = sum(answer.status == 503 for answer in run.answers)
        run.demand(unavailable > 0, "a Valkey that cannot write was not noticed")

    return body


def _mount(folder: Path) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_BYTES}", "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _cannot_write(store: redis.Redis) -> bool:
    return bool(store.info("persistence")["aof_last_write_status"] != "ok")


def _move_away(run: Run) -> None:
    run.rig.move_to(Valkey(run.rig.folder / f"valkey-{time.monotonic_ns()}").start())

"""C: damage to Valkey, and to the connection to it."""

import shutil
import time
from contextlib import suppress
from typing import cast

from farebox.v1 import layout
from faults.check import Evidence, counters_are_the_ledger, gather
from faults.run import RATE, Run
from rig.proxy import NONE, Fault

RECONCILED_S = 130.0


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


def has_drift(found: Evidence) -> bool:
    return any(fault.startswith("I6") for fault in counters_are_the_ledger(found))

"""B: damage to the plugin's processes and to what they write."""

import os
import shutil
import signal
import time
from collections import Counter as Tally
from collections.abc import Callable
from contextlib import suppress

import httpx2

from farebox.v1.usage_pb2 import UsageBatch
from farebox_plugin.spool import SETTLED, SpoolReader, segments
from faults.rig import PLUGIN_TOKEN, WORKERS
from faults.run import RATE, Run
from rig.proxy import NONE, Fault

ROLLING_RATE = 300.0
_CLUSTER = "cluster.farebox_authz."
_WHY = (
    "upstream_rq_retry", "upstream_rq_retry_success", "upstream_rq_retry_limit_exceeded", "upstream_rq_timeout",
    "upstream_rq_per_try_timeout", "upstream_cx_none_healthy", "upstream_cx_connect_fail", "upstream_rq_rx_reset",
    "health_check.failure", "outlier_detection.ejections_enforced_total",
)  # fmt: skip


def kill_workers(run: Run) -> None:
    """One after the other, each when the last one is back and Envoy has seen that."""
    for _ in range(3):
        victim = run.random.choice(run.rig.plugin.children)
        os.kill(victim, signal.SIGKILL)
        run.rig.wait_until(lambda pid=victim: pid not in run.rig.plugin.children, "the worker is gone")  # type: ignore[misc]
        run.rig.wait_until(lambda: run.rig.ready_workers() >= WORKERS, "the worker is back")
        run.pause(1.0, 1.5)


def kill_all_workers(run: Run) -> None:
    for pid in run.rig.plugin.children:
        os.kill(pid, signal.SIGKILL)


def kill_plugin(run: Run) -> None:
    run.rig.end_plugin(signal.SIGKILL, workers_too=True)
    run.rig.plugin.start()


def kill_keeper(run: Run) -> None:
    run.rig.restart_plugin(signal.SIGKILL)


def kill_plugin_before_it_settles(run: Run) -> None:
    """Responses have ended, the spool has them, and Valkey hears of none: what it holds is the next plugin's to settle.

    A third of them is not billed: a hold that stays would be lost capacity, not just a trace.
    """
    paths = ("/v1/echo/{tag}/{number}", "/v1/echo/{tag}/b{number}", "/v1/status/500?{tag}={number}")
    with run.load(paths=paths, rate=RATE) as load:
        time.sleep(0.5)
        run.rig.to_valkey.requests = Fault(is_stalled=True)
        time.sleep(0.6)  # the access log comes within 0.2 s
        load.stop()
    run.rig.end_plugin(signal.SIGKILL, workers_too=True)
    run.rig.to_valkey.cut()
    run.rig.to_valkey.requests = NONE
    run.rig.plugin.start()


def stop_plugin(run: Run) -> None:
    run.rig.restart_plugin(signal.SIGTERM)


def lose_receipts(run: Run) -> None:
    """The portal commits, and the plugin does not hear of it: the same batch comes again."""
    for _ in range(5):
        run.rig.to_portal.replies = Fault(cut_after=0)
        run.pause(0.2, 0.4)


def deliver_again(run: Run) -> None:
    """Everything that any spool has, once more, in two orders, in pieces that never were batches."""
    batches = []
    for spool, parts in segments(run.rig.archive).items():
        reader = SpoolReader(run.rig.archive, spool, parts[0][0])
        while frames := reader.read():
            events = [record.body for frame in frames for record in frame.records if record.kind == SETTLED]
            batches.append(UsageBatch(spool=spool, end=frames[0].end, events=events))
    for batch in (*batches, *reversed(batches)):
        answer = httpx2.post(
            f"{run.rig.portal}/internal/v1/usage",
            content=batch.SerializeToString(),
            headers={"authorization": f"Bearer {PLUGIN_TOKEN}", "content-type": "application/x-protobuf"},
            trust_env=False,
            timeout=20,
        )
        run.demand(answer.status_code == 200, f"a batch that was there before is answered {answer.status_code}")


def second_plugin(run: Run) -> None:
    folder = run.rig.sockets / "second"
    folder.mkdir(exist_ok=True)
    second = run.rig.a_plugin(folder)
    second.start()
    run.rig.wait_until(lambda: not second.is_running, "the second plugin ends")
    run.demand(second.end() == 1, "a second plugin on one spool directory ended well")
    run.demand("another plugin already uses" in second.log, "a second plugin does not say why it ends")


def freeze_worker(run: Run) -> None:
    victim = run.random.choice(run.rig.plugin.children)
    os.kill(victim, signal.SIGSTOP)
    time.sleep(3)
    os.kill(victim, signal.SIGCONT)


def torn_tail(run: Run) -> None:
    """Killed in the middle of a write: half a frame at the end of each spool, which nobody was ever told about."""
    run.rig.end_plugin(signal.SIGKILL, workers_too=True)
    for parts in segments(run.rig.spools).values():
        _, last = parts[-1]
        whole = last.read_bytes()
        if len(whole) > 8:
            # The beginning of a frame like the first one, which is surely whole.
            frame_bytes = 8 + int.from_bytes(whole[:4], "little")
            with last.open("ab") as file:
                file.write(whole[: run.random.randrange(1, frame_bytes)])
    run.rig.plugin.start()


def damaged_spool(run: Run) -> None:
    """A flipped bit in the middle is no torn tail: the plugin refuses to start on it."""
    damaged = run.rig.folder / "damaged"
    shutil.rmtree(damaged, ignore_errors=True)
    damaged.mkdir()
    source = max(run.rig.archive.glob("*.seg"), key=lambda path: path.stat().st_size)
    raw = bytearray(source.read_bytes())
    raw[len(raw) // 2] ^= 1
    (damaged / source.name).write_bytes(raw)
    folder = run.rig.sockets / "damaged"
    folder.mkdir(exist_ok=True)
    second = run.rig.a_plugin(folder, {"FAREBOX_PLUGIN_TOKEN": PLUGIN_TOKEN}, spools=damaged)
    second.start()
    run.rig.wait_until(lambda: not second.is_running, "the plugin on a damaged spool ends")
    run.demand(second.end() == 1, "a plugin on a damaged spool ended well")
    run.demand("FAREBOX_SPOOL_DIR" in second.log, "a plugin on a damaged spool does not say why it ends")


def restart_workers(how: signal.Signals, failed_max: int | None) -> Callable[[Run], None]:
    """Each worker in its turn, at 300 requests a second; no more than `failed_max` of them may fail for it."""

    def body(run: Run) -> None:
        run.sell(None)
        with run.load(rate=ROLLING_RATE, strangers_in=0) as load:
            load.reached(150)  # the first requests find an account that is not loaded yet
            settled, seen = len(load.answers), run.rig.envoy.stats(_CLUSTER)
            for pid in run.rig.plugin.children:
                os.kill(pid, how)
                run.rig.wait_until(lambda pid=pid: pid not in run.rig.plugin.children, "the worker is gone")  # type: ignore[misc]
                run.rig.wait_until(lambda: run.rig.ready_workers() >= WORKERS, "the worker is back")
                time.sleep(1.5)  # Envoy looks once a second
            load.stop()
        failed = Tally(answer.status for answer in load.answers[settled:] if answer.status != 200)
        changed = {
            name.removeprefix(_CLUSTER): value - seen.get(name, 0)
            for name, value in run.rig.envoy.stats(_CLUSTER).items()
        }
        why = ", ".join(f"{name} {changed[name]}" for name in _WHY if changed.get(name))
        run.notes.append(f"{failed.total()} of {len(load.answers) - settled} failed {dict(failed) or ''}; Envoy: {why}")
        run.demand(failed_max is None or failed.total() <= failed_max, f"{failed.total()} requests failed")

    return body


def full_disk(run: Run) -> None:
    """No worker can write any more to its spool; then it can again."""
    victims = run.rig.plugin.children
    largest = max((path.stat().st_size for path in run.rig.spools.glob("*.seg")), default=0)
    log_bytes = run.rig.plugin.log_file.stat().st_size
    for pid in victims:
        run.rig.limit_file_size(pid, max(largest, log_bytes + 200_000) if log_bytes > largest else largest + 50)
    time.sleep(2)
    for pid in victims:
        with suppress(ProcessLookupError):
            run.rig.limit_file_size(pid, -1)

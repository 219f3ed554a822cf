"""The table of experiments: what is sold, what load runs, what is done to the product meanwhile.

Names are those of the reliability plan: A concurrency, B processes, C Valkey, D ledger, E Envoy and life cycle. Most
are one *damage* under the same load (``under_load``); the A group has no damage and a load of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from signal import SIGKILL, SIGTERM

import httpx2

from faults import concurrency, gateway, ledger, processes, store
from faults.check import Report
from faults.rig import POSTGRESQL, SQLITE, Rig
from faults.run import Run, under_load
from faults.streams import BYTES, TOKENS, cut_off

_CHAT = "/chat/completions?{tag}={number}"
_DOWNLOAD = "/{size}?{tag}={number}"


@dataclass(frozen=True)
class Experiment:
    name: str
    says: str
    body: Callable[[Run], None]
    in_ci: bool = False
    database: str = ""  # SQLITE or POSTGRESQL if it damages one of them; "" is for both

    def run(self, rig: Rig, seed: int) -> Report:
        """Run it on a healthy rig. Raises what the rig raises when it cannot be healed."""
        rig.heal()
        rig.to_valkey.cut()  # whatever the last experiment did, this one begins with connections of its own
        rig.to_portal.cut()
        httpx2.delete(f"{rig.upstream}/__log", trust_env=False)
        run = Run(rig, self.name, seed)
        with run.afterwards:
            self.body(run)
            return run.finish()


EXPERIMENTS = (
    Experiment(
        "A1", "three bursts of 600 from 64 connections on a limit of 200", concurrency.burst_at_the_limit, in_ci=True
    ),
    Experiment("A2", "limits of 1, 2 and 10, asked for less, exactly and twice", concurrency.small_limits),
    Experiment("A3", "90 a day and 150 a month on one meter", concurrency.day_and_month),
    Experiment("A4", "requests of 7 units on a limit of 100", concurrency.cost_of_seven, in_ci=True),
    Experiment(
        "A5",
        "streams of tokens, 20 at once, cut off at the limit",
        cut_off(TOKENS, f"/v1/capped{_CHAT}", limit=8_000, largest=600),
        in_ci=True,
    ),
    Experiment(
        "A5o",
        "streams of tokens, 20 at once, not cut off",
        cut_off(TOKENS, f"/v1/open{_CHAT}", limit=8_000, largest=600),
    ),
    Experiment(
        "A5c",
        "streams of tokens, not cut off, 4 at once by the plan",
        cut_off(TOKENS, f"/v1/open{_CHAT}", limit=8_000, largest=600, concurrencyLimit=4),
    ),
    Experiment(
        "A5b",
        "downloads, 20 at once, cut off at the limit",
        cut_off(BYTES, f"/v1/cut{_DOWNLOAD}", limit=8_000_000, largest=600_000),
    ),
    Experiment(
        "A5bo",
        "downloads, 20 at once, not cut off",
        cut_off(BYTES, f"/v1/load{_DOWNLOAD}", limit=8_000_000, largest=600_000),
    ),
    Experiment("A6", "the limit raised and lowered under load", concurrency.raise_and_lower, in_ci=True),
    Experiment("A7", "50 requests a second, asked for 500", concurrency.rate_limited),
    Experiment("A8", "a soft limit refuses nobody", concurrency.soft_limit),
    Experiment("A9", "an hourly quota whose hour ends under load", concurrency.period_ends, in_ci=True),
    Experiment("A10", "a third of the answers is not billed", concurrency.failures_are_free),
    Experiment("B1", "kill -9 of a worker, three times", under_load(processes.kill_workers), in_ci=True),
    Experiment("B2", "kill -9 of all workers", under_load(processes.kill_all_workers)),
    Experiment("B2p", "kill -9 of keeper and workers", under_load(processes.kill_plugin), in_ci=True),
    Experiment("B2k", "kill -9 of the keeper alone", under_load(processes.kill_keeper)),
    Experiment(
        "B2s",
        "kill -9 of the plugin while Valkey hears of no settlement",
        under_load(processes.kill_plugin_before_it_settles),
    ),
    Experiment("B2t", "SIGTERM of the plugin, and started again", under_load(processes.stop_plugin)),
    Experiment("B3", "the portal's receipts are lost", under_load(processes.lose_receipts), in_ci=True),
    Experiment("B3d", "all batches delivered twice more, backwards too", under_load(processes.deliver_again)),
    Experiment("B4", "a second plugin on the same spools", under_load(processes.second_plugin)),
    Experiment("B6", "a worker frozen for 3 s", under_load(processes.freeze_worker)),
    Experiment("B8", "a plugin killed in the middle of a write", under_load(processes.torn_tail)),
    Experiment("B8d", "a spool damaged in the middle", under_load(processes.damaged_spool)),
    Experiment("B9", "SIGTERM of one worker after the other", processes.restart_workers(SIGTERM, failed_max=0)),
    Experiment("B9k", "kill -9 of one worker after the other", processes.restart_workers(SIGKILL, failed_max=None)),
    Experiment("B11", "no worker can write to its spool for 2 s", under_load(processes.full_disk)),
    Experiment("C1", "kill -9 of Valkey", under_load(store.kill_valkey), in_ci=True),
    Experiment("C1l", "Valkey away, under a policy that lets pass meanwhile", store.lenient_without_valkey),
    Experiment("C2", "FLUSHALL", under_load(store.flush_valkey), in_ci=True),
    Experiment("C2g", "accounts rebuilt at full load, eight times", under_load(store.forget_generations), in_ci=True),
    Experiment("C3", "a replica that lags takes over", under_load(store.fail_over), in_ci=True),
    Experiment("C4", "a primary without its replica, then the replica in its place", under_load(store.isolate_primary)),
    Experiment("C5", "replies of Valkey lost", under_load(store.lose_replies), in_ci=True),
    Experiment("C5c", "the connection cut in the middle of a script", under_load(store.cut_in_a_script)),
    Experiment("C6", "Valkey frozen for 2 s, then paused for writing for 2 s", under_load(store.freeze_valkey)),
    Experiment("C6r", "replies later than anybody waits", under_load(store.late_replies)),
    Experiment("C6q", "scripts later than anybody waits", under_load(store.late_requests), in_ci=True),
    Experiment("C7", "40 ms more to Valkey and back", under_load(store.slow_valkey)),
    Experiment("C8", "Valkey's disk full, appendfsync everysec", store.full_disk("everysec")),
    Experiment("C8a", "Valkey's disk full, appendfsync always", store.full_disk("always")),
    Experiment("C9", "Valkey out of memory for a second", under_load(store.full_memory)),
    Experiment("C10", "SCRIPT FLUSH twenty times", under_load(store.forget_scripts)),
    Experiment("C10r", "Valkey a replica for a while", under_load(store.become_replica)),
    Experiment("C11", "Valkey back with the data of 1.5 s before", under_load(store.old_data)),
    Experiment("C12", "counters changed by hand", store.drift),
    Experiment("C12q", "the reconciler looks while nothing is wrong", store.look_for_drift, in_ci=True),
    Experiment("D1", "the portal away for 10 s", under_load(ledger.portal_away)),
    Experiment("D2", "kill -9 of the portal, three times", under_load(ledger.kill_portal_often)),
    Experiment("D3", "200 ms more to the portal and back", under_load(ledger.slow_portal)),
    Experiment("D4", "the ledger's disk full for 3 s", under_load(ledger.full_ledger), database=SQLITE),
    Experiment("D5", "the ledger locked by somebody else for 6 s", under_load(ledger.locked_ledger), database=SQLITE),
    Experiment("D1p", "PostgreSQL away for 10 s", under_load(ledger.postgres_away), database=POSTGRESQL),
    Experiment(
        "D2p",
        "PostgreSQL restarted in the middle of batches",
        under_load(ledger.restart_postgres_often),
        database=POSTGRESQL,
    ),
    Experiment("D4p", "PostgreSQL's disk full for 3 s", under_load(ledger.full_postgres), database=POSTGRESQL),
    Experiment("E1", "kill -9 of Envoy", gateway.kill_envoy),
    Experiment("E2", "clients that leave", gateway.clients_leave),
    Experiment("E4", "a plugin that is missing, silent or confused", gateway.nobody_answers),
    Experiment("E5", "an upstream that Envoy asks again", gateway.upstream_is_retried),
    Experiment("E7", "a key revoked under load", gateway.revoke, in_ci=True),
)
BY_NAME = {experiment.name: experiment for experiment in EXPERIMENTS}

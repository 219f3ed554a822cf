"""D: damage to the portal and its database."""

import signal
import sqlite3
import time

from faults.run import Run
from rig.postgres import Postgres
from rig.proxy import NONE, Fault


def portal_away(run: Run) -> None:
    run.rig.restart_portal(signal.SIGKILL, away_s=10)


def kill_portal_often(run: Run) -> None:
    for _ in range(3):
        run.rig.restart_portal(signal.SIGKILL)
        run.rig.wait_until(run.rig.portal_answers, "the portal answers")
        run.pause(0.05, 0.3)


def slow_portal(run: Run) -> None:
    run.rig.to_portal.requests = run.rig.to_portal.replies = Fault(delay_s=0.1)
    time.sleep(3)
    run.rig.to_portal.requests = run.rig.to_portal.replies = NONE


def full_ledger(run: Run) -> None:
    """The portal's disk is full: nothing that SQLite writes may grow."""
    pid = run.rig.portal_process.pid
    run.rig.limit_file_size(pid, run.rig.database.stat().st_size // 2)
    time.sleep(3)
    run.rig.limit_file_size(pid, -1)


def locked_ledger(run: Run) -> None:
    other = sqlite3.connect(run.rig.database, isolation_level=None, timeout=20)
    other.execute("BEGIN EXCLUSIVE")
    time.sleep(6)
    other.execute("ROLLBACK")
    other.close()


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


def postgres_away(run: Run) -> None:
    """Ended at once, as by a crash, and started again after a while: it recovers from its log."""
    postgres = _postgres(run)
    postgres.kill()
    time.sleep(10)
    postgres.start()


def restart_postgres_often(run: Run) -> None:
    """In the middle of batches: what was committed comes again, what was not does too."""
    postgres = _postgres(run)
    for _ in range(6):
        postgres.kill()
        postgres.start()
        run.pause(0.1, 0.6)


def full_postgres(run: Run) -> None:
    """No file of PostgreSQL may grow, its log neither: it panics, and is started again when there is room."""
    postgres = _postgres(run)
    postgres.limit_file_size(1 << 20)
    time.sleep(3)
    run.demand("File too large" in postgres.log, "PostgreSQL found its disk large enough")
    postgres.kill()
    postgres.start()


def _postgres(run: Run) -> Postgres:
    assert run.rig.postgres is not None
    return run.rig.postgres

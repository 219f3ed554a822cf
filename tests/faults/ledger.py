"""D: damage to the portal and its database."""

import signal
import sqlite3
import time

from faults.run import Run
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

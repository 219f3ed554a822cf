"""``python -m faults [NAMES] [--all] [--seed N]``: run experiments and print what each found.

All run on one rig, but those that damage another database than the chosen one: these get a rig of their own.
"""

import argparse
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

from faults.check import Report
from faults.experiments import BY_NAME, EXPERIMENTS, Experiment
from faults.rig import POSTGRESQL, SQLITE, Rig


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    parser.add_argument("names", nargs="*", help="such as C2 B1; see --list")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--database", choices=(SQLITE, POSTGRESQL), default=SQLITE, help="where the ledger is")
    parser.add_argument("--transport", choices=("grpcio", "h2"), default="h2", help="how the plugin talks to Envoy")
    parser.add_argument("--folder", type=Path, help="where logs, spools and the ledger are left")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # through every `with`: nothing outlives this process
    if given.list:
        for each in EXPERIMENTS:
            print(f"{each.name:4} {'CI' if each.in_ci else '  '}  {each.says}")
        return 0
    if unknown := [name for name in given.names if name not in BY_NAME]:
        parser.error(f"no such experiment: {', '.join(unknown)}")
    chosen = EXPERIMENTS if given.all else tuple(BY_NAME[name] for name in given.names)
    if not chosen:
        parser.error("name experiments, or --all")
    if given.folder is not None and given.folder.exists() and any(given.folder.iterdir()):
        parser.error(f"{given.folder} is not empty")
    folder = given.folder or Path(tempfile.mkdtemp(prefix="farebox-faults-", dir="/tmp"))
    print(f"seed {given.seed}, traces in {folder}\n", flush=True)
    print(f"{'':4} {'asked':>6} {'served':>6} {'billed':>6} {'ambig.':>6} {'503':>5} {'s':>5}  ", flush=True)
    failed: list[str] = []
    for database in (SQLITE, POSTGRESQL):
        if fitting := [each for each in chosen if (each.database or given.database) == database]:
            with Rig(folder / database, database=database, transport=given.transport) as rig:
                failed += [each.name for each in fitting if not _run(rig, each, given.seed)]
    print(f"\n{len(chosen) - len(failed)} of {len(chosen)} hold" + (f"; broken: {' '.join(failed)}" if failed else ""))
    return 1 if failed else 0


def _run(rig: Rig, experiment: Experiment, seed: int) -> bool:
    began = time.monotonic()
    try:
        report = experiment.run(rig, seed)
    except Exception:
        traceback.print_exc()
        print(f"{experiment.name:4} did not come to an end: {experiment.says}", flush=True)
        return False
    _print(report, experiment, time.monotonic() - began)
    return not report.violations


def _print(report: Report, experiment: Experiment, took_s: float) -> None:
    figures = f"{report.asked:6} {report.served:6} {report.billed:6} {report.ambiguous:6}"
    print(f"{report.experiment:4} {figures} {report.statuses.get(503, 0):5} {took_s:5.1f}  {experiment.says}")
    for note in report.notes:
        print(f"{'':4} {note}")
    for violation in report.violations:
        print(f"{'':4} BROKEN {violation}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

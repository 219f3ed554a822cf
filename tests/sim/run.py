"""Run seeds and print what happened in them:  cd tests && PYTHONPATH=. ../.venv/bin/python -m sim.run --seeds 300

`--mutant NAME` runs a crippled variant instead (see mutants.py): it must be found out.
"""

import argparse
import asyncio
import contextlib
import logging
import shutil
import sys
import tempfile
import time
from collections import Counter as Tally
from collections.abc import Iterator
from pathlib import Path
from random import Random

import structlog

from farebox_plugin.keeper import index
from rig.valkey import Valkey
from sim.link import Server
from sim.loop import VirtualLoop
from sim.mutants import MUTANTS, applied
from sim.world import World, is_stormy


def run_seed(seed: int, server_path: Path, steps: int = 100) -> World:
    """One world, from its first request to its checked accounts."""
    folder = Path(tempfile.mkdtemp(prefix="fbs-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    server = Server(server_path)
    try:
        with (
            _spools_in_any_order(Random(seed)),
            _usage_kept_for(0.0 if is_stormy(seed) else Random(seed).choice((0.0, 0.3, index.KEEP_SHIPPED_S))),
            asyncio.Runner(loop_factory=VirtualLoop) as runner,
        ):
            world = World(seed, server, folder, steps)
            runner.run(world.run())
        return world
    finally:
        server.close()
        shutil.rmtree(folder)


@contextlib.contextmanager
def _spools_in_any_order(random: Random) -> Iterator[None]:
    """A directory is listed in no order in particular; here, in one that the seed decides."""
    listed = index.segments

    def shuffled(directory: Path) -> dict[str, list[tuple[int, Path]]]:
        found = sorted(listed(directory).items())
        random.shuffle(found)
        return dict(found)

    index.segments = shuffled
    try:
        yield
    finally:
        index.segments = listed


@contextlib.contextmanager
def _usage_kept_for(kept_s: float) -> Iterator[None]:
    """What is shipped is forgotten sooner than in earnest, and deleted spools are retired while the world still lasts.

    Whoever asks with an older view of the ledger must be told so.
    """
    before = index.KEEP_SHIPPED_S, index.FORGOTTEN_REMEMBERED_S, index.RETIRE_AFTER_S
    index.KEEP_SHIPPED_S, index.FORGOTTEN_REMEMBERED_S, index.RETIRE_AFTER_S = kept_s, 3.0, kept_s + 4.0
    try:
        yield
    finally:
        index.KEEP_SHIPPED_S, index.FORGOTTEN_REMEMBERED_S, index.RETIRE_AFTER_S = before


@contextlib.contextmanager
def own_valkey() -> Iterator[Valkey]:
    with tempfile.TemporaryDirectory(prefix="fbs-") as folder, Valkey(Path(folder), append_only=False) as valkey:
        yield valkey


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the plugin's log: everything that it could report happens thousands of times."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=300)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--mutant", choices=sorted(MUTANTS))
    parser.add_argument("--verbose", action="store_true", help="every violation of every seed")
    arguments = parser.parse_args()
    counts: Tally[str] = Tally()
    violated: dict[int, list[str]] = {}
    began = time.monotonic()
    mutation = applied(MUTANTS[arguments.mutant]) if arguments.mutant else contextlib.nullcontext()
    with own_valkey() as valkey, quiet(), mutation:
        for seed in range(arguments.start, arguments.start + arguments.seeds):
            world = run_seed(seed, valkey.socket, arguments.steps)
            counts += world.counts
            if world.violations:
                violated[seed] = world.violations
    took_s = time.monotonic() - began
    for name, number in sorted(counts.items()):
        print(f"  {name:24}{number:10}")
    for seed, violations in list(violated.items())[: None if arguments.verbose else 10]:
        for violation in violations if arguments.verbose else violations[:2]:
            print(f"  seed {seed}: {violation}")
    print(f"{arguments.seeds} seeds, {len(violated)} with violations, {took_s:.1f} s")
    if violated:
        print("  seeds:", *list(violated)[:40])
    return bool(violated)


if __name__ == "__main__":
    sys.exit(main())

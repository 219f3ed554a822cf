"""The unmutated protocol under every fault: no seed may violate anything. `python -m sim.run` runs more of them."""

from collections import Counter as Tally
from collections.abc import Iterator

import pytest

from rig.valkey import Valkey
from sim.run import own_valkey, quiet, run_seed

SEEDS_IN_A_TEST = 25


@pytest.fixture(scope="module")
def valkey() -> Iterator[Valkey]:
    with own_valkey() as server, quiet():
        yield server


@pytest.mark.parametrize("first", range(0, 300, SEEDS_IN_A_TEST))
def test_nothing_is_violated_whatever_fails(valkey: Valkey, first: int) -> None:
    counts: Tally[str] = Tally()
    for seed in range(first, first + SEEDS_IN_A_TEST):
        world = run_seed(seed, valkey.socket)
        assert world.violations == [], f"python -m sim.run --start {seed} --seeds 1 --verbose"
        counts += world.counts
    # A world in which nothing happens violates nothing.
    for what in (
        "allowed",
        "quota_exceeded",
        "compared",
        "ambiguous",
        "kill_worker",
        "kill_keeper",
        "flush",
        "fail_over",
        "storm",
        "deafen",
        "answered",
        "retired",
    ):
        assert counts[what] > 0, what


def test_the_same_seed_is_the_same_world(valkey: Valkey) -> None:
    one, other = run_seed(2, valkey.socket), run_seed(2, valkey.socket)
    assert one.counts == other.counts
    assert one.chronicle.ended.keys() == other.chronicle.ended.keys()
    assert one.portal.rows == other.portal.rows

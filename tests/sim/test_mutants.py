"""A simulation that lets a crippled protocol pass proves nothing: each mutant must be found out."""

from collections.abc import Iterator
from itertools import chain

import pytest

from rig.valkey import Valkey
from sim.mutants import MUTANTS, InCode, applied
from sim.run import own_valkey, quiet, run_seed
from sim.world import is_stormy

# The first seed that finds it, as the code is now. When the code changes the worlds change, and others are tried.
FOUND_BY = {
    "the limit is not looked at": 0,
    "counted at the end instead of held": 0,
    "a suspect passes for an admission": 1,
    "admission takes any generation": 1,
    "a repeated Check is counted again": 0,
    "settling twice applies twice": 0,
    "no tombstone": 24,
    "who gives up takes it from the others": 364,
    "rebuilt from the ledger alone": 0,
    "rebuilt without the open requests": 0,
    "rebuilt from what was read last": 0,
    "rebuilt without regard to the ledger's cursors": 2,
    "what is shipped during a rebuild is forgotten without a word": 206,
    "rebuilt with the holds of the plan before": 4,
    "rebuilt without the other gateways": 0,
    "a gateway that does not answer is left out": 404,
    "who answers does not mind what is rebuilt from it": 4,
    "a token for an account that is loaded": 2024,
    "rebuilt without a token": 424,
    "shipped before the receipt": 0,
    "the checkpoint forgets open requests": 11,
    "no intents": 0,
    "nobody notes who was let in": 0,
    "an unknown outcome is not taken back": 5,
    "nobody sweeps": 0,
    "the sweeper gives back what is being asked": 2,
    "a refusal that crosses a rebuild stays held": 4,
    "what the dead had to say is not repeated": 18,
}
# Worlds of all kinds, then stormy ones only: what they find in each third to each tenth is in no other for hundreds.
SEEDS = (*range(24), *range(24, 404, 10))


@pytest.fixture(scope="module")
def valkey() -> Iterator[Valkey]:
    with own_valkey() as server, quiet():
        yield server


def test_every_mutant_is_looked_for() -> None:
    assert FOUND_BY.keys() == MUTANTS.keys()
    assert all(is_stormy(seed) for seed in SEEDS[24:])


@pytest.mark.parametrize("name", FOUND_BY)
def test_a_crippled_protocol_is_found_out(valkey: Valkey, name: str) -> None:
    with applied(MUTANTS[name]):
        seeds = chain([FOUND_BY[name]], SEEDS)
        assert any(run_seed(seed, valkey.socket).violations for seed in seeds)


def test_a_mutant_whose_text_is_gone_is_an_error() -> None:
    mutant = (InCode(InCode, "__init__", "no such text", ""),)
    with pytest.raises((LookupError, OSError)), applied(mutant):
        pass


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_taken_back(name: str) -> None:
    change = MUTANTS[name][0]
    owner = change.owner if isinstance(change, InCode) else change.module
    before = getattr(owner, change.name)
    with applied(MUTANTS[name]):
        assert getattr(owner, change.name) is not before
    assert getattr(owner, change.name) is before

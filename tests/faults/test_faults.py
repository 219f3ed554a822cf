"""The part of the experiments that every change has to pass; the others run by hand (see the package)."""

from collections.abc import Iterator

import pytest

from faults.experiments import EXPERIMENTS, Experiment
from faults.rig import Rig

SEED = 1


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with Rig(tmp_path_factory.mktemp("faults")) as running:
        yield running


@pytest.mark.parametrize("experiment", [each for each in EXPERIMENTS if each.in_ci], ids=lambda each: each.name)
def test_every_invariant_holds_through(rig: Rig, experiment: Experiment) -> None:
    report = experiment.run(rig, SEED)
    assert not report.violations, report

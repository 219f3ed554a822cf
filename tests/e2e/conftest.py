from collections.abc import Iterator

import pytest

from builders.provider import Provider
from rig.demo import Demo


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """One demo for all tests that leave it as they found it (one for each xdist worker)."""
    with Demo(tmp_path_factory.mktemp("demo")) as running:
        yield running


@pytest.fixture(scope="session")
def provider(demo: Demo) -> Iterator[Provider]:
    operator = Provider(demo)
    yield operator
    operator.close()

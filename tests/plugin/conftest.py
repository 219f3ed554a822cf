from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from builders.plugin import Part, a_part
from rig.valkey import Valkey


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    with Valkey(tmp_path / "valkey") as server:
        yield server


@pytest.fixture
async def part(valkey: Valkey, tmp_path: Path) -> AsyncIterator[Part]:
    async with a_part(valkey, tmp_path / "spool") as one:
        yield one

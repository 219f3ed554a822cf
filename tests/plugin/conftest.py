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


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no outage: tests of outages say how long they wait."""
    for module in ("admission", "authz"):
        monkeypatch.setattr(f"farebox_plugin.{module}.DECIDE_WITHIN_S", 10.0)

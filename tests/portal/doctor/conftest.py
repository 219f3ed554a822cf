"""A shop that collects from a stand-in, for what looks at both."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from builders.databases import DIALECTS
from builders.payments import Shop
from builders.stripe_contract import Contract
from rig.standin import Standin


@pytest.fixture(scope="session", params=DIALECTS)
def dialect(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def shop(engine: Engine, tmp_path: Path, standin: Standin, contract: Contract) -> Iterator[Shop]:
    """Connected, with webhooks registered at an address where nobody listens."""
    shop = Shop(engine, tmp_path, standin, contract, FAREBOX_PUBLIC_URL="http://127.0.0.1:9")
    shop.connect()
    yield shop
    assert shop.http.faults == []

"""An account that was run on Stripe Billing until now, and is collected from by us from now on."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from builders.payments import Shop
from builders.stripe_contract import Contract
from rig.standin import Standin


@pytest.fixture
def shop(engine: Engine, tmp_path: Path, standin: Standin, contract: Contract) -> Iterator[Shop]:
    shop = Shop(engine, tmp_path, standin, contract)
    shop.connect()
    yield shop
    assert shop.http.faults == []

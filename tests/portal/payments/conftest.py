"""A shop of its own for each test, and a stand-in that it collects from."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from builders.payments import Shop
from builders.portal import a_plan
from builders.stripe_contract import Contract
from builders.subscriptions import a_fee
from farebox_portal.db import transaction
from rig.standin import Standin


@pytest.fixture
def bare(engine: Engine, tmp_path: Path, standin: Standin, contract: Contract) -> Iterator[Shop]:
    """With a key, and not connected."""
    shop = Shop(engine, tmp_path, standin, contract)
    yield shop
    assert shop.http.faults == []


@pytest.fixture
def shop(bare: Shop) -> Shop:
    bare.connect()
    return bare


@pytest.fixture
def bundle(shop: Shop) -> Shop:
    """Sells `bundle`: two fees in advance, so two lines; and `bundle_1` to `bundle_9`, which are the same."""
    with transaction(shop.engine) as session:
        for key in ("bundle", *(f"bundle_{number}" for number in range(1, 10))):
            a_plan(session, a_fee("29"), a_fee("5.01", key="support", name="Support"), key=key)
    return shop

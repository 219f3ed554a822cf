"""The ledger on both databases."""

import pytest

from builders.databases import DIALECTS


@pytest.fixture(scope="session", params=DIALECTS)
def dialect(request: pytest.FixtureRequest) -> str:
    return str(request.param)

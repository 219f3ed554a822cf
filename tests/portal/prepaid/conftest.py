from pathlib import Path

import pytest
from sqlalchemy import Engine

from builders.portal_http import some_settings
from builders.wallets import Counter


@pytest.fixture
def counter(engine: Engine, tmp_path: Path) -> Counter:
    return Counter(engine, some_settings(tmp_path))

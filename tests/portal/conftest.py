"""A portal on a real SQLite database with the real schema, at a standing clock."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from builders.documents import a_plan
from farebox_portal.app import create_app
from farebox_portal.clock import FrozenClock
from farebox_portal.db import make_engine
from farebox_portal.migrate import migrate
from farebox_portal.settings import Settings, load_settings

ADMIN = "admin-token-of-the-tests"
PLUGIN = "plugin-token-of-the-tests"
NOW = datetime(2026, 1, 31, 10, 0, tzinfo=UTC)


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file with the schema, made once and copied for each test."""
    path = tmp_path_factory.mktemp("schema") / "farebox.db"
    engine = make_engine(f"sqlite:///{path}")
    migrate(engine)
    engine.dispose()
    return path


@pytest.fixture
def engine(tmp_path: Path, migrated: Path) -> Iterator[Engine]:
    engine = make_engine(f"sqlite:///{shutil.copy(migrated, tmp_path / 'farebox.db')}")
    yield engine
    engine.dispose()


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock(NOW)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(
        {"FAREBOX_ADMIN_TOKEN": ADMIN, "FAREBOX_PLUGIN_TOKEN": PLUGIN, "FAREBOX_STATE_DIR": str(tmp_path)}
    )


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    """What was written to the log."""
    with structlog.testing.capture_logs() as lines:
        yield lines


@pytest.fixture
def client(settings: Settings, engine: Engine, clock: FrozenClock, logged: list[Any]) -> TestClient:
    """The operator's client. A fault that the app does not answer fails the test."""
    return TestClient(create_app(settings, engine, clock), headers={"Authorization": f"Bearer {ADMIN}"})


@pytest.fixture
def shop(client: TestClient) -> TestClient:
    """A client whose portal sells the plan `free`: 100 requests a month."""
    for path, document in (
        ("/v1/meters", {"slug": "api_requests", "aggregation": "COUNT"}),
        ("/v1/features", {"key": "api_requests", "name": "API requests", "meterSlug": "api_requests"}),
        ("/v1/features", {"key": "premium", "name": "Premium"}),
        ("/v1/customers", {"key": "acme", "name": "Acme"}),
    ):
        assert client.post(path, json=document).status_code == 201
    plan = client.post("/v1/plans", json=a_plan()).json()
    assert client.post(f"/v1/plans/{plan['id']}/publish").status_code == 200
    return client

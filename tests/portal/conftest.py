"""A portal on a real database with the real schema, at a standing clock."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import structlog
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from builders.databases import Databases, databases_of
from builders.documents import a_plan
from builders.stripe_contract import Contract
from farebox_portal.app import create_app
from farebox_portal.clock import FrozenClock
from farebox_portal.settings import Settings, load_settings
from rig.standin import Standin

ADMIN = "admin-token-of-the-tests"
PLUGIN = "plugin-token-of-the-tests"
NOW = datetime(2026, 1, 31, 10, 0, tzinfo=UTC)


@pytest.fixture(scope="session")
def dialect() -> str:
    """Which engine the tests run on. Where it matters a folder or a module overrides this to run on both."""
    return "sqlite"


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Databases]]:
    """By dialect; each is started when it is first asked for."""
    with ExitStack() as stack:
        yield cache(lambda dialect: stack.enter_context(databases_of(dialect, tmp_path_factory.mktemp(dialect))))


@pytest.fixture(scope="session")
def contract() -> Contract:
    """What Stripe's client says of every request and answer."""
    return Contract()


@pytest.fixture
def standin() -> Iterator[Standin]:
    """One of its own for each test."""
    with Standin() as standin:
        yield standin


# Of the module: of the session it would be the one of whatever module came before, with a `dialect` of its own.
@pytest.fixture(scope="module")
def databases(dialect: str, engines: Callable[[str], Databases]) -> Databases:
    return engines(dialect)


@pytest.fixture
def engine(databases: Databases) -> Iterator[Engine]:
    """A new database with the real schema."""
    with databases.migrated() as engine:
        yield engine


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

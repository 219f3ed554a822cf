"""Routers over HTTP, without the rest of the portal: a database, a clock that stands still, and both tokens."""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fastapi import APIRouter, FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from builders.portal import NOW, a_database
from farebox_portal import problems
from farebox_portal.auth import Credentials, Parts
from farebox_portal.body_limit import BodyLimit
from farebox_portal.clock import FrozenClock
from farebox_portal.settings import Settings, load_settings


def some_settings(folder: Path, **more: str) -> Settings:
    given = {
        "FAREBOX_STATE_DIR": str(folder),
        "FAREBOX_ADMIN_TOKEN": "admin-token-of-the-tests",
        "FAREBOX_PLUGIN_TOKEN": "plugin-token-of-the-tests",
    }
    return load_settings(given | more)


class Portal:
    """``with Portal(tmp_path, router) as portal: portal.get("/v1/…")``; the operator calls unless told otherwise.

    On `engine`, which stays open, or on a new SQLite database of its own.
    """

    def __init__(self, folder: Path, *routers: APIRouter, engine: Engine | None = None) -> None:
        settings = some_settings(folder)
        self.engine = engine or a_database(folder)
        self.clock = FrozenClock(NOW)
        self.admin_token = settings.admin_token.get_secret_value()
        self.plugin_token = settings.plugin_token.get_secret_value()
        app = FastAPI()
        app.state.parts = Parts(settings, self.engine, self.clock, Credentials(settings))
        app.add_middleware(BodyLimit)
        problems.install(app)
        for router in routers:
            app.include_router(router)
        self.client = TestClient(app)

    def get(self, path: str, *, token: str | None = None, **more: Any) -> Any:
        return self._send("GET", path, token, more)

    def post(self, path: str, *, token: str | None = None, **more: Any) -> Any:
        return self._send("POST", path, token, more)

    def _send(self, method: str, path: str, token: str | None, more: dict[str, Any]) -> Any:
        headers = {"Authorization": f"Bearer {token or self.admin_token}"} | more.pop("headers", {})
        return self.client.request(method, path, headers=headers, **more)

    def __enter__(self) -> Self:
        self.client.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.__exit__(kind, error, trace)
        self.engine.dispose()

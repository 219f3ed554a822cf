"""The portal dies between any two effects: commits of its database, and requests that change something at the
provider.

Production code knows nothing of it. What is wrapped are the engine's commit and the provider's HTTP client, so that
each effect has a number. Before the effect of a given number everything stops: no `finally` writes anything any more,
as none would if the machine had gone away. After one effect is before the next, so each point between two is met.
"""

import sys
from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Connection, Engine, event


class Crash(BaseException):
    """The process is gone. Nothing in it catches this."""


class Effects:
    """`names`: what was done, in order; `at`: the numbers of those that are not done any more, from 0."""

    def __init__(self, engine: Engine, http: Any) -> None:
        self.names: list[str] = []
        self.at: Collection[int] = ()
        self.is_dead = False
        self._is_read_only = False
        vars(http).pop("request", None)  # of whoever had it before
        self._commit, self._request = engine.dialect.do_commit, http.request
        event.listen(engine, "commit", self._note_mode)
        engine.dialect.do_commit = self._do_commit  # type: ignore[method-assign]
        http.request = self._do_request

    def restart(self) -> None:
        """Another process begins."""
        self.is_dead = False

    def _note_mode(self, connection: Connection) -> None:
        self._is_read_only = bool(connection.get_execution_options().get("read_only"))

    def _do_commit(self, connection: Any) -> None:
        if not self._is_read_only:
            self._before(f"commit of {_caller()}")
        self._commit(connection)

    def _do_request(
        self, method: str, url: str, headers: Mapping[str, str] | None, post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        if method != "get":
            self._before(f"{method} {url}")
        answer: tuple[bytes, int, Mapping[str, str]] = self._request(method, url, headers, post_data)
        return answer

    def _before(self, name: str) -> None:
        if not self.is_dead:
            self.is_dead = len(self.names) in self.at
            self.names.append(name)
        if self.is_dead:
            raise Crash(name)


def _caller() -> str:
    """The function of ours that had the transaction."""
    frame = sys._getframe(2)
    while frame.f_back is not None:
        name = frame.f_globals.get("__name__", "")
        if name.startswith("farebox_portal.") and name != "farebox_portal.db":
            return f"{name.removeprefix('farebox_portal.')}.{frame.f_code.co_name}"
        frame = frame.f_back
    return "a test"

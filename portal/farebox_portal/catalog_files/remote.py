"""The portal that commands talk to: FAREBOX_PORTAL_URL and FAREBOX_ADMIN_TOKEN, or a file that holds it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2

from farebox_portal.errors import FareboxError, Invalid, SettingsError

DEFAULT_URL = "http://127.0.0.1:8001"
_TIMEOUT_S = 60.0


class RemoteError(FareboxError):
    """Raised when the portal does not answer, or refuses for a reason that no document repairs."""


class Remote:
    """``with Remote() as portal: portal.call("GET", "/v1/catalog")``"""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        self._url = (environ.get("FAREBOX_PORTAL_URL") or DEFAULT_URL).rstrip("/")
        if not self._url.startswith(("http://", "https://")):
            raise SettingsError("FAREBOX_PORTAL_URL: must be http://HOST or https://HOST")
        headers = {"Authorization": f"Bearer {_token(environ)}"}
        self._client = httpx2.Client(headers=headers, timeout=_TIMEOUT_S)

    def __enter__(self) -> "Remote":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """The answer's JSON. Raises Invalid with the portal's faults, or RemoteError."""
        try:
            answer = self._client.request(method, self._url + path, json=body)
        except (httpx2.TransportError, httpx2.InvalidURL) as error:
            raise RemoteError(f"FAREBOX_PORTAL_URL: {self._url} does not answer ({type(error).__name__})") from None
        try:
            document = answer.json()
        except ValueError:
            document = None
        if not answer.is_success or document is None:
            raise _refusal(answer.status_code, document)
        return document


def _refusal(status: int, problem: Any) -> FareboxError:
    if not isinstance(problem, dict) or "detail" not in problem:
        return RemoteError(f"FAREBOX_PORTAL_URL: it answers {status}, and not as a portal does")
    if problem.get("errors"):
        return Invalid(problem["errors"])
    return RemoteError(f"the portal says {status}: {problem['detail']}")


def _token(environ: Mapping[str, str]) -> str:
    if token := environ.get("FAREBOX_ADMIN_TOKEN"):
        return token.strip()
    file = environ.get("FAREBOX_ADMIN_TOKEN_FILE")
    if not file:
        raise SettingsError("FAREBOX_ADMIN_TOKEN: is required but not set")
    try:
        return Path(file).read_text().strip()
    except (OSError, UnicodeDecodeError):
        raise SettingsError(f"FAREBOX_ADMIN_TOKEN_FILE: cannot read {file}") from None

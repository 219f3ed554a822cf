"""Who is calling, from the credential alone; and what every route is handed: a transaction, the clock, the settings.

A route asks by type: `session: SessionDep`, `clock: ClockDep`. Authentication stands on the router
(`APIRouter(dependencies=[AdminOnly])`), so that it runs before a transaction is opened for anybody.
"""

import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import Engine
from sqlmodel import Session

from farebox_portal.clock import Clock
from farebox_portal.db import transaction
from farebox_portal.errors import Forbidden, Unauthorized
from farebox_portal.settings import Settings


@dataclass(frozen=True)
class Principal:
    """A proven caller. `kind` is where the credential came from, `role` what it may do."""

    kind: Literal["operator", "plugin"]
    role: Literal["admin", "plugin"]

    @property
    def name(self) -> str:
        """Names the caller in records, without naming the credential."""
        return f"{self.kind}:{self.role}"


class Credentials:
    """The tokens this process accepts, as digests: comparing them takes the same time for every wrong guess."""

    def __init__(self, settings: Settings) -> None:
        self._principals = (
            (_digest(settings.admin_token.get_secret_value()), Principal("operator", "admin")),
            (_digest(settings.plugin_token.get_secret_value()), Principal("plugin", "plugin")),
        )

    def principal(self, token: str) -> Principal | None:
        presented = _digest(token)
        matches = [who for digest, who in self._principals if hmac.compare_digest(digest, presented)]
        return matches[0] if matches else None


@dataclass(frozen=True)
class Parts:
    """What `create_app` was built from; lies in `app.state.parts`."""

    settings: Settings
    engine: Engine
    clock: Clock
    credentials: Credentials


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def parts(request: Request) -> Parts:
    found: Parts = request.app.state.parts
    return found


PartsDep = Annotated[Parts, Depends(parts)]

_operator_scheme = HTTPBearer(scheme_name="operator", description="An operator token.", auto_error=False)
_plugin_scheme = HTTPBearer(scheme_name="plugin", description="The token shared with the plugin.", auto_error=False)


def _authenticate(parts: Parts, bearer: HTTPAuthorizationCredentials | None) -> Principal:
    if bearer is None:
        raise Unauthorized("Send an Authorization header: Bearer <token>.", code="missing_token")
    principal = parts.credentials.principal(bearer.credentials)
    if principal is None:
        raise Unauthorized("The bearer token is not valid.", code="invalid_token")
    return principal


async def admin(
    parts: PartsDep, bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_operator_scheme)]
) -> Principal:
    """The operator, or 401 or 403."""
    principal = _authenticate(parts, bearer)
    if principal.role != "admin":
        raise Forbidden("This needs an operator token with the role admin.")
    return principal


async def plugin(
    parts: PartsDep, bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_plugin_scheme)]
) -> Principal:
    """The plugin, or 401 or 403."""
    principal = _authenticate(parts, bearer)
    if principal.kind != "plugin":
        raise Forbidden("This is for the plugin only.")
    return principal


AdminOnly = Depends(admin)
PluginOnly = Depends(plugin)
Admin = Annotated[Principal, AdminOnly]
PluginCaller = Annotated[Principal, PluginOnly]


def clock(parts: PartsDep) -> Clock:
    return parts.clock


ClockDep = Annotated[Clock, Depends(clock)]


def write_session(parts: PartsDep) -> Iterator[Session]:
    """One transaction for the request; rolled back by any error, committed before the answer leaves."""
    with transaction(parts.engine) as session:
        yield session


def read_session(parts: PartsDep) -> Iterator[Session]:
    """One consistent view for the request."""
    with transaction(parts.engine, read_only=True) as session:
        yield session


# scope="function": by FastAPI's default the commit would come after the response, and a commit that fails would follow
# a 201 that is already with the client.
#
# max_concurrency: a request waiting for SQLite's write lock keeps a thread of the pool of 40. Were all 40 waiting, the
# one that holds the lock would find none to run its route in, and all would time out. Waiting here takes no thread.
# Together they stay below the connection pool's 15, so that jobs find a connection too.
SessionDep = Annotated[Session, Depends(write_session, scope="function", max_concurrency=4)]
ReadSessionDep = Annotated[Session, Depends(read_session, scope="function", max_concurrency=8)]

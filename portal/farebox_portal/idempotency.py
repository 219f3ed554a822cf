"""`Idempotency-Key` on POST: a request that is repeated takes effect once, and is answered as it was the first time.

The answer is stored in the transaction of the effect, so neither is ever there without the other. Kept for 24 hours,
for each caller apart. Only answers of success are stored: a refused request changed nothing, and may be tried again.

A new API key is shown once and never stored, not even here. The repeated answer has everything but the key itself; a
client that lost it makes another with `POST /v1/keys/{id}/rotate`.
"""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import Depends, Header, Request
from fastapi.responses import JSONResponse
from sqlalchemy import JSON, Column, update
from sqlmodel import Field, Session, SQLModel, col, delete, select

from farebox_portal.auth import ClockDep, PartsDep, SessionDep
from farebox_portal.db import UTCDateTime, insert_into
from farebox_portal.documents import Output, parse_json
from farebox_portal.errors import Conflict, Unauthorized

KEPT = timedelta(hours=24)


class IdempotencyKey(SQLModel, table=True):
    """The answer to one POST, to be given again."""

    __tablename__ = "idempotency_keys"

    caller: str = Field(primary_key=True)
    key: str = Field(primary_key=True)
    operation: str
    request_hash: str
    status: int
    body: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    created_at: datetime = Field(sa_type=UTCDateTime, index=True)


@dataclass(frozen=True)
class Once:
    """Answers a POST once. Without an `Idempotency-Key` it simply answers."""

    session: Session
    now: datetime
    caller: str
    key: str | None
    operation: str
    request_hash: str

    def answer(self, status: int, produce: Callable[[], Output], *, secret: tuple[str, ...] = ()) -> JSONResponse:
        """Run `produce` and answer with its document, or repeat the answer that this key already got.

        `secret` is the path of the field that is sent but not stored. Raises Conflict when the key was used for another
        request.
        """
        if self.key is None:
            return JSONResponse(produce().wire(), status)
        known = self._known()
        if known is not None:
            return self._replay(known)
        self.session.exec(delete(IdempotencyKey).where(col(IdempotencyKey.created_at) <= self.now - KEPT))
        if not self._take(status):
            known = self._known()
            assert known is not None, "whoever was first has committed it"
            return self._replay(known)
        body = produce().wire()
        mine = col(IdempotencyKey.caller) == self.caller, col(IdempotencyKey.key) == self.key
        self.session.exec(update(IdempotencyKey).where(*mine).values(body=_without(body, secret)))
        return JSONResponse(body, status)

    def _known(self) -> IdempotencyKey | None:
        kept = select(IdempotencyKey).where(
            col(IdempotencyKey.caller) == self.caller,
            col(IdempotencyKey.key) == self.key,
            col(IdempotencyKey.created_at) > self.now - KEPT,
        )
        return self.session.exec(kept).one_or_none()

    def _take(self, status: int) -> bool:
        """Write the key before the effect; False if somebody else has it.

        Of two requests at the same time the second waits here for the first to commit or to fail.
        """
        new = insert_into(self.session, IdempotencyKey).values(
            caller=self.caller,
            key=self.key,
            operation=self.operation,
            request_hash=self.request_hash,
            status=status,
            body={},
            created_at=self.now,
        )
        written = new.on_conflict_do_nothing().returning(col(IdempotencyKey.key))
        return self.session.connection().execute(written).first() is not None

    def _replay(self, known: IdempotencyKey) -> JSONResponse:
        if (known.operation, known.request_hash) != (self.operation, self.request_hash):
            raise Conflict(
                "This Idempotency-Key was used for another request; take a new one.", code="idempotency_key_reused"
            )
        return JSONResponse(known.body, known.status, headers={"Idempotency-Replayed": "true"})


async def once(
    request: Request,
    parts: PartsDep,
    session: SessionDep,
    clock: ClockDep,
    key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            min_length=1,
            max_length=255,
            description="Repeat a request safely: the same key and body within 24 hours give the same answer.",
        ),
    ] = None,
) -> Once:
    body = await request.body()
    caller = parts.credentials.principal(request.headers.get("authorization", "").partition(" ")[2].strip())
    if caller is None:
        raise Unauthorized("The bearer token is not valid.", code="invalid_token")
    return Once(
        session=session,
        now=clock.now(),
        caller=caller.name,
        key=key,
        operation=f"{request.method} {request.url.path}",
        request_hash=_hash(body) if key is not None else "",
    )


OnceDep = Annotated[Once, Depends(once)]


def _hash(body: bytes) -> str:
    """The same for the same document, however it is spaced and ordered."""
    if body.strip():
        # What is not JSON is refused before anything is stored under its hash.
        with suppress(json.JSONDecodeError):
            body = json.dumps(parse_json(body), sort_keys=True).encode()
    return hashlib.sha256(body).hexdigest()


def _without(body: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    if not path:
        return body
    first, *rest = path
    if not rest:
        return {name: value for name, value in body.items() if name != first}
    return body | {first: _without(body[first], tuple(rest))}

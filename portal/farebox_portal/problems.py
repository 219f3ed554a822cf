"""Errors over HTTP: every one is `application/problem+json` (RFC 9457), also those that FastAPI and the router raise.

`{type, title, status, detail, instance, code, requestId, errors?: [{pointer, detail}]}`. No answer quotes what was
sent: a credential put into the wrong field must not come back, or end up in somebody's log.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy.exc import IntegrityError
from starlette.exceptions import HTTPException
from starlette.types import Scope

from farebox_portal.checking import fault_of
from farebox_portal.errors import Conflict, FareboxError, Fault, Invalid

log = structlog.get_logger(__name__)


class FaultDocument(BaseModel):
    """One entry of `errors`: a JSON pointer into what was sent, and what is wrong there."""

    pointer: str
    detail: str


class Problem(BaseModel):
    """RFC 9457, with `code` for programs and `requestId` for support."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    requestId: str  # noqa: N815  (its name on the wire)
    errors: list[FaultDocument] | None = None


RESPONSES: dict[int | str, dict[str, Any]] = {
    401: {"model": Problem, "description": "No valid operator token"},
    409: {"model": Problem, "description": "The present state forbids it; see `code`"},
    422: {"model": Problem, "description": "Every fault with its JSON pointer"},
}


def respond(scope: Scope, error: FareboxError, *, status: int | None = None) -> JSONResponse:
    """The answer to `error`, under another status where one class of refusal has several."""
    title = error.title if status is None else HTTPStatus(status).phrase
    headers = {"WWW-Authenticate": 'Bearer realm="farebox"'} if error.status == HTTPStatus.UNAUTHORIZED else None
    return _render(scope, status or error.status, title, error.code, error.detail, error.errors, headers, error.more)


def respond_failure(scope: Scope) -> JSONResponse:
    """The answer when something broke that should not: nothing about the inside."""
    return _render(
        scope,
        500,
        "Internal error",
        "internal_error",
        "Something went wrong on our side. The request id leads to the cause in the log.",
    )


def install(app: FastAPI) -> None:
    """Make every error of `app` a problem document."""

    async def refused(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, FareboxError)
        return respond(request.scope, error)

    async def malformed(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return _malformed(request.scope, error)

    async def unrouted(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        # 413's name in Python depends on its version.
        title = "Content Too Large" if error.status_code == 413 else HTTPStatus(error.status_code).phrase
        code = title.lower().replace(" ", "_")
        return _render(request.scope, error.status_code, title, code, str(error.detail), headers=error.headers)

    async def raced(request: Request, error: Exception) -> JSONResponse:
        # Every rule is checked before it is written; a constraint that fires all the same means that somebody else
        # wrote in between. Logged by the constraint's words only: what follows them in PostgreSQL is customers' data.
        assert isinstance(error, IntegrityError)
        log.warning("write_conflict", error=str(error.orig).partition("\n")[0], request_id=request_id(request.scope))
        return respond(
            request.scope,
            Conflict("Something else changed this at the same time; try again.", code="concurrent_change"),
        )

    app.add_exception_handler(FareboxError, refused)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(HTTPException, unrouted)
    app.add_exception_handler(IntegrityError, raced)


def request_id(scope: Scope) -> str:
    """The id under which this request stands in our log (set by `log_requests`)."""
    return str(scope.get("state", {}).get("request_id", ""))


def _malformed(scope: Scope, error: RequestValidationError) -> JSONResponse:
    faults = error.errors()
    if any(fault["type"] == "json_invalid" for fault in faults):
        reason = faults[0].get("ctx", {}).get("error", "it cannot be read")
        return respond(scope, Invalid([], f"The body is not valid JSON: {reason}.", code="invalid_json"), status=400)
    return respond(scope, Invalid([_fault(fault, error.body) for fault in faults]))


def _fault(fault: Mapping[str, Any], body: Any) -> Fault:
    """A body's place is a pointer into it; a parameter's names it."""
    part, *place = fault["loc"]
    if part == "body":
        return fault_of({**fault, "loc": place}, body)
    return fault_of(fault, None)


def _render(
    scope: Scope,
    status: int,
    title: str,
    code: str,
    detail: str,
    errors: list[Fault] | None = None,
    headers: Mapping[str, str] | None = None,
    more: Mapping[str, str] | None = None,
) -> JSONResponse:
    problem = Problem(
        type="about:blank",
        title=title,
        status=status,
        detail=detail,
        instance=scope["path"],
        code=code,
        requestId=request_id(scope),
        errors=[FaultDocument(**fault) for fault in errors] if errors else None,
    )
    body = problem.model_dump(exclude_none=True) | dict(more or {})
    return JSONResponse(body, status, headers=headers, media_type="application/problem+json")

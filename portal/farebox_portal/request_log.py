"""One line in the log for each request, under an id that the answer carries too (`x-request-id`).

Written are method, path, status and time. Never a body, a header or a query: they may hold credentials.
This is also where an unforeseen fault ends: logged with its traceback, answered with nothing but the id.
"""

import re
import secrets
import time
import traceback

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from farebox_portal.metrics import UNMATCHED, Metrics
from farebox_portal.problems import respond_failure

log = structlog.get_logger(__name__)

# Shown by /healthz, /readyz and /metrics every few seconds for ever: counted, not logged.
QUIET = ("/healthz", "/readyz", "/metrics")
_PROPER_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class RequestLog:
    """ASGI middleware. A caller's own `x-request-id` is kept if it is harmless, so that a trace can cross services."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except Exception as error:
            # Formatted here, not by the log: structlog's own way shows local variables, and those hold tokens.
            trace = "".join(traceback.format_exception(error))
            log.error("request_failed", request_id=request_id, path=scope["path"], traceback=trace)
            if status:
                raise  # the answer has begun: breaking the connection is all that is left to say
            await respond_failure(scope)(scope, receive, send_with_id)
        finally:
            self._record(scope, request_id, status, time.perf_counter() - started)

    def _record(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        route = str(getattr(scope.get("route"), "path", UNMATCHED))
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self.metrics.requests.labels(method, route, status).inc()
        self.metrics.request_seconds.labels(route).observe(seconds)
        if scope["path"] in QUIET and status == 200:
            return
        log.info(
            "request",
            request_id=request_id,
            method=method,
            path=scope["path"],
            status=status,
            duration_ms=round(seconds * 1000, 1),
        )


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _PROPER_ID.fullmatch(value):
            return str(value.decode())
    return secrets.token_hex(16)

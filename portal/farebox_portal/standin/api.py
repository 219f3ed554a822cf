"""The path of one API request: key, fault, idempotency, parameters, operation, answer.

Operations do not wait for anything, so they never overlap; only faults wait. What an operation has changed is on disk
before its answer goes out.
"""

import asyncio
import json
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from farebox_portal.standin import operation
from farebox_portal.standin.books import Books, new_id
from farebox_portal.standin.connections import Dropped, drop
from farebox_portal.standin.deliveries import Deliveries
from farebox_portal.standin.expand import expand
from farebox_portal.standin.faults import Fault, Faults, lock_timeout, refusal_before, stored_500
from farebox_portal.standin.forms import parse_form, read_form
from farebox_portal.standin.idempotency import Answer, Idempotency
from farebox_portal.standin.keys import account_of, authenticate, authorize
from farebox_portal.standin.operation import Operation
from farebox_portal.standin.passing import pass_time
from farebox_portal.standin.shapes import read
from farebox_portal.standin.wire import API_VERSION, LABEL, Document, Given, Refused

LOG_KEPT = 20_000


class Api:
    """ASGI: everything under /v1."""

    def __init__(self, books: Books, operations: Sequence[Operation], faults: Faults, deliveries: Deliveries) -> None:
        self.log: deque[Document] = deque(maxlen=LOG_KEPT)
        self.idempotency = Idempotency(books)
        self._books = books
        self._operations = operations
        self._faults = faults
        self._deliveries = deliveries

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self._respond(request)
        except Dropped:
            await drop(scope, receive)
        except ClientDisconnect:
            return
        else:
            await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        request_id = new_id("req", 14)
        form = await _form_or_refusal(request)
        fault = self._faults.take(request.method, request.url.path)
        entry = _log_entry(self._books, request, form, request_id, fault)
        self.log.append(entry)
        if fault is not None and fault.mode == "drop_before":
            raise Dropped
        if fault is not None and fault.mode == "bad_gateway" and not fault.effect:
            return _bad_gateway()
        try:
            if isinstance(form, Refused):
                raise form
            answer = await self._answer(request, form, request_id, fault)
        except Refused as refused:
            answer = Answer(refused.status, refused.headers, refused.body)
        entry["status"] = answer.status
        if fault is not None and fault.mode == "slow":
            await asyncio.sleep(fault.ms / 1000)
        if fault is not None and fault.mode == "drop_after":
            raise Dropped
        if fault is not None and fault.mode == "bad_gateway":
            return _bad_gateway()
        headers = {"Request-Id": request_id, "Stripe-Version": API_VERSION, "Farebox-Standin": LABEL}
        return JSONResponse(answer.body, answer.status, headers | answer.headers)

    async def _answer(self, request: Request, form: str, request_id: str, fault: Fault | None) -> Answer:
        """What is answered, or Refused when the operation did not begin."""
        before = refusal_before(fault) if fault else None
        if before is not None:
            raise before
        key = authenticate(self._books, request.headers.get("authorization", ""))
        _check_version(request.headers)
        found = operation.match(self._operations, request.method, request.url.path)
        if found is None:
            raise Refused(
                404,
                f"Unrecognized request URL ({request.method}: {request.url.path}). The payment stand-in does not model "
                "everything that Stripe does.",
            )
        doing, named = found
        authorize(self._books, key, doing.needs)
        cause = {
            "id": request_id,
            "idempotency_key": request.headers.get("idempotency-key") if request.method == "POST" else None,
            "account": account_of(self._books, key),
        }
        try:
            return await self._once(doing, named, form, key, cause, fault)
        finally:
            self._books.commit()  # the effect and the answer that is kept, in one write
            self._deliveries.wake()

    async def _once(
        self, doing: Operation, named: Mapping[str, str], form: str, key: str, cause: Document, fault: Fault | None
    ) -> Answer:
        idempotency_key = cause["idempotency_key"]
        if idempotency_key is None:
            return await self._execute(doing, named, form, key, cause, fault)
        place = f"{cause['account']} {idempotency_key}"
        request = f"{doing.method} {doing.path} {json.dumps(named)} {form}"
        kept = self.idempotency.begin(place, request)
        if kept is not None:
            return kept
        try:
            answer = await self._execute(doing, named, form, key, cause, fault)
            self.idempotency.keep(place, request, answer)
        finally:
            self.idempotency.end(place)
        return answer

    async def _execute(
        self, doing: Operation, named: Mapping[str, str], form: str, key: str, cause: Document, fault: Fault | None
    ) -> Answer:
        """Run the operation; how it went. Raises Refused for parameters that it does not accept."""
        given: Given = read(doing.accepts, parse_form(form))
        wanted = given.pop("expand", [])
        if fault is not None and fault.mode == "late":
            await asyncio.sleep(fault.ms / 1000)
        try:
            if fault is not None and fault.mode == "lock_timeout":
                raise lock_timeout()
            if fault is not None and fault.mode == "stored_500" and not fault.effect:
                raise stored_500()
            answer = Answer(200, {}, self._run(doing, {**given, **named}, key, cause, wanted))
            if fault is not None and fault.mode == "stored_500":
                raise stored_500()
        except Refused as refused:
            return Answer(refused.status, refused.headers, refused.body)
        return answer

    def _run(self, doing: Operation, given: Given, key: str, cause: Document, wanted: list[str]) -> Document:
        self._books.cause = {"id": None, "idempotency_key": None}
        pass_time(self._books)
        self.idempotency.prune()
        self._books.cause = cause
        document = doing.run(self._books, given)
        if document.get("object") == "list":
            shown = document | {"data": [self._books.show(each) for each in document["data"]]}
        else:
            shown = self._books.show(document)
        return expand(self._books, shown, wanted, key)


def _bad_gateway() -> Response:
    return PlainTextResponse("<html><body>502 Bad Gateway</body></html>", 502, media_type="text/html")


def _check_version(headers: Mapping[str, str]) -> None:
    said = headers.get("stripe-version", API_VERSION)
    if said != API_VERSION:
        raise Refused(400, f"Invalid Stripe API version: {said}. The payment stand-in speaks {API_VERSION} alone.")


async def _form_or_refusal(request: Request) -> str | Refused:
    """What cannot be read is still logged, and may still be dropped."""
    try:
        return await read_form(request)
    except Refused as refused:
        return refused


def _log_entry(
    books: Books, request: Request, form: str | Refused, request_id: str, fault: Fault | None
) -> dict[str, Any]:
    return {
        "at": books.now(),
        "requestId": request_id,
        "method": request.method,
        "path": request.url.path,
        "params": _params(form),
        "idempotencyKey": request.headers.get("idempotency-key"),
        "fault": fault.mode if fault else None,
        "status": None,
    }


def _params(form: str | Refused) -> Document | None:
    try:
        return None if isinstance(form, Refused) else parse_form(form)
    except Refused:
        return None

"""The sample upstream: the API that the demo sells, and the independent witness of what got through to it.

Each path stands for a way of being metered: echo (a call), bytes (volume), chat and messages (tokens), slow and status
(what is not billed). ``/__log`` lists what arrived. It knows nothing of Farebox and trusts everybody: it is meant to
stand behind a gateway, on loopback.

    python -m farebox_portal.demo.upstream --port 8002
"""

import argparse
import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, Path, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from farebox_portal.clock import SystemClock, to_ms
from farebox_portal.demo.completions import (
    Chat,
    Messages,
    anthropic_answer,
    anthropic_events,
    openai_answer,
    openai_events,
)
from farebox_portal.demo.witness import Witness

CHUNK_BYTES = 64 * 1024
BYTES_MAX = 10 * 2**30
UNSEEN = frozenset({"/__log", "/healthz"})
_ANY_METHOD = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]

DelayMs = Annotated[int, Query(ge=0, le=60_000, description="Pause between two chunks, so that a client can hang up.")]


def create_upstream() -> Witness:
    """The whole application: the sample API inside its witness."""
    app = FastAPI(title="Sample API", version="1.0.0", docs_url=None, redoc_url=None)
    witness = Witness(app, UNSEEN)
    _add_plain(app)
    _add_models(app)

    @app.get("/__log", include_in_schema=False)
    async def log() -> list[dict[str, Any]]:
        return witness.entries()

    @app.delete("/__log", include_in_schema=False, status_code=204)
    async def forget() -> None:
        witness.forget()

    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> dict[str, str | int]:
        return {"status": "ok", "pid": os.getpid()}

    return witness


def _add_plain(app: FastAPI) -> None:
    async def echo(request: Request) -> Response:
        """Says what arrived: method, path, headers and the length of the body."""
        body_bytes = 0
        async for chunk in request.stream():
            body_bytes += len(chunk)
        path = request.url.path + ("?" + request.url.query if request.url.query else "")
        seen = {"method": request.method, "path": path, "headers": dict(request.headers), "bodyBytes": body_bytes}
        return JSONResponse(seen)

    for path in ("/v1/echo", "/v1/echo/{rest:path}", "/v1/premium/{rest:path}"):
        # The schema shows one operation a path; the others are the same.
        app.add_api_route(path, echo, methods=["GET"], summary="Echo")
        app.add_api_route(path, echo, methods=_ANY_METHOD[1:], include_in_schema=False)

    @app.get("/v1/status/{code}", summary="Answer with a status")
    @app.post("/v1/status/{code}", include_in_schema=False)
    async def status(code: Annotated[int, Path(ge=200, le=599)]) -> Response:
        return Response(status_code=code) if code in (204, 304) else JSONResponse({"status": code}, code)

    @app.get("/v1/slow/{ms}", summary="Answer late")
    async def slow(ms: Annotated[int, Path(ge=0, le=600_000)]) -> dict[str, int]:
        await asyncio.sleep(ms / 1000)
        return {"sleptMs": ms}

    @app.get("/v1/bytes/{n}", summary="Download", response_class=Response)
    async def download(n: Annotated[int, Path(ge=0, le=BYTES_MAX)], delay_ms: DelayMs = 0) -> Response:
        """``n`` bytes, in chunks of at most 64 KiB."""
        chunks = (b"x" * min(CHUNK_BYTES, n - start) for start in range(0, n, CHUNK_BYTES))
        headers = {"content-length": str(n)}
        return StreamingResponse(_paced(chunks, delay_ms), headers=headers, media_type="application/octet-stream")


def _add_models(app: FastAPI) -> None:
    @app.post("/v1/chat/completions", summary="Chat, in OpenAI's shape", response_model=None)
    async def chat_completions(chat: Chat, delay_ms: DelayMs = 0) -> Response:
        answer_id, created_s = uuid.uuid4().hex, to_ms(SystemClock().now()) // 1000
        if not chat.stream:
            return JSONResponse(openai_answer(chat, answer_id, created_s))
        return _event_stream(openai_events(chat, answer_id, created_s), delay_ms or chat.delay_ms)

    @app.post("/v1/messages", summary="Chat, in Anthropic's shape", response_model=None)
    async def create_message(messages: Messages, delay_ms: DelayMs = 0) -> Response:
        answer_id = uuid.uuid4().hex
        if not messages.stream:
            return JSONResponse(anthropic_answer(messages, answer_id))
        return _event_stream(anthropic_events(messages, answer_id), delay_ms or messages.delay_ms)


def _event_stream(events: Iterator[bytes], delay_ms: int) -> Response:
    headers = {"cache-control": "no-store"}
    return StreamingResponse(_paced(events, delay_ms), media_type="text/event-stream", headers=headers)


async def _paced(chunks: Iterator[bytes], delay_ms: int) -> AsyncIterator[bytes]:
    for position, chunk in enumerate(chunks):
        if position:
            # Also with no delay: a stream must not keep all others waiting until it ends.
            await asyncio.sleep(delay_ms / 1000)
        yield chunk


def main() -> None:
    """Serve until SIGTERM; running answers get a second to end."""
    parser = argparse.ArgumentParser(prog="python -m farebox_portal.demo.upstream", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    uvicorn.run(
        create_upstream(),
        host=given.host,
        port=given.port,
        log_level="warning",
        access_log=False,
        timeout_keep_alive=75,  # longer than the gateway keeps idle connections (30 s): never closed under a request
        timeout_graceful_shutdown=1,
    )


if __name__ == "__main__":
    main()

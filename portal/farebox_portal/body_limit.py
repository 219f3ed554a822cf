"""No request body beyond a bound, however it is sent: with its length said ahead, or in pieces without end."""

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY_BYTES_MAX = 1 << 20
# A gateway delivers usage in batches, and is known by its token.
BODY_BYTES_MAX_OF = {"/internal/v1/usage": 16 << 20}


class BodyLimit:
    """ASGI middleware: answers 413."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = BODY_BYTES_MAX_OF.get(scope["path"], BODY_BYTES_MAX)
        detail = f"The body may have {limit} bytes at most."
        announced = _announced_bytes(scope)
        received = 0

        async def receive_bounded() -> Message:
            nonlocal received
            message: Message = {} if announced > limit else await receive()
            received += len(message.get("body", b""))
            if max(announced, received) > limit:
                raise HTTPException(413, detail)  # the one exception that FastAPI lets out of its reading of a body
            return message

        await self.app(scope, receive_bounded, send)


def _announced_bytes(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0

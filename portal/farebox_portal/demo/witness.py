"""What a server saw and sent, kept by itself: the demo's answer to "but did it really reach the upstream?".

It wraps the whole application and knows nothing of Farebox, so that tests can hold the plugin's and the portal's
figures against it. An entry appears when a request arrives and fills while it is answered; what a client cut off keeps
``complete: false`` and the bytes that were sent until then.
"""

from collections import deque
from dataclasses import asdict, dataclass, field
from threading import Lock
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

ENTRIES_MAX = 100_000
"""Then the oldest go, so that a demo can run for weeks. ``seq`` shows the gap."""


@dataclass
class Entry:
    """One request. ``path`` includes the query, ``headers`` joins repeated ones with a comma.

    ``bytes`` are those of the body that were handed to the server; of an aborted one the last chunk may not have left.
    """

    seq: int
    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    status: int | None = None
    bytes: int = 0
    complete: bool = False


class Witness:
    """ASGI middleware that records every request, except those for a path in ``unseen``."""

    def __init__(self, app: ASGIApp, unseen: frozenset[str]) -> None:
        self.app = app
        self.unseen = unseen
        self._lock = Lock()
        self._entries: deque[Entry] = deque(maxlen=ENTRIES_MAX)
        self._count = 0

    def entries(self) -> list[dict[str, Any]]:
        """A copy of the record, oldest first."""
        with self._lock:
            return [asdict(entry) for entry in self._entries]

    def forget(self) -> None:
        """Drop the record. Requests that still run go on counting, into entries that nobody sees."""
        with self._lock:
            self._entries.clear()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self.unseen:
            await self.app(scope, receive, send)
            return
        entry = self._arrived(scope)

        async def send_and_count(message: Message) -> None:
            await send(message)
            with self._lock:
                if message["type"] == "http.response.start":
                    entry.status = message["status"]
                elif message["type"] == "http.response.body":
                    entry.bytes += len(message.get("body", b""))
                    entry.complete = not message.get("more_body", False)

        await self.app(scope, receive, send_and_count)

    def _arrived(self, scope: Scope) -> Entry:
        path, query = scope.get("raw_path") or scope["path"].encode(), scope["query_string"]
        headers: dict[str, str] = {}
        for raw_name, raw_value in scope["headers"]:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        with self._lock:
            self._count += 1
            entry = Entry(self._count, scope["method"], (path + b"?" * bool(query) + query).decode("latin-1"), headers)
            self._entries.append(entry)
        return entry

"""The payment stand-in: on a free port in a thread of the test, in a process of its own (as users run it), or without
a socket inside the test, where one request takes a millisecond and its time is the test's.
"""

import asyncio
import copy
import http.server
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from farebox_portal.clock import Clock
from farebox_portal.standin import app, connections
from rig.ports import free_port

START_TIMEOUT_S = 30.0
_PORT_TRIES = 5


class _Controlled:
    """The other side of the counter, over HTTP."""

    url: str

    def control(self, path: str, given: Any = None, method: str | None = None) -> Any:
        """GET, or POST of `given`. Raises RuntimeError with what the stand-in said against it."""
        request = urllib.request.Request(
            f"{self.url}/__standin/{path}",
            data=None if given is None else json.dumps(given).encode(),
            headers={"Content-Type": "application/json"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                raise RuntimeError(json.loads(error.read())["error"]["message"]) from error

    def act(self, name: str, /, **given: Any) -> Any:
        """What a person or a bank does: `standin.act("dispute", invoice="in_…")`."""
        return self.control(f"actions/{name}", given)

    def fault(self, mode: str, match: str = "*", **given: Any) -> None:
        self.control("faults", {"mode": mode, "match": match} | given)

    def advance(self, seconds: int) -> None:
        self.control("clock", {"advance_s": seconds})

    def log(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.control("log")["requests"]
        return found


class Standin(_Controlled):
    """`with Standin() as standin: StripeClient("sk_test_…", base_addresses={"api": standin.url})`."""

    def __init__(self, *, state: Path | None = None, wall: Clock | None = None) -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.standin = app.Standin(self.url, state=state, wall=wall)
        self._server = app.server(self.standin, "127.0.0.1", 0)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)

    @property
    def books(self) -> Any:
        """The records themselves. Read only, from a test's thread."""
        return self.standin.books

    def start(self) -> Self:
        self._thread.start()
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._server.started:
            assert self._thread.is_alive(), "the stand-in did not start"
            assert time.monotonic() < deadline, "the stand-in did not start in time"
            time.sleep(0.005)
        return self

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(START_TIMEOUT_S)
        assert not self._thread.is_alive(), "the stand-in did not stop"
        self._socket.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Unanswered(Exception):
    """The connection was closed without an answer."""


class StandinInside(_Controlled):
    """`StandinInside(clock)`: no socket, no thread. Several may ask at once; they are answered one by one.

    Faults that need time to pass (`late`, `slow`) are not for here, and webhooks do not go out by themselves: `events`.
    """

    url = "http://standin.test"

    def __init__(self, clock: Clock) -> None:
        self.standin = app.Standin(self.url, wall=clock)
        self._loop = asyncio.new_event_loop()
        self._one_at_a_time = threading.Lock()

    @property
    def books(self) -> Any:
        return self.standin.books

    def ask(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes = b""
    ) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body). Raises Unanswered."""
        with self._one_at_a_time:
            return self._loop.run_until_complete(_answer(self.standin.app, method, url, headers, body))

    def control(self, path: str, given: Any = None, method: str | None = None) -> Any:
        body = b"" if given is None else json.dumps(given).encode()
        how = method or ("GET" if given is None else "POST")
        status, _, answer = self.ask(how, f"/__standin/{path}", {"content-type": "application/json"}, body)
        if status >= 400:
            raise RuntimeError(json.loads(answer)["error"]["message"])
        return json.loads(answer)

    def log(self) -> list[dict[str, Any]]:
        return list(self.standin.api.log)

    def events(self) -> list[bytes]:
        """Everything that a webhook would tell, in the order in which it happened."""
        return [json.dumps(self.books.show(event)).encode() for event in self.books.all("event")]

    def photograph(self) -> Any:
        """Everything it has now, for `go_back`."""
        return copy.deepcopy(self.books._kinds)

    def go_back(self, photograph: Any) -> None:
        self.control("reset", {})
        self.books._kinds.clear()
        self.books._kinds.update(copy.deepcopy(photograph))

    def close(self) -> None:
        self._loop.close()


async def _answer(
    asgi: Any, method: str, url: str, headers: Mapping[str, str], body: bytes
) -> tuple[int, dict[str, str], bytes]:
    parts = urlsplit(url)
    client = ("inside", id(body))
    connections._open[client] = _Abortable()  # type: ignore[assignment]  # all that is ever done to it is to abort it
    scope = {
        "type": "http", "http_version": "1.1", "method": method.upper(), "path": parts.path, "scheme": "http",
        "raw_path": parts.path.encode(), "query_string": parts.query.encode(), "client": client, "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
    }  # fmt: skip
    coming: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return coming.pop() if coming else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    try:
        await asgi(scope, receive, send)
    finally:
        del connections._open[client]
    if not sent:
        raise Unanswered
    answered = {name.decode().title(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], answered, b"".join(part.get("body", b"") for part in sent[1:])


class _Abortable:
    def abort(self) -> None:
        pass


class StandinProcess(_Controlled):
    """`with StandinProcess(tmp_path, "--state", "…") as standin`; `kill` and `start` again keep the port."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.options = options
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:  # type: ignore[override]
        return f"http://127.0.0.1:{self.port}"

    @property
    def log_text(self) -> str:
        return (self.folder / "standin.log").read_text(errors="replace")

    def start(self) -> Self:
        for _ in range(_PORT_TRIES):
            self.port = self.port or free_port()
            self.launch()
            if self._is_ready():
                return self
            self.stop(signal.SIGKILL)
            self.port = 0
        raise RuntimeError(f"the stand-in did not start:\n{self.log_text}")

    def launch(self) -> None:
        """Start the process on `port` and do not wait."""
        command = [sys.executable, "-m", "farebox_portal.standin", "--port", str(self.port), *self.options]
        with (self.folder / "standin.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Its exit status."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(how)
        return self.wait()

    def wait(self) -> int:
        """Its exit status, once it has ended by itself."""
        if self._process is None:
            return 0
        status = self._process.wait(START_TIMEOUT_S)
        self._process = None
        return status

    def _is_ready(self) -> bool:
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.url}/healthz", timeout=10):
                    return True
            except OSError:
                time.sleep(0.02)
        return False

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(signal.SIGKILL)


class Receiver:
    """Takes webhooks and keeps them: `with Receiver() as receiver: …; receiver.events()`.

    `answers`: statuses to be given in this order, then 200.
    """

    def __init__(self, answers: tuple[int, ...] = ()) -> None:
        self.got: list[tuple[str, bytes]] = []
        self._answers = list(answers)
        lock = threading.Lock()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with lock:
                    receiver.got.append((self.headers["Stripe-Signature"], body))
                    status = receiver._answers.pop(0) if receiver._answers else 200
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}/webhooks"

    def events(self) -> list[dict[str, Any]]:
        """In the order of their arrival, with the copies."""
        return [json.loads(body) for _, body in self.got]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join(START_TIMEOUT_S)
        self._server.server_close()

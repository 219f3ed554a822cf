"""Load on the gateway: many connections, each asking as fast as it is answered, from a thread of its own.

Raw HTTP/1.1 on asyncio, because the clients must cost less than what they measure, and must tell exactly what they saw.
"""

import asyncio
import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from farebox.v1.digest import new_api_key

ANSWER_TIMEOUT_S = 15.0
STRANGER = "customer_stranger"  # in the paths of requests that nobody may make
LOST = 0  # in place of a status: the connection ended before the answer did


@dataclass(frozen=True)
class Question:
    """One request. ``path`` is unique in its experiment, which is how the upstream's record is matched to it."""

    path: str
    api_key: str | None
    hang_up_after_bytes: int | None = None  # leave when so many bytes of the answer have come (0: do not wait at all)
    hang_up_after_s: float | None = None  # leave then, whatever has come

    @property
    def is_patient(self) -> bool:
        return self.hang_up_after_bytes is None and self.hang_up_after_s is None


@dataclass(frozen=True)
class Answer:
    question: Question
    status: int
    problem: str  # the `code` of a refusal; "" for other answers
    asked_at: float  # time.monotonic()
    answered_at: float


class Load:
    """``with Load(url, questions, connections=32) as load: …; load.answers``. Leaving the block waits for the end.

    ``next_question`` is called once for each request, with a number; None ends the load. ``rate`` bounds the requests a
    second of all connections together; 0 = as fast as it goes.
    """

    def __init__(
        self, url: str, next_question: Callable[[int], Question | None], *, connections: int = 32, rate: float = 0.0
    ) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._next = next_question
        self._connections = connections
        self._rate = rate
        self._number = 0
        self._is_stopping = False
        self._started_at = 0.0
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load", daemon=True)
        self.answers: list[Answer] = []

    def __enter__(self) -> "Load":
        self._started_at = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()

    def stop(self) -> None:
        """No further requests; those that run are waited for."""
        self._is_stopping = True
        self.wait()

    def wait(self) -> None:
        self._thread.join()

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def reached(self, answers: int, within_s: float = 30.0) -> None:
        """Wait until so many requests are answered, or until the load is over."""
        deadline = time.monotonic() + within_s
        while len(self.answers) < answers and not self.is_over and time.monotonic() < deadline:
            time.sleep(0.005)

    async def _run(self) -> None:
        await asyncio.gather(*(self._ask_on() for _ in range(self._connections)))

    async def _ask_on(self) -> None:
        """One connection, remade whenever it ends."""
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while not self._is_stopping:
            number, self._number = self._number, self._number + 1
            question = self._next(number)
            if question is None:
                break
            if self._rate:
                await asyncio.sleep(max(0.0, self._started_at + number / self._rate - time.monotonic()))
            asked_at = time.monotonic()
            status, problem = LOST, ""
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    streams = streams or await asyncio.open_connection(self._host, self._port)
                    status, problem = await _ask(question, *streams)
            except (OSError, EOFError, ValueError, TimeoutError):
                await asyncio.sleep(0.02)
            if status == LOST and streams is not None:
                streams[1].transport.abort()
                streams = None
            self.answers.append(Answer(question, status, problem, asked_at, time.monotonic()))
        if streams is not None:
            streams[1].close()
            with suppress(OSError):
                await streams[1].wait_closed()


async def _ask(
    question: Question, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> tuple[int, str]:  # (status, problem code)
    credential = f"authorization: Bearer {question.api_key}\r\n" if question.api_key is not None else ""
    writer.write(f"GET {question.path} HTTP/1.1\r\nhost: gateway\r\n{credential}\r\n".encode())
    if question.hang_up_after_bytes is not None:
        await writer.drain()
        if question.hang_up_after_bytes:
            await reader.readexactly(question.hang_up_after_bytes)
        return LOST, ""
    if question.hang_up_after_s is not None:
        await asyncio.sleep(question.hang_up_after_s)
        return LOST, ""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode("latin-1").lower().split("\r\n")
    status = int(lines[0].split()[1])
    headers = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
    if "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    elif headers.get("transfer-encoding") == "chunked":
        body = await _chunks(reader)
    else:
        body = b""
    is_problem = headers.get("content-type") == "application/problem+json"
    return status, str(json.loads(body)["code"]) if is_problem else ""


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while length := int(await reader.readline(), 16):
        body += await reader.readexactly(length)
        await reader.readexactly(2)
    await reader.readline()
    return body


@dataclass(frozen=True)
class Mix:
    """Who asks what: each of ``buyers`` gets the same share, and one request in ``strangers_in`` comes from nobody.

    ``paths`` are templates with ``{tag}`` and ``{number}``, drawn evenly.
    """

    buyers: Sequence[tuple[str, str]]  # (tag, API key)
    paths: Sequence[str] = ("/v1/echo/{tag}/{number}",)
    strangers_in: int = 10

    def questions(self, seed: int, count: int | None = None) -> Callable[[int], Question | None]:
        """A source for ``Load``. Strangers alternate between no key, nonsense, and a well-formed key of nobody."""
        draw = random.Random(seed)
        nobody = (None, "nonsense", new_api_key("test"))

        def question(number: int) -> Question | None:
            if count is not None and number >= count:
                return None
            if self.strangers_in and draw.randrange(self.strangers_in) == 0:
                return Question(f"/v1/echo/{STRANGER}/{number}", nobody[number % 3])
            tag, api_key = self.buyers[draw.randrange(len(self.buyers))]
            return Question(draw.choice(self.paths).format(tag=tag, number=number), api_key)

        return question

"""Webhooks on their way: signed, at least once, in no promised order, again after a failure.

Whatever is due is sent, one after the other; `duplicates` copies of the same event at once, as they arrive in life. The
switches: `delay_ms`, `duplicates` (copies in all), `shuffle_seed` (what is due together goes in an order of its own),
`drop_share` (0–1, lost for good), `paused` (kept until `flush`). Due times are the stand-in's clock's.
"""

import asyncio
import json
import random
from collections.abc import Mapping
from typing import Any

import httpx2

from farebox_portal.standin.books import Books
from farebox_portal.standin.webhook_endpoints import signature
from farebox_portal.standin.wire import Document

# A sandbox of Stripe's tries three times over hours; here it is the same in spirit and shorter.
RETRIES_AFTER_MS = (2_000, 10_000, 60_000, 300_000, 3_600_000)
TIMEOUT_S = 10.0
IDLE_MS = 60_000

SWITCHES: dict[str, Any] = {
    "delay_ms": 0, "duplicates": 1, "shuffle_seed": None, "drop_share": 0, "paused": False,
}  # fmt: skip


class Deliveries:
    def __init__(self, books: Books) -> None:
        self._books = books
        self._woken = asyncio.Event()
        self._idle = asyncio.Event()
        self._random = random.Random(0)  # noqa: S311  (a test's order, no secret)
        self._client: httpx2.AsyncClient | None = None

    @property
    def switches(self) -> dict[str, Any]:
        kept = self._books.settings("deliveries")
        return {name: kept.get(name, value) for name, value in SWITCHES.items()}

    def set(self, given: Mapping[str, Any]) -> None:
        """Raises ValueError for what is no switch, or no position of it."""
        for name, value in given.items():
            _check_switch(name, value)
        kept = self._books.settings("deliveries")
        kept |= given
        self._books.save(kept)
        if given.get("shuffle_seed") is not None:
            self._random = random.Random(given["shuffle_seed"])  # noqa: S311
        self.wake()

    def wake(self) -> None:
        """Something may be due."""
        self._idle.clear()
        self._woken.set()

    def pending(self) -> list[Document]:
        return list(self._books.all("_delivery", state="pending"))

    async def flush(self) -> None:
        """Send all that is pending now, also what is paused or due later. Returns when each was tried once."""
        await self._send_all(self.pending())

    async def settled(self) -> None:
        """Wait until nothing is due."""
        await self._idle.wait()

    async def run(self) -> None:
        """Send what is due, until cancelled."""
        async with httpx2.AsyncClient(timeout=TIMEOUT_S, trust_env=False) as client:
            self._client = client
            while True:
                self._woken.clear()
                await self._send_all(self._due())
                if self._woken.is_set():
                    continue
                self._idle.set()
                try:
                    async with asyncio.timeout(self._next_in_ms() / 1000):
                        await self._woken.wait()
                except TimeoutError:
                    self._idle.clear()

    def _due(self) -> list[Document]:
        if self.switches["paused"]:
            return []
        now_ms = self._books.clock.now_ms()
        due = [each for each in self.pending() if each["due_ms"] <= now_ms]
        # A shuffle needs something to shuffle: what was to follow soon goes along.
        if due and self.switches["shuffle_seed"] is not None:
            return [each for each in self.pending() if not each["attempts"] or each in due]
        return due

    def _next_in_ms(self) -> int:
        if self.switches["paused"]:
            return IDLE_MS
        now_ms = self._books.clock.now_ms()
        waits = [max(1, int(each["due_ms"]) - now_ms) for each in self.pending()]
        return min([IDLE_MS, *waits])

    async def _send_all(self, deliveries: list[Document]) -> None:
        if self.switches["shuffle_seed"] is not None:
            self._random.shuffle(deliveries)
        for delivery in deliveries:
            if self._random.random() < self.switches["drop_share"]:
                delivery["state"] = "dropped"
                self._books.save(delivery)
            else:
                await self._send(delivery, self.switches["duplicates"])
            self._books.commit()

    async def _send(self, delivery: Document, copies: int) -> None:
        endpoint = self._books.find("webhook_endpoint", delivery["endpoint"])
        event = self._books.find("event", delivery["event"])
        if endpoint is None or endpoint["status"] != "enabled" or event is None:
            self._end(delivery, "abandoned")
            return
        payload = _payload(self._books, event, endpoint)
        outcomes = await asyncio.gather(*(self._post(endpoint, payload) for _ in range(copies)))
        if delivery["state"] != "pending":
            return  # sent by somebody else meanwhile
        delivery["attempts"] = [*delivery["attempts"], {"at": self._books.now(), "outcomes": outcomes}]
        if any(isinstance(each, int) and 200 <= each < 300 for each in outcomes):
            self._end(delivery, "delivered")
        elif len(delivery["attempts"]) > len(RETRIES_AFTER_MS):
            self._end(delivery, "failed")
        else:
            delivery["due_ms"] = self._books.clock.now_ms() + RETRIES_AFTER_MS[len(delivery["attempts"]) - 1]
            self._books.save(delivery)

    def _end(self, delivery: Document, state: str) -> None:
        delivery["state"] = state
        self._books.save(delivery)

    async def _post(self, endpoint: Document, payload: str) -> int | str:
        """The status, or why there was none."""
        assert self._client is not None, "deliveries do not run"
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "Stripe-Signature": signature(self._books, endpoint, payload),
            "User-Agent": "Farebox-Standin/1.0 (demo payments)",
        }
        try:
            answer = await self._client.post(endpoint["url"], content=payload.encode(), headers=headers)
        except httpx2.HTTPError as error:
            return type(error).__name__
        return int(answer.status_code)


def _payload(books: Books, event: Document, endpoint: Document) -> str:
    """In the version of the endpoint."""
    return json.dumps(books.show(event) | {"api_version": endpoint["api_version"] or event["api_version"]}, indent=2)


def _check_switch(name: str, value: Any) -> None:
    good = {
        "delay_ms": isinstance(value, int) and value >= 0,
        "duplicates": isinstance(value, int) and 1 <= value <= 20,
        "shuffle_seed": value is None or isinstance(value, int),
        "drop_share": isinstance(value, int | float) and 0 <= value <= 1,
        "paused": isinstance(value, bool),
    }
    if name not in good:
        raise ValueError(f"{name} is none of the switches {', '.join(SWITCHES)}")
    if not good[name]:
        raise ValueError(f"{name} cannot be {value!r}")

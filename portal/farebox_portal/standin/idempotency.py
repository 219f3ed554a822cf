"""`Idempotency-Key`: a POST that is sent again gets the answer that it got, for 24 hours.

kept       every answer since the operation began: also a decline, a 500, a lock timeout
not kept   what was refused before that: parameters, permissions, the rate limiter
409        the first one is still running
400        the key was used with other parameters
"""

import hashlib
from dataclasses import dataclass

from farebox_portal.standin.books import Books
from farebox_portal.standin.wire import Document, Refused

KEPT_S = 24 * 3600
KEY_MAX = 255


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: Document


class Idempotency:
    def __init__(self, books: Books) -> None:
        self._books = books
        self._running: set[str] = set()

    def begin(self, key: str, request: str) -> Answer | None:
        """The answer that is kept under the key, if any; else it is yours, until `end`. Raises Refused."""
        if len(key) > KEY_MAX:
            raise Refused(400, f"Idempotency-Key can be at most {KEY_MAX} characters.")
        if key in self._running:
            raise in_use()
        kept = self._books.find("_answer", key)
        if kept is None or kept["at"] + KEPT_S <= self._books.now():
            self._running.add(key)
            return None
        if kept["request"] != _digest(request):
            raise Refused(
                400,
                "Keys for idempotent requests can only be used with the same parameters they were first used with. Try "
                "using a key other than the one that was used here if you meant to execute a different request.",
                error_type="idempotency_error",
            )
        return Answer(kept["status"], kept["headers"] | {"Idempotent-Replayed": "true"}, kept["body"])

    def keep(self, key: str, request: str, answer: Answer) -> None:
        kept = {"request": _digest(request), "at": self._books.now()} | vars(answer)
        self._books.save({"id": key, "object": "_answer"} | kept)

    def end(self, key: str) -> None:
        self._running.discard(key)

    def prune(self) -> None:
        for kept in self._books.all("_answer"):
            if kept["at"] + KEPT_S > self._books.now():
                return  # in the order of their making, but for those that were kept anew
            self._books.remove(kept)


def in_use() -> Refused:
    return Refused(
        409,
        "There is currently another in-progress request using this Idempotency Key (that probably means you submitted "
        "twice, and the other request is still going through). Please try again later.",
        code="idempotency_key_in_use",
    )


def _digest(request: str) -> str:
    return hashlib.sha256(request.encode()).hexdigest()

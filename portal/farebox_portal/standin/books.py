"""The provider's records: every object by kind and id, in the order of creation.

Operations change documents in place and say `save`; the answer goes out after `commit`. One event loop runs them one at
a time, so an operation sees no other half done.
"""

import copy
import secrets
from collections.abc import Callable, Iterator
from typing import Any

from farebox_portal.standin.blanks import BLANKS
from farebox_portal.standin.clock import StandinClock
from farebox_portal.standin.journal import Journal
from farebox_portal.standin.wire import Document, missing, public

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

View = Callable[["Books", Document], Document]


class Books:
    """`views`: how documents of a kind are completed when they are shown, with what is kept elsewhere."""

    def __init__(self, clock: StandinClock, journal: Journal | None = None) -> None:
        self.clock = clock
        self.base_url = ""  # of our pages; known once we listen
        self.account_id = "acct_standin"
        self.views: dict[str, View] = {}
        self.cause: Document = {"id": None, "idempotency_key": None}  # the request that events come from
        self._journal = journal
        self._kinds: dict[str, dict[str, Document]] = {}
        self._changed: dict[tuple[str, str], Document] = {}
        self._removed: set[tuple[str, str]] = set()
        for (kind, id_), document in journal.saved.items() if journal else ():
            self._kinds.setdefault(kind, {})[id_] = document

    def now(self) -> int:
        return self.clock.now()

    def add(self, kind: str, prefix: str, **fields: Any) -> Document:
        """A new object: every field it has, blank where not given."""
        document: Document = copy.deepcopy(BLANKS.get(kind, {}))
        document |= {"id": new_id(prefix), "object": kind}
        if "created" in document:
            document["created"] = self.now()
        document |= fields
        self.save(document)
        return document

    def save(self, document: Document) -> None:
        kind, id_ = document["object"], document["id"]
        self._kinds.setdefault(kind, {})[id_] = document
        self._changed[kind, id_] = document
        self._removed.discard((kind, id_))

    def remove(self, document: Document) -> None:
        place = document["object"], document["id"]
        self._kinds[place[0]].pop(place[1], None)
        self._changed.pop(place, None)
        self._removed.add(place)

    def find(self, kind: str, id_: str | None) -> Document | None:
        return self._kinds.get(kind, {}).get(id_) if id_ else None

    def get(self, kind: str, id_: str, *, param: str = "id", status: int = 404) -> Document:
        """Raises Refused: 404 for what a path names, 400 for what a parameter names."""
        found = self.find(kind, id_)
        if found is None:
            raise missing(kind.replace(".", " ").replace("_", " "), id_, param=param, status=status)
        return found

    def all(self, kind: str, **equal: Any) -> Iterator[Document]:
        """Oldest first; of those whose fields are equal to what is given (None: whatever they are)."""
        wanted = [(name, value) for name, value in equal.items() if value is not None]
        for document in list(self._kinds.get(kind, {}).values()):
            if all(document.get(name) == value for name, value in wanted):
                yield document

    def newest(self, kind: str, created: Document | None = None, **equal: Any) -> list[Document]:
        """Newest first, as lists are; `created` in Stripe's bounds (gt, gte, lt, lte)."""
        return [each for each in reversed(list(self.all(kind, **equal))) if _within(each, created or {})]

    def settings(self, name: str, **defaults: Any) -> Document:
        """A document of ours that there is one of. To be saved after a change, as any other."""
        found = self.find("_settings", name)
        if found is None:
            found = {"id": name, "object": "_settings"} | defaults
            self._kinds.setdefault("_settings", {})[name] = found
        return found

    def show(self, document: Document) -> Document:
        """As it looks from outside, a copy."""
        view = self.views.get(document["object"])
        shown: Document = public(view(self, document) if view else document)
        return shown

    def commit(self) -> None:
        if self._journal and (self._changed or self._removed):
            self._journal.write(self._changed.values(), self._removed)
        self._changed.clear()
        self._removed.clear()

    def close(self) -> None:
        if self._journal:
            self.commit()
            self._journal.close()

    def clear(self) -> None:
        """Forget everything."""
        self._kinds.clear()
        self._changed.clear()
        self._removed.clear()
        if self._journal:
            self._journal.clear()


def new_id(prefix: str, length: int = 20) -> str:
    return f"{prefix}_" + "".join(secrets.choice(_ALPHABET) for _ in range(length))


def _within(document: Document, bounds: Document) -> bool:
    at = document.get("created", document.get("date", 0))
    return (
        at > bounds.get("gt", -1)
        and at >= bounds.get("gte", 0)
        and ("lt" not in bounds or at < bounds["lt"])
        and ("lte" not in bounds or at <= bounds["lte"])
    )

"""What goes out: objects without what is ours, lists in pages, error objects.

A document is what Stripe calls an object, as a dict. Names that begin with `_` are the stand-in's own notes on it (the
card's number, for instance) and never leave.
"""

from collections.abc import Sequence
from typing import Any

API_VERSION = "2026-10-28.endive"
"""The one version spoken here; a test holds it against the installed SDK's."""

LABEL = "Demo payments: no money moves"

Document = dict[str, Any]
Given = dict[str, Any]

PAGE_DEFAULT = 10


class Refused(Exception):
    """An answer that is an error, in Stripe's words and shape."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        error_type: str = "invalid_request_error",
        headers: dict[str, str] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers or {}
        said = {"type": error_type, "message": message, "code": code, "param": param} | more
        self.body: Document = {"error": {name: value for name, value in said.items() if value is not None}}

    @property
    def code(self) -> str | None:
        found: str | None = self.body["error"].get("code")
        return found

    @property
    def message(self) -> str:
        return str(self.body["error"]["message"])


def missing(kind: str, id_: str, *, param: str = "id", status: int = 404) -> Refused:
    return Refused(status, f"No such {kind}: '{id_}'", code="resource_missing", param=param)


def public(value: Any) -> Any:
    """A deep copy without the stand-in's own notes."""
    if isinstance(value, dict):
        return {name: public(each) for name, each in value.items() if not name.startswith("_")}
    if isinstance(value, list):
        return [public(each) for each in value]
    return value


def page(rows: Sequence[Document], given: Given, url: str) -> Document:
    """One page of `rows`, which are in the order of the list. Raises Refused for a cursor that is not in it."""
    limit = given.get("limit", PAGE_DEFAULT)
    start, end = 0, len(rows)
    if "starting_after" in given:
        start = _place(rows, given, "starting_after") + 1
        more = start + limit < end
        found = rows[start : start + limit]
    elif "ending_before" in given:
        end = _place(rows, given, "ending_before")
        more = end - limit > 0
        found = rows[max(0, end - limit) : end]
    else:
        more = limit < end
        found = rows[:limit]
    return {"object": "list", "data": list(found), "has_more": more, "url": url}


def _place(rows: Sequence[Document], given: Given, cursor: str) -> int:
    for place, row in enumerate(rows):
        if row["id"] == given[cursor]:
            return place
    raise missing("object", given[cursor], param=cursor, status=400)

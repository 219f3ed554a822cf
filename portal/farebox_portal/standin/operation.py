"""One operation of the API: method and path, the permission it needs, what it accepts, and what it does.

`run` gets the books and what was given: the parameters as their shapes read them, and the path's own under their names
(`{id}`). It returns a document, or a list of them (`wire.page`).
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from farebox_portal.standin.books import Books
from farebox_portal.standin.shapes import EXPAND, Shape
from farebox_portal.standin.wire import Document, Given

Run = Callable[[Books, Given], Document]


@dataclass(frozen=True)
class Operation:
    method: str
    path: str
    needs: str
    run: Run
    takes: Mapping[str, Shape] = field(default_factory=dict)

    @property
    def accepts(self) -> Mapping[str, Shape]:
        return {**self.takes, **EXPAND} if self.method != "DELETE" else self.takes

    def match(self, method: str, path: str) -> dict[str, str] | None:
        """The path's own parameters, if this is the operation."""
        if method != self.method:
            return None
        found = re.fullmatch(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", self.path), path)
        return found.groupdict() if found else None


def match(operations: Iterable[Operation], method: str, path: str) -> tuple[Operation, dict[str, str]] | None:
    for operation in operations:
        named = operation.match(method, path)
        if named is not None:
            return operation, named
    return None

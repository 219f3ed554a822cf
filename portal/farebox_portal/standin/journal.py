"""The records on disk: one JSON line for each change, so that an answer that was given survives a kill -9.

    {"save": {document}}          as it is from now on
    {"remove": ["kind", "id"]}

Rewritten without what is past at each start. A last line that was cut off in the middle was never answered for.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from farebox_portal.errors import CannotStart
from farebox_portal.standin.wire import Document

Saved = dict[tuple[str, str], Document]


class Journal:
    """Raises CannotStart for a file that is none of ours."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.saved = _read(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        rewritten = path.with_name(path.name + ".new")
        rewritten.write_text("".join(_line({"save": document}) for document in self.saved.values()))
        rewritten.replace(path)
        self._file = path.open("a")

    def write(self, saved: Iterable[Document], removed: Iterable[tuple[str, str]]) -> None:
        lines = [_line({"save": each}) for each in saved] + [_line({"remove": each}) for each in removed]
        self._file.write("".join(lines))
        self._file.flush()

    def clear(self) -> None:
        self._file.truncate(0)

    def close(self) -> None:
        self._file.close()


def _read(path: Path) -> Saved:
    found: Saved = {}
    text = path.read_text() if path.exists() else ""
    whole, _, _torn = text.rpartition("\n")
    for number, line in enumerate(whole.split("\n") if whole else [], start=1):
        try:
            change = json.loads(line)
            if "save" in change:
                found[change["save"]["object"], change["save"]["id"]] = change["save"]
            else:
                found.pop(tuple(change["remove"]), None)
        except (ValueError, KeyError, TypeError) as error:
            raise CannotStart(f"{path}, line {number}: this is not the state of a payment stand-in") from error
    return found


def _line(change: object) -> str:
    return json.dumps(change, separators=(",", ":")) + "\n"

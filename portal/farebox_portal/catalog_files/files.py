"""Files on disk -> what they say, and the way back: from a fault's pointer to a file and a line."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from farebox_portal.catalog_files.reading import Read, read_yaml
from farebox_portal.errors import Fault, Invalid, pointer

SECTIONS = ("meters", "features", "policies", "addons", "plans", "planAddons", "coupons")
"""In the order in which they build on each other."""
_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class OneDocument:
    """What a file is about; it stands at `at` in the file."""

    name: str
    read: Read
    value: Any
    at: str = ""

    def place(self, fault: Fault, within: str = "") -> Fault:
        """The fault with file and line; `within` is where the document stood in what was refused."""
        if within and not (fault["pointer"] + "/").startswith(within + "/"):
            return fault
        return _placed(fault, self.at + fault["pointer"].removeprefix(within), self.name, self.read)


@dataclass(slots=True)
class CatalogFiles:
    """Several files as one catalog document, for `POST /v1/catalog/apply`."""

    document: dict[str, list[Any]] = field(default_factory=dict)
    _places: dict[tuple[str, int], tuple[str, Read, str]] = field(default_factory=dict)

    def add(self, name: str, read: Read, section: str, index: int, item: Any) -> None:
        items = self.document.setdefault(section, [])
        self._places[section, len(items)] = (name, read, pointer(section, index))
        items.append(item)

    def place(self, fault: Fault) -> Fault:
        """The fault with file and line, if it is about something that a file says."""
        _, section, index, *_ = [*fault["pointer"].split("/"), "", ""]
        found = self._places.get((section, int(index))) if index.isdigit() else None
        if found is None:
            return fault
        name, read, at = found
        at += fault["pointer"].removeprefix(f"/{section}/{index}")
        return _placed(fault, at, name, read)


def read_one(name: str) -> OneDocument:
    """Raises Invalid unless there is exactly one document."""
    found = _read(name)
    if len(found) != 1:
        raise Invalid([{"pointer": name, "detail": "must hold one document"}])
    return OneDocument(name, found[0], found[0].value)


def read_plan(name: str) -> OneDocument:
    """A plan, or the only one in a catalog file. Raises Invalid."""
    whole = read_one(name)
    if not isinstance(whole.value, dict) or "plans" not in whole.value:
        return whole
    plans = whole.value["plans"]
    if not isinstance(plans, list) or len(plans) != 1:
        raise Invalid([whole.place({"pointer": "/plans", "detail": "must be one plan"})])
    return OneDocument(name, whole.read, plans[0], "/plans/0")


def read_catalog(names: Sequence[str]) -> CatalogFiles:
    """All sections of all documents of all files, in any order. Raises Invalid with every fault of shape."""
    files, faults = CatalogFiles(), list[Fault]()
    for name in names:
        for read in _read(name):
            faults += [_placed(fault, fault["pointer"], name, read) for fault in _add(files, name, read)]
    if faults:
        raise Invalid(faults)
    return files


def _add(files: CatalogFiles, name: str, read: Read) -> Iterable[Fault]:
    if not isinstance(read.value, dict):
        yield {"pointer": "", "detail": f"must be an object with {', '.join(SECTIONS)}"}
        return
    for section, items in read.value.items():
        if section not in SECTIONS:
            yield {"pointer": pointer(section), "detail": f"is not one of {', '.join(SECTIONS)}"}
        elif items is not None and not isinstance(items, list):
            yield {"pointer": pointer(section), "detail": "must be a list"}
        else:
            files.document.setdefault(section, [])
            for index, item in enumerate(items or []):
                files.add(name, read, section, index, item)


def _read(name: str) -> list[Read]:
    """Of a file, or of standard input if its name is "-"."""
    try:
        raw = sys.stdin.buffer.read(_BYTES_MAX + 1) if name == "-" else Path(name).read_bytes()
        if len(raw) > _BYTES_MAX:
            raise Invalid([{"pointer": name, "detail": f"has more than {_BYTES_MAX} bytes"}])
        return read_yaml(raw.decode())
    except OSError as error:
        raise Invalid([{"pointer": name, "detail": f"cannot be read: {error.strerror}"}]) from None
    except UnicodeDecodeError:
        raise Invalid([{"pointer": name, "detail": "is not UTF-8"}]) from None
    except Invalid as error:
        faults = [_with_name(fault, name) for fault in error.errors]
        raise Invalid(faults) from None


def _with_name(fault: Fault, name: str) -> Fault:
    if fault["pointer"] == name:
        return fault
    return {"pointer": f"{name} {fault['pointer']}".strip(), "detail": fault["detail"]}


def _placed(fault: Fault, at: str, name: str, read: Read) -> Fault:
    return {"pointer": f"{name}:{read.line(at)}: {at}".removesuffix(": "), "detail": fault["detail"]}

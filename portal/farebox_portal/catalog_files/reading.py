"""YAML as it should have been: the values of JSON, and the line on which each of them stands.

YAML guesses types, and guesses differently in each version: `no` is false, `1_000` a number, `2026-01-01` a date and
`0.1000000000000000001` another number than what was written. Here a plain word is null, true, false or a number only
where JSON would read it so; all else is text. A price that no float holds exactly is a fault, not a rounded price.

Every JSON file is such a YAML file too. Anchors are taken, up to a size: a file of a kilobyte can stand for a terabyte.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import yaml

from farebox_portal.errors import Fault, Invalid, pointer

DEPTH_MAX = 64
VALUES_MAX = 200_000
_WORDS = {"": None, "null": None, "~": None, "true": True, "false": False}
_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,18})")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?")
_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map")}


@dataclass(frozen=True, slots=True)
class Read:
    """One document. `lines`: JSON pointer -> the line, counted from 1, of that field or item."""

    value: Any
    lines: Mapping[str, int]

    def line(self, place: str) -> int:
        """Of the place, or of the closest one that it lies in."""
        while place and place not in self.lines:
            place = place.rpartition("/")[0]
        return self.lines.get(place, 1)


def read_yaml(text: str) -> list[Read]:
    """Its documents, without the empty ones. Raises Invalid: each detail begins with its line."""
    faults: list[Fault] = []
    found: list[Read] = []
    try:
        for root in yaml.compose_all(text, Loader=yaml.BaseLoader):
            walk = _Walk(faults)
            value = walk.value(root, (), 0)
            if value is not None:
                found.append(Read(value, walk.lines))
    except yaml.YAMLError as error:
        faults.append(_syntax_fault(error))
    except RecursionError:
        faults.append({"pointer": "", "detail": "is nested too deeply"})
    except _TooMuch as error:
        faults.append({"pointer": "", "detail": str(error)})
    if faults:
        raise Invalid(faults)
    return found


def is_text(plain: str) -> bool:
    """Whether a word without quotes is the text itself."""
    return not (plain in _WORDS or _NUMBER.fullmatch(plain))


class _TooMuch(Exception):
    """Nothing that follows is worth reading."""


@dataclass
class _Walk:
    """From YAML's nodes to values; an anchor's node is walked again wherever it is meant."""

    faults: list[Fault]
    lines: dict[str, int] = field(default_factory=dict)

    def value(self, node: yaml.Node, path: tuple[str | int, ...], depth: int) -> Any:
        if depth > DEPTH_MAX:
            raise _TooMuch(f"is nested more than {DEPTH_MAX} deep")
        if len(self.lines) >= VALUES_MAX:
            raise _TooMuch(f"has more than {VALUES_MAX} values")
        place = pointer(*path)
        self.lines.setdefault(place, node.start_mark.line + 1)
        if node.tag not in _TAGS:
            self._fault(node, place, "has a tag, which is not understood")
            return None
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, place)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, index), depth + 1) for index, item in enumerate(node.value)]
        return dict(self._fields(node, path, depth))

    def _fields(self, node: yaml.Node, path: tuple[str | int, ...], depth: int) -> Iterator[tuple[str, Any]]:
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._fault(key, pointer(*path), "has a field whose name is not a text")
                continue
            name = str(key.value)
            if name in seen:
                self._fault(key, pointer(*path, name), "stands here twice")
            if name == "<<" and key.style is None:
                self._fault(key, pointer(*path, name), "is not JSON; write the fields out, or anchor the whole of them")
            seen.add(name)
            self.lines[pointer(*path, name)] = key.start_mark.line + 1
            yield name, self.value(value, (*path, name), depth + 1)

    def _scalar(self, node: yaml.ScalarNode, place: str) -> Any:
        text = str(node.value)
        if "\0" in text:
            self._fault(node, place, "contains a NUL character")
        if node.style is not None:
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _WHOLE.fullmatch(text):
            return int(text)
        if _NUMBER.fullmatch(text):
            return self._number(node, place, text)
        return text

    def _number(self, node: yaml.ScalarNode, place: str, text: str) -> float:
        number = float(text)
        if not abs(number) < float("inf") or Decimal(repr(number)) != Decimal(text):
            self._fault(node, place, f'cannot be kept exactly as a number; write it as text: "{text}"')
        return number

    def _fault(self, node: yaml.Node, place: str, detail: str) -> None:
        self.faults.append({"pointer": place, "detail": f"line {node.start_mark.line + 1}: {detail}"})


def _syntax_fault(error: yaml.YAMLError) -> Fault:
    mark = getattr(error, "problem_mark", None)
    place = "" if mark is None else f"line {mark.line + 1}: "
    return {"pointer": "", "detail": f"{place}is not YAML: {getattr(error, 'problem', None) or 'it cannot be read'}"}

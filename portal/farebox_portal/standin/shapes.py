"""What an operation accepts: each parameter's kind, read from text, and nothing else accepted.

Stripe refuses what it does not know. So does the stand-in, and it also refuses what Stripe knows but it does not model:
an adapter must not come to rely on a parameter that has no effect here. A test holds every shape against the SDK's own
types, so that nothing is accepted here that Stripe would refuse.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from farebox_portal.standin.wire import Refused

METADATA_KEYS_MAX = 50
METADATA_KEY_MAX = 40
METADATA_VALUE_MAX = 500


@dataclass(frozen=True)
class Text:
    """`max_length` in characters."""

    max_length: int = 5000


@dataclass(frozen=True)
class Whole:
    minimum: int | None = None
    maximum: int | None = None


@dataclass(frozen=True)
class Exact:
    """A decimal number, twelve places at most."""


@dataclass(frozen=True)
class Flag:
    pass


class Choice:
    def __init__(self, *values: str) -> None:
        self.values = values


@dataclass(frozen=True)
class Metadata:
    pass


@dataclass(frozen=True)
class Range:
    """A moment, or `{gt, gte, lt, lte}`; always read as the latter."""


@dataclass(frozen=True)
class Each:
    item: "Shape"
    items_max: int = 100


@dataclass(frozen=True)
class Needed:
    shape: "Shape"


Shape = Text | Whole | Exact | Flag | Choice | Metadata | Range | Each | Needed | Mapping[str, Any]

MOMENT = Whole(0)
PAGE: dict[str, Shape] = {"limit": Whole(1, 100), "starting_after": Text(), "ending_before": Text()}
EXPAND: dict[str, Shape] = {"expand": Each(Text())}
ADDRESS: dict[str, Shape] = {name: Text() for name in ("city", "country", "line1", "line2", "postal_code", "state")}
_BOUNDS = ("gt", "gte", "lt", "lte")


def read(shape: Shape, value: Any, at: str = "") -> Any:
    """The value that was meant. Raises Refused (400, naming the parameter) for what the shape does not accept."""
    match shape:
        case Needed():
            return read(shape.shape, value, at)
        case Text():
            text = _text(value, at)
            if len(text) > shape.max_length:
                raise Refused(400, f"Invalid string: {at} must be at most {shape.max_length} characters", param=at)
            return text
        case Whole():
            return _whole(shape, value, at)
        case Exact():
            if not re.fullmatch(r"-?\d{1,20}(\.\d{1,12})?", _text(value, at)):
                raise Refused(400, f"Invalid decimal: {value}", code="parameter_invalid_decimal", param=at)
            return Decimal(value)
        case Flag():
            if value not in ("true", "false"):
                raise Refused(400, f"Invalid boolean: {value}", param=at)
            return value == "true"
        case Choice():
            if value not in shape.values:
                raise Refused(400, f"Invalid {at}: must be one of {', '.join(shape.values)}", param=at)
            return value
        case Metadata():
            return _metadata(value, at)
        case Range():
            bounds = value if isinstance(value, dict) else {"gte": value, "lte": value}
            return read(dict.fromkeys(_BOUNDS, MOMENT), bounds, at)
        case Each():
            return _each(shape, value, at)
        case _:
            return _fields(shape, value, at)


def _fields(shape: Mapping[str, Shape], value: Any, at: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Refused(400, f"Invalid object: {at}", param=at)
    for name in value:
        if name not in shape:
            full = _inside(at, name)
            raise Refused(400, f"Received unknown parameter: {full}", code="parameter_unknown", param=full)
    for name, inner in shape.items():
        if isinstance(inner, Needed) and value.get(name, "") == "":
            full = _inside(at, name)
            raise Refused(400, f"Missing required param: {full}.", code="parameter_missing", param=full)
    return {name: read(shape[name], each, _inside(at, name)) for name, each in value.items()}


def _each(shape: Each, value: Any, at: str) -> list[Any]:
    if value == "":
        return []
    if not isinstance(value, dict) or not all(place.isdecimal() for place in value):
        raise Refused(400, f"Invalid array: {at}", param=at)
    if len(value) > shape.items_max:
        raise Refused(400, f"Too many items in {at}: at most {shape.items_max}", param=at)
    return [read(shape.item, value[place], f"{at}[{place}]") for place in sorted(value, key=int)]


def _whole(shape: Whole, value: Any, at: str) -> int:
    text = _text(value, at)
    if not re.fullmatch(r"-?\d{1,15}", text):
        raise Refused(400, f"Invalid integer: {text[:50]}", code="parameter_invalid_integer", param=at)
    number = int(text)
    if shape.minimum is not None and number < shape.minimum:
        raise Refused(400, f"This value must be greater than or equal to {shape.minimum}.", param=at)
    if shape.maximum is not None and number > shape.maximum:
        raise Refused(400, f"This value must be less than or equal to {shape.maximum}.", param=at)
    return number


def _metadata(value: Any, at: str) -> dict[str, str]:
    """An empty value removes its key; an empty `metadata` removes all."""
    if value == "":
        return {}
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        raise Refused(400, f"Invalid object: {at} maps text to text", param=at)
    if len(value) > METADATA_KEYS_MAX:
        raise Refused(400, f"Metadata can have at most {METADATA_KEYS_MAX} keys", param=at)
    for name, each in value.items():
        if len(name) > METADATA_KEY_MAX or len(each) > METADATA_VALUE_MAX:
            limits = f"{METADATA_KEY_MAX} characters, values {METADATA_VALUE_MAX}"
            raise Refused(400, f"Metadata keys can have up to {limits}: {name[:50]}", param=f"{at}[{name}]")
    return value


def _text(value: Any, at: str) -> str:
    if not isinstance(value, str):
        raise Refused(400, f"Invalid string: {at}", param=at)
    return value


def _inside(at: str, name: str) -> str:
    return f"{at}[{name}]" if at else name

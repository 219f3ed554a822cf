"""JSON in and out: camelCase documents, strict about what comes in, and the same field types everywhere."""

import json
import math
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Any, NoReturn

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
)
from pydantic.alias_generators import to_camel

KEY_PATTERN = r"^[a-z0-9]+(?:_[a-z0-9]+)*$"
KEY_LENGTH_MAX = 64


class Input(BaseModel):
    """A document that a caller sends. A field we do not know is a fault: a typing error must not pass for a default."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")


class Output(BaseModel):
    """A document that we send. Optional fields that are not set are left out."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True)

    def wire(self) -> dict[str, Any]:
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def _utc(instant: datetime) -> datetime:
    try:
        return instant.astimezone(UTC)
    except OverflowError:
        raise ValueError("must lie in the years 1 to 9999 of UTC") from None


def _not_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a whole number")
    return value


Key = Annotated[str, StringConstraints(pattern=KEY_PATTERN, max_length=KEY_LENGTH_MAX)]
"""Lower-case letters, digits and single underscores between them; 1 to 64 characters."""
Name = Annotated[str, StringConstraints(min_length=1, max_length=256, strip_whitespace=True)]
Text = Annotated[str, StringConstraints(max_length=1024)]
Metadata = Annotated[dict[str, JsonValue], Field(max_length=50)]
Whole = Annotated[int, BeforeValidator(_not_bool)]
"""A whole number; pydantic would take true for 1."""
Instant = Annotated[AwareDatetime, AfterValidator(_utc)]


class JsonRoute(APIRoute):
    """A route whose JSON body is read strictly. Use as `APIRouter(route_class=JsonRoute)`."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        handle = super().get_route_handler()

        async def read_strictly(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return read_strictly


class _StrictRequest(Request):
    async def json(self) -> Any:
        return parse_json(await self.body())


def parse_json(body: bytes) -> Any:
    """JSON as RFC 8259 has it. Raises json.JSONDecodeError.

    Refuses what Python's reader lets through and what breaks later: NaN and Infinity, numbers beyond all bounds, a
    field given twice, nesting without end, and text that no database or UTF-8 writer takes (NUL, half a surrogate).
    """
    try:
        text = body.decode()
        value = json.loads(text, parse_constant=_not_a_number, parse_float=_finite, object_pairs_hook=_unique)
        if "\\u" in text:
            _storable(json.dumps(value, ensure_ascii=False))
    except json.JSONDecodeError:
        raise
    except UnicodeDecodeError:
        _refuse("it is not UTF-8")
    except UnicodeEncodeError:
        _refuse("it contains half a surrogate pair")
    except RecursionError:
        _refuse("it is nested too deeply")
    except ValueError:
        _refuse("it contains a number with too many digits")
    return value


def _storable(text: str) -> None:
    text.encode()
    if "\\u0000" in text:
        _refuse("it contains a NUL character")


def _refuse(reason: str) -> NoReturn:
    raise json.JSONDecodeError(reason, "", 0) from None


def _not_a_number(_: str) -> NoReturn:
    _refuse("NaN and Infinity are not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        _refuse("it contains a number out of range")
    return number


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        _refuse("it names a field twice")
    return found

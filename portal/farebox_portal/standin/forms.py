"""Stripe's form encoding: `lines[0][period][start]=1` nests, and so does `x[]=a&x[]=b` (x[0], x[1]).

Everything arrives as text in objects; `shapes` knows what was meant, a list or an object whose names are numbers.
Bounded in size, parameters and depth.
"""

import re
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request

from farebox_portal.standin.wire import Refused

FORM_BYTES_MAX = 1 << 20
PARAMETERS_MAX = 5000
DEPTH_MAX = 8

_NAME = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
_PART = re.compile(r"\[([^\[\]]*)\]")


async def read_form(request: Request) -> str:
    """A form as it was sent: the query of a GET, the body of a POST. Raises Refused for too much, or no text."""
    if request.method != "POST":
        return request.url.query
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > FORM_BYTES_MAX:
            raise Refused(413, "Request body is too large")
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise Refused(400, "Invalid form: it is not UTF-8") from error


def parse_form(text: str) -> dict[str, Any]:
    """Nested dicts with text at the leaves. Raises Refused (400) for what cannot be nested."""
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=PARAMETERS_MAX, errors="strict")
    except ValueError as error:
        raise Refused(400, "Invalid form: it cannot be decoded, or has too many parameters") from error
    root: dict[str, Any] = {}
    for name, value in pairs:
        _place(root, _path(name), value, name)
    return root


def _path(name: str) -> list[str]:
    found = _NAME.fullmatch(name)
    if found is None:
        raise Refused(400, f"Invalid parameter name: {name[:100]}")
    path = [found[1], *_PART.findall(found[2])]
    if len(path) > DEPTH_MAX:
        raise Refused(400, f"Parameters are nested too deep: {name[:100]}")
    return path


def _place(root: dict[str, Any], path: list[str], value: str, name: str) -> None:
    place = root
    for part in path[:-1]:
        place = place.setdefault(part or str(max(len(place) - 1, 0)), {})  # `[][a]` is said of the last one
        if not isinstance(place, dict):
            raise Refused(400, f"Invalid parameters: {name[:100]} is both a value and an object", param=path[0])
    last = path[-1] or str(len(place))
    if last in place:
        raise Refused(400, f"Invalid parameters: {name[:100]} is given twice", param=path[0])
    place[last] = value

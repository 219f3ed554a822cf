"""The expressions of a policy: text -> Expression, once; Expression + Facts -> value, per response.

| text | value |
|---|---|
| `usage.inputTokens`, `usage.outputTokens`, `usage.totalTokens`, `usage.cachedInputTokens`, `usage.reasoningTokens` | tokens as the provider stated them, normalised |
| `usage.model` | the model that answered |
| `request.bytes`, `response.bytes` | body bytes as they were sent |
| `json:data.images.length`, `json:items[0].cost` | a member of the response's JSON; `length` of a list or a string is its size |
| `header:x-credits` | a response header |
| `cel:usage.outputTokens * 2` | CEL over `usage`, `request`, `response` and `json` |
| `python:package.module:function` | `function(facts)`, the operator's own code, called in the hot path |

What cannot be evaluated is None, never an exception: the response is somebody else's, and so may the expression be.
"""  # noqa: E501  (a table's rows do not wrap)

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from farebox_plugin.measure.body import Reading, Wants
from farebox_plugin.measure.providers import COUNT_MAX, Usage

UNITS_MAX = (1 << 63) - 1  # what a counter in Valkey and a column in the ledger can hold


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one finished response. None is what the feed that settles it does not tell.

    `headers` are the response's, names in lower case.
    """

    status: int
    request_bytes: int | None = None
    response_bytes: int | None = None
    reading: Reading | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class ExpressionError(ValueError):
    """An expression that means nothing. Its text is for the person who wrote the policy."""


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed expression: what it needs to know of the body, and how it is read."""

    text: str
    wants: Wants
    read: Callable[[Facts], object]


@lru_cache(maxsize=1024)
def parse(text: str) -> Expression:
    """Raises ExpressionError with the reason."""
    kind, colon, rest = text.partition(":")
    if not colon:
        return _named(text)
    if not rest.strip():
        raise ExpressionError(f"'{text}' says nothing behind '{kind}:'.")
    match kind:
        case "json":
            return _json(text, rest)
        case "header":
            name = rest.strip().lower()
            return Expression(text, Wants(), lambda facts: facts.headers.get(name))
        case "cel":
            return _cel(text, rest)
        case "python":
            return _python(text, rest)
    raise ExpressionError(f"'{text}' begins with '{kind}:', which is none of json, header, cel and python.")


def wants(expressions: list[Expression]) -> Wants:
    """What all these expressions together need to know of the body."""
    together = Wants()
    for expression in expressions:
        together |= expression.wants
    return together


def value(expression: Expression, facts: Facts) -> int | str | None:
    """What the expression says about this response: a number as it stands there, or a text."""
    try:
        found = expression.read(facts)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # a panic inside a native library is no Exception
        return None
    if isinstance(found, float) and found.is_integer() and abs(found) <= COUNT_MAX:
        return int(found)
    return found if type(found) in (int, str) else None  # type: ignore[return-value]  # a bool is no number


def units(expression: Expression, facts: Facts) -> int | None:
    """The value as a quantity: an integer from 0 to 2**63 - 1. Only a header may write it as text."""
    found = value(expression, facts)
    if isinstance(found, str) and expression.text.startswith("header:"):
        digits = found.strip()
        found = int(digits) if re.fullmatch(r"[0-9]{1,19}", digits) else None
    return found if isinstance(found, int) and 0 <= found <= UNITS_MAX else None


_USAGE: Mapping[str, Callable[[Usage], int | None]] = {
    "inputTokens": lambda usage: usage.input_tokens,
    "outputTokens": lambda usage: usage.output_tokens,
    "totalTokens": lambda usage: usage.total_tokens,
    "cachedInputTokens": lambda usage: usage.cached_input_tokens,
    "cacheCreationTokens": lambda usage: usage.cache_creation_tokens,
    "reasoningTokens": lambda usage: usage.reasoning_tokens,
}


def _named(text: str) -> Expression:
    root, _, name = text.partition(".")
    if root == "usage" and name in _USAGE:
        read = _USAGE[name]
        return Expression(text, Wants(usage=True), lambda facts: read(usage) if (usage := _usage(facts)) else None)
    match text:
        case "usage.model":
            return Expression(text, Wants(usage=True), lambda facts: facts.reading and facts.reading.model)
        case "request.bytes":
            return Expression(text, Wants(), lambda facts: facts.request_bytes)
        case "response.bytes":
            return Expression(text, Wants(), lambda facts: facts.response_bytes)
    known = ", ".join([*(f"usage.{each}" for each in _USAGE), "usage.model", "request.bytes", "response.bytes"])
    raise ExpressionError(f"'{text}' is none of {known}, and begins with none of json:, header:, cel: and python:.")


def _usage(facts: Facts) -> Usage | None:
    return facts.reading.usage if facts.reading is not None else None


_STEP = re.compile(r"(?:^|\.)([^.\[\]]+)|\[(-?[0-9]{1,6})\]")


def _json(text: str, path: str) -> Expression:
    steps: list[str | int] = []
    end = 0
    while end < len(path):
        step = _STEP.match(path, end)
        if step is None:
            raise ExpressionError(f"'{text}': cannot read the path from '{path[end:]}' on; write it like a.b[0].c.")
        steps.append(step[1] if step[1] is not None else int(step[2]))
        end = step.end()
    roots = frozenset([steps[0]]) if isinstance(steps[0], str) else frozenset()
    frozen = tuple(steps)
    return Expression(text, Wants(document=True, roots=roots), lambda facts: _walk(facts, frozen))


def _walk(facts: Facts, steps: tuple[str | int, ...]) -> object:
    here = facts.reading.document if facts.reading is not None else None
    for step in steps:
        if isinstance(step, int):
            here = here[step] if isinstance(here, list) else None
        elif isinstance(here, dict):
            here = here.get(step)
        elif step == "length" and isinstance(here, (list, str)):
            here = len(here)
        else:
            return None
    return here


_CEL_VARIABLES = frozenset({"usage", "request", "response", "json"})


def _cel(text: str, source: str) -> Expression:
    try:
        import cel  # optional: common-expression-language
    except ImportError as fault:
        raise ExpressionError(f"'{text}' needs the package common-expression-language: {fault}") from fault
    try:
        program = cel.compile(source)
    except Exception as fault:
        raise ExpressionError(f"'{text}': {str(fault).splitlines()[0]}") from fault
    variables = frozenset(program.variables())
    if variables.isdisjoint(
        _CEL_VARIABLES
    ):  # the names bound by map() and exists() are among them, so no more can be told
        raise ExpressionError(f"'{text}' looks at none of usage, request, response and json.")
    needs = Wants(usage="usage" in variables, document="json" in variables)
    return Expression(text, needs, lambda facts: program.execute(_cel_variables(facts)))


def _cel_variables(facts: Facts) -> dict[str, object]:
    """What is not known is left out, so that `has(usage.outputTokens)` says so and any other use is an error: None."""
    usage, reading = _usage(facts), facts.reading
    stated: dict[str, object] = {name: read(usage) for name, read in _USAGE.items()} if usage is not None else {}
    if reading is not None:
        stated["model"] = reading.model
    return {
        "usage": _known(stated),
        "request": _known({"bytes": facts.request_bytes}),
        "response": _known({"bytes": facts.response_bytes, "status": facts.status, "headers": dict(facts.headers)}),
        "json": reading.document if reading is not None else None,
    }


def _known(members: Mapping[str, object]) -> dict[str, object]:
    return {name: member for name, member in members.items() if member is not None}


def _python(text: str, target: str) -> Expression:
    module_name, _, function_name = target.strip().partition(":")
    if not module_name or not function_name:
        raise ExpressionError(f"'{text}': write it like python:package.module:function.")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except Exception as fault:  # importing runs the module, which may do anything
        raise ExpressionError(f"'{text}': {fault}") from fault
    if not callable(function):
        raise ExpressionError(f"'{text}': {function_name} is no function.")
    return Expression(text, Wants(usage=True, document=True), function)

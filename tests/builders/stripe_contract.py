"""Stripe's API as the installed SDK knows it: which parameters an operation takes, and what its answer is made of.

stripe-python's services, parameters (TypedDicts) and resources are generated from Stripe's own specification, for
exactly the version that the package pins. So their source is the specification, and always of the right version. It
is read as syntax, and a value is held against the annotation itself; nothing is generated into this repository.

Stricter than the SDK's types: `Literal["a"] | str` means "a" alone. Not there to be checked: lengths and formats.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cache
from pathlib import Path
from typing import Any

from builders.stripe_types import (
    LISTS,
    PLAIN,
    ROOT,
    Module,
    Record,
    Type,
    alternatives,
    arguments,
    class_of,
    error_type,
    head,
    is_required,
    literals,
    module,
    parsed,
    type_of_object,
)


@dataclass(frozen=True)
class Operation:
    method: str
    path: str
    params: Type | None
    answer: Type


class Contract:
    """Every operation under /v1, found by method and path; what is wrong with a request or an answer, as sentences."""

    def operation(self, method: str, path: str) -> Operation | None:
        for (verb, template), where in operations().items():
            if verb == method.lower() and re.fullmatch(_pattern(template), path):
                return _read_operation(verb, template, where)
        return None

    def request_faults(self, method: str, path: str, params: Mapping[str, Any]) -> list[str]:
        """`params`: nested dicts with text at the leaves, as a form carries it."""
        operation = self.operation(method, path)
        if operation is None:
            return [f"{method} {path} is no operation of Stripe's"]
        if operation.params is None:
            return [f"{name}: takes no parameters" for name in params]
        return list(_faults(operation.params, params, "", sent=True))

    def answer_faults(self, method: str, path: str, status: int, answer: Mapping[str, Any]) -> list[str]:
        operation = self.operation(method, path)
        if operation is None:
            return [f"{method} {path} is no operation of Stripe's"]
        if status >= 300:
            return list(_faults(error_type(), answer.get("error"), "error", sent=False))
        return list(_faults(operation.answer, answer, "", sent=False))

    def object_faults(self, document: Mapping[str, Any]) -> list[str]:
        """Of any object by its `object`: what an event carries."""
        return list(_faults(type_of_object(str(document["object"])), document, "", sent=False))


def _faults(type_: Type, value: Any, at: str, *, sent: bool) -> Iterator[str]:
    """What keeps `value` from being of the type. `sent`: it comes from a form, where every leaf is text."""
    node = type_.node
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield from _faults(type_.of(parsed(node.value.strip(), "eval").body), value, at, sent=sent)
        return
    parts = alternatives(type_)
    if len(parts) > 1:
        yield from _fewest(parts, value, at, sent)
    elif parts[0].node is not node:
        yield from _faults(parts[0], value, at, sent=sent)
    elif isinstance(node, ast.Subscript):
        yield from _subscript_faults(type_, node, value, at, sent)
    elif isinstance(node, ast.Constant) and node.value is None:
        if value is not None:
            yield f"{at}: must be null"
    elif isinstance(node, ast.Name) and node.id in PLAIN and class_of(type_) is None:
        if not _is_plain(node.id, value, sent):
            yield f"{at}: {value!r} is no {node.id}"
    else:
        record = class_of(type_)
        assert record is not None, f"{at}: {ast.unparse(node)} in {type_.module.path.name} is not understood"
        yield from _record_faults(record, value, at, sent)


def _fewest(parts: list[Type], value: Any, at: str, sent: bool) -> list[str]:
    tried = [list(_faults(part, value, at, sent=sent)) for part in parts]
    if any(not each for each in tried):
        return []
    wanted = sorted({str(literal) for part in parts for literal in literals(part)})
    if wanted and isinstance(value, str):
        return [f"{at}: {value!r} is none of {', '.join(wanted)[:200]}"]
    return max(tried, key=lambda faults: max(fault.partition(":")[0].count(".") for fault in faults))


def _subscript_faults(type_: Type, node: ast.Subscript, value: Any, at: str, sent: bool) -> Iterator[str]:
    kind, inner = head(node), arguments(node)
    if kind == "Literal":
        known = literals(type_)
        if value not in known and not (sent and value in map(str, known)):
            yield f"{at}: {value!r} is none of {', '.join(map(str, known))[:200]}"
    elif kind in LISTS:
        if sent and isinstance(value, dict) and all(name.isdecimal() for name in value):
            value = list(value.values())  # a form has no lists, only names that are numbers
        if not isinstance(value, list):
            yield f"{at}: is no list"
        else:
            for place, each in enumerate(value):
                yield from _faults(type_.of(inner[0]), each, f"{at}.{place}", sent=sent)
    elif kind in ("Dict", "UntypedStripeObject"):
        if not isinstance(value, dict):
            yield f"{at}: is no object"
        else:
            for key, each in value.items():
                yield from _faults(type_.of(inner[-1]), each, f"{at}.{key}", sent=sent)
    elif kind == "ExpandableField":
        if not isinstance(value, str):
            yield from _faults(type_.of(inner[0]), value, at, sent=sent)
    elif kind in ("ListObject", "SearchResultObject"):
        yield from _page_faults(type_.of(inner[0]), value, at)
    else:
        raise AssertionError(f"{at}: {ast.unparse(node)} is not understood")


def _page_faults(item: Type, value: Any, at: str) -> Iterator[str]:
    if not isinstance(value, dict) or value.get("object") not in ("list", "search_result"):
        yield f"{at}: is no list object"
        return
    if not isinstance(value.get("has_more"), bool) or not isinstance(value.get("url"), str):
        yield f"{at}: a list object has `has_more` and `url`"
    for place, each in enumerate(value["data"]):
        yield from _faults(item, each, f"{at}.data.{place}", sent=False)


def _record_faults(record: Record, value: Any, at: str, sent: bool) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{at}: is no object"
        return
    fields = record.fields()
    for name, each in value.items():
        if name in fields:
            yield from _faults(fields[name], each, f"{at}.{name}".lstrip("."), sent=sent)
        else:
            yield f"{at}.{name}: is unknown to {record.node.name}".lstrip(".")
    if value.get("deleted") is True:
        return
    for name, type_ in fields.items():
        if name not in value and is_required(type_, is_params=sent):
            yield f"{at}.{name}: is missing".lstrip(".")


def _is_plain(name: str, value: Any, sent: bool) -> bool:
    if name in ("Any", "object"):
        return True
    if name == "StripeObject":
        return isinstance(value, dict)
    if name == "Decimal":
        return isinstance(value, str) and _is_decimal(value)
    if sent:
        patterns = {"int": r"-?\d+", "float": r"-?\d+(\.\d+)?", "bool": "true|false", "str": r"(?s).*"}
        return isinstance(value, str) and re.fullmatch(patterns[name], value) is not None
    if name in ("int", "float"):
        return (
            isinstance(value, int | float) and not isinstance(value, bool) and (name == "float" or value == int(value))
        )
    return isinstance(value, bool if name == "bool" else str)


def _is_decimal(text: str) -> bool:
    """In Stripe's notation: digits and a point, twelve places at most; no exponent."""
    try:
        Decimal(text)
    except InvalidOperation:
        return False
    return re.fullmatch(r"-?\d+(\.\d{1,12})?", text) is not None


@cache
def operations() -> dict[tuple[str, str], Path]:
    """(method, path template) → the service's file. Found by text: to parse all 200 files would take seconds."""
    found = {}
    for file in sorted(ROOT.rglob("*_service.py")):
        if "v2" not in file.relative_to(ROOT).parts:
            for method, path in re.findall(r'_request\(\s*"(get|post|delete)",\s*"(/v1/[^"]+)"', file.read_text()):
                found[method, path] = file
    # The most literal first: /v1/invoices/search before /v1/invoices/{invoice}.
    return dict(sorted(found.items(), key=lambda item: item[0][1].count("{")))


def _pattern(template: str) -> str:
    return re.sub(r"{\w+}", "[^/]+", template)


@cache
def _read_operation(method: str, path: str, file: Path) -> Operation:
    source = module(file)
    service = next(each for name, each in source.classes.items() if name.endswith("Service"))
    for function in service.body:
        if not isinstance(function, ast.FunctionDef):
            continue
        for call in ast.walk(function):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "self._request" and _calls(call, method, path):
                annotations = {each.arg: each.annotation for each in function.args.args}
                params, returns = annotations.get("params"), function.returns
                assert returns is not None
                taken = _params_type(params, source) if params is not None else None
                return Operation(method, path, taken, Type(returns, source))
    raise AssertionError(f"{method} {path} is not in {file.name}")


def _params_type(annotation: ast.expr, source: Module) -> Type:
    """`Optional["InvoiceCreateParams"]` without the Optional: no parameters are none, not null."""
    return Type(arguments(annotation)[0] if head(annotation) == "Optional" else annotation, source)


def _calls(call: ast.Call, method: str, path: str) -> bool:
    said = [each.value for each in ast.walk(call) if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    return method in said and path in said

"""Checking a document in whole: its shape and its sense in one answer, so that one round trip repairs everything.

FastAPI would refuse a misshapen document before our rules saw it, and the caller would learn of them one by one. So a
route takes such a document as it came (`body: Annotated[dict[str, Any], DocumentedAs(PlanInput)]`), and the catalog
asks `shape_faults` first and its own rules after, on every part that has its shape.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, GetJsonSchemaHandler, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from farebox_portal.errors import Fault, pointer

Model = TypeVar("Model", bound=BaseModel)


class DocumentedAs:
    """Annotates a raw body: OpenAPI shows this model."""

    def __init__(self, model: type[BaseModel]) -> None:
        self.model = model

    def __get_pydantic_json_schema__(self, _: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(self.model.__pydantic_core_schema__)


def shape_faults(model: type[BaseModel], document: Any) -> list[Fault]:
    """Every way in which the document does not have the model's shape."""
    try:
        model.model_validate(document)
    except ValidationError as error:
        return [fault_of(fault, document) for fault in error.errors(include_url=False)]
    return []


def well_shaped(model: type[Model], part: Any) -> Model | None:
    """The part of a document that a rule is about; None where its shape is already at fault."""
    try:
        return model.model_validate(part)
    except ValidationError:
        return None


def fault_of(fault: Mapping[str, Any], document: Any) -> Fault:
    """Pydantic's fault with a pointer into the document, and without the value it quotes. None: no document."""
    place = fault["loc"] if document is None else _path(fault["loc"], document, is_missing=fault["type"] == "missing")
    return {"pointer": pointer(*place), "detail": _words(fault)}


def _path(place: Sequence[str | int], document: Any, *, is_missing: bool) -> list[str | int]:
    """Pydantic's path without its own steps, such as the alternatives of a union: what of it is in the document.

    Of what is missing, the last step is not.
    """
    path: list[str | int] = []
    for number, step in enumerate(place):
        if isinstance(document, dict) and (step in document or (is_missing and number == len(place) - 1)):
            document = document.get(step)
        elif isinstance(document, list) and isinstance(step, int) and step < len(document):
            document = document[step]
        else:
            continue
        path.append(step)
    return path


def _words(fault: Mapping[str, Any]) -> str:
    match fault["type"]:
        case "extra_forbidden":
            return "is not a known field"
        case "missing":
            return "is required"
        case "union_tag_not_found":
            return "needs a type"
        case "union_tag_invalid":  # pydantic's own words quote what was sent
            return f"its type must be one of {fault['ctx']['expected_tags']}"
    return str(fault["msg"]).removeprefix("Value error, ")

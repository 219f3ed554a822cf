"""Policies: what a route costs. Envoy's route names one; changing it here reaches the gateway without touching Envoy.

The document is checked down to the grammar of its expressions, because the plugin meets a mistake only when somebody's
request has already been served.
"""

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, StrictBool
from sqlmodel import Session, col, select

from farebox_portal.catalog.tables import Feature, Meter, Policy
from farebox_portal.checking import shape_faults
from farebox_portal.documents import Input, Instant, Key, Output, Whole
from farebox_portal.errors import Conflict, Fault, Invalid, NotFound, pointer

DEFAULT_KEY = "default"
DEFAULT_DOCUMENT: dict[str, Any] = {"key": DEFAULT_KEY, "meters": {"api_requests": 1}}
"""What a route without a policy of its own costs, until somebody stores another policy of that key."""

MAX_TOKENS = "request.maxTokens"
_QUANTITIES = ("inputTokens", "outputTokens", "totalTokens", "cachedInputTokens", "reasoningTokens")
_USAGE = re.compile(r"usage\.(\w+)")
_JSON = re.compile(r"json:[^\s.\[\]]+(?:\.[^\s.\[\]]+|\[[0-9]{1,6}\])*")
_HEADER = re.compile(r"header:[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_PYTHON = re.compile(r"python:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_CEL = re.compile(r"cel:\s*\S.*", re.DOTALL)
_STATUS_RANGE = re.compile(r"([1-5][0-9]{2})(?:-([1-5][0-9]{2}))?")
_EXPRESSION_LENGTH_MAX = 1024
SEEN_WHILE_IT_PASSES = ("response.bytes", "usage.outputTokens", "usage.totalTokens")
"""What can be counted while a response is on its way, so that it can be ended where a limit ends."""
_KINDS = "request.bytes, response.bytes, json:PATH, header:NAME, cel:EXPRESSION or python:MODULE:FUNCTION"


class StatusRange(NamedTuple):
    """HTTP statuses, both ends included."""

    first: int
    last: int


def parse_statuses(value: str | int | Iterable[str | int]) -> list[StatusRange]:
    """`"200-299"`, `"200,201,404"`, `[200, "400-499"]` → ranges in order of appearance. Raises ValueError."""
    words = [value] if isinstance(value, str | int) else list(value)
    pieces = [piece.strip() for word in words for piece in str(word).split(",")]
    if not pieces or pieces == [""]:
        raise ValueError("names no status; a policy that meters nothing leaves out meters instead")
    return [_status_range(piece) for piece in pieces]


def _status_range(piece: str) -> StatusRange:
    if piece == "*":
        raise ValueError('"*" would charge for failures too; list what is billable, such as "200-299"')
    found = _STATUS_RANGE.fullmatch(piece)
    if found is None:
        raise ValueError('must be HTTP statuses or ranges of them, such as "200-299" or "200,201,404"')
    first, last = int(found[1]), int(found[2] or found[1])
    if first > last:
        raise ValueError("a range must begin with its lower status")
    return StatusRange(first, last)


def check_quantity(rule: Any) -> Any:
    """How much of a meter a request costs: a whole number, or an expression. Raises ValueError."""
    if isinstance(rule, int) and not isinstance(rule, bool):
        if not 0 <= rule < 1 << 53:
            raise ValueError("must be 0 (check only) or more, below 2^53")
        return rule
    if not isinstance(rule, str):
        raise ValueError("must be a whole number or an expression")
    if rule.isdigit():
        raise ValueError("write a number without quotes")
    return _check_expression(rule, _QUANTITIES)


def check_dimension(rule: Any) -> Any:
    """What is kept beside the usage. Raises ValueError."""
    if not isinstance(rule, str):
        raise ValueError("must be an expression such as usage.model")
    return _check_expression(rule, (*_QUANTITIES, "model"))


def _check_expression(text: str, usage: tuple[str, ...]) -> str:
    if len(text) > _EXPRESSION_LENGTH_MAX:
        raise ValueError(f"must have at most {_EXPRESSION_LENGTH_MAX} characters")
    if text in ("request.bytes", "response.bytes"):
        return text
    if text == MAX_TOKENS:
        raise ValueError(f"{MAX_TOKENS} is what a caller asks for, not what was used: it belongs into reserve")
    if found := _USAGE.fullmatch(text):
        if found[1] not in usage:
            raise ValueError(f"after usage. one of {', '.join(usage)} is understood here")
        return text
    if any(kind.fullmatch(text) for kind in (_JSON, _HEADER, _CEL, _PYTHON)):
        return text
    raise ValueError(f"must be usage.{usage[0]} or its like, {_KINDS}")


def check_reserve(rule: Any) -> Any:
    """How much is held before the response is known. Raises ValueError."""
    if rule == MAX_TOKENS or (isinstance(rule, int) and not isinstance(rule, bool) and 0 <= rule < 1 << 53):
        return rule
    raise ValueError(f"must be a whole number or {MAX_TOKENS}")


def _check_statuses(value: Any) -> Any:
    if not isinstance(value, str | int | list) or isinstance(value, bool):
        raise ValueError('must be a string such as "200-299", or a list')
    parse_statuses(value)
    return value


def _not_null(value: Any) -> Any:
    if value is None:
        raise ValueError("leave it out to authenticate only; null could be a mistake that gives the route away")
    return value


def _not_empty(meters: dict[str, Any]) -> dict[str, Any]:
    if not meters:
        raise ValueError("is empty, so the route would be free: name a meter, or leave meters out to authenticate only")
    return meters


Quantity = Annotated[int | str, BeforeValidator(check_quantity)]
Dimension = Annotated[str, BeforeValidator(check_dimension)]
Reserve = Annotated[int | str, BeforeValidator(check_reserve)]
Statuses = Annotated[int | str | list[int | str], BeforeValidator(_check_statuses)]
Refusal = Literal["quota_exceeded", "payment_required", "missing_api_key", "invalid_api_key", "expired_api_key"]
RefusalStatus = Annotated[Whole, Field(ge=400, le=599)]
Meters = Annotated[
    dict[Key, Quantity] | None, BeforeValidator(_not_null), AfterValidator(_not_empty), Field(max_length=32)
]


class PolicyInput(Input):
    key: Key
    meters: Meters = None
    dimensions: Annotated[dict[Key, Dimension], Field(default_factory=dict, max_length=16)]
    meter_on_status_codes: Statuses = "200-299"
    required_entitlements: Annotated[list[Key], Field(default_factory=list, max_length=64)]
    reserve: dict[Key, Reserve] = Field(default_factory=dict)
    on_store_failure: Literal["deny", "allow"] = "deny"
    cut_off: StrictBool = False
    status_codes: dict[Refusal, RefusalStatus] = Field(default_factory=dict)


class PolicyDocument(Output):
    key: str
    meters: dict[str, int | str] | None
    dimensions: dict[str, str]
    meter_on_status_codes: int | str | list[int | str]
    required_entitlements: list[str]
    reserve: dict[str, int | str]
    on_store_failure: str
    cut_off: bool
    status_codes: dict[str, int]
    created_at: Instant | None
    updated_at: Instant | None


def show(policy: Policy) -> PolicyDocument:
    return _show(policy.document, policy.created_at, policy.updated_at)


def _show(document: dict[str, Any], created_at: datetime | None, updated_at: datetime | None) -> PolicyDocument:
    whole = PolicyInput.model_validate(document).model_dump()
    return PolicyDocument(**whole, created_at=created_at, updated_at=updated_at)


def faults(document: Any, meters: frozenset[str], features: frozenset[str]) -> list[Fault]:
    """Everything wrong with a policy document. Pure: `meters` and `features` are the slugs and keys there are."""
    return [
        *shape_faults(PolicyInput, document),
        *_unknown(document, meters, features),
        *_idle_reserves(document),
        *_blind_cut_off(document),
    ]


def _unknown(document: Any, meters: frozenset[str], features: frozenset[str]) -> Iterable[Fault]:
    for slug in _part(document, "meters", dict):
        if slug not in meters:
            yield {"pointer": pointer("meters", slug), "detail": "there is no such meter"}
    for index, key in enumerate(_part(document, "requiredEntitlements", list)):
        if isinstance(key, str) and key not in features:
            yield {"pointer": pointer("requiredEntitlements", index), "detail": "there is no such feature"}


def _idle_reserves(document: Any) -> Iterable[Fault]:
    metered = _part(document, "meters", dict)
    for slug in _part(document, "reserve", dict):
        if not isinstance(metered.get(slug), str):
            reason = "only a meter with an expression needs a reserve; this policy has none for it"
            yield {"pointer": pointer("reserve", slug), "detail": reason}


def _blind_cut_off(document: Any) -> Iterable[Fault]:
    rules = _part(document, "meters", dict).values()
    wants_cut_off = isinstance(document, dict) and document.get("cutOff") is True
    if wants_cut_off and not any(rule in SEEN_WHILE_IT_PASSES for rule in rules if isinstance(rule, str)):
        reason = f"needs a meter that can be counted while a response passes: {', '.join(SEEN_WHILE_IT_PASSES)}"
        yield {"pointer": "/cutOff", "detail": reason}


def _part(document: Any, name: str, kind: type[Any]) -> Any:
    part = document.get(name) if isinstance(document, dict) else None
    return part if isinstance(part, kind) else kind()


def create(session: Session, document: dict[str, Any], now: datetime) -> Policy:
    """Raises Invalid with every fault, Conflict when the key is taken."""
    key = _require_valid(session, document)
    if session.get(Policy, key) is not None:
        raise Conflict(f"There is a policy '{key}' already; PUT replaces it.", code="policy_key_taken")
    policy = Policy(key=key, document=document, created_at=now, updated_at=now)
    session.add(policy)
    return policy


def put(session: Session, key: str, document: dict[str, Any], now: datetime) -> tuple[Policy, bool]:
    """Create or replace; the flag tells whether it is new. Raises Invalid with every fault."""
    if document.get("key", key) != key:
        raise Invalid([{"pointer": "/key", "detail": "must be the key in the path, or be left out"}])
    document = {"key": key, **document}
    _require_valid(session, document)
    policy = session.get(Policy, key)
    if policy is None:
        return create(session, document, now), True
    policy.document = document
    policy.updated_at = now
    session.add(policy)
    return policy, False


def get(session: Session, key: str) -> PolicyDocument:
    """What is stored, or the default's built-in document. Raises NotFound."""
    policy = session.get(Policy, key)
    if policy is not None:
        return show(policy)
    if key == DEFAULT_KEY:
        return _show(DEFAULT_DOCUMENT, None, None)
    raise NotFound("There is no such policy.", code="policy_not_found")


def every(session: Session) -> list[PolicyDocument]:
    """All policies by key, the built-in default among them unless it was replaced."""
    stored = [show(policy) for policy in session.exec(select(Policy).order_by(col(Policy.key)))]
    if all(policy.key != DEFAULT_KEY for policy in stored):
        stored.append(_show(DEFAULT_DOCUMENT, None, None))
    return sorted(stored, key=lambda policy: policy.key)


def delete(session: Session, key: str) -> None:
    """The default goes back to its built-in document; routes that name another one are refused. Raises NotFound."""
    policy = session.get(Policy, key)
    if policy is None:
        raise NotFound("There is no such policy in store.", code="policy_not_found")
    session.delete(policy)


def _require_valid(session: Session, document: dict[str, Any]) -> str:
    meters = frozenset(session.exec(select(Meter.slug).where(col(Meter.deleted_at).is_(None))))
    features = frozenset(session.exec(select(Feature.key).where(col(Feature.archived_at).is_(None))))
    found = faults(document, meters, features)
    if found:
        raise Invalid(found)
    return str(document["key"])

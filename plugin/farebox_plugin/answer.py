"""Decision -> Envoy's words. Pure; the only file that builds a CheckResponse.

Envoy allows by default: an empty CheckResponse, or a denial whose status code is 0, lets the request through. So there
is one constructor for denials, and it sets both the gRPC status and an HTTP status that is an error.

An allowed answer is two protobuf messages laid end to end, which by the wire format merges them: the part that is the
same for every request under the same terms is serialized once, and only the request's own part each time.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from math import ceil
from typing import NamedTuple

import orjson
from google.protobuf.struct_pb2 import Struct

from farebox.v1 import layout
from farebox.v1.envoy_authz_pb2 import CheckResponse, HeaderValue, HeaderValueOption
from farebox_plugin.encode import field, number_tag, tag, varint
from farebox_plugin.records import Asked, Call, Grant, Refusal
from farebox_plugin.terms import FOREVER_MS, Terms

METADATA_NAMESPACE = "envoy.filters.http.ext_authz"  # where Envoy keeps what we answer, whatever the filter is called
GRANT = "grant"  # the field in it that comes back to us
CREDENTIAL_HEADERS = ("authorization", "x-api-key")
UPGRADE_HELPS = ("quota_exceeded", "not_entitled")
PROBLEM_TYPE = "application/problem+json"
PROBLEM_BASE = "https://farebox.dev/problems/"

_OVERWRITE = HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
# code -> HTTP status, title. A policy may remap the status of the ones marked in the documentation.
PROBLEMS = {
    "missing_api_key": (401, "API key required"),
    "invalid_api_key": (401, "Invalid API key"),
    "expired_api_key": (401, "Expired API key"),
    "no_active_subscription": (403, "No active subscription"),
    "payment_required": (403, "Payment required"),
    "not_entitled": (403, "Not included in the plan"),
    "quota_exceeded": (403, "Quota exceeded"),
    "rate_limited": (429, "Too many requests"),
    "metering_unavailable": (503, "Metering unavailable"),
    "policy_unknown": (500, "Route misconfigured"),
}
# google.rpc.Code for HTTP statuses: https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto
_UNAUTHENTICATED, _PERMISSION_DENIED, _RESOURCE_EXHAUSTED, _UNAVAILABLE, _INTERNAL = 16, 7, 8, 14, 13


def allowed(call: Call, terms: Terms, committed: list[int], rate_left: int | None, held: Mapping[str, int]) -> bytes:
    """An admitted request's answer. `held`: for ext_proc, should the body tell no usage.

    Everything that settling needs travels as one text, the grant: each field of a Struct is a message in a message,
    and Envoy's feeds bring back one for each request. The few bytes that are the request's own are put together by
    hand, which costs a fifth of filling a CheckResponse; a test compares the two.
    """
    words = _words(terms)
    text = f"{call.rid} {words.grant}"
    if held:
        text += " " + ",".join(f"{meter}={units}" for meter, units in held.items() if meter != layout.OPEN_REQUEST)
    grant = text.encode()
    parts = [words.prefix, _before_grant(len(grant)), grant]
    if words.rate_limit_policy:
        rate_limit = _rate_limit(terms, words.limits, committed, rate_left, call.admitted_at_ms).encode()
        if rate_limit:
            parts += (_before_rate_limit(len(rate_limit)), rate_limit, _APPEND_OVERWRITE)
    return b"".join(parts)


class _Limit(NamedTuple):
    """A counter with a quota: where it stands among the terms' counters."""

    place: int
    quota: int
    resets_at_ms: int


class _Words(NamedTuple):
    """What answers under the same terms are put together from."""

    prefix: bytes
    grant: str
    rate_limit_policy: str
    limits: tuple[_Limit, ...]


def _words(terms: Terms) -> _Words:
    if not terms.kept:  # with the terms, and gone with them
        limits = [
            _Limit(at, each.quota, each.resets_at_ms) for at, each in enumerate(terms.counters) if each.quota >= 0
        ]
        # None of these has a space in it: they are ids of ours, and slugs.
        grant = f"{terms.account} {terms.subscription} {terms.key} {terms.policy.key}"
        terms.kept.append(_Words(_prefix(terms), grant, _rate_limit_policy(terms), tuple(limits)))
    words: _Words = terms.kept[0]
    return words


def _prefix(terms: Terms) -> bytes:
    response = CheckResponse()
    response.status.code = 0
    ok = response.ok_response
    for name, value in (
        ("x-farebox-customer", terms.customer_key),
        ("x-farebox-subscription", terms.subscription),
        ("x-farebox-plan", terms.plan_key),
        ("x-farebox-key", terms.key),
    ):
        _set(ok.headers.add(), name, value)
    ok.headers_to_remove.extend(CREDENTIAL_HEADERS)
    if policy := _rate_limit_policy(terms):
        _set(ok.response_headers_to_add.add(), "RateLimit-Policy", policy)
    return response.SerializeToString()


# The bytes around a text of ours depend on its length alone, and texts are about as long as each other.
@lru_cache(maxsize=4096)
def _before_grant(size: int) -> bytes:
    value = field(_STRING_VALUE, bytes(size))
    return field(_METADATA, field(_MAP_ENTRY, _GRANT_KEY + field(_SECOND, value)))[: -size or None]


@lru_cache(maxsize=4096)
def _before_rate_limit(size: int) -> bytes:
    header = field(_FIRST, _RATE_LIMIT_NAME + field(_SECOND, bytes(size)))
    return field(_OK_RESPONSE, field(_RESPONSE_HEADER, header + _APPEND_OVERWRITE))[: -size - len(_APPEND_OVERWRITE)]


_FIRST, _SECOND = tag(1), tag(2)  # of a map's entry, and of HeaderValue: key and value
_OK_RESPONSE, _METADATA = tag(3), tag(4)  # of CheckResponse
_RESPONSE_HEADER = tag(6)  # of OkHttpResponse
_MAP_ENTRY, _STRING_VALUE = tag(1), tag(3)  # of Struct, of Value
_APPEND_OVERWRITE = number_tag(3) + varint(_OVERWRITE)  # of HeaderValueOption
_GRANT_KEY = field(_FIRST, GRANT.encode())
_RATE_LIMIT_NAME = field(_FIRST, b"RateLimit")


def read_grant(metadata: Struct | None) -> Grant | None:
    """What `allowed` put into the metadata, as a feed brings it back; None for a request that was not let through."""
    text = grant_text(metadata)
    return parse_grant(text) if text else None


def grant_text(metadata: Struct | None) -> str:
    """The grant as it travels: the rid first, the rest the same for all requests under the same terms."""
    found = metadata.fields.get(GRANT) if metadata is not None else None
    return found.string_value if found is not None else ""


def parse_grant(text: str) -> Grant:
    rid, account, subscription, key, policy, *held = text.split(" ")
    return Grant(rid, account, subscription, key, policy, _read_held(held[0]) if held else {})


def _read_held(text: str) -> dict[str, int]:
    pairs = (part.partition("=") for part in text.split(",")) if text else ()
    return {meter: int(units) for meter, _, units in pairs}


def denied(
    call: Call, refusal: Refusal, status: int | None, public_url: str, rate_limit: tuple[str, str] | None
) -> bytes:
    """A refusal as an RFC 9457 problem. `status` overrides the code's own (a policy's `statusCodes`)."""
    http_status = status or PROBLEMS[refusal.code][0]
    assert 400 <= http_status <= 599, "a denial with another status lets the request through"
    asked = call.asked()
    response = CheckResponse()
    grpc_status = _grpc_status(refusal.code, http_status)
    response.status.code = grpc_status
    body = response.error_response if refusal.code == "metering_unavailable" else response.denied_response
    body.status.code = http_status
    body.body = _problem(asked, refusal, http_status, public_url).decode()
    _set(body.headers.add(), "content-type", PROBLEM_TYPE)
    if http_status == 401:
        challenge = 'Bearer realm="api"' + ("" if refusal.code == "missing_api_key" else ', error="invalid_token"')
        _set(body.headers.add(), "www-authenticate", challenge)
    if refusal.retry_after_s is not None:
        _set(body.headers.add(), "retry-after", str(refusal.retry_after_s))
    if rate_limit is not None:
        _set(body.headers.add(), "RateLimit-Policy", rate_limit[0])
        _set(body.headers.add(), "RateLimit", rate_limit[1])
    if asked.is_grpc:
        # Without it a gRPC client reads a 429 as UNAVAILABLE, which it retries at once.
        _set(body.headers.add(), "grpc-status", str(grpc_status))
    return response.SerializeToString()


def rate_limit_headers(terms: Terms, committed: list[int], rate_left: int | None, at_ms: int) -> tuple[str, str] | None:
    """``RateLimit-Policy`` and ``RateLimit``; None if unlimited.

    Structured fields (RFC 9651). Source: draft-ietf-httpapi-ratelimit-headers.
    """
    words = _words(terms)
    if not words.rate_limit_policy:
        return None
    return words.rate_limit_policy, _rate_limit(terms, words.limits, committed, rate_left, at_ms)


def _rate_limit(
    terms: Terms, limits: tuple[_Limit, ...], committed: list[int], rate_left: int | None, at_ms: int
) -> str:
    """What is left: of the tightest quota, and of the rate."""
    value = ""
    if limits and committed:
        left, counter = limits[0].quota - committed[limits[0].place], limits[0]
        for limit in limits[1:]:
            if limit.quota - committed[limit.place] < left:
                left, counter = limit.quota - committed[limit.place], limit
        value = f'"quota";r={max(left, 0)}'
        if counter.resets_at_ms < FOREVER_MS:
            value += f";t={max(-((at_ms - counter.resets_at_ms) // 1000), 0)}"
    if terms.emission_us and rate_left is not None:
        full_in_s = -((rate_left * terms.emission_us - terms.tolerance_us) // 1_000_000)
        rate = f'"rate";r={max(rate_left, 0)};t={max(full_in_s, 0)}'
        value = f"{value}, {rate}" if value else rate
    return value


def _rate_limit_policy(terms: Terms) -> str:
    entries = []
    limited = [counter for counter in terms.counters if counter.quota >= 0]
    if limited:
        counter = min(limited, key=lambda each: each.quota)
        window = f";w={counter.period_ms // 1000}" if counter.period_ms < FOREVER_MS else ""
        entries.append(f'"quota";q={counter.quota}{window}')
    if terms.emission_us:
        requests = terms.tolerance_us // terms.emission_us
        entries.append(f'"rate";q={requests};w={max(ceil(terms.tolerance_us / 1_000_000), 1)}')
    return ", ".join(entries)


def _problem(asked: Asked, refusal: Refusal, status: int, public_url: str) -> bytes:
    resets_at_ms = refusal.resets_at_ms
    return problem(
        refusal.code,
        refusal.detail,
        status,
        instance=asked.path,
        requestId=asked.request_id,
        meter=refusal.meter,
        limit=refusal.limit,
        used=refusal.used,
        resetsAt=rfc3339(resets_at_ms) if resets_at_ms is not None and resets_at_ms < FOREVER_MS else None,
        upgradeUrl=f"{public_url}/pricing" if public_url and refusal.code in UPGRADE_HELPS else None,
    )


def problem(code: str, detail: str, status: int, instance: str | None = None, **members: str | int | None) -> bytes:
    """A problem document (RFC 9457); what is None is left out."""
    document = {
        "type": PROBLEM_BASE + code,
        "title": PROBLEMS[code][1],
        "status": status,
        "detail": detail,
        "instance": instance,
        "code": code,
        **members,
    }
    return orjson.dumps({name: value for name, value in document.items() if value is not None})


def rfc3339(instant_ms: int) -> str:
    return datetime.fromtimestamp(instant_ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _grpc_status(code: str, http_status: int) -> int:
    if http_status == 401:
        return _UNAUTHENTICATED
    if code in ("quota_exceeded", "rate_limited"):
        return _RESOURCE_EXHAUSTED
    if http_status >= 500:
        return _UNAVAILABLE if http_status == 503 else _INTERNAL
    return _PERMISSION_DENIED


def _set(option: HeaderValueOption, name: str, value: str) -> None:
    option.header.CopyFrom(HeaderValue(key=name, value=value))
    option.append_action = _OVERWRITE

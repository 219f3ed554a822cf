"""Envoy's CheckRequest -> Call."""

import re

from farebox.v1 import digest
from farebox.v1.envoy_authz_pb2 import CheckRequest
from farebox.v1.rid import make_rid
from farebox_plugin.records import Call

# What nearly all say; whatever differs from it goes the long way.
_USUAL = re.compile(f"Bearer ({digest.PATTERN.pattern})")
NOT_VALID = "The API key is not valid or was revoked."


def read_call(message: bytes) -> Call:
    """Parse one Check. Raises google.protobuf DecodeError on bytes that are no CheckRequest."""
    attributes = CheckRequest.FromString(message).attributes
    request = attributes.request
    http, time = request.http, request.time
    headers = http.headers
    admitted_at_ms = time.seconds * 1000 + time.nanos // 1_000_000
    api_key, fault = credential(headers.get("authorization"), headers.get("x-api-key"))
    policy = attributes.context_extensions.get("farebox.policy") or "default"
    return Call(make_rid(admitted_at_ms, http.id), admitted_at_ms, policy, api_key, fault, message)


def credential(authorization: str | None, x_api_key: str | None) -> tuple[str | None, str | None]:
    """The API key of a request, or what is wrong with it: (key, None), (None, fault), or (None, None) if there is none.

    Envoy joins repeated headers with a comma, and no key contains one: a comma means somebody sent several, and which
    of them a proxy on the way looked at is anybody's guess.
    """
    if x_api_key is None and authorization is not None and (usual := _USUAL.fullmatch(authorization)) is not None:
        return usual[1], None
    bearer = None
    if authorization is not None:
        scheme, _, rest = authorization.partition(" ")
        bearer = rest.strip()
        if scheme.lower() != "bearer" or not bearer:
            return None, "The Authorization header must be 'Bearer API_KEY'."
    key = bearer if bearer is not None else x_api_key
    if key is None or (bearer is None and not key.strip()):
        return None, None
    if bearer is not None and x_api_key is not None and bearer != x_api_key:
        return None, "Authorization and x-api-key carry different keys."
    if "," in key:
        return None, "More than one API key was sent."
    if digest.PATTERN.fullmatch(key) is None:
        return None, NOT_VALID
    return key, None

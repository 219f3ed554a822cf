"""The few frozen shapes that every file here speaks in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from farebox.v1.envoy_authz_pb2 import CheckRequest
from farebox.v1.rid import rid_time_ms

NOTHING: Mapping[str, int] = MappingProxyType({})
NO_LABELS: Mapping[str, str] = MappingProxyType({})
REQUEST_NAMESPACE = "farebox.request"  # where Envoy's json_to_metadata puts what the request body says


# Tuples, where one is made for every request: a frozen dataclass takes three times as long.
class Call(NamedTuple):
    """What Envoy asked about, reduced to what deciding needs."""

    rid: str  # made from Envoy's stream identity: the same for a retried Check, never taken from a client header
    admitted_at_ms: int  # when the request's first byte reached Envoy; decides its billing period
    policy: str
    api_key: str | None
    key_fault: str | None  # why the credential cannot even be looked up, in words for its owner
    # Envoy's CheckRequest, as it came: what few calls need is read from it when one does. Bytes, because the parsed
    # messages of all that wait for a decision would push everything else out of the processor's cache.
    message: bytes

    def asked(self) -> "Asked":
        http = CheckRequest.FromString(self.message).attributes.request.http
        return Asked(
            path=http.path.partition("?")[0],
            request_id=http.headers.get("x-request-id", ""),
            is_grpc=http.headers.get("content-type", "").startswith("application/grpc"),
        )

    def max_tokens(self) -> int | None:
        """How many tokens the answer may have, as the request's body says; None where nobody told."""
        metadata = CheckRequest.FromString(self.message).attributes.metadata_context.filter_metadata
        if REQUEST_NAMESPACE not in metadata:
            return None
        fields = metadata[REQUEST_NAMESPACE].fields
        for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"):
            if name in fields:
                number = fields[name].number_value
                if 0 < number <= 10**9 and number == int(number):
                    return int(number)
        return None


class Asked(NamedTuple):
    """What a refusal says of the request."""

    path: str  # without the query
    request_id: str
    is_grpc: bool


@dataclass(frozen=True, slots=True)
class Refusal:
    """A normal answer that is not yes. `code` is a problem code of the public surface."""

    code: str
    detail: str
    meter: str | None = None
    limit: int | None = None
    used: int | None = None
    resets_at_ms: int | None = None
    retry_after_s: int | None = None


class KeyOwner(NamedTuple):
    """Whose an API key is."""

    account_id: str
    key_id: str


class Grant(NamedTuple):
    """Who was let through, and under which policy: everything that settling needs, carried in Envoy's metadata."""

    rid: str
    account: str
    subscription: str
    key: str
    policy: str
    held: Mapping[str, int] = NOTHING  # meter -> units held; only where the body is metered

    @property
    def admitted_at_ms(self) -> int:
        return rid_time_ms(self.rid)


class Settlement(NamedTuple):
    """What an admitted request used. No quantities: void, the hold is given back and nothing is billed."""

    grant: Grant
    status: int
    quantities: Mapping[str, int]
    flags: tuple[str, ...] = ()
    dimensions: Mapping[str, str] = NO_LABELS
    is_measured: bool = True  # False: the policy's fixed quantities, of which nothing is to be learned
    alike: Sequence[str] = ()  # rids of further requests that were granted the same and used the same

    @property
    def rids(self) -> list[str]:
        return [self.grant.rid, *self.alike]


class Unavailable(Exception):
    """The store cannot answer now: it is down, slow, loading, read-only or full. Never a reason to deny or to allow."""

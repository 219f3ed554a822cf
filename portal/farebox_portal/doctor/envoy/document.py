"""Reads a bootstrap, and finds in it what is Farebox's. Knows nothing of right and wrong.

Envoy takes `failureModeAllow` for `failure_mode_allow`; here every field has the second form. An extension is known by
its `@type`, whatever it is called, and is ours when its name, its `stat_prefix` or its cluster begins with `farebox`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from farebox_portal.errors import FareboxError

Json = dict[str, Any]
EXT_AUTHZ = "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz"
EXT_AUTHZ_ROUTE = "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute"
EXT_PROC = "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor"
EXT_PROC_ROUTE = "envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute"
HEADER_MUTATION = "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation"
EARLY_HEADER_MUTATION = "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"
ACCESS_LOG = "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig"
FILTER_CONFIG = "envoy.config.route.v3.FilterConfig"
_MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_OURS = re.compile(r"farebox\b|farebox_", re.ASCII)
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)s")
_BYTES_MAX = 4 << 20


@dataclass(frozen=True, slots=True)
class Filter:
    """An HTTP filter of a manager. `place`: where it stands among the others, for order."""

    name: str
    kind: str
    config: Json
    is_disabled: bool
    place: int


@dataclass(frozen=True, slots=True)
class Manager:
    """An HTTP connection manager. `route_config` None: it comes from elsewhere (RDS)."""

    listener: str
    config: Json
    filters: tuple[Filter, ...]
    route_config: Json | None

    def of(self, kind: str) -> list[Filter]:
        return [one for one in self.filters if one.kind == kind and is_ours(one.name, one.config)]

    @property
    def asks(self) -> Filter | None:
        """Our filter that asks the plugin: the one that is on unless a route switches it off."""
        found = self.of(EXT_AUTHZ)
        return next((one for one in found if not one.is_disabled), found[0] if found else None)


@dataclass(frozen=True, slots=True)
class Bootstrap:
    managers: tuple[Manager, ...]
    clusters: Mapping[str, Json] = field(default_factory=dict)


class NotABootstrap(FareboxError):
    """Raised for a file that is no Envoy configuration. Says what was expected."""

    default_code = "not_an_envoy_config"


def read_bootstrap(text: str) -> Bootstrap:
    """YAML or JSON. Raises NotABootstrap."""
    import yaml  # only this command needs it

    if len(text) > _BYTES_MAX:
        raise NotABootstrap(f"is larger than {_BYTES_MAX >> 20} MB")
    try:
        raw = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        raise NotABootstrap("is not YAML" + (f", line {mark.line + 1}" if mark else "")) from None
    static = _dict(_plain(raw), "static_resources")
    if not static:
        raise NotABootstrap("has no static_resources: expected is a whole bootstrap, as `envoy -c` takes it")
    managers = tuple(manager for listener in _dicts(static, "listeners") for manager in _managers(listener))
    return Bootstrap(managers, {str(one.get("name")): one for one in _dicts(static, "clusters")})


def _managers(listener: Json) -> Iterator[Manager]:
    chains = [*_dicts(listener, "filter_chains"), _dict(listener, "default_filter_chain")]
    for each in (each for chain in chains for each in _dicts(chain, "filters")):
        config = _dict(each, "typed_config")
        if kind_of(config) == _MANAGER:
            filters = tuple(_filter(one, place) for place, one in enumerate(_dicts(config, "http_filters")))
            route_config = config.get("route_config")
            known = route_config if isinstance(route_config, dict) else None
            yield Manager(str(listener.get("name", "")), config, filters, known)


def _filter(raw: Json, place: int) -> Filter:
    config = _dict(raw, "typed_config")
    return Filter(str(raw.get("name", "")), kind_of(config), config, raw.get("disabled") is True, place)


def kind_of(config: Json) -> str:
    """The type's name, without the host before it."""
    return str(config.get("@type", "")).rpartition("/")[2]


def is_ours(name: str, config: Json) -> bool:
    named = (name, str(config.get("stat_prefix", "")), cluster_of(config))
    return any(_OURS.match(one) for one in named)


def cluster_of(config: Json) -> str:
    """Where a filter's or an access log's gRPC goes; "" if that is not a cluster."""
    grpc = _dict(config, "grpc_service") or _dict(config, "common_config", "grpc_service")
    return str(_dict(grpc, "envoy_grpc").get("cluster_name", ""))


def seconds(value: Any) -> float | None:
    """Of `"0.5s"`; None for anything else."""
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    return float(found[1]) if found else None


def _dict(part: Any, *path: str) -> Json:
    for name in path:
        part = part.get(name) if isinstance(part, dict) else None
    return part if isinstance(part, dict) else {}


def _dicts(part: Any, name: str) -> list[Json]:
    found = part.get(name) if isinstance(part, dict) else None
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


child, children = _dict, _dicts


def _plain(value: Any) -> Any:
    """Fields in the form of Envoy's documentation. What is not a field but a name stays: filters, policies."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if not isinstance(value, dict):
        return value
    found = {}
    for key, part in value.items():
        name = _HUMP.sub("_", str(key)).lower()
        if name in ("context_extensions", "typed_per_filter_config", "typed_extension_protocol_options"):
            names = part.items() if isinstance(part, dict) else ()
            found[name] = {str(one): _plain(said) for one, said in names}
        else:
            found[name] = _plain(part)
    return found

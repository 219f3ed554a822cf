"""Whom Envoy asks before it lets a request in, what it does when nobody answers, and what reaches the upstream.

Sources: Envoy 1.40's documentation of ext_authz and header_mutation, and what was seen of it: a header to remove that
`decoder_header_mutation_rules` does not allow is left in silence; `retry_back_off.max_interval` is also the timeout of
each try (envoyproxy/envoy#38847), and ten times `base_interval` where it is not set.
"""

import re
from collections.abc import Iterator

from farebox_portal.doctor.envoy.document import (
    EARLY_HEADER_MUTATION,
    EXT_AUTHZ,
    EXT_PROC,
    HEADER_MUTATION,
    Bootstrap,
    Filter,
    Json,
    Manager,
    child,
    children,
    cluster_of,
    kind_of,
    seconds,
)
from farebox_portal.doctor.report import Finding, fail, warn

CREDENTIALS = ("authorization", "x-api-key")
IDENTITY = ("x-farebox-customer", "x-farebox-subscription", "x-farebox-plan", "x-farebox-key")
_PREFIX = "x-farebox-"
_BASE_INTERVAL_S = 0.025  # Envoy's default
_PATHS = {
    "normalize_path": True,
    "merge_slashes": True,
    "path_with_escaped_slashes_action": "REJECT_REQUEST",
}


def lint_manager(manager: Manager) -> Iterator[Finding]:
    where = f"listener {manager.listener!r}"
    asks = manager.asks
    if asks is None:
        yield fail(
            f"{where} asks nobody: it has no ext_authz filter of ours", "paste `farebox envoy-config --filters-only`"
        )
        return
    yield from _asking(asks)
    yield from _order(manager, asks)
    yield from _identity(manager, where)
    yield from _paths(manager, where)


def _asking(asks: Filter) -> Iterator[Finding]:
    config, name = asks.config, asks.name
    if asks.is_disabled:
        yield fail(f"{name} is off unless a route switches it on", f"remove `disabled: true` from {name}")
    if config.get("failure_mode_allow") is True:
        yield fail(
            f"{name} lets everybody in while the plugin is away (failure_mode_allow)",
            "failure_mode_allow: false; a policy may say onStoreFailure: allow instead, which still counts",
        )
    if config.get("clear_route_cache") is True:
        yield fail(
            f"{name} has the route chosen anew after it was authorized (clear_route_cache)", "clear_route_cache: false"
        )
    if child(config, "status_on_error").get("code") in (None, "Forbidden", 403):
        yield warn(
            f"{name} answers 403 while the plugin is away, which reads as a bad key",
            "status_on_error: {code: ServiceUnavailable}",
        )
    yield from _mutation_rules(name, child(config, "decoder_header_mutation_rules"))
    yield from _retries(name, child(config, "grpc_service"))


def _mutation_rules(name: str, rules: Json) -> Iterator[Finding]:
    """What the plugin may set and remove. Without rules, all of it."""
    if not rules:
        return
    lacking = [header for header in (*CREDENTIALS, *IDENTITY) if not _may_change(rules, header)]
    remedy = f"list them in {name}'s decoder_header_mutation_rules.allow_expression"
    keys = [header for header in lacking if header in CREDENTIALS]
    if keys:
        yield fail(
            f"{name} may not remove {' and '.join(keys)}, and leaves them there in silence",
            remedy,
        )
    if others := [header for header in lacking if header in IDENTITY]:
        yield fail(f"{name} may not set {', '.join(others)}", remedy)


def _may_change(rules: Json, header: str) -> bool:
    """As Envoy decides it: disallowed by expression, then allowed by expression, then the rest."""
    if _matches(rules.get("disallow_expression"), header):
        return False
    if _matches(rules.get("allow_expression"), header):
        return True
    return rules.get("disallow_all") is not True


def _matches(expression: object, header: str) -> bool:
    pattern = child(expression).get("regex")
    try:
        return isinstance(pattern, str) and re.fullmatch(pattern, header) is not None
    except re.error:
        return False


def _retries(name: str, grpc: Json) -> Iterator[Finding]:
    timeout_s = seconds(grpc.get("timeout")) or 0.2
    policy = child(grpc, "retry_policy") or child(grpc, "envoy_grpc", "retry_policy")
    if not policy:
        yield warn(f"{name} asks once: a worker that is replaced costs requests", "retry_policy as in envoy.yaml")
        return
    predicates = [one.get("name") for one in children(policy, "retry_host_predicate")]
    if "envoy.retry_host_predicates.previous_hosts" not in predicates:
        yield warn(
            f"{name} may ask the worker again that has just died",
            "retry_host_predicate: previous_hosts, as in envoy.yaml",
        )
    back_off = child(policy, "retry_back_off")
    base_s = seconds(back_off.get("base_interval")) or _BASE_INTERVAL_S
    max_s = seconds(back_off.get("max_interval")) or 10 * base_s
    if back_off and max_s < timeout_s:
        yield fail(
            f"{name} gives up each try after {max_s:g} s, as retry_back_off.max_interval is its timeout too: "
            "answers that take longer are refused",
            f"max_interval: {timeout_s:g}s, the same as timeout",
        )


def _order(manager: Manager, asks: Filter) -> Iterator[Finding]:
    for one in manager.filters:
        if one.kind == EXT_PROC and one in manager.of(EXT_PROC) and one.place < asks.place:
            yield fail(f"{one.name} stands before {asks.name} and sees no decision", f"move it behind {asks.name}")
        if one.kind == EXT_PROC and one.config.get("route_cache_action") == "CLEAR" and one.place > asks.place:
            yield fail(
                f"{one.name} may have the route chosen anew after it was authorized", "route_cache_action: RETAIN"
            )
        if one.kind == EXT_AUTHZ and one.place > asks.place and one.config.get("clear_route_cache") is True:
            yield fail(f"{one.name} has the route chosen anew after it was authorized", "clear_route_cache: false")
    removed = {
        str(mutation["remove"]).lower()
        for one in manager.filters
        if one.kind == HEADER_MUTATION and one.place > asks.place and not one.is_disabled
        for mutation in children(child(one.config, "mutations"), "request_mutations")
        if "remove" in mutation
    }
    if kept := [header for header in CREDENTIALS if header not in removed]:
        yield warn(
            f"nothing but the plugin's answer keeps {' and '.join(kept)} from the upstream",
            f"a header_mutation filter behind {asks.name} that removes them (farebox.strip in envoy.yaml)",
        )


def _identity(manager: Manager, where: str) -> Iterator[Finding]:
    """Whether a client's own copies of our headers are removed before routing, so that free routes are safe too."""
    removed, prefixes = set(), []
    for extension in children(manager.config, "early_header_mutation_extensions"):
        config = child(extension, "typed_config")
        if kind_of(config) == EARLY_HEADER_MUTATION:
            mutations = children(config, "mutations")
            removed |= {str(one["remove"]).lower() for one in mutations if "remove" in one}
            prefixes += [child(one, "remove_on_match", "key_matcher").get("prefix") for one in mutations]
    if _PREFIX in prefixes:
        return
    if forged := [header for header in IDENTITY if header not in removed]:
        yield fail(
            f"{where} takes {', '.join(forged)} from clients: a free route passes them on as if the plugin had said so",
            "early_header_mutation_extensions as in envoy.yaml",
        )


def _paths(manager: Manager, where: str) -> Iterator[Finding]:
    """Routes are chosen by path, so two ways to write one path are two prices."""
    config = manager.config
    loose = [f"{name}: {str(value).lower() if value is True else value}" for name, value in _PATHS.items()
             if config.get(name) != value]  # fmt: skip
    if loose:
        yield warn(f"{where} matches routes by paths that the upstream may read otherwise", "; ".join(loose))
    if config.get("use_remote_address") is not True:
        yield warn(
            f"{where} believes x-forwarded-for and x-envoy-* headers of its clients",
            "use_remote_address: true, unless a proxy of yours stands before it",
        )


def lint_clusters(bootstrap: Bootstrap) -> Iterator[Finding]:
    """That there is somebody to ask, over HTTP/2."""
    feeds: dict[str, list[str]] = {}
    for manager in bootstrap.managers:
        for one in (*manager.of(EXT_AUTHZ), *manager.of(EXT_PROC)):
            feeds.setdefault(cluster_of(one.config), []).append(one.name)
    for name, users in sorted(feeds.items()):
        cluster = bootstrap.clusters.get(name)
        if cluster is None:
            yield fail(f"{users[0]} asks the cluster {name!r}, which there is not", f"add the cluster {name!r}")
            continue
        if not _speaks_http2(cluster):
            yield fail(f"the cluster {name!r} does not speak HTTP/2, so gRPC fails", "http2_protocol_options: {}")
        if not children(cluster, "health_checks"):
            yield warn(f"the cluster {name!r} asks workers that are gone", "health_checks: grpc_health_check")


def _speaks_http2(cluster: Json) -> bool:
    options = child(
        cluster, "typed_extension_protocol_options", "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    )
    return "http2_protocol_options" in child(options, "explicit_http_config") or "http2_protocol_options" in cluster

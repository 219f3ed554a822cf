"""How the plugin learns what a request used: by the access log, and on some routes by the response itself."""

from collections.abc import Iterator

from farebox_portal.doctor.envoy.document import (
    ACCESS_LOG,
    EXT_PROC,
    Bootstrap,
    Filter,
    Json,
    Manager,
    child,
    children,
    cluster_of,
    is_ours,
    kind_of,
    seconds,
)
from farebox_portal.doctor.report import Finding, fail, warn

_DECISION = "envoy.filters.http.ext_authz"


def lint_feeds(bootstrap: Bootstrap, manager: Manager) -> Iterator[Finding]:
    yield from _access_log(bootstrap, manager)
    for one in manager.of(EXT_PROC):
        yield from _processor(one)


def _access_log(bootstrap: Bootstrap, manager: Manager) -> Iterator[Finding]:
    logs = [child(one, "typed_config") for one in children(manager.config, "access_log")]
    ours = [one for one in logs if kind_of(one) == ACCESS_LOG and is_ours(_log_name(one), one)]
    where = f"listener {manager.listener!r}"
    if not ours:
        yield fail(
            f"{where} does not report what requests used: each is billed at what was held, once it is given up",
            "access_log as in envoy.yaml",
        )
        return
    if cluster_of(ours[0]) not in bootstrap.clusters:
        yield fail(
            f"{where} reports to the cluster {cluster_of(ours[0])!r}, which there is not", "add it, as in envoy.yaml"
        )
    asks = manager.asks
    if asks is not None and cluster_of(asks.config) == cluster_of(ours[0]):
        yield warn(
            f"{where} reports by the same cluster that decides: a flood of reports uses up its connections",
            "a cluster of its own for the access log, as in envoy.yaml",
        )
    if "access_log_flush_interval" not in child(manager.config, "access_log_options"):
        yield warn(
            f"{where} says nothing of a long stream before it ends",
            "access_log_options: {access_log_flush_interval: 30s}",
        )


def _log_name(config: Json) -> str:
    return str(child(config, "common_config").get("log_name", ""))


def _processor(one: Filter) -> Iterator[Finding]:
    config, name = one.config, one.name
    watches = config.get("observability_mode") is True
    is_open = config.get("failure_mode_allow") is True
    if watches and not is_open:
        yield fail(
            f"{name} only watches, and still every response fails while the plugin is away", "failure_mode_allow: true"
        )
    if not watches and is_open:
        yield fail(
            f"{name} is to end responses at a limit, and lets them go on while the plugin is away",
            "failure_mode_allow: false",
        )
    if watches and seconds(config.get("deferred_close_timeout")) == 0:
        yield fail(f"{name} is cut off before the plugin has read the response", "deferred_close_timeout: 0.5s")
    modes = child(config, "processing_mode")
    if modes.get("response_body_mode") not in ("STREAMED", "FULL_DUPLEX_STREAMED"):
        yield fail(
            f"{name} shows no response bodies, so tokens are billed at what was held", "response_body_mode: STREAMED"
        )
    if modes.get("request_body_mode", "NONE") != "NONE":
        yield warn(f"{name} sends request bodies that nobody reads", "request_body_mode: NONE")
    if _DECISION not in _forwarded(config):
        yield fail(
            f"{name} does not say which request a response belongs to, and is ignored",
            f"metadata_options: {{forwarding_namespaces: {{untyped: [{_DECISION}]}}}}",
        )
    if not one.is_disabled:
        yield warn(f"{name} is on for every route, also where nothing in the body is sold", f"{name}: disabled: true")


def _forwarded(config: Json) -> list[str]:
    found = child(config, "metadata_options", "forwarding_namespaces").get("untyped")
    return [str(one) for one in found] if isinstance(found, list) else []

"""Which policy each route is sold under. The most specific word counts: cluster weight, route, virtual host, all."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from farebox_portal.doctor.envoy.document import (
    EXT_AUTHZ,
    EXT_AUTHZ_ROUTE,
    EXT_PROC,
    EXT_PROC_ROUTE,
    FILTER_CONFIG,
    Json,
    Manager,
    child,
    children,
    kind_of,
)
from farebox_portal.doctor.report import Finding, fail, warn

POLICY = "farebox.policy"


@dataclass(frozen=True, slots=True)
class PolicyNeeds:
    """What a policy's route has to switch on. `body`: something in the response is sold; `cut_off`: it may be ended."""

    body: bool = False
    cut_off: bool = False

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """As the plugin decides who settles a request: whatever is not plain bytes is read in the response."""
        rules = [*(document.get("meters") or {}).values(), *(document.get("dimensions") or {}).values()]
        in_body = any(isinstance(rule, str) and rule not in ("request.bytes", "response.bytes") for rule in rules)
        cut_off = document.get("cutOff") is True
        return cls(body=in_body or cut_off, cut_off=cut_off)


@dataclass(frozen=True, slots=True)
class Way:
    """One way through the configuration: a route, or one of the clusters that it shares its requests among.

    `said`: its settings for each filter, the most specific first.
    """

    name: str
    match: Json
    is_answered_here: bool
    said: Sequence[Json]

    def setting(self, filter_name: str) -> Json:
        return next((child(each, filter_name) for each in self.said if filter_name in each), {})


def lint_routes(
    manager: Manager, policies: Mapping[str, PolicyNeeds] | None, free: frozenset[str]
) -> Iterator[Finding]:
    """`policies` None: not known. `free`: the names of routes that are meant to cost nothing."""
    asks = manager.asks
    if asks is None:
        return
    if manager.route_config is None:
        yield warn(
            f"the routes of listener {manager.listener!r} come from elsewhere (rds) and were not looked at",
            "look at what serves them",
        )
        return
    found = list(ways(manager.route_config))
    for way in found:
        setting = way.setting(asks.name)
        if _is_off(setting):
            yield from _unasked(way, manager, free)
        elif policies is not None and not way.is_answered_here:
            yield from _sold(way, setting, manager, policies)
    for name in sorted(free - {way.name for way in found}):
        yield warn(f"the route {name!r} is said to be free, and there is none of that name", "--free with its name")


def ways(route_config: Json) -> Iterator[Way]:
    for host in children(route_config, "virtual_hosts"):
        for number, route in enumerate(children(host, "routes")):
            name = str(route.get("name") or f"{host.get('name', 'virtual host')}[{number}]")
            said = [child(part, "typed_per_filter_config") for part in (route, host, route_config)]
            is_answered_here = "direct_response" in route or "redirect" in route
            shares = children(child(route, "route", "weighted_clusters"), "clusters")
            for share in shares or [{}]:
                own = child(share, "typed_per_filter_config")
                yield Way(name, child(route, "match"), is_answered_here, [own, *said])


def _is_off(setting: Json) -> bool:
    return kind_of(setting) in (FILTER_CONFIG, EXT_AUTHZ_ROUTE, EXT_PROC_ROUTE) and setting.get("disabled") is True


def _unasked(way: Way, manager: Manager, free: frozenset[str]) -> Iterator[Finding]:
    others = [
        one for one in manager.of(EXT_AUTHZ) if one is not manager.asks and _is_on(way, one.name, one.is_disabled)
    ]
    for other in others:
        if other.config.get("failure_mode_allow") is True:
            yield fail(
                f"the route {way.name!r} lets everybody in while the plugin is away ({other.name})",
                "a policy may say onStoreFailure: allow instead, which still counts",
            )
    if others or way.is_answered_here:
        return
    if way.name not in free:
        yield fail(
            f"the route {way.name!r} asks nobody: it is free, and open to all",
            f"sell it under a policy, or say that it is meant so: --free {way.name}",
        )
    elif "path" not in way.match:
        yield warn(
            f"the free route {way.name!r} takes more than one path: a way around the till", "match: {path: …} exactly"
        )


def _sold(way: Way, setting: Json, manager: Manager, policies: Mapping[str, PolicyNeeds]) -> Iterator[Finding]:
    extensions = child(setting, "check_settings", "context_extensions")
    policy = str(extensions.get(POLICY, "default"))
    needs = policies.get(policy)
    if needs is None:
        yield fail(
            f"the route {way.name!r} names the policy {policy!r}, which there is not: all its requests are refused",
            f"PUT /v1/policies/{policy}, or correct {POLICY}",
        )
        return
    on = [one for one in manager.of(EXT_PROC) if _is_on(way, one.name, one.is_disabled)]
    guards = [one for one in on if one.config.get("observability_mode") is not True]
    if needs.cut_off and not guards:
        yield fail(
            f"the route {way.name!r} is sold under {policy!r}, which ends responses at a limit, and nothing there can",
            f"{way.name}: farebox.guard: {{config: {{}}}}",
        )
    elif needs.body and not on:
        yield fail(
            f"the route {way.name!r} is sold under {policy!r} by what is in the response, which nobody sees there: "
            "it is billed at what was held",
            f"{way.name}: farebox.meter: {{config: {{}}}}",
        )


def _is_on(way: Way, filter_name: str, is_disabled: bool) -> bool:
    setting = way.setting(filter_name)
    return not _is_off(setting) if setting else not is_disabled

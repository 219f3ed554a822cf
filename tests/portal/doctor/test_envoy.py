"""The configuration that we ship has no findings; and each way past the till, put into it, is one."""

import re
from typing import Any

import pytest
import yaml

from farebox_plugin.terms import Policy
from farebox_portal.catalog.policies import DEFAULT_DOCUMENT
from farebox_portal.demo.envoy_config import COMPOSE, render_config, source
from farebox_portal.doctor.envoy import lint
from farebox_portal.doctor.envoy.document import NotABootstrap, read_bootstrap
from farebox_portal.doctor.envoy.routes import PolicyNeeds
from farebox_portal.doctor.report import Finding

POLICIES = {
    "default": PolicyNeeds(),
    "bytes": PolicyNeeds(),
    "premium": PolicyNeeds(),
    "chat": PolicyNeeds(body=True),
    "capped": PolicyNeeds(body=True, cut_off=True),
}


def findings(text: str, *, free: frozenset[str] = frozenset(), **policies: PolicyNeeds) -> list[Finding]:
    return list(lint(read_bootstrap(text), POLICIES | policies, free))


@pytest.mark.parametrize("text", [source(), render_config(COMPOSE)])
def test_what_we_ship_has_no_findings(text: str) -> None:
    assert findings(text) == []


def test_other_spellings_of_the_same_mean_the_same() -> None:
    """Envoy takes JSON, and camelCase."""

    def camel(value: Any) -> Any:
        if isinstance(value, list):
            return [camel(one) for one in value]
        if not isinstance(value, dict):
            return value
        keep = ("@type", "envoy.", "farebox")
        return {
            key if key.startswith(keep) else re.sub(r"_([a-z])", lambda found: found[1].upper(), key): camel(part)
            for key, part in value.items()
        }

    assert findings(yaml.safe_dump(camel(yaml.safe_load(source())))) == []


# What is replaced in the file, by what, and words of the finding.
BROKEN = {
    "fail open": (
        "failure_mode_allow: false\n              status",
        "failure_mode_allow: true\n              status",
        "lets everybody in while",
    ),
    "off by default": (
        "- name: farebox.authz\n            typed",
        "- name: farebox.authz\n            disabled: true\n            typed",
        "off unless a route",
    ),
    "another route after authorization": ("clear_route_cache: false", "clear_route_cache: true", "route chosen anew"),
    "another route after the body": (
        "observability_mode: true",
        "observability_mode: true\n              route_cache_action: CLEAR",
        "may have the route chosen anew",
    ),
    "403 for an outage": ("status_on_error: {code: ServiceUnavailable}  #", "#", "reads as a bad key"),
    "a key that is not removed": (
        "|x-farebox-key|x-api-key|authorization)$",
        "|x-farebox-key|x-api-key)$",
        "may not remove authorization",
    ),
    "no key is removed": (
        "allow_expression: {regex",
        "disallow_expression: {regex",
        "may not remove authorization and x-api-key",
    ),
    "identity that is not set": (
        "|x-farebox-plan|x-farebox-key|x-api",
        "|x-farebox-key|x-api",
        "may not set x-farebox-plan",
    ),
    "each try too short": ("max_interval: 0.5s", "max_interval: 0.01s", "gives up each try after 0.01 s"),
    "each try too short by default": (", max_interval: 0.5s", "", "gives up each try after 0.02 s"),
    "the dead asked again": (
        "envoy.retry_host_predicates.previous_hosts",
        "envoy.retry_host_predicates.omit_canary_hosts",
        "that has just died",
    ),
    "identity from clients": ("x-farebox-, ignore_case", "x-other-, ignore_case", None),
    "forged identity": ("- remove: x-farebox-plan\n", "- remove: x-other\n", None),
    "nothing strips keys": (
        "[{remove: x-api-key}, {remove: authorization}]",
        "[{remove: x-api-key}]",
        "keeps authorization from the upstream",
    ),
    "paths as they come": ("normalize_path: true", "normalize_path: false", "normalize_path: true"),
    "slashes as they come": ("merge_slashes: true", "merge_slashes: false", "merge_slashes: true"),
    "whoever they say": ("use_remote_address: true", "use_remote_address: false", "believes x-forwarded-for"),
    "no access log": (
        "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
        "envoy.extensions.access_loggers.file.v3.FileAccessLog",
        "does not report what requests used",
    ),
    "access log to nowhere": (
        "cluster_name: farebox_access_log}}\n            ",
        "cluster_name: farebox_gone}}\n            ",
        "'farebox_gone', which there is not",
    ),
    "one cluster for both": (
        "cluster_name: farebox_access_log}}",
        "cluster_name: farebox_authz}}",
        "by the same cluster that decides",
    ),
    "long streams unseen": ("access_log_options: {access_log_flush_interval: 30s}", "", "nothing of a long stream"),
    "the watcher fails responses": (
        "failure_mode_allow: true  # of",
        "failure_mode_allow: false  # of",
        "only watches, and still",
    ),
    "the guard lets go": (
        "failure_mode_allow: false  # a response",
        "failure_mode_allow: true  # a response",
        "lets them go on",
    ),
    "cut off too early": ("deferred_close_timeout: 0.5s", "deferred_close_timeout: 0s", "before the plugin has read"),
    "bodies not shown": ("response_body_mode: STREAMED", "response_body_mode: NONE", "shows no response bodies"),
    "bodies of requests": (
        "request_body_mode: NONE",
        "request_body_mode: STREAMED",
        "request bodies that nobody reads",
    ),
    "whose response": (
        "{untyped: [envoy.filters.http.ext_authz]}}  # brings",
        "{untyped: [other]}}  # brings",
        "which request a response belongs to",
    ),
    "watching all": (
        "- name: farebox.meter\n            disabled: true",
        "- name: farebox.meter",
        "on for every route",
    ),
    "a policy that is none": ("farebox.policy: bytes", "farebox.policy: byts", "names the policy 'byts'"),
    "tokens that nobody sees": (
        'farebox.meter: {"@type": type.googleapis.com/envoy.config.route.v3.FilterConfig, config: {}}',
        "farebox.other: {}",
        "which nobody sees there",
    ),
    "a limit that nobody ends at": ('farebox.guard: {"@type"', 'farebox.meter: {"@type"', "nothing there can"),
    "a cluster that is not there": (
        "  - name: farebox_authz\n",
        "  - name: farebox_auth\n",
        "'farebox_authz', which there is not",
    ),
    "no gRPC": (
        "explicit_http_config: {http2_protocol_options: {connection_keepalive: {interval: 10s, timeout: 2s}}}",
        "explicit_http_config: {http_protocol_options: {}}",
        "does not speak HTTP/2",
    ),
    "asks nobody": (
        "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz\n",
        "envoy.extensions.filters.http.ext_authz.v2.ExtAuthz\n",
        "asks nobody",
    ),
    "a free route": (
        'direct_response: {status: 200, body: {inline_string: "ok\\n"}}',
        "route: {cluster: upstream}",
        "asks nobody: it is free",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_way_past_the_till_is_found(name: str) -> None:
    old, new, words = BROKEN[name]
    assert old in source(), "the file has changed; what is replaced has to follow"
    found = findings(source().replace(old, new))
    if words is None:  # one of two locks on the same door
        assert found == []
    else:
        assert [one for one in found if words in one.detail or words in one.remedy], found
        assert all(one.remedy for one in found)


def test_identity_headers_need_one_of_the_two_locks() -> None:
    text = (
        source()
        .replace("x-farebox-, ignore_case", "x-other-, ignore_case")
        .replace("remove: x-farebox-plan\n", "remove: x-other\n")
    )
    (found,) = findings(text)
    assert (found.level, "x-farebox-plan" in found.detail) == ("fail", True)


def test_a_route_that_is_meant_to_be_free_is_said_to_be() -> None:
    old = 'direct_response: {status: 200, body: {inline_string: "ok\\n"}}'
    text = source().replace(old, "route: {cluster: upstream}")
    assert findings(text, free=frozenset({"healthz"})) == []
    wide = text.replace("match: {path: /healthz}", "match: {prefix: /healthz}")
    (found,) = findings(wide, free=frozenset({"healthz"}))
    assert "more than one path" in found.detail
    (unknown,) = findings(source(), free=frozenset({"helthz"}))
    assert "none of that name" in unknown.detail


def test_a_virtual_host_speaks_for_its_routes_and_a_cluster_weight_for_itself() -> None:
    off = {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": True}
    raw = yaml.safe_load(source())
    (listener,) = raw["static_resources"]["listeners"]
    config = listener["filter_chains"][0]["filters"][0]["typed_config"]["route_config"]
    (host,) = config["virtual_hosts"]
    host["routes"] = [{"name": "all", "match": {"prefix": "/"}, "route": {"cluster": "upstream"}}]
    assert findings(yaml.safe_dump(raw)) == []  # sold under `default`
    host["typed_per_filter_config"] = {"farebox.authz": off}
    assert "'all' asks nobody" in findings(yaml.safe_dump(raw))[0].detail
    del host["typed_per_filter_config"]
    shares = [{"name": "upstream", "weight": 99}, {"name": "upstream", "weight": 1}]
    shares[1]["typed_per_filter_config"] = {"farebox.authz": off}
    host["routes"][0]["route"] = {"weighted_clusters": {"clusters": shares}}
    assert "'all' asks nobody" in findings(yaml.safe_dump(raw))[0].detail


def test_a_second_filter_that_fails_open_is_found_where_a_route_switches_it_on() -> None:
    raw = yaml.safe_load(source())
    (listener,) = raw["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    kind = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz"
    second = {
        "name": "farebox.authz.open",
        "disabled": True,
        "typed_config": {
            "@type": kind,
            "failure_mode_allow": True,
            "grpc_service": {"envoy_grpc": {"cluster_name": "farebox_authz"}},
        },
    }
    manager["http_filters"].insert(1, second)
    assert findings(yaml.safe_dump(raw)) == []
    route = manager["route_config"]["virtual_hosts"][0]["routes"][-1]
    per_filter = "type.googleapis.com/envoy.config.route.v3.FilterConfig"
    route["typed_per_filter_config"] = {
        "farebox.authz": {"@type": per_filter, "disabled": True},
        "farebox.authz.open": {"@type": per_filter, "config": {}},
    }
    (found,) = findings(yaml.safe_dump(raw))
    assert "while the plugin is away (farebox.authz.open)" in found.detail


def test_routes_that_come_from_elsewhere_are_said_to_be_unseen() -> None:
    raw = yaml.safe_load(source())
    manager = raw["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    del manager["route_config"]
    manager["rds"] = {"route_config_name": "gateway"}
    (found,) = findings(yaml.safe_dump(raw))
    assert (found.level, "rds" in found.detail) == ("warn", True)


@pytest.mark.parametrize("text", ["", "[]", "a: [", "key: value", "static_resources: []", "\x00", "{{}}"])
def test_what_is_no_bootstrap_is_refused(text: str) -> None:
    with pytest.raises(NotABootstrap):
        read_bootstrap(text)


@pytest.mark.parametrize(
    "text", ["static_resources: {listeners: 3}", "static_resources: {listeners: [{filter_chains: [7]}]}"]
)
def test_shapes_that_cannot_be_meant_break_nothing(text: str) -> None:
    (found,) = findings(text)
    assert "no listener serves HTTP" in found.detail


@pytest.mark.parametrize(
    "document",
    [
        DEFAULT_DOCUMENT,
        {"key": "bytes", "meters": {"out": "response.bytes", "in": "request.bytes"}},
        {"key": "chat", "meters": {"api_requests": 1, "tokens": "usage.outputTokens"}},
        {"key": "labels", "meters": {"api_requests": 1}, "dimensions": {"model": "usage.model"}},
        {"key": "header", "meters": {"credits": "header:x-credits"}},
        {"key": "capped", "meters": {"out": "response.bytes"}, "cutOff": True},
        {"key": "open"},
    ],
)
def test_what_a_policy_needs_is_what_the_plugin_says(document: dict[str, Any]) -> None:
    policy = Policy(
        key=document["key"],
        meters=document.get("meters", {}),
        dimensions=document.get("dimensions", {}),
        cut_off=document.get("cutOff", False),
    )
    assert PolicyNeeds.of(document) == PolicyNeeds(body=policy.settled_by_body, cut_off=policy.cut_off)

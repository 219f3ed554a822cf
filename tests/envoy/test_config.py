"""The shipped Envoy files: accepted by Envoy itself, in step with each other, and closed where they must be closed.

Envoy's own parser reads the files, so that anchors and defaults are seen as Envoy sees them.
"""

import re
from pathlib import Path
from typing import Any

import pytest

from farebox_plugin.extension import WITHIN_S
from farebox_portal.demo.envoy_config import (
    COMPOSE,
    GatewayConfig,
    Route,
    derived_files,
    filters,
    render,
    render_config,
    source,
)
from rig.envoy import read_yaml, validate

ENVOY = Path(__file__).parents[2] / "envoy"
IDENTITY = {"x-farebox-customer", "x-farebox-subscription", "x-farebox-plan", "x-farebox-key"}
CREDENTIALS = {"authorization", "x-api-key"}


@pytest.fixture(scope="module")
def bootstrap(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return read_yaml(source(), tmp_path_factory.mktemp("envoy"))


@pytest.fixture(scope="module")
def manager(bootstrap: dict[str, Any]) -> dict[str, Any]:
    (listener,) = bootstrap["static_resources"]["listeners"]
    found: dict[str, Any] = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return found


@pytest.fixture(scope="module")
def http_filters(manager: dict[str, Any]) -> dict[str, Any]:
    return {each["name"]: each for each in manager["http_filters"]}


@pytest.mark.parametrize("name", ["envoy.yaml", "compose.yaml"])
def test_envoy_accepts_the_file(name: str) -> None:
    assert validate(ENVOY / name) == ""


def test_envoy_says_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    file = tmp_path / "envoy.yaml"
    file.write_text(source().replace("failure_mode_allow: false", "failure_mode_alow: false"))
    assert "failure_mode_alow" in validate(file)


@pytest.mark.parametrize(
    "config",
    [
        GatewayConfig(),
        GatewayConfig(
            listen="127.0.0.1:1", admin="[::1]:2", upstream="api.internal:443", sockets=("/run/a b/w0.sock",)
        ),
        GatewayConfig(sockets=tuple(f"/run/w{worker}.sock" for worker in range(8))),
        GatewayConfig(upstream_timeout="90s", routes=(Route("/v2", "default"), Route("/llm/x", "chat", True, "0s"))),
    ],
)
def test_envoy_accepts_what_is_rendered(config: GatewayConfig, tmp_path: Path) -> None:
    file = tmp_path / "envoy.yaml"
    file.write_text(render_config(config))
    assert validate(file) == ""


def test_the_rendered_addresses_are_the_ones_that_were_asked_for(tmp_path: Path) -> None:
    config = GatewayConfig(upstream="api.internal:1443", sockets=("/run/w0.sock", "/run/w1.sock", "/run/w2.sock"))
    text = render_config(config)
    assert "127.0.0.1, port_value: 8002" not in text
    assert text.count("address: api.internal, port_value: 1443") == 1
    assert [line.strip() for line in text.splitlines() if "pipe:" in line] == [
        f"- {{endpoint: {{address: {{pipe: {{path: /run/w{worker}.sock}}}}}}}}" for worker in range(3)
    ]


def test_routes_of_ones_own_stand_before_the_one_that_takes_the_rest(tmp_path: Path) -> None:
    config = GatewayConfig(routes=(Route("/v2/search", "search"), Route("/v2/llm", "chat", body=True, timeout="0s")))
    (listener,) = read_yaml(render_config(config), tmp_path)["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    routes = manager["route_config"]["virtual_hosts"][0]["routes"]
    assert [route["name"] for route in routes[-3:]] == ["v2_search", "v2_llm", "default"]
    assert [policy_of(route) for route in routes[-3:]] == ["search", "chat", "default"]
    assert ["farebox.meter" in route["typed_per_filter_config"] for route in routes[-3:]] == [False, True, False]


@pytest.mark.parametrize(
    "upstream", ["", "api", "api:", ":80", "api:0", "api:65536", "http://api:80", "a b:80", "a:80}"]
)
def test_an_upstream_that_is_no_address_is_refused(upstream: str) -> None:
    with pytest.raises(ValueError, match="is not HOST:PORT"):
        render(upstream)


def test_a_gateway_without_a_worker_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one plugin socket"):
        render_config(GatewayConfig(sockets=()))


@pytest.mark.parametrize("name", ["filters.yaml", "compose.yaml"])
def test_a_derived_file_is_fresh(name: str) -> None:
    """``python -m farebox_portal.demo.envoy_config`` writes them again."""
    assert (ENVOY / name).read_text() == derived_files()[name]


def test_the_compose_file_differs_from_the_source_in_addresses_only() -> None:
    def addressless(text: str) -> str:
        return re.sub(r"(address|path|port_value): [^,}]+", r"\1: X", text)

    assert addressless(render_config(COMPOSE)) == addressless(source())


def test_the_filters_to_paste_are_whole_blocks(tmp_path: Path) -> None:
    pasted = read_yaml(filters(source()), tmp_path)
    assert [each["name"] for each in pasted["http_filters"]] == [
        "farebox.authz",
        "farebox.strip",
        "farebox.meter",
        "farebox.guard",
    ]
    assert [each["name"] for each in pasted["clusters"]] == ["farebox_authz", "farebox_ext_proc", "farebox_access_log"]
    assert set(pasted) == {
        "early_header_mutation_extensions",
        "access_log_options",
        "access_log",
        "http_filters",
        "typed_per_filter_config",
        "clusters",
    }


def test_authorization_fails_closed_and_says_503(http_filters: dict[str, Any]) -> None:
    authz = http_filters["farebox.authz"]
    assert "disabled" not in authz
    assert authz["typed_config"]["failure_mode_allow"] is False
    assert "filter_enabled" not in authz["typed_config"]
    assert authz["typed_config"]["status_on_error"] == {"code": "ServiceUnavailable"}
    assert authz["typed_config"]["validate_mutations"] is True
    assert authz["typed_config"]["clear_route_cache"] is False


def test_authorization_is_asked_again_of_another_worker(http_filters: dict[str, Any]) -> None:
    service = http_filters["farebox.authz"]["typed_config"]["grpc_service"]
    (predicate,) = service["retry_policy"]["retry_host_predicate"]
    assert predicate["name"] == "envoy.retry_host_predicates.previous_hosts"
    assert service["timeout"] == "0.5s"


def test_no_credential_and_no_forged_identity_reaches_the_upstream(
    http_filters: dict[str, Any], manager: dict[str, Any]
) -> None:
    authz = http_filters["farebox.authz"]["typed_config"]
    rules = authz["decoder_header_mutation_rules"]
    assert rules["disallow_all"] is True
    may_touch = re.compile(rules["allow_expression"]["regex"])
    assert all(may_touch.fullmatch(name) for name in IDENTITY | CREDENTIALS)
    assert not any(may_touch.fullmatch(name) for name in (":path", ":authority", "host", "cookie", "x-farebox-key-x"))
    allowed = {pattern["exact"] for pattern in authz["allowed_headers"]["patterns"]}
    assert allowed >= CREDENTIALS
    assert allowed.isdisjoint({"cookie"})
    stripped = http_filters["farebox.strip"]["typed_config"]["mutations"]["request_mutations"]
    assert {mutation["remove"] for mutation in stripped} == CREDENTIALS
    (early,) = manager["early_header_mutation_extensions"]
    removed = {mutation.get("remove") for mutation in early["typed_config"]["mutations"]}
    assert removed >= IDENTITY


def test_the_strip_stands_right_after_authorization_and_the_router_last(manager: dict[str, Any]) -> None:
    names = [each["name"] for each in manager["http_filters"]]
    assert names == [
        "farebox.authz", "farebox.strip", "farebox.meter", "farebox.guard", "envoy.filters.http.router",
    ]  # fmt: skip


def test_metering_bodies_is_off_until_a_route_asks_and_never_decides(http_filters: dict[str, Any]) -> None:
    meter = http_filters["farebox.meter"]
    assert meter["disabled"] is True
    assert meter["typed_config"]["observability_mode"] is True
    assert meter["typed_config"]["failure_mode_allow"] is True
    assert meter["typed_config"]["deferred_close_timeout"] != "0s"
    hidden = {pattern["exact"] for pattern in meter["typed_config"]["forward_rules"]["disallowed_headers"]["patterns"]}
    assert hidden >= CREDENTIALS | {"cookie", "set-cookie"}


def test_guarding_bodies_is_off_until_a_route_asks_and_lets_nothing_pass_uncounted(
    http_filters: dict[str, Any],
) -> None:
    guard = http_filters["farebox.guard"]
    assert guard["disabled"] is True
    settings = guard["typed_config"]
    assert "observability_mode" not in settings
    assert settings["failure_mode_allow"] is False
    assert settings["processing_mode"]["response_body_mode"] == "STREAMED"
    assert float(settings["message_timeout"].removesuffix("s")) > WITHIN_S
    assert settings["forward_rules"] == http_filters["farebox.meter"]["typed_config"]["forward_rules"]


def test_every_route_names_its_policy_or_is_free_on_one_exact_path(manager: dict[str, Any]) -> None:
    (host,) = manager["route_config"]["virtual_hosts"]
    policies = {route["name"]: policy_of(route) for route in host["routes"]}
    assert policies == {
        "healthz": None,
        "chat_completions": "chat",
        "messages": "chat",
        "bytes": "bytes",
        "premium": "premium",
        "capped": "capped",
        "default": "default",
    }
    free = [route for route in host["routes"] if policies[route["name"]] is None]
    assert [route["match"] for route in free] == [{"path": "/healthz"}]
    assert "direct_response" in free[0]
    assert host["routes"][-1]["match"] == {"prefix": "/"}


def test_a_path_has_one_reading(manager: dict[str, Any]) -> None:
    assert manager["normalize_path"] is True
    assert manager["merge_slashes"] is True
    assert manager["path_with_escaped_slashes_action"] == "REJECT_REQUEST"
    assert manager["common_http_protocol_options"]["headers_with_underscores_action"] == "REJECT_REQUEST"
    assert manager["use_remote_address"] is True


def test_only_what_was_let_in_is_reported_and_long_streams_while_they_run(manager: dict[str, Any]) -> None:
    (log,) = manager["access_log"]
    types, admitted = log["filter"]["and_filter"]["filters"]
    assert types["log_type_filter"]["types"] == ["DownstreamEnd", "DownstreamPeriodic"]
    assert admitted["metadata_filter"]["matcher"]["path"] == [{"key": "grant"}]
    assert admitted["metadata_filter"]["match_if_key_not_found"] is False
    assert manager["access_log_options"]["access_log_flush_interval"] == "30s"


def test_two_envoys_never_share_a_port(bootstrap: dict[str, Any]) -> None:
    assert all(listener["enable_reuse_port"] is False for listener in bootstrap["static_resources"]["listeners"])


def test_each_feed_has_a_cluster_of_its_own_with_live_workers_only(bootstrap: dict[str, Any]) -> None:
    clusters = {each["name"]: each for each in bootstrap["static_resources"]["clusters"]}
    for name in ("farebox_authz", "farebox_ext_proc", "farebox_access_log"):
        cluster = clusters[name]
        assert len(cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]) == 2
        assert cluster["common_lb_config"]["healthy_panic_threshold"] == {"value": 1}
        assert cluster["health_checks"][0]["grpc_health_check"] == {}
        assert cluster["circuit_breakers"]["thresholds"][0]["max_requests"] > 1024
        assert cluster["outlier_detection"]["consecutive_local_origin_failure"] == 1


def test_the_admin_interface_stays_on_loopback(bootstrap: dict[str, Any]) -> None:
    assert bootstrap["admin"]["address"]["socket_address"]["address"] == "127.0.0.1"
    assert "admin: {address: {socket_address: {address: 127.0.0.1," in (ENVOY / "compose.yaml").read_text()


def policy_of(route: dict[str, Any]) -> str | None:
    authz = route["typed_per_filter_config"]["farebox.authz"]
    if authz.get("disabled"):
        return None
    return str(authz["check_settings"]["context_extensions"]["farebox.policy"])

"""The shipped configuration in a real Envoy, without a plugin: everything stays shut."""

from collections.abc import Iterator

import httpx2
import pytest

from farebox.v1 import digest
from farebox_portal.demo.envoy_config import GatewayConfig, render_config
from rig.envoy import Envoy
from rig.upstream import Upstream


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    with Upstream(tmp_path_factory.mktemp("upstream")) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> Iterator[Envoy]:
    folder = tmp_path_factory.mktemp("gateway")
    config = GatewayConfig(upstream=upstream.address, sockets=("/tmp/no-such-folder/w0.sock",))
    with Envoy(folder, config) as running:
        yield running


@pytest.mark.parametrize(
    "path", ["/", "/v1/echo", "/v1/premium/x", "/v1/bytes/9", "/v1/messages", "/healthz/../v1/echo"]
)
@pytest.mark.parametrize("credential", [{}, {"x-api-key": digest.new_api_key("test")}])
def test_without_a_plugin_nobody_gets_in(
    gateway: Envoy, upstream: Upstream, path: str, credential: dict[str, str]
) -> None:
    before = upstream.entries()
    assert httpx2.get(gateway.url + path, headers=credential).status_code == 503
    assert upstream.entries() == before


@pytest.mark.parametrize(
    ("path", "header"),
    [("/v1%2Fecho", {}), ("/v1/echo", {"x_farebox_plan": "pro"}), ("/healthz", {"x_farebox_plan": "pro"})],
)
def test_what_could_be_read_in_two_ways_is_refused(gateway: Envoy, path: str, header: dict[str, str]) -> None:
    assert httpx2.get(gateway.url + path, headers=header).status_code == 400


def test_health_is_free_and_answered_by_the_gateway_itself(gateway: Envoy, upstream: Upstream) -> None:
    answer = httpx2.get(gateway.url + "/healthz")
    assert (answer.status_code, answer.text) == (200, "ok\n")
    assert upstream.entries() == []


def test_the_upstream_can_be_reached_once_authorization_is_out_of_the_way(
    tmp_path_factory: pytest.TempPathFactory, upstream: Upstream
) -> None:
    """The 503s above are authorization's, not those of a gateway that finds no upstream; and keys are taken off."""
    config = GatewayConfig(upstream=upstream.address, sockets=("/tmp/no-such-folder/w0.sock",))
    text = render_config(config).replace("failure_mode_allow: false", "failure_mode_allow: true")
    headers = {"x-api-key": "k", "authorization": "Bearer k", "x-farebox-plan": "pro", "x-other": "stays"}
    with Envoy(tmp_path_factory.mktemp("open"), text) as gateway:
        seen = httpx2.get(gateway.url + "/v1/premium/report?a=1", headers=headers).json()
    assert seen["path"] == "/v1/echo/report?a=1"
    assert seen["headers"]["x-other"] == "stays"
    assert not seen["headers"].keys() & {"x-api-key", "authorization", "x-farebox-plan"}

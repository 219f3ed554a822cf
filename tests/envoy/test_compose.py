"""docker-compose.yml and Dockerfile agree with each other, with Envoy's file, and with what the programs can be told.

There is no Docker here: this checks what would otherwise be found out by starting it.
"""

import re
from pathlib import Path
from typing import Any

import pytest

from farebox_plugin.settings import Settings as PluginSettings
from farebox_portal.demo.envoy_config import COMPOSE
from farebox_portal.settings import Settings as PortalSettings
from rig.envoy import read_yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    text = (ROOT / "docker-compose.yml").read_text()
    found: dict[str, Any] = merged(read_yaml(text, tmp_path_factory.mktemp("yaml")))["services"]
    return found


def merged(value: Any) -> Any:
    """With YAML's merge keys applied, which Envoy's parser leaves standing."""
    if isinstance(value, list):
        return [merged(each) for each in value]
    if not isinstance(value, dict):
        return value
    below = {name: merged(each) for name, each in value.items() if name != "<<"}
    return (merged(value["<<"]) if "<<" in value else {}) | below


def variables(settings: type[Any]) -> set[str]:
    return {f"FAREBOX_{name.upper()}" for name in settings.model_fields}


@pytest.mark.parametrize(
    ("service", "settings"), [("seed", PortalSettings), ("portal", PortalSettings), ("plugin", PluginSettings)]
)
def test_a_service_is_told_everything_it_needs_and_nothing_that_nobody_reads(
    services: dict[str, Any], service: str, settings: type[Any]
) -> None:
    told = services[service]["environment"].keys()
    needed = {f"FAREBOX_{name.upper()}" for name, field in settings.model_fields.items() if field.is_required()}
    assert told >= needed
    assert told <= variables(PortalSettings) | variables(PluginSettings)


def test_the_images_set_only_variables_that_are_read() -> None:
    set_there = set(re.findall(r"\bFAREBOX_[A-Z_]+", (ROOT / "Dockerfile").read_text()))
    assert set_there
    assert set_there <= variables(PortalSettings) | variables(PluginSettings)


def test_both_sides_of_a_shared_secret_are_told_the_same(services: dict[str, Any]) -> None:
    portal, plugin = services["portal"]["environment"], services["plugin"]["environment"]
    for variable in ("FAREBOX_PLUGIN_TOKEN", "FAREBOX_REDIS_URL", "FAREBOX_PUBLIC_URL"):
        assert portal[variable] == plugin[variable]
    assert services["seed"]["environment"] == portal
    assert "FAREBOX_ADMIN_TOKEN" not in plugin


def test_every_build_target_is_a_stage_of_the_dockerfile(services: dict[str, Any]) -> None:
    stages = re.findall(r"^FROM \S+ AS (\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    targets = {service["build"]["target"] for service in services.values() if "build" in service}
    assert targets == {"plugin", "portal", "upstream"}
    assert targets <= set(stages)


def test_what_a_service_waits_for_exists(services: dict[str, Any]) -> None:
    for service in services.values():
        for other, condition in service.get("depends_on", {}).items():
            assert other in services
            assert condition["condition"] != "service_healthy" or "healthcheck" in services[other]


def test_envoy_finds_its_file_the_sockets_and_the_upstream(services: dict[str, Any]) -> None:
    envoy, plugin = services["envoy"], services["plugin"]
    assert "./envoy/compose.yaml:/etc/envoy/envoy.yaml:ro" in envoy["volumes"]
    assert "/etc/envoy/envoy.yaml" in envoy["command"]
    assert "sockets:/run/farebox" in envoy["volumes"]
    assert "sockets:/run/farebox" in plugin["volumes"]
    assert COMPOSE.sockets == ("/run/farebox/w0.sock", "/run/farebox/w1.sock")
    host, port = COMPOSE.upstream.split(":")
    assert host in services
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert f'"--port", "{port}"' in dockerfile
    assert '"unix:/run/farebox/w%d.sock", "--workers", "2"' in dockerfile
    user = envoy["user"].split(":")[0]
    assert f"--uid {user} " in dockerfile


def test_only_loopback_is_published(services: dict[str, Any]) -> None:
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert {port.rpartition(":")[0] for port in published} == {"127.0.0.1:8000", "127.0.0.1:8001"}


def test_the_spool_and_the_ledger_are_on_volumes(services: dict[str, Any]) -> None:
    assert "spool:/var/lib/farebox" in services["plugin"]["volumes"]
    assert services["portal"]["volumes"] == services["seed"]["volumes"] == ["ledger:/var/lib/farebox"]
    assert "FAREBOX_STATE_DIR=/var/lib/farebox" in (ROOT / "Dockerfile").read_text()


def test_valkey_never_evicts_and_keeps_its_data(services: dict[str, Any]) -> None:
    command = services["valkey"]["command"]
    assert command[command.index("--maxmemory-policy") + 1] == "noeviction"
    assert command[command.index("--appendonly") + 1] == "yes"
    assert services["valkey"]["volumes"] == ["valkey:/data"]

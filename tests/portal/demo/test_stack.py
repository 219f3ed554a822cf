"""Starting order's two hard questions: whose port is it, and is everything published? Asked of real servers."""

import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest
import redis

from farebox.v1 import digest, layout
from farebox.v1.entitlements_pb2 import KeyRecord
from farebox_portal.demo import engines, probe
from farebox_portal.demo.child import Child
from farebox_portal.demo.envoy_config import GatewayConfig
from farebox_portal.demo.stack import Part, Stack, Wanted
from farebox_portal.demo.state import DemoCustomer, Secrets, State, socket_folder
from farebox_portal.errors import CannotStart
from rig.envoy import Envoy
from rig.valkey import Valkey


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def stack(tmp_path: Path, said: list[str]) -> Iterator[Stack]:
    (tmp_path / "logs").mkdir()
    found = Stack(State(tmp_path), tmp_path, Wanted(), Event(), said.append)
    yield found
    found.stop()


def start(stack: Stack, part: Part) -> None:
    stack._launch_on_free_ports(part)
    stack._settle_on_ports(part)


def test_a_port_that_was_taken_between_choosing_and_starting_costs_another_try(stack: Stack, said: list[str]) -> None:
    rivals = []

    def make() -> Child:
        if not rivals:
            rivals.append(socket.create_server(("127.0.0.1", stack.ports["upstream"])))
        return stack._upstream()

    start(stack, Part("upstream", make, stack._upstream_is_ready, ("upstream",)))
    (rival,) = rivals
    with rival:
        assert stack.ports["upstream"] != rival.getsockname()[1]
        assert probe.get(stack.ports["upstream"], "/v1/echo")[0] == 200
    assert said == ["a port was taken meanwhile, trying another … "]


def test_a_port_that_was_insisted_on_and_taken_meanwhile_is_named(tmp_path: Path, stack: Stack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as rival:
        port = rival.getsockname()[1]
        stack.wanted = Wanted(portal=port)
        with pytest.raises(CannotStart, match=f"^--portal-port {port}: something else listens"):
            start(stack, Part("portal", stack._upstream, stack._upstream_is_ready, ("portal",)))


def test_a_child_that_dies_for_another_reason_is_not_tried_again(stack: Stack) -> None:
    made = []

    def make() -> Child:
        made.append(Child("upstream", [sys.executable, "-c", "print('bad day')"], stack.state.log("upstream")))
        return made[-1]

    with pytest.raises(CannotStart, match=r"upstream exited with 0; its log ends:\n  bad day"):
        start(stack, Part("upstream", make, lambda _child: False, ("upstream",)))
    assert len(made) == 1


def test_ports_of_one_demo_differ(stack: Stack) -> None:
    stack.wanted = Wanted(gateway=8001)
    stack.ports["upstream"] = stack._port("upstream")
    stack.ports["portal"] = stack._port("portal")
    assert len({8001, *stack.ports.values()}) == 3


def test_another_ones_upstream_on_the_port_is_not_ours(tmp_path: Path, stack: Stack) -> None:
    start(stack, stack._upstream_part)
    dead = Child("upstream", [sys.executable, "-c", ""], tmp_path / "dead.log")
    dead.start()
    assert stack._upstream_is_ready(stack.children["upstream"])
    assert not stack._upstream_is_ready(dead)
    dead.stop(grace_s=10)


def test_an_envoy_is_live_only_under_its_own_name(tmp_path: Path) -> None:
    with Envoy(tmp_path, GatewayConfig()) as envoy:
        assert engines.envoy_is_live(envoy.admin_port, f"rig-{envoy.port}-{envoy.admin_port}")
        assert not engines.envoy_is_live(envoy.admin_port, "farebox-demo-other")


def test_ready_means_that_every_key_its_account_and_the_directory_are_published(
    tmp_path: Path, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [digest.new_api_key("test"), digest.new_api_key("test")]
    stack.secrets = Secrets("admin", "plugin", {key: DemoCustomer("a@example.com", key) for key in keys})
    published = {
        layout.DIRECTORY: b"generation",
        layout.POLICIES: b"",
        layout.api_key(digest.digest(keys[0])): KeyRecord(account_id="a1", key_id="k1").SerializeToString(),
        layout.api_key(digest.digest(keys[1])): KeyRecord(account_id="a2", key_id="k2").SerializeToString(),
        layout.account("a1"): b"",
        layout.account("a2"): b"",
    }
    with Valkey(tmp_path / "valkey") as valkey:
        monkeypatch.setattr(Stack, "_valkey_socket", property(lambda _stack: valkey.socket))
        assert not stack._everything_is_published()
        with redis.Redis(unix_socket_path=str(valkey.socket)) as store:
            store.mset(published)
            assert stack._everything_is_published()
            for name, value in published.items():
                store.delete(name)
                assert not stack._everything_is_published(), name
                store.set(name, value)
        valkey.stop()
        assert not stack._everything_is_published()


def test_the_demos_valkey_keeps_its_data_and_evicts_nothing(tmp_path: Path) -> None:
    with socket_folder() as folder:
        socket_path = folder / "v.sock"
        child = engines.valkey(socket_path, tmp_path / "data", tmp_path / "valkey.log")
        child.start()
        child.wait_ready(lambda: probe.answers_ping(socket_path), 20, Event())
        with redis.Redis(unix_socket_path=str(socket_path), decode_responses=True) as store:
            assert store.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            store.set("kept", "yes")
        child.stop(grace_s=10)
        child.start()
        child.wait_ready(lambda: probe.answers_ping(socket_path), 20, Event())
        with redis.Redis(unix_socket_path=str(socket_path), decode_responses=True) as store:
            assert store.get("kept") == "yes"
        child.stop(grace_s=10)


def test_a_port_that_was_taken_for_a_moment_only_costs_another_try_too(stack: Stack, said: list[str]) -> None:
    made = []

    def make() -> Child:
        made.append(1)
        if len(made) == 1:
            words = "print('cannot listen on 127.0.0.1:1: Address already in use'); exit(1)"
            return Child("upstream", [sys.executable, "-c", words], stack.state.log("upstream"))
        return stack._upstream()

    start(stack, Part("upstream", make, stack._upstream_is_ready, ("upstream",)))
    assert len(made) == 2
    assert said == ["a port was taken meanwhile, trying another … "]

"""Two gateways, each an Envoy and a plugin with spools of its own, on one Valkey and one portal: one limit."""

import os
import signal
import time
from collections import Counter as Tally
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import httpx2
import pytest

from builders.provider import Buyer, Provider, unique
from faults.rig import PLUGIN_TOKEN, Child, Rig
from rig.envoy import Envoy

WITHIN_S = 30.0
LIMIT = 240


class Second:
    """The second gateway of a rig."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.sockets = rig.sockets / "second"
        self.sockets.mkdir()
        self.plugin = self.a_plugin(rig.folder / "second-spool")
        self.envoy = Envoy(rig.folder / "second-envoy", rig.envoy_text(self.sockets))

    def a_plugin(self, spools: Path, name: str = "second") -> Child:
        named = {"FAREBOX_PLUGIN_TOKEN": PLUGIN_TOKEN, "FAREBOX_GATEWAY_NAME": name}
        return self.rig.a_plugin(self.sockets, named, spools)

    def start(self) -> None:
        self.plugin.start()
        self.rig.wait_until(lambda: self.plugin.log.count("worker_ready") >= 2, "the second plugin's workers listen")
        self.envoy.start()

    def kill9(self) -> None:
        """All of the plugin at once, as when its machine goes."""
        workers = self.plugin.children
        for pid in (self.plugin.pid, *workers):
            os.kill(pid, signal.SIGKILL)
        self.plugin.end(signal.SIGKILL)

    def close(self) -> None:
        self.envoy.kill9()
        self.plugin.end(signal.SIGKILL)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with Rig(tmp_path_factory.mktemp("gateways")) as rig:
        yield rig


@pytest.fixture(scope="module")
def second(rig: Rig) -> Iterator[Second]:
    second = Second(rig)
    try:
        second.start()
        yield second
    finally:
        second.close()


@pytest.fixture(scope="module")
def provider(rig: Rig) -> Iterator[Provider]:
    provider = Provider(rig)  # type: ignore[arg-type]
    yield provider
    provider.close()


def listed(provider: Provider) -> dict[str, str]:
    return {each["name"]: each["status"] for each in provider.get("/v1/gateways")["items"]}


def ask_until_refused(gateway: str, buyer: Buyer, tag: str) -> Tally[int]:
    """Statuses, until the quota is refused ten times in a row: a limit that was passed by a wipe would show by then."""
    seen: Tally[int] = Tally()
    refused = 0
    deadline = time.monotonic() + 2 * WITHIN_S
    with httpx2.Client(base_url=gateway, timeout=30, trust_env=False) as client:
        while refused < 10:
            path = f"/v1/slow/150?{tag}" if sum(seen.values()) % 3 == 0 else f"/v1/echo?{tag}"
            status = client.get(path, headers=buyer.bearer).status_code
            seen[status] += 1
            refused = refused + 1 if status == 403 else 0
            assert time.monotonic() < deadline, seen
    return seen


def test_a_store_that_is_emptied_again_and_again_lets_nobody_past_the_limit_at_either_gateway(
    rig: Rig, second: Second, provider: Provider
) -> None:
    buyer = provider.a_buyer(provider.a_plan({"api_requests": LIMIT}))
    tag = unique("tag")
    is_over = Event()

    def keep_emptying() -> int:
        times = 0
        while not is_over.wait(0.4):
            rig.store.flushall()
            times += 1
        return times

    with ThreadPoolExecutor(9) as pool:
        emptying = pool.submit(keep_emptying)
        asking = [
            pool.submit(ask_until_refused, gateway, buyer, tag) for gateway in (rig.gateway, second.envoy.url) * 4
        ]
        seen = [future.result() for future in asking]
        is_over.set()
        assert emptying.result() > 2
    total = sum(seen, Tally())
    assert total.keys() <= {200, 403, 401, 503}, "401: the key directory is just being published anew"
    assert total[200] == LIMIT
    assert len(provider.served(tag)) == LIMIT
    for each in (seen[::2], seen[1::2]):
        assert sum(each, Tally())[200] > 0, "both gateways let requests in"
    provider.usage_within(buyer, {"api_requests": LIMIT}, WITHIN_S)
    for log in (rig.plugin.log, second.plugin.log):
        assert "account_rebuilt" in log


def test_a_gateway_that_is_down_is_not_left_out_and_is_asked_when_it_is_back(
    rig: Rig, second: Second, provider: Provider
) -> None:
    buyer = provider.a_buyer(provider.a_plan({"api_requests": 10}))
    tag = unique("tag")
    with ThreadPoolExecutor(6) as pool:
        slow = [
            pool.submit(
                httpx2.get, f"{second.envoy.url}/v1/slow/20000?{tag}", headers=buyer.bearer, trust_env=False, timeout=60
            )
            for _ in range(6)
        ]
        rig.wait_until(lambda: len(provider.served(tag)) == 6, "the upstream has them")
        second.kill9()
        rig.store.flushall()
        deadline = time.monotonic() + WITHIN_S
        while "gateway_does_not_answer" not in rig.plugin.log:
            status = provider.call(buyer, f"/v1/echo?{tag}").status_code
            assert status in (503, 401), "six are open at a gateway that cannot be asked"
            assert time.monotonic() < deadline, "the operator is told"
            time.sleep(0.05)
        ready = second.plugin.log.count("worker_ready")
        second.plugin.start()
        rig.wait_until(lambda: second.plugin.log.count("worker_ready") >= ready + 2, "the second plugin is back")
        deadline = time.monotonic() + WITHIN_S
        statuses: Tally[int] = Tally()
        while statuses[403] < 3:
            statuses[provider.call(buyer, f"/v1/echo?{tag}").status_code] += 1
            assert time.monotonic() < deadline, statuses
        assert statuses.keys() <= {200, 403, 503, 401}, statuses
        assert statuses[200] == 4
        for future in slow:
            future.result()
    assert len(provider.served(tag)) == 10
    provider.usage_within(buyer, {"api_requests": 10}, WITHIN_S)


def test_a_name_is_one_gateway_s_and_free_again_when_it_has_left(
    rig: Rig, second: Second, provider: Provider, tmp_path: Path
) -> None:
    statuses = listed(provider)
    assert statuses["second"] == "live"
    assert len(statuses) == 2, "the other one bears its host's name"
    impostor = second.a_plugin(tmp_path / "spool")
    impostor.log_file = tmp_path / "impostor.log"
    impostor.start()
    rig.wait_until(lambda: not impostor.is_running, "the impostor ends")
    assert impostor.end() == 1
    assert "farebox: another plugin" in impostor.log
    assert "FAREBOX_GATEWAY_NAME" in impostor.log
    assert second.plugin.is_running
    assert second.plugin.end(signal.SIGTERM) == 0
    assert listed(provider)["second"] == "left"
    impostor.start()
    rig.wait_until(lambda: "worker_ready" in impostor.log, "the name is free")
    assert impostor.end(signal.SIGTERM) == 0

"""The whole loop on a Valkey Cluster of three masters: portal, plugin and Envoy as processes, and nodes that fail."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from builders.provider import Buyer, Provider, unique
from farebox.v1 import layout
from farebox_portal.clock import SystemClock
from farebox_portal.db import make_engine, transaction
from farebox_portal.demo.envoy_config import GatewayConfig
from farebox_portal.migrate import migrate
from farebox_portal.seed import seed
from farebox_portal.settings import load_settings
from rig.envoy import Envoy
from rig.ports import free_port
from rig.upstream import Upstream
from rig.valkey import ValkeyCluster, slot_of

ADMIN_TOKEN = "operator-token-of-the-cluster-test"
PLUGIN_TOKEN = "plugin-token-of-the-cluster-test"
WORKERS = 2
PATIENCE_S = 120.0  # others may be at work on this machine
LIMIT = 20


@dataclass(frozen=True)
class Product:
    """What `Provider` wants of a running product."""

    cluster: ValkeyCluster
    portal: str
    gateway: str
    upstream: str

    @property
    def admin(self) -> dict[str, str]:
        return {"authorization": f"Bearer {ADMIN_TOKEN}"}


def eventually(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.05)


def status(url: str, headers: dict[str, str] | None = None) -> int:
    try:
        return int(httpx2.get(url, headers=headers or {}, timeout=5, trust_env=False).status_code)
    except httpx2.HTTPError:
        return 0


@contextmanager
def running(module: str, *arguments: str, log: Path, **environment: str) -> Iterator[None]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FAREBOX_")}
    command = [sys.executable, "-m", module, *arguments]
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, env=inherited | environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def a_product(folder: Path) -> Iterator[Product]:
    with ExitStack() as stack:
        cluster = stack.enter_context(ValkeyCluster(folder / "cluster"))
        upstream = stack.enter_context(Upstream(folder / "upstream"))
        sockets = Path(tempfile.mkdtemp(prefix="fbc-", dir="/tmp"))  # short: a socket's path ends at 107 bytes
        stack.callback(shutil.rmtree, sockets, ignore_errors=True)
        port = free_port()
        shared = {"FAREBOX_PLUGIN_TOKEN": PLUGIN_TOKEN, "FAREBOX_REDIS_URL": cluster.url}
        portal = shared | {
            "FAREBOX_ADMIN_TOKEN": ADMIN_TOKEN,
            "FAREBOX_DATABASE_URL": f"sqlite:///{folder / 'farebox.db'}",
            "FAREBOX_STATE_DIR": str(folder),
        }
        settings = load_settings(portal)
        engine = make_engine(settings.sql_url)
        migrate(engine)
        with transaction(engine) as session:
            seed(session, settings, SystemClock().now())
        engine.dispose()
        stack.enter_context(
            running("farebox_portal", "portal", "--port", str(port), log=folder / "portal.log", **portal)
        )
        plugin = shared | {
            "FAREBOX_PORTAL_URL": f"http://127.0.0.1:{port}",
            "FAREBOX_SPOOL_DIR": str(folder / "spool"),
            "FAREBOX_STORE_TIMEOUT_MS": "350",  # a busy machine is no outage
        }
        listen = ("--listen", f"unix:{sockets}/w%d.sock", "--workers", str(WORKERS))
        stack.enter_context(running("farebox_plugin", *listen, log=folder / "plugin.log", **plugin))
        config = GatewayConfig(
            upstream=upstream.address, sockets=tuple(f"{sockets}/w{number}.sock" for number in range(WORKERS))
        )
        envoy = stack.enter_context(Envoy(folder / "envoy", config))
        product = Product(cluster, f"http://127.0.0.1:{port}", envoy.url, upstream.url)
        eventually(lambda: status(f"{product.portal}/v1/meters", product.admin) == 200, "the portal answers")
        eventually(lambda: status(f"{product.gateway}/v1/echo") == 401, "the gateway asks the plugin")
        yield product


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    with a_product(tmp_path_factory.mktemp("product")) as one:
        yield one


@pytest.fixture
def provider(product: Product) -> Iterator[Provider]:
    operator = Provider(product)  # type: ignore[arg-type]
    yield operator
    operator.close()


def buyers_on_every_node(provider: Provider, cluster: ValkeyCluster) -> list[Buyer]:
    """One whose account lies there, for each master."""
    plan = provider.a_plan({"api_requests": LIMIT})
    found: dict[int, Buyer] = {}
    while len(found) < 3:
        buyer = provider.a_buyer(plan)
        found.setdefault(cluster.master_of(layout.counters(buyer.customer_id)).port, buyer)
    return [found[node.port] for node in cluster.masters]


def uses(provider: Provider, buyer: Buyer, tag: str, count: int) -> None:
    """Call until so many were let in, several at a time."""

    def is_let_in() -> bool:
        return provider.call(buyer, f"/v1/echo?{tag}").status_code == 200

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(lambda _: eventually(is_let_in, "it is let in"), range(count)))


def test_limits_are_exact_through_the_failure_of_nodes_and_the_move_of_a_slot(
    product: Product, provider: Provider
) -> None:
    cluster = product.cluster
    killed, emptied, moved = buyers = buyers_on_every_node(provider, cluster)
    tag = unique("tag")
    for buyer in buyers:
        uses(provider, buyer, tag, 8)

    node = cluster.masters[0]
    node.kill9()
    eventually(lambda: provider.call(killed).status_code == 503, "the killed node's account is unavailable")
    for buyer in (emptied, moved):
        uses(provider, buyer, tag, 2)
    node.start()
    cluster.masters[1].ask("FLUSHALL")
    cluster.move(slot_of(layout.counters(moved.customer_id)), cluster.masters[1])

    for buyer, used in ((killed, 8), (emptied, 10), (moved, 10)):
        uses(provider, buyer, tag, LIMIT - used)
        refused = [provider.call(buyer, f"/v1/echo?{tag}") for _ in range(5)]
        assert {answer.status_code for answer in refused} <= {403, 503}
        eventually(lambda buyer=buyer: provider.call(buyer).status_code == 403, "it is refused")  # type: ignore[misc]
        provider.usage_within(buyer, {"api_requests": LIMIT}, PATIENCE_S)
    assert len(provider.served(tag)) == 3 * LIMIT


def test_keys_come_and_go_within_seconds_on_every_node(product: Product, provider: Provider) -> None:
    for buyer in buyers_on_every_node(provider, product.cluster):
        assert provider.call(buyer).status_code == 200
        provider.rest.delete(f"/v1/keys/{buyer.key_id}").raise_for_status()
        eventually(lambda buyer=buyer: provider.call(buyer).status_code == 401, "the key is revoked")  # type: ignore[misc]

"""What a decision costs: CPU and latency of a request through the real Envoy, and who spends it.

    cd tests && ../.venv/bin/python -m bench.gateway [--seconds 6] [--connections 1,16,64] [--transports grpcio,h2]

Every case runs in the same run on the same machine: look at the ratios. Envoy answers by itself (direct_response), so
no upstream takes a share; access logs flow and are settled, the spool is written and shipped. CPU is that of the
processes (user and system, /proc/PID/stat): a noisy neighbour costs requests a second, but hardly CPU a request.
"""

import argparse
import contextlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from builders.provider import Provider
from farebox_portal.demo.envoy_config import GatewayConfig, render_config
from rig.envoy import Envoy
from rig.ports import free_port
from rig.valkey import Valkey

TICKS = os.sysconf("SC_CLK_TCK")
TOKEN = "a-token-for-the-benchmark"


@dataclass(frozen=True)
class Row:
    """One case at one number of connections; CPU in microseconds a request."""

    case: str
    connections: int
    rps: float
    p50_ms: float
    p99_ms: float
    envoy_us: float
    plugin_us: float
    keeper_us: float  # of the plugin's: the process that ships the spools, off the request's path
    store_us: float


@dataclass(frozen=True)
class Served:
    """What one case is measured on: where to ask, as whom, and whose CPU counts."""

    url: str
    headers: dict[str, str]
    envoy: int
    plugin: int = 0
    store: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=6)
    parser.add_argument("--connections", default="1,16,64")
    parser.add_argument("--transports", default="grpcio,h2")
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("bench.gateway needs wrk: apt install wrk")
    counts = [int(each) for each in arguments.connections.split(",")]
    rows: list[Row] = []
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; Envoy concurrency 1")
    titles = f"{'':34}{'conns':>6}{'req/s':>9}{'p50 ms':>8}{'p99 ms':>8}"
    print(f"{titles}{'Envoy':>8}{'plugin':>8}{'(keeper)':>9}{'store':>8}  µs CPU")
    for name, case in cases(arguments.transports.split(","), arguments.workers):
        with case as served:
            load(served, 16, 2)
            for connections in counts:
                rows.append(measure(name, served, connections, arguments.seconds))
                show(rows[-1])
    ratios(rows, max(counts))


def cases(transports: list[str], workers: int) -> Iterator[tuple[str, Any]]:
    yield "Envoy alone", alone()
    for transport in transports:
        yield f"{transport}, decides nothing", noop(transport)
    for transport in transports:
        yield f"Farebox on {transport}", farebox(transport, workers)


@contextmanager
def alone() -> Iterator[Served]:
    with a_folder() as folder, Envoy(folder, config(folder, 1)) as envoy:
        yield Served(f"{envoy.url}/healthz", {}, envoy.pid)


@contextmanager
def noop(transport: str) -> Iterator[Served]:
    with a_folder() as folder, ExitStack() as stack:
        command = ["-m", "bench.noop", "--transport", transport, "--listen", f"unix:{folder}/w0.sock"]
        server = stack.enter_context(running(command, {}))
        wait_for(lambda: (folder / "w0.sock").exists())
        envoy = stack.enter_context(Envoy(folder, config(folder, 1)))
        yield Served(f"{envoy.url}/", {"x-api-key": "any"}, envoy.pid, server)


@contextmanager
def farebox(transport: str, workers: int) -> Iterator[Served]:
    with a_folder() as folder, ExitStack() as stack:
        valkey = stack.enter_context(Valkey(folder / "valkey"))
        port = free_port()
        variables = {
            "FAREBOX_STATE_DIR": str(folder),
            "FAREBOX_SPOOL_DIR": str(folder / "spool"),
            "FAREBOX_REDIS_URL": valkey.url,
            "FAREBOX_ADMIN_TOKEN": TOKEN,
            "FAREBOX_PLUGIN_TOKEN": TOKEN + "-of-the-plugin",
            "FAREBOX_PORTAL_URL": f"http://127.0.0.1:{port}",
        }
        for name in ("logs", "spool"):
            (folder / name).mkdir()
        stack.enter_context(running(["-m", "farebox_portal.demo.portal", "--port", str(port)], variables))
        listen = ["--listen", f"unix:{folder}/w%d.sock", "--workers", str(workers), "--transport", transport]
        plugin = stack.enter_context(running(["-m", "farebox_plugin", *listen], variables))
        wait_for(lambda: all((folder / f"w{worker}.sock").exists() for worker in range(workers)))
        envoy = stack.enter_context(Envoy(folder, config(folder, workers)))
        provider = Provider(_Addresses(f"http://127.0.0.1:{port}", envoy.url))  # type: ignore[arg-type]
        stack.callback(provider.close)
        wait_for(lambda: answers(provider))
        buyer = provider.a_buyer(provider.a_plan({"api_requests": 10**12}))
        wait_for(lambda: provider.call(buyer, "/").status_code == 200)
        yield Served(f"{envoy.url}/", buyer.bearer, envoy.pid, plugin, valkey.pid)


@dataclass(frozen=True)
class _Addresses:
    portal: str
    gateway: str
    upstream: str = "http://127.0.0.1:9"

    @property
    def admin(self) -> dict[str, str]:
        return {"authorization": f"Bearer {TOKEN}"}


def config(folder: Path, workers: int) -> str:
    """The shipped configuration, with an answer by Envoy itself in place of the upstream's."""
    sockets = tuple(f"{folder}/w{worker}.sock" for worker in range(workers))
    text = render_config(GatewayConfig(sockets=sockets))
    routed = "match: {prefix: /}\n                route: {cluster: upstream, timeout: 30s}"
    assert routed in text
    answer = 'match: {prefix: /}\n                direct_response: {status: 200, body: {inline_string: "ok"}}'
    return text.replace(routed, answer)


def measure(name: str, served: Served, connections: int, seconds: int) -> Row:
    pids = (served.envoy, served.plugin, served.store)
    before = [cpu_s(pid) for pid in pids]
    keeper = cpu_s(served.plugin, descendants=False)
    rps, p50, p99, requests = load(served, connections, seconds)
    envoy, plugin, store = [(cpu_s(pid) - start) * 1e6 / requests for pid, start in zip(pids, before, strict=True)]
    keeper = (cpu_s(served.plugin, descendants=False) - keeper) * 1e6 / requests
    return Row(name, connections, rps, p50, p99, envoy, plugin, keeper if "Farebox" in name else 0.0, store)


def load(served: Served, connections: int, seconds: int) -> tuple[float, float, float, int]:
    """(requests/s, p50 ms, p99 ms, requests) of wrk. Fails when an answer is not 2xx."""
    headers = [word for name, value in served.headers.items() for word in ("-H", f"{name}: {value}")]
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", *headers, served.url]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Non-2xx" not in out, out
    found = {share: milliseconds(value) for share, value in re.findall(r"^\s+(50|99)%\s+(\S+)$", out, re.MULTILINE)}
    rps = float(re.findall(r"Requests/sec:\s+([\d.]+)", out)[0])
    return rps, found["50"], found["99"], int(re.findall(r"(\d+) requests in", out)[0])


def milliseconds(text: str) -> float:
    value, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]
    return float(value) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]


def cpu_s(pid: int, *, descendants: bool = True) -> float:
    """User and system time of a process, and of its descendants, in seconds."""
    if not pid:
        return 0.0
    total = 0.0
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total = (int(fields[11]) + int(fields[12])) / TICKS
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split() if descendants else []
        for child in children:
            total += cpu_s(int(child))
    return total


def show(row: Row) -> None:
    print(
        f"{row.case:34}{row.connections:>6}{row.rps:>9.0f}{row.p50_ms:>8.2f}{row.p99_ms:>8.2f}"
        f"{row.envoy_us:>8.1f}{row.plugin_us:>8.1f}{row.keeper_us:>9.1f}{row.store_us:>8.1f}",
        flush=True,
    )


def ratios(rows: list[Row], connections: int) -> None:
    at = {row.case: row for row in rows if row.connections == connections}
    print(f"\nratios at {connections} connections")
    for top, bottom in (
        ("Farebox on h2", "Farebox on grpcio"),
        ("Farebox on h2", "h2, decides nothing"),
        ("Farebox on grpcio", "grpcio, decides nothing"),
    ):
        if top in at and bottom in at:
            print(f"  requests/s, {top} : {bottom} = {at[top].rps / at[bottom].rps:.2f}")
            print(f"  plugin CPU, {bottom} : {top} = {at[bottom].plugin_us / at[top].plugin_us:.2f}")


@contextmanager
def a_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="fbb-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running(arguments: list[str], variables: dict[str, str]) -> Iterator[int]:
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env=os.environ | variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(20)


def answers(provider: Provider) -> bool:
    try:
        return provider.rest.get("/v1/meters").status_code == 200
    except httpx2.TransportError:
        return False


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            sys.exit("bench.gateway: a part did not start")
        time.sleep(0.05)


if __name__ == "__main__":
    main()

"""How long a start takes, and how long a killed worker is missed.

Serving means: the health check that Envoy asks answers SERVING on the worker's socket.
"""

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import grpc

from bench import cases
from bench.cases import Farebox, wait_for
from bench.figures import Figure, Row
from bench.gateway import Plan
from farebox.v1.health_pb2 import HealthCheckResponse
from farebox_plugin.worker import HEALTH_CHECK
from faults.load import Load, Question
from rig.demo import Demo, is_running

RATE = 100.0  # requests a second while a worker is killed
CONNECTIONS = 16
LOOK_EVERY_S = 0.005
HEALTHY_AFTER_S = 10.0  # a worker that dies before is started again later (keeper/supervise.py)


@dataclass(frozen=True)
class Recovery:
    """Of one killed worker, seconds since it was; ``failed`` and ``slowest_s`` of all requests around it."""

    serving_s: float
    answered_s: float
    asked: int
    failed: int
    slowest_s: float


def starts(plan: Plan) -> tuple[tuple[Row, ...], tuple[Figure, ...]]:
    """So many starts, and the death of each of two workers; of one, if one start is enough."""
    with cases.farebox(workers=2) as gateway:
        since = time.monotonic()
        plugin_s = [plugin_start_s(gateway, number) for number in range(plan.starts)]
        time.sleep(max(0.0, since + HEALTHY_AFTER_S + 1 - time.monotonic()))
        recovered = [recovery(gateway, socket) for socket in gateway.sockets[: plan.starts]]
    demo_s = [demo_start_s() for _ in range(plan.starts)]
    asked, failed = sum(each.asked for each in recovered), sum(each.failed for each in recovered)
    return (), (
        Figure("starts", "farebox plugin, until its first worker serves", median(plugin_s), "s"),
        Figure("starts", "farebox demo, until it is ready", median(demo_s), "s"),
        Figure(
            "starts",
            "killed worker (1 of 2), until its successor serves",
            median(each.serving_s for each in recovered),
            "s",
        ),
        Figure("starts", "… until Envoy has its first answer", median(each.answered_s for each in recovered), "s"),
        Figure("starts", f"… failed requests, of {asked}", failed, "requests"),
        Figure("starts", "… slowest answer", max(each.slowest_s for each in recovered) * 1e3, "ms"),
    )


def plugin_start_s(gateway: Farebox, number: int) -> float:
    """From the start of a process to its first SERVING: a second gateway on the same portal and store."""
    with cases.a_folder() as folder:
        port = int(gateway.provider.demo.portal.rpartition(":")[2])
        told = cases.environment(folder, gateway.store.url, port) | {"FAREBOX_GATEWAY_NAME": f"start{number}"}
        began = time.monotonic()
        with cases.plugin(folder, told, "h2", 1):
            wait_for(lambda: is_serving(folder / "w0.sock"), "the plugin did not start", LOOK_EVERY_S)
            return time.monotonic() - began


def demo_start_s() -> float:
    with cases.a_folder() as folder:
        began = time.monotonic()
        with Demo(folder):
            return time.monotonic() - began


def recovery(gateway: Farebox, socket: Path) -> Recovery:
    """Kill the worker on this socket in the midst of steady requests."""
    victim = next(pid for pid in gateway.workers if str(socket) in Path(f"/proc/{pid}/cmdline").read_text())
    question = Question(cases.COUNT.route.path, gateway.buyer.api_key)
    with Load(gateway.envoy.url, lambda _: question, connections=CONNECTIONS, rate=RATE) as load:
        load.reached(2 * int(RATE))
        os.kill(victim, signal.SIGKILL)
        killed_at = time.monotonic()
        wait_for(lambda: not is_running(victim), "a killed worker goes on", LOOK_EVERY_S)
        before = answers_by(gateway, socket)
        serving_s = _when(lambda: is_serving(socket)) - killed_at
        answered_s = _when(lambda: answers_by(gateway, socket) > before) - killed_at
        time.sleep(1)
        load.stop()
    return Recovery(
        serving_s=serving_s,
        answered_s=answered_s,
        asked=len(load.answers),
        failed=sum(answer.status != 200 for answer in load.answers),
        slowest_s=max(answer.answered_at - answer.asked_at for answer in load.answers),
    )


def answers_by(gateway: Farebox, socket: Path) -> int:
    """Checks that the worker on this socket has answered, as Envoy counts them; across incarnations."""
    clusters = json.loads(gateway.envoy.admin("/clusters?format=json"))["cluster_statuses"]
    hosts = next(cluster["host_statuses"] for cluster in clusters if cluster["name"] == "farebox_authz")
    host = next(host for host in hosts if host["address"]["pipe"]["path"] == str(socket))
    return next(int(stat.get("value", 0)) for stat in host["stats"] if stat["name"] == "rq_success")


def is_serving(socket: Path) -> bool:
    if not cases.accepts(socket):
        return False
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        try:
            answer = channel.unary_unary(HEALTH_CHECK)(b"", timeout=5)
        except grpc.RpcError:
            return False
    return bool(HealthCheckResponse.FromString(answer).status == HealthCheckResponse.SERVING)


def _when(condition: Callable[[], bool]) -> float:
    wait_for(condition, "a killed worker does not come back", LOOK_EVERY_S)
    return time.monotonic()

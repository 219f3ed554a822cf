"""What dies, and what a client and the upstream see of it. Each test has a demo of its own."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import httpx2
import pytest

from builders.provider import Provider, unique
from farebox.v1 import layout
from rig.demo import Demo, ended

BACK_WITHIN_S = 20.0


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    with Demo(tmp_path_factory.mktemp("outages")) as demo:
        provider = Provider(demo)
        yield provider
        provider.close()


def child_pids(parent: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def plugin_pid(demo: Demo) -> int:
    """The plugin's keeper as it runs now, also after it was started again."""
    for pid in child_pids(demo.pid):
        if b"farebox_plugin" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    raise AssertionError("no plugin is running")


def until_back(provider: Provider, headers: dict[str, str]) -> set[int]:
    """Ask until the gateway lets a request in again; every other answer on the way."""
    seen: set[int] = set()
    deadline = time.monotonic() + BACK_WITHIN_S
    while (status := provider.gateway.get("/v1/echo", headers=headers).status_code) != 200:
        seen.add(status)
        assert time.monotonic() < deadline, f"still {status}"
        time.sleep(0.05)
    return seen


def test_a_store_that_is_gone_is_a_503_and_never_a_bypass(own: Provider) -> None:
    buyer = own.a_buyer(own.a_plan({"api_requests": 50}))
    assert own.call(buyer).status_code == 200
    pid = own.demo.pids["valkey"]
    os.kill(pid, signal.SIGSTOP)  # there, but silent: worse than gone
    tag = unique("tag")
    answers = [own.call(buyer, f"/v1/echo?{tag}") for _ in range(3)]
    answers.append(own.gateway.get(f"/v1/echo?{tag}", headers={"x-api-key": "nonsense"}))
    os.kill(pid, signal.SIGKILL)
    gone = [own.call(buyer, f"/v1/echo?{tag}") for _ in range(3)]
    assert {answer.status_code for answer in answers[:3]} == {503}
    assert answers[3].status_code == 401, "a key that cannot be one needs no store to be refused"
    for answer in answers[:3]:
        assert answer.json()["code"] == "metering_unavailable"
        assert int(answer.headers["retry-after"]) >= 1
    assert {answer.status_code for answer in gone} <= {503, 200}
    assert until_back(own, buyer.bearer) <= {503}
    allowed = 1 + sum(answer.status_code == 200 for answer in gone)
    assert len(own.served(tag)) == allowed - 1
    # The store has lost nothing: the used up units are still used up.
    own.usage_within(buyer, {"api_requests": allowed + 1}, 10.0)
    left = int(own.call(buyer).headers["ratelimit"].split("r=")[1].split(";")[0])
    assert left == 50 - (allowed + 2)


def test_a_store_that_forgets_everything_lets_nobody_past_a_used_up_limit(own: Provider) -> None:
    import redis

    buyer = own.a_buyer(own.a_plan({"api_requests": 5}))
    assert [own.call(buyer).status_code for _ in range(6)] == [200] * 5 + [403]
    (socket,) = [path for path in Path("/tmp").glob("farebox-*/valkey.sock") if is_of(path, own.demo.pid)]
    with redis.Redis(unix_socket_path=str(socket)) as store:
        store.flushall()
    deadline = time.monotonic() + BACK_WITHIN_S
    statuses = set()
    while (status := own.call(buyer).status_code) != 403:
        statuses.add(status)
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert statuses <= {503}


def is_of(socket: Path, demo_pid: int) -> bool:
    """Whether the Valkey on this socket is a child of this demo."""
    return any(str(socket).encode() in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in child_pids(demo_pid))


def test_a_killed_plugin_is_a_503_and_comes_back_alone(own: Provider) -> None:
    buyer = own.a_buyer(own.a_plan({"api_requests": 100_000}))
    assert own.call(buyer).status_code == 200
    own.usage_within(buyer, {"api_requests": 1}, 5.0)
    tag = unique("tag")
    before = {name: pid for name, pid in own.demo.pids.items() if name not in ("plugin", "valkey")}
    keeper = plugin_pid(own.demo)
    workers = child_pids(keeper)
    os.kill(keeper, signal.SIGKILL)
    for pid in (keeper, *workers):
        assert ended(pid), "no worker outlives its keeper"
    answers = [own.call(buyer, f"/v1/echo?{tag}").status_code for _ in range(3)]
    assert set(answers) <= {503, 200}
    assert until_back(own, buyer.bearer) <= {503}
    assert len(own.served(tag)) == answers.count(200)
    running = set(child_pids(own.demo.pid))
    assert set(before.values()) <= running, "nothing else was started again"
    # What the access log was just telling the dead process may wait for the sweeper (FAREBOX_ORPHAN_AFTER_S); it stays
    # held, so that no unit is lost or given twice meanwhile.
    taken = 2 + answers.count(200)
    left = int(own.call(buyer).headers["ratelimit"].split("r=")[1].split(";")[0])
    assert left == 100_000 - taken - 1
    assert own.usage(buyer)["api_requests"] >= 1


def test_a_killed_worker_costs_no_request_and_no_unit(own: Provider) -> None:
    buyer = own.a_buyer(own.a_plan({"api_requests": 100_000}))
    assert own.call(buyer).status_code == 200
    stop = Event()

    def ask() -> list[int]:
        codes = []
        with httpx2.Client(base_url=own.demo.gateway, timeout=30, trust_env=False) as client:
            while not stop.is_set():
                codes.append(client.get("/v1/echo", headers=buyer.bearer).status_code)
        return codes

    keeper = plugin_pid(own.demo)
    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        for _ in range(2):
            time.sleep(1.0)
            victim = child_pids(keeper)[0]
            ready = own.demo.child_log("plugin").count("worker_ready")
            os.kill(victim, signal.SIGKILL)
            assert ended(victim)
            deadline = time.monotonic() + BACK_WITHIN_S
            while own.demo.child_log("plugin").count("worker_ready") == ready:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            time.sleep(2.0)  # Envoy takes it back with its next health check
        stop.set()
        codes = [code for future in asking for code in future.result()]
    assert set(codes) == {200}, {code: codes.count(code) for code in set(codes)}
    left = int(own.call(buyer).headers["ratelimit"].split("r=")[1].split(";")[0])
    assert left == 100_000 - (2 + len(codes)), "no unit lost, none taken twice"


def test_a_portal_that_is_away_stops_nobody_who_is_known(own: Provider) -> None:
    buyer = own.a_buyer(own.a_plan({"api_requests": 1000}))
    assert own.call(buyer).status_code == 200
    pid = own.demo.pids["portal"]
    os.kill(pid, signal.SIGSTOP)
    try:
        codes = [own.call(buyer).status_code for _ in range(20)]
    finally:
        os.kill(pid, signal.SIGCONT)
    assert codes == [200] * 20
    own.usage_within(buyer, {"api_requests": 21}, 20.0)


def test_usage_is_in_sql_after_a_restart_on_the_same_state(tmp_path: Path) -> None:
    with Demo(tmp_path) as demo:
        provider = Provider(demo)
        buyer = provider.a_buyer(provider.a_plan({"api_requests": 10}))
        assert [provider.call(buyer).status_code for _ in range(4)] == [200] * 4
        free_key = demo.api_key("free")
        provider.close()
        # At once: the access log's batch is still on its way, and the demo sees it home.
        assert demo.stop() == 0
    with sqlite3.connect(tmp_path / "state" / "farebox.db") as ledger:
        (stored,) = ledger.execute(
            "SELECT count(*) FROM usage_events WHERE customer_id = ?", (buyer.customer_id,)
        ).fetchone()
    assert stored == 4
    with Demo(tmp_path) as demo:
        provider = Provider(demo)
        assert demo.api_key("free") == free_key
        assert provider.usage(buyer)["api_requests"] == 4
        codes = [provider.call(buyer).status_code for _ in range(8)]
        assert codes.count(200) == 6, "a restart forgets no unit, settled or held"
        assert codes == sorted(codes)
        provider.close()


def test_the_reconciler_finds_one_unit_and_puts_it_right(own: Provider) -> None:
    import redis

    buyer = own.a_buyer(own.a_plan({"api_requests": 50}))
    assert [own.call(buyer).status_code for _ in range(7)] == [200] * 7
    own.usage_within(buyer, {"api_requests": 7}, 5.0)
    (socket,) = [path for path in Path("/tmp").glob("farebox-*/valkey.sock") if is_of(path, own.demo.pid)]

    def look(*options: str) -> tuple[int, dict[str, object]]:
        ended_ = subprocess.run(
            [sys.executable, "-m", "farebox_portal", *options, "--account", buyer.customer_id, "--json"],
            env=os.environ | {"FAREBOX_SPOOL_DIR": str(own.demo.state / "spool")},
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        return ended_.returncode, json.loads(ended_.stdout)

    assert look("reconcile") == (0, {"account": buyer.customer_id, "result": "right", "drifts": []})
    with redis.Redis(unix_socket_path=str(socket)) as store:
        (field,) = [name for name in store.hkeys(layout.counters(buyer.customer_id)) if name.startswith(b"v:")]
        store.hincrby(layout.counters(buyer.customer_id), field, -1)
    status, finding = look("reconcile")
    assert (status, finding["result"]) == (1, "drift")
    assert finding["drifts"] == [{"what": field.decode(), "expected": 7, "found": 6}]
    assert look("reconcile", "--repair")[1]["result"] == "repaired"
    assert look("reconcile")[0] == 0
    assert look("rebuild") == (0, {"account": buyer.customer_id, "result": "rebuilt", "drifts": []})
    left = int(own.call(buyer).headers["ratelimit"].split("r=")[1].split(";")[0])
    assert left == 50 - 8

"""Workers come and go under load, and nobody notices."""

import os
import signal
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builders.provider import Provider
from faults.load import Load, Question
from rig.demo import Demo

RPS = 300


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    with Demo(tmp_path_factory.mktemp("reload")) as demo:
        yield demo


@pytest.fixture(scope="module")
def key(running: Demo) -> str:
    operator = Provider(running)
    try:
        return operator.a_buyer(operator.a_plan({"api_requests": 1_000_000})).api_key
    finally:
        operator.close()


def workers_of(demo: Demo) -> list[int]:
    plugin = demo.pids["plugin"]
    text = Path(f"/proc/{plugin}/task/{plugin}/children").read_text()
    return [int(pid) for pid in text.split()]


def socket_of(worker: int) -> Path:
    """Where it serves. Its successor's socket has the same name."""
    arguments = Path(f"/proc/{worker}/cmdline").read_text().split("\0")
    return Path(arguments[arguments.index("--listen") + 1].removeprefix("unix:"))


def inode(path: Path) -> int | None:
    return path.stat().st_ino if path.exists() else None


def statuses_while(demo: Demo, key: str, disturb: Callable[[], None]) -> Tally[int]:
    """Statuses of a steady load around a disturbance, which runs in this thread; LOST: a connection that broke."""
    with Load(demo.gateway, lambda number: Question(f"/v1/echo?{number}", key), connections=24, rate=RPS) as load:
        load.reached(RPS // 2)
        disturb()
        time.sleep(1.0)
        load.stop()
    return Tally(answer.status for answer in load.answers)


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_reload_replaces_every_worker_and_no_request_fails(running: Demo, key: str) -> None:
    before = workers_of(running)

    def reload() -> None:
        os.kill(running.pids["plugin"], signal.SIGHUP)
        until(lambda: len(workers_of(running)) == len(before) and not set(before) & set(workers_of(running)))

    assert set(statuses_while(running, key, reload)) == {200}


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["told to go", "killed"])
def test_workers_that_leave_in_turn_fail_no_request(running: Demo, key: str, how: signal.Signals) -> None:
    def in_turn() -> None:
        for worker in workers_of(running):
            socket = socket_of(worker)
            before = socket.stat().st_ino
            os.kill(worker, how)
            until(lambda socket=socket, before=before: inode(socket) not in (None, before))  # type: ignore[misc]
            time.sleep(2.5)  # until Envoy has seen that there are two again: one by one is what is promised

    assert set(statuses_while(running, key, in_turn)) == {200}

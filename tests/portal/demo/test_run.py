"""Supervision: who is brought back, who ends the demo, and what the user is told. The children are real processes.

The demo as a whole is tested in tests/e2e.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from farebox_portal.demo import run
from farebox_portal.demo.child import Child
from farebox_portal.demo.run import run_demo
from farebox_portal.demo.stack import STOP_ORDER, Stack, Wanted
from farebox_portal.demo.state import DemoCustomer, Secrets, State, open_state
from farebox_portal.errors import CannotStart
from rig.demo import is_running

FOREVER = "print('hello', flush=True); import time; time.sleep(600)"


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    (tmp_path / "logs").mkdir()
    state = State(tmp_path)
    found = Stack(state, tmp_path, Wanted(), Event(), lambda _text: None)
    for name in reversed(STOP_ORDER):
        child = Child(name, [sys.executable, "-c", FOREVER], state.log(name))
        child.start()
        child.wait_ready(lambda log=child.log: "hello" in log.read_text(), 20, Event())  # type: ignore[misc]
        found.children[name] = child
    yield found
    found.stop()


@pytest.fixture
def watched(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator["Watched"]:
    running = Watched(stack, monkeypatch)
    yield running
    running.stop()


class Watched:
    """A demo's main loop in a thread, with what it says."""

    def __init__(self, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stack = stack
        self.said: list[str] = []
        self.status: int | None = None
        self._stop = Event()
        monkeypatch.setattr(run, "_say", self.said.append)
        self._thread = Thread(target=self._run)
        self._thread.start()

    def kill(self, name: str) -> None:
        pid = self.stack.children[name].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(2000):
            if condition():
                return
            self._stop.wait(0.01)
        raise AssertionError(f"waited in vain; it said {self.said}")

    def ended(self) -> int | None:
        self._thread.join(20)
        return self.status

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(20)

    def _run(self) -> None:
        self.status = run._watch(self.stack, self._stop)


@pytest.mark.parametrize("name", ["valkey", "plugin"])
def test_what_may_die_is_started_again_and_reported_in_one_line(watched: Watched, name: str) -> None:
    before = watched.stack.children[name].pid
    watched.kill(name)
    watched.until(lambda: bool(watched.said))
    pid = watched.stack.children[name].pid
    assert pid != before
    assert pid is not None
    assert is_running(pid)
    assert watched.said == [f"farebox demo: {name} was ended by SIGKILL; started again (pid {pid})\n"]
    watched.stop()
    assert watched.status == 0


@pytest.mark.parametrize("name", ["portal", "upstream", "envoy"])
def test_what_must_not_die_ends_the_demo_with_its_last_lines(watched: Watched, name: str) -> None:
    watched.kill(name)
    assert watched.ended() == 1
    assert watched.said == [f"farebox demo: {name} was ended by SIGKILL; its log ends:\n  hello\n"]


def test_the_fourth_death_in_half_a_minute_ends_the_demo(watched: Watched) -> None:
    for deaths in range(1, 4):
        watched.kill("plugin")
        watched.until(lambda count=deaths: len(watched.said) == count)  # type: ignore[misc]
    assert watched.status is None
    watched.kill("plugin")
    assert watched.ended() == 1
    assert watched.said[-1].startswith("farebox demo: died 4 times within 30 s: plugin was ended by SIGKILL;")


def test_deaths_of_different_children_are_counted_apart(watched: Watched) -> None:
    for deaths in range(1, 6):
        watched.kill("plugin" if deaths % 2 else "valkey")
        watched.until(lambda count=deaths: len(watched.said) == count)  # type: ignore[misc]
    assert watched.status is None


def test_stopping_leaves_no_process(stack: Stack) -> None:
    pids = [child.pid for child in stack.children.values() if child.pid is not None]
    assert len(pids) == 6
    assert all(map(is_running, pids))
    stack.stop()
    assert not any(map(is_running, pids))


def test_the_gateway_is_stopped_first_and_the_store_last(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []
    stop = Child.stop
    monkeypatch.setattr(Child, "stop", lambda child, grace_s: (order.append(child.name), stop(child, grace_s)))
    stack.stop()
    assert order == ["envoy", "plugin", "portal", "payments", "upstream", "valkey"]


@pytest.fixture
def seeded(stack: Stack) -> Stack:
    customers = {
        name: DemoCustomer(f"{name}@example.com", f"key-{name}", "s") for name in ("free", "pro", "ai", "credits")
    }
    stack.secrets = Secrets("admin", "plugin", customers)
    stack.ports = {"gateway": 1, "portal": 2, "upstream": 3, "envoy admin": 4, "payments": 5}
    return stack


def test_the_json_line_has_everything_a_program_needs(seeded: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    run._show(seeded, as_json=True)
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    document: dict[str, Any] = json.loads(out)
    pids = document.pop("pids")
    assert set(pids) == {"valkey", "payments", "portal", "plugin", "upstream", "envoy"}
    assert all(map(is_running, pids.values()))
    assert document == {
        "gateway": "http://127.0.0.1:1",
        "portal": "http://127.0.0.1:2",
        "payments": "http://127.0.0.1:5",
        "upstream": "http://127.0.0.1:3",
        "envoyAdmin": "http://127.0.0.1:4",
        "adminToken": "admin",
        "state": str(seeded.state.folder),
        "customers": {
            name: {
                "email": f"{name}@example.com",
                "password": None,
                "apiKey": f"key-{name}",
                "subscriptionId": "s",
            }
            for name in ("free", "pro", "ai", "credits")
        },
    }


def test_the_page_shows_urls_keys_and_lines_to_try(seeded: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    run._show(seeded, as_json=False)
    out = capsys.readouterr().out
    for text in ("http://127.0.0.1:1/v1/echo", "http://127.0.0.1:2", "key-free", "key-pro", "key-credits", "curl -i"):
        assert text in out


def test_a_second_demo_on_the_same_state_says_so_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_state(tmp_path):
        assert run_demo(tmp_path, None, None, as_json=True) == 1
    assert capsys.readouterr() == ("", f"farebox demo: --state {tmp_path}: another demo is running on it\n")


@pytest.mark.parametrize("option", ["--gateway-port", "--portal-port"])
def test_a_port_that_is_taken_is_named_with_its_option_and_nothing_is_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        ports = (port, None) if option == "--gateway-port" else (None, port)
        assert run_demo(tmp_path, *ports, as_json=True) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"farebox demo: {option} {port}: something else listens on 127.0.0.1:{port}, or it may not be used\n"
    assert not (tmp_path / "logs" / "valkey.log").exists()


def test_one_port_for_two_is_refused() -> None:
    with pytest.raises(CannotStart, match="--gateway-port and --portal-port are both 45671"):
        Wanted(45671, 45671).check()


def test_settings_of_a_real_installation_do_not_reach_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAREBOX_DATABASE_URL", "postgresql://production")
    with open_state(tmp_path):
        run_demo(tmp_path, None, None, as_json=True)
    assert "FAREBOX_DATABASE_URL" not in os.environ


def test_a_shell_gets_addresses_and_keys_as_variables(seeded: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    run._show(seeded, as_json=True)
    file = seeded.state.folder / "demo.env"
    assert file.stat().st_mode & 0o077 == 0
    shown = subprocess.run(
        ["sh", "-c", f'. {file} && echo "$GATEWAY $FREE_KEY $FREE_SUBSCRIPTION $ADMIN"'],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert shown.stdout.split() == ["http://127.0.0.1:1", "key-free", "s", "admin"]

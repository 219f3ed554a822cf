"""Supervised processes: how they start, die, are stopped, and that nothing of them stays behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Event

import pytest

from farebox_portal.demo.child import Child, Stopped
from farebox_portal.errors import CannotStart
from rig.demo import ended, is_running

FOREVER = "import time; time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"
)
IN_ORDER = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print('flushed'), sys.exit(0)))
print('ready', flush=True)
time.sleep(600)
"""
WITH_WORKER = """
import subprocess, sys
worker = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])
print(worker.pid, flush=True)
worker.wait()
"""
MOTHER = """
import sys, time
from pathlib import Path
from farebox_portal.demo.child import Child
child = Child('child', [sys.executable, '-c', 'import time; time.sleep(600)'], Path(sys.argv[1]))
child.start()
print(child.pid, flush=True)
time.sleep(600)
"""


def python(tmp_path: Path, code: str, **environment: str) -> Child:
    return Child("tester", [sys.executable, "-c", code], tmp_path / "tester.log", environment)


def wait_for_log(child: Child, text: str) -> None:
    child.wait_ready(lambda: text in child.log.read_text(), 20, Event())


def test_it_runs_until_it_is_stopped(tmp_path: Path) -> None:
    child = python(tmp_path, FOREVER)
    assert child.pid is None
    child.start()
    pid = child.pid
    assert pid is not None
    assert is_running(pid)
    assert child.exit_status is None
    child.stop(grace_s=10)
    assert not is_running(pid)
    assert child.pid is None


def test_it_may_end_in_order_within_its_grace(tmp_path: Path) -> None:
    child = python(tmp_path, IN_ORDER)
    child.start()
    wait_for_log(child, "ready")
    child.stop(grace_s=20)
    assert "flushed" in child.last_lines()


def test_one_that_will_not_end_is_killed_after_its_grace(tmp_path: Path) -> None:
    child = python(tmp_path, STUBBORN)
    child.start()
    wait_for_log(child, "ready")
    pid = child.pid
    assert pid is not None
    child.stop(grace_s=0.1)
    assert not is_running(pid)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_what_it_has_started_goes_with_it(tmp_path: Path, how: signal.Signals) -> None:
    child = python(tmp_path, WITH_WORKER)
    child.start()
    wait_for_log(child, "\n")
    worker = int(child.log.read_text())
    assert child.pid is not None
    os.kill(child.pid, how)
    child.stop(grace_s=10)
    assert ended(worker)


def test_starting_it_again_ends_what_the_dead_one_left_running(tmp_path: Path) -> None:
    child = python(tmp_path, WITH_WORKER)
    child.start()
    wait_for_log(child, "\n")
    orphan, first = int(child.log.read_text()), child.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    assert ended(first)
    child.start()
    assert child.pid != first
    assert ended(orphan)
    child.stop(grace_s=10)


def test_one_that_dies_is_reported_with_its_last_lines(tmp_path: Path) -> None:
    child = python(tmp_path, "import sys; print('\\n'.join(f'line {n}' for n in range(20))); sys.exit(3)")
    child.start()
    with pytest.raises(CannotStart) as raised:
        child.wait_ready(lambda: False, 20, Event())
    lines = raised.value.detail.splitlines()
    assert lines[0] == "tester exited with 3; its log ends:"
    assert lines[1:] == [f"  line {n}" for n in range(10, 20)]


def test_one_that_is_killed_is_reported_with_the_signal(tmp_path: Path) -> None:
    child = python(tmp_path, FOREVER)
    child.start()
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(CannotStart, match=r"tester was ended by SIGKILL; its log ends:\n  \(nothing\)"):
        child.wait_ready(lambda: False, 20, Event())


def test_one_that_never_gets_ready_is_reported(tmp_path: Path) -> None:
    child = python(tmp_path, IN_ORDER)
    child.start()
    wait_for_log(child, "ready")
    with pytest.raises(CannotStart, match=r"tester was not ready within 0 s; its log ends:\n  ready"):
        child.wait_ready(lambda: False, 0.1, Event())
    child.stop(grace_s=10)


def test_waiting_ends_when_the_demo_is_told_to_stop(tmp_path: Path) -> None:
    child = python(tmp_path, FOREVER)
    child.start()
    stop = Event()
    stop.set()
    with pytest.raises(Stopped):
        child.wait_ready(lambda: False, 600, stop)
    child.stop(grace_s=10)


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    child = Child("tester", ["/no/such/program"], tmp_path / "tester.log")
    with pytest.raises(CannotStart, match="tester: cannot run /no/such/program: No such file"):
        child.start()
    child.stop(grace_s=1)


def test_its_environment_is_ours_and_what_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESTER_OURS", "1")
    show = "import os; print(os.environ['TESTER_OURS'], os.environ['TESTER_ITS'], flush=True);"
    child = python(tmp_path, show + FOREVER, TESTER_ITS="2")
    child.start()
    wait_for_log(child, "1 2")
    child.stop(grace_s=10)


def test_a_binary_log_is_shown_all_the_same(tmp_path: Path) -> None:
    child = python(tmp_path, "import sys; sys.stdout.buffer.write(b'\\xff' * 100_000 + b'\\nlast\\n')")
    child.start()
    with pytest.raises(CannotStart) as raised:
        child.wait_ready(lambda: False, 20, Event())
    assert raised.value.detail.endswith("\n  last")
    assert len(raised.value.detail) < 20_000


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its mother died")
def test_a_killed_demo_takes_its_children_along(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MOTHER, str(tmp_path / "child.log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as mother:
        assert mother.stdout is not None
        child = int(mother.stdout.readline())
        assert is_running(child)
        mother.kill()
    assert ended(child)


def test_ctrl_c_at_the_terminal_does_not_reach_it(tmp_path: Path) -> None:
    child = python(tmp_path, FOREVER)
    child.start()
    assert child.pid is not None
    assert os.getsid(child.pid) == child.pid != os.getsid(0)
    child.stop(grace_s=10)

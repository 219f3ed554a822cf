"""The commands as a user runs them: real processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from rig.ports import free_port

SECRET = "a-token-nobody-may-see"
COMMANDS = (
    "portal", "jobs", "migrate", "seed", "plugin", "demo", "envoy-config",
    "apply", "export", "diff", "rate", "simulate", "doctor", "smoke", "import-stripe",
)  # fmt: skip


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FAREBOX_")}
    return kept | {
        "FAREBOX_STATE_DIR": str(tmp_path / "state"),
        "FAREBOX_ADMIN_TOKEN": SECRET,
        "FAREBOX_PLUGIN_TOKEN": SECRET + "-2",
    }


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def farebox(environ: dict[str, str]) -> Run:
    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "farebox_portal", *arguments]
        return subprocess.run(command, env=environ | variables, capture_output=True, text=True, timeout=60)

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_an_example(farebox: Run, command: str) -> None:
    shown = farebox(command, "--help")
    assert shown.returncode == 0
    assert "Example: " in shown.stdout
    assert f"farebox {command}" in shown.stdout


def test_help_names_every_command_and_loads_nothing_heavy(environ: dict[str, str]) -> None:
    probe = (
        "import sys; sys.argv = ['farebox', '--help']\n"
        "from farebox_portal.cli import main\n"
        "try: main()\n"
        "except SystemExit: print(sorted({'sqlalchemy', 'fastapi', 'pydantic', 'redis', 'grpc'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", probe], env=environ, capture_output=True, text=True, check=True)
    assert all(command in shown.stdout for command in COMMANDS)
    assert shown.stdout.strip().endswith("[]")


def test_the_version_is_the_packages(farebox: Run) -> None:
    from importlib.metadata import version

    assert farebox("--version").stdout == f"farebox {version('farebox')}\n"


@pytest.mark.parametrize(
    ("arguments", "variables", "reason"),
    [
        (["portal"], {"FAREBOX_ADMIN_TOKEN": ""}, "FAREBOX_ADMIN_TOKEN: is required but not set"),
        (["seed"], {"FAREBOX_DATABASE_URL": "mysql://u:hunter2@h/n"}, "FAREBOX_DATABASE_URL: must be sqlite:///"),
        (["portal"], {}, "run `farebox migrate`"),
        (["seed"], {}, "run `farebox migrate`"),
        (["jobs"], {}, "run `farebox migrate`"),
        (["envoy-config", "--upstream", "nowhere"], {}, "'nowhere' is not HOST:PORT"),
        (["migrate"], {"FAREBOX_DATABASE_URL": "sqlite:////proc/none/farebox.db"}, "database"),
        (["migrate"], {"FAREBOX_STATE_DIR": "/proc/none"}, "FAREBOX_STATE_DIR: cannot make"),
    ],
)
def test_what_cannot_start_says_why_in_one_line(
    farebox: Run, arguments: list[str], variables: dict[str, str], reason: str
) -> None:
    ended = farebox(*arguments, **variables)
    assert ended.returncode == 1
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith("farebox: ")
    assert reason in line
    assert "hunter2" not in line
    assert SECRET not in line


def test_a_database_that_is_away_is_one_line_too(farebox: Run) -> None:
    url = f"postgresql://user:hunter2@127.0.0.1:{free_port()}/name"
    for command in ("portal", "migrate"):
        ended = farebox(command, FAREBOX_DATABASE_URL=url)
        assert ended.returncode == 1
        (line,) = ended.stderr.splitlines()
        assert line.startswith("farebox: ")
        assert "hunter2" not in line


def test_seeding_shows_keys_the_first_time_only(farebox: Run) -> None:
    assert farebox("migrate").returncode == 0
    first = json.loads(farebox("seed", "--json").stdout)["customers"]
    assert {one["apiKey"][:8] for one in first.values()} == {"fb_test_"}
    second = json.loads(farebox("seed", "--json").stdout)["customers"]
    assert {one["apiKey"] for one in second.values()} == {None}
    assert "free@example.com" in farebox("seed").stdout


def test_jobs_need_a_gateway_to_publish_to(farebox: Run) -> None:
    farebox("migrate")
    assert farebox("jobs").stderr == "farebox: FAREBOX_REDIS_URL: is required but not set\n"


def test_the_envoy_configuration_is_printed_whole_or_in_parts(farebox: Run) -> None:
    whole = farebox("envoy-config", "--upstream", "10.0.0.7:8080").stdout
    assert "10.0.0.7" in whole
    assert "static_resources:" in whole
    parts = farebox("envoy-config", "--filters-only").stdout
    assert "static_resources:" not in parts
    assert "farebox.authz" in parts


@pytest.fixture
def portal(environ: dict[str, str], farebox: Run) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A portal that answers, with jobs that find no store."""
    farebox("migrate")
    port = free_port()
    command = [sys.executable, "-m", "farebox_portal", "portal", "--port", str(port)]
    process = subprocess.Popen(
        command,
        env=environ | {"FAREBOX_REDIS_URL": f"unix:///{environ['FAREBOX_STATE_DIR']}/none.sock"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 30
        while True:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            try:
                if httpx2.get(f"http://127.0.0.1:{port}/readyz").status_code == 200:
                    break
            except httpx2.TransportError:
                time.sleep(0.05)
        yield process, port
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_portal_ends_in_order_when_told_to(
    portal: tuple[subprocess.Popen[str], int], number: signal.Signals
) -> None:
    process, port = portal
    httpx2.get(f"http://127.0.0.1:{port}/v1/meters", headers={"Authorization": f"Bearer {SECRET}"}).raise_for_status()
    process.send_signal(number)
    _, written = process.communicate(timeout=20)
    assert process.returncode == 0
    assert all(json.loads(line) for line in written.splitlines()), "a line that is not JSON"
    assert '"path": "/v1/meters", "status": 200' in written
    assert SECRET not in written


def test_a_second_portal_on_the_port_says_so(farebox: Run, portal: tuple[subprocess.Popen[str], int]) -> None:
    _, port = portal
    ended = farebox("portal", "--port", str(port))
    assert ended.returncode == 1
    assert ended.stderr == f"farebox: cannot listen on 127.0.0.1:{port}: Address already in use\n"

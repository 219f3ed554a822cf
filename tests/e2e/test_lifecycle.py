"""Starting and stopping the demo, as a user meets it."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from builders.provider import Provider, unique
from rig.demo import Demo, ended


def descendants(pid: int) -> set[int]:
    found: set[int] = set()
    frontier = [pid]
    while frontier:
        one = frontier.pop()
        try:
            children = Path(f"/proc/{one}/task/{one}/children").read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        frontier += [int(child) for child in children if int(child) not in found]
        found |= {int(child) for child in children}
    return found


def socket_folders() -> set[Path]:
    return set(Path("/tmp").glob("farebox-*"))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_two_demos_side_by_side_do_not_disturb_each_other_and_leave_nothing(
    tmp_path: Path, how: signal.Signals
) -> None:
    one, other = Demo(tmp_path / "one").start(), Demo(tmp_path / "other").start()
    try:
        ports = [url for demo in (one, other) for url in (demo.gateway, demo.portal, demo.upstream, demo.envoy_admin)]
        assert len(set(ports)) == 8
        providers = Provider(one), Provider(other)
        for mine, theirs in (providers, providers[::-1]):
            buyer = mine.a_buyer(mine.a_plan({"api_requests": 20}))
            tag = unique("tag")
            # Envoy shares a port between processes unless told not to: then some of these would land next door.
            assert [mine.call(buyer, f"/v1/echo?{tag}").status_code for _ in range(20)] == [200] * 20
            assert (len(mine.served(tag)), len(theirs.served(tag))) == (20, 0)
            assert theirs.call(buyer).status_code == 401
        for provider in providers:
            provider.close()
        family = {demo: {demo.pid} | descendants(demo.pid) for demo in (one, other)}
        commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in family[one]}
        folders = {
            part.decode() for command in commands.values() for part in command.split(b"\0") if b"/tmp/farebox-" in part
        }
        assert one.stop(how) == 0
        assert all(ended(pid) for pid in family[one])
        for part in folders:
            assert not Path(part.removeprefix("unix:")).parent.exists()
        assert httpx2.get(f"{other.gateway}/healthz", trust_env=False).status_code == 200
        assert other.stop(how) == 0
        assert all(ended(pid) for pid in family[other])
    finally:
        one.stop()
        other.stop()


def test_a_demo_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    demo = Demo(tmp_path).start()
    family = descendants(demo.pid)
    assert len(family) >= 7
    demo.stop(signal.SIGKILL)
    assert all(ended(pid) for pid in family)


def test_a_child_that_must_not_die_ends_the_demo_with_its_last_lines(tmp_path: Path) -> None:
    demo = Demo(tmp_path).start()
    family = descendants(demo.pid)
    os.kill(demo.pids["portal"], signal.SIGKILL)
    assert demo.wait() == 1
    assert "portal" in demo.log.splitlines()[-1] or "portal" in demo.log[demo.log.index("farebox demo:") :]
    assert all(ended(pid) for pid in family)


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FAREBOX_")} | variables
    return subprocess.run(
        [sys.executable, "-m", "farebox_portal", *arguments],
        capture_output=True, text=True, timeout=60, check=False, env=environment,
    )  # fmt: skip


GOOD = {
    "FAREBOX_REDIS_URL": "redis://127.0.0.1:1",
    "FAREBOX_PORTAL_URL": "http://127.0.0.1:1",
    "FAREBOX_PLUGIN_TOKEN": "a-token-that-is-long-enough",
}


@pytest.mark.parametrize(
    ("variables", "arguments", "reason"),
    [
        ({"FAREBOX_REDIS_URL": ""}, [], "FAREBOX_REDIS_URL"),
        ({"FAREBOX_REDIS_URL": "valkey.example:6379"}, [], "FAREBOX_REDIS_URL"),
        ({"FAREBOX_PORTAL_URL": "not a url"}, [], "FAREBOX_PORTAL_URL"),
        ({"FAREBOX_PLUGIN_TOKEN_FILE": "/no/such/file", "FAREBOX_PLUGIN_TOKEN": ""}, [], "FAREBOX_PLUGIN_TOKEN_FILE"),
        ({"FAREBOX_TRANSPORT": "carrier-pigeon"}, [], "FAREBOX_TRANSPORT"),
        ({}, ["--listen", "tcp:80"], "--listen"),
        ({}, ["--listen", "unix:/tmp/w.sock", "--workers", "2"], "--listen"),
        ({}, ["--listen", f"unix:/tmp/{'x' * 120}%d.sock"], "--listen"),
        ({"FAREBOX_SPOOL_DIR": "/proc/no/spool"}, [], "FAREBOX_SPOOL_DIR"),
    ],
)
def test_a_plugin_with_a_wrong_configuration_says_so_in_one_line(
    tmp_path: Path, variables: dict[str, str], arguments: list[str], reason: str
) -> None:
    given = GOOD | {"FAREBOX_SPOOL_DIR": str(tmp_path / "spool")} | variables
    listen = [] if "--listen" in arguments else ["--listen", f"unix:{tmp_path}/w%d.sock"]
    if len(f"{tmp_path}/keeper.sock") > 100 and listen:
        listen = ["--listen", f"unix:/tmp/fb-{os.getpid()}-%d.sock"]
    ended_ = run("plugin", *listen, *arguments, **{name: value for name, value in given.items() if value})
    assert ended_.returncode == 1, ended_.stderr
    (line,) = ended_.stderr.strip().splitlines()
    assert line.startswith("farebox: ")
    assert reason in line


def test_a_plugin_refuses_a_store_that_may_evict_counters(tmp_path: Path) -> None:
    import redis

    from rig.valkey import Valkey

    with Valkey(tmp_path / "valkey") as valkey:
        with redis.Redis.from_url(valkey.url) as store:
            store.config_set("maxmemory-policy", "allkeys-lru")
        listen = f"unix:{valkey.socket.parent}/w%d.sock"
        given = GOOD | {"FAREBOX_REDIS_URL": valkey.url, "FAREBOX_SPOOL_DIR": str(tmp_path / "spool")}
        ended_ = run("plugin", "--listen", listen, **given)
    assert ended_.returncode == 1
    (line,) = ended_.stderr.strip().splitlines()
    assert "noeviction" in line


@pytest.mark.parametrize("option", ["--gateway-port", "--portal-port"])
def test_a_demo_on_a_taken_port_says_so_and_leaves_nothing(tmp_path: Path, option: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended_ = run("demo", "--state", str(tmp_path / "state"), option, str(port))
    assert ended_.returncode == 1
    assert f"{option} {port}" in ended_.stderr.splitlines()[-1]
    assert ended_.stdout == ""


def test_a_demo_on_a_state_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended_ = run("demo", "--state", str(tmp_path / "file" / "state"))
    assert ended_.returncode == 1
    (line,) = ended_.stderr.strip().splitlines()
    assert "--state" in line

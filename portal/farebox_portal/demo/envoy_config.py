"""Envoy's configuration, from the one file that people read: ``envoy/envoy.yaml``.

The file is a working configuration by itself. Everything else is that same text with other addresses in it, comments
included: what ``farebox envoy-config`` prints, what the demo and the tests run, ``compose.yaml``, and ``filters.yaml``
(its parts marked for pasting). Text rather than a YAML tree, because the comments are half of its worth; and every
replacement insists on finding what it replaces, so an edit of the file cannot be half believed.

``python -m farebox_portal.demo.envoy_config`` rewrites the derived files; a test compares them.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent, indent

DEFAULT_UPSTREAM = "127.0.0.1:8002"
_HOST_PORT = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):(?P<port>[0-9]{1,5})")
_PASTE = re.compile(r"^ *# \[paste\] (?P<where>.*)\n(?P<block>(?:.*\n)*?) *# \[/paste\]\n", re.MULTILINE)
_ROUTES = re.compile(r"^(?P<margin> *)# \[routes\].*\n", re.MULTILINE)
_WORKERS = re.compile(
    r"^(?P<before> *- .*\{path: )/tmp/farebox/w0\.sock(?P<after>\}.*\n).*\{path: /tmp/farebox/w1\.sock\}.*\n",
    re.MULTILINE,
)

_FILTERS_HEADER = """\
# Farebox in an Envoy of your own: each block says where it goes. Written from envoy.yaml, which runs as it is and
# explains the settings around these that matter too: use_remote_address, normalize_path, merge_slashes,
# path_with_escaped_slashes_action, headers_with_underscores_action.
#
# Every route is metered under the policy "default" until it names another one. A route that is meant to be free
# disables farebox.authz, matches one exact path, and does nothing that is worth money.
"""

_ROUTE = """\
- name: {name}
  match: {{path_separated_prefix: {path}}}
  route: {{cluster: upstream, timeout: {timeout}}}
  typed_per_filter_config:
    farebox.authz:
      "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute
      check_settings: {{context_extensions: {{farebox.policy: {policy}}}}}
"""
_ROUTE_FILTER = """\
    {filter}: {{"@type": type.googleapis.com/envoy.config.route.v3.FilterConfig, config: {{}}}}
"""


@dataclass(frozen=True)
class Route:
    """A path and everything below it, sold under a policy. ``body`` shows response bodies to the plugin (tokens);
    ``cut_off`` lets it end them where a limit ends."""

    path: str
    policy: str
    body: bool = False
    cut_off: bool = False
    timeout: str = "30s"


@dataclass(frozen=True)
class GatewayConfig:
    """The addresses of one gateway, each ``HOST:PORT``; ``sockets`` are the plugin's, one for each worker."""

    listen: str = "127.0.0.1:8000"
    admin: str = "127.0.0.1:9901"
    upstream: str = DEFAULT_UPSTREAM
    sockets: tuple[str, ...] = ("/tmp/farebox/w0.sock", "/tmp/farebox/w1.sock")  # noqa: S108 - the file's own example
    upstream_timeout: str = "30s"
    routes: tuple[Route, ...] = ()


COMPOSE = GatewayConfig(
    listen="0.0.0.0:8000",
    upstream="upstream:8002",
    sockets=("/run/farebox/w0.sock", "/run/farebox/w1.sock"),
)


def render(upstream: str = DEFAULT_UPSTREAM, filters_only: bool = False) -> str:
    """What ``farebox envoy-config`` prints. Raises ValueError when ``upstream`` is not HOST:PORT."""
    text = render_config(GatewayConfig(upstream=upstream))
    return filters(text) if filters_only else text


def render_config(config: GatewayConfig) -> str:
    """A complete bootstrap for ``config``. Raises ValueError for an address that is none, or without a worker."""
    if not config.sockets:
        raise ValueError("a gateway needs at least one plugin socket")
    text = source()
    for name, default in (("listen", "127.0.0.1:8000"), ("admin", "127.0.0.1:9901"), ("upstream", DEFAULT_UPSTREAM)):
        text = _replace(text, _socket_address(default), _socket_address(getattr(config, name)))
    limited = "cluster: upstream, timeout: "
    text = _replace(text, f"{limited}30s", f"{limited}{config.upstream_timeout}", times=2)
    text, replaced = _WORKERS.subn(lambda found: _worker_lines(found, config.sockets), text)
    if replaced != 1:
        raise ValueError("envoy.yaml does not list the plugin's sockets exactly once")
    return _ROUTES.sub(lambda found: found[0] + indent("".join(map(_route, config.routes)), found["margin"]), text)


def filters(text: str) -> str:
    """The parts of a bootstrap that are Farebox's, ready to paste: a YAML document of its own."""
    blocks = [(found["where"], dedent(found["block"])) for found in _PASTE.finditer(text)]
    return _FILTERS_HEADER + "".join(f"\n# Paste {where}.\n{block}" for where, block in blocks)


def source() -> str:
    """The text of envoy.yaml: inside an installed package, or in the source tree."""
    return (_folder() / "envoy.yaml").read_text(encoding="utf-8")


def derived_files() -> dict[str, str]:
    """Name and text of each file in ``envoy/`` that is written from envoy.yaml."""
    header = "# Written from envoy.yaml for docker-compose.yml; only the addresses differ.\n\n"
    return {"filters.yaml": filters(source()), "compose.yaml": header + render_config(COMPOSE)}


def _folder() -> Path:
    package = Path(__file__).resolve().parents[1]
    installed = package / "envoy_files"
    return installed if installed.is_dir() else package.parents[1] / "envoy"


def _socket_address(address: str) -> str:
    found = _HOST_PORT.fullmatch(address)
    if found is None or not 0 < int(found["port"]) < 65536:
        raise ValueError(f"{address!r} is not HOST:PORT")
    host = found["host"].strip("[]")
    return f"{{address: {host if ':' not in host else repr(host)}, port_value: {found['port']}}}"


def _worker_lines(found: re.Match[str], sockets: tuple[str, ...]) -> str:
    return "".join(f"{found['before']}{_yaml_path(socket)}{found['after']}" for socket in sockets)


def _yaml_path(path: str) -> str:
    return path if re.fullmatch(r"[A-Za-z0-9/._-]+", path) else "'" + path.replace("'", "''") + "'"


def _route(route: Route) -> str:
    name = re.sub(r"[^A-Za-z0-9]+", "_", route.path).strip("_") or "root"
    text = _ROUTE.format(name=name, path=route.path, timeout=route.timeout, policy=route.policy)
    if route.cut_off or route.body:
        text += _ROUTE_FILTER.format(filter="farebox.guard" if route.cut_off else "farebox.meter")
    return text


def _replace(text: str, old: str, new: str, times: int = 1) -> str:
    if text.count(old) != times:
        raise ValueError(f"envoy.yaml has {text.count(old)} times {old!r}, not {times}")
    return text.replace(old, new)


if __name__ == "__main__":
    for name, text in derived_files().items():
        (_folder() / name).write_text(text, encoding="utf-8")

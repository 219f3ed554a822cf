"""R1: every real part in a process of its own, and proxies to hurt the connections between them."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import redis
from sqlalchemy import Connection

from farebox_portal.catalog import policies
from farebox_portal.clock import SystemClock
from farebox_portal.db import make_engine, transaction
from farebox_portal.demo.envoy_config import GatewayConfig, Route, render_config
from farebox_portal.migrate import migrate
from farebox_portal.seed import seed
from farebox_portal.settings import load_settings
from rig.envoy import Envoy
from rig.ports import free_port
from rig.postgres import Postgres
from rig.proxy import Proxy
from rig.upstream import Upstream
from rig.valkey import Valkey, answers_ping

WORKERS = 2
ORPHAN_AFTER_S = 5
START_TIMEOUT_S = 90.0  # a dozen processes of others may be starting too
ADMIN_TOKEN = "operator-token-of-the-fault-rig"
PLUGIN_TOKEN = "plugin-token-of-the-fault-rig"
ROUTES = (
    Route("/v1/echo/seven", "seven"),
    Route("/v1/echo/lenient", "lenient"),
    Route("/v1/status", "default"),
    Route("/v1/open", "open", body=True),
    Route("/v1/load", "open_bytes"),
    Route("/v1/cut", "capped_bytes", cut_off=True),
)
POLICIES: tuple[dict[str, Any], ...] = (
    {"key": "seven", "meters": {"api_requests": 7}},
    {"key": "lenient", "meters": {"api_requests": 1}, "onStoreFailure": "allow"},
    {"key": "open", "meters": {"api_requests": 1, "output_tokens": "usage.outputTokens"}},
    {"key": "open_bytes", "meters": {"api_requests": 1, "egress_bytes": "response.bytes"}},
    {"key": "capped_bytes", "meters": {"api_requests": 1, "egress_bytes": "response.bytes"}, "cutOff": True},
)
SQLITE, POSTGRESQL = "sqlite", "postgresql"
# What went wrong in Envoy's eyes, by its flags and details: it tells a worker that was gone from one that said no.
_FAILURE_LOG = """\
          - name: envoy.access_loggers.file
            filter: {{status_code_filter: {{comparison: {{op: GE, value: {{default_value: 500, runtime_key: rig}}}}}}}}
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: {path}
              log_format: {{text_format_source: {{inline_string: "{line}\\n"}}}}
"""
_FAILURE_LINE = "%START_TIME% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %DURATION%ms %REQ(:PATH)%"
_METERING_FEED = "          - name: envoy.access_loggers.http_grpc\n"
_ARCHIVE_EVERY_S = 0.05


class Child:
    """A Python process of the product, which is killed, stopped, frozen and started again."""

    def __init__(self, name: str, arguments: list[str], environment: dict[str, str], log: Path) -> None:
        self.name = name
        self.log_file = log
        self._arguments = arguments
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} is not running"
        return self._process.pid

    @property
    def children(self) -> list[int]:
        """Process ids, oldest first."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def start(self) -> None:
        assert not self.is_running, f"{self.name} is already running"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("FAREBOX_")}
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *self._arguments],
                env=inherited | self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def end(self, how: signal.Signals = signal.SIGTERM) -> int | None:
        """Its exit status."""
        if self._process is None:
            return None
        if self._process.poll() is None:
            self._process.send_signal(how)
            self._process.send_signal(signal.SIGCONT)
        try:
            return self._process.wait(START_TIMEOUT_S)
        finally:
            self._process = None


class Rig:
    """``with Rig(tmp_path) as rig: …``. Serves until it is left; its state is gone then, its logs lie in ``folder``.

    `database`: what the portal keeps the ledger in, SQLITE or POSTGRESQL. `transport`: the plugin's, grpcio or h2.
    """

    def __init__(self, folder: Path, *, database: str = SQLITE, transport: str = "h2") -> None:
        self.folder = folder
        self.database_kind = database
        self.transport = transport
        folder.mkdir(parents=True, exist_ok=True)
        self.spools = folder / "spool"
        self.archive = folder / "archive"
        self.archive.mkdir(exist_ok=True)
        self.database = folder / "farebox.db"
        self.sockets = Path(tempfile.mkdtemp(prefix="fbr-", dir="/tmp"))  # short: a socket's path ends at 107 bytes
        self.postgres = Postgres(durable=True) if database == POSTGRESQL else None
        self.valkey = Valkey(folder / "valkey")
        self.upstream_server = Upstream(folder / "upstream")
        self.to_valkey = Proxy(f"unix:{self.valkey.socket}")
        self.portal_to_valkey = Proxy(f"unix:{self.valkey.socket}")
        self._portal_port = free_port()
        self.to_portal = Proxy(f"tcp:127.0.0.1:{self._portal_port}")
        self.store = self._client()
        self._is_archiving = True
        self._archivist = threading.Thread(target=self._archive_spools, name="archivist", daemon=True)

    # --- what builders.provider.Provider wants of a running product -----------------------------------------------

    @property
    def gateway(self) -> str:
        return self.envoy.url

    @property
    def portal(self) -> str:
        return f"http://127.0.0.1:{self._portal_port}"

    @property
    def upstream(self) -> str:
        return self.upstream_server.url

    @property
    def sql_url(self) -> str:
        return f"sqlite:///{self.database}" if self.postgres is None else self.postgres.url("postgres")

    @property
    def admin(self) -> dict[str, str]:
        return {"authorization": f"Bearer {ADMIN_TOKEN}"}

    # --- starting ---------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def _start(self) -> None:
        if self.postgres is not None:
            self.postgres.start()
        self.valkey.start()
        for proxy in (self.to_valkey, self.portal_to_valkey, self.to_portal):
            proxy.start()
        shared = {"FAREBOX_ADMIN_TOKEN": ADMIN_TOKEN, "FAREBOX_PLUGIN_TOKEN": PLUGIN_TOKEN}
        portal = shared | {
            "FAREBOX_DATABASE_URL": self.sql_url,
            "FAREBOX_REDIS_URL": self.portal_to_valkey.address.replace("unix:", "unix://"),
            "FAREBOX_STATE_DIR": str(self.folder),
        }
        settings = load_settings(portal)
        self.engine = make_engine(settings.sql_url)
        migrate(self.engine)
        with transaction(self.engine) as session:
            now = SystemClock().now()
            seed(session, settings, now)
            for policy in POLICIES:
                policies.create(session, policy, now)
        self.portal_process = Child(
            "portal", ["farebox_portal", "portal", "--port", str(self._portal_port)], portal, self.folder / "portal.log"
        )
        self.portal_process.start()
        self.plugin = self.a_plugin(self.sockets, shared)
        self.plugin.start()
        self._archivist.start()
        self.upstream_server.start()
        self.envoy = Envoy(self.folder / "envoy", self.envoy_text(self.sockets))
        self.wait_until(self.portal_answers, "the portal answers")
        self.wait_until(lambda: self.ready_workers() >= WORKERS, "the plugin's workers listen")
        self.envoy.start()

    def a_plugin(self, sockets: Path, shared: dict[str, str] | None = None, spools: Path | None = None) -> Child:
        """The plugin on these sockets, by default on the rig's spools; not started."""
        shared = shared or {"FAREBOX_PLUGIN_TOKEN": PLUGIN_TOKEN}
        environment = shared | {
            "FAREBOX_REDIS_URL": self.to_valkey.address.replace("unix:", "unix://"),
            "FAREBOX_PORTAL_URL": self.to_portal.address.replace("tcp:", "http://"),
            "FAREBOX_SPOOL_DIR": str(spools or self.spools),
            "FAREBOX_ORPHAN_AFTER_S": str(ORPHAN_AFTER_S),
            "FAREBOX_TRANSPORT": self.transport,
        }
        arguments = ["farebox_plugin", "--listen", f"unix:{sockets}/w%d.sock", "--workers", str(WORKERS)]
        return Child("plugin", arguments, environment, self.folder / f"plugin-{sockets.name}.log")

    def envoy_text(self, sockets: Path) -> str:
        """The shipped configuration with our routes, a log of failures; 502s of the upstream are tried again."""
        config = GatewayConfig(
            upstream=self.upstream_server.address,
            sockets=tuple(f"{sockets}/w{number}.sock" for number in range(WORKERS)),
            routes=ROUTES,
        )
        retrying = "retry_policy: {retry_on: retriable-status-codes, retriable_status_codes: [502], num_retries: 2}"
        text = _with_option(render_config(config), "v1_status", retrying)
        for route, upstream in (("v1_cut", "/v1/bytes"), ("v1_load", "/v1/bytes"), ("v1_open", "/v1")):
            text = _with_option(text, route, f"prefix_rewrite: {upstream}")
        before, feed, after = text.partition(_METERING_FEED)
        assert feed, "the metering feed is not in the configuration"
        return before + _FAILURE_LOG.format(path=self.folder / "failures.log", line=_FAILURE_LINE) + feed + after

    # --- looking ----------------------------------------------------------------------------------------------------

    def portal_answers(self) -> bool:
        try:
            with urlopen(Request(f"{self.portal}/v1/meters", headers=self.admin), timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def ready_workers(self) -> int:
        """How many workers have said so since the plugin was started last, less those that died since."""
        return sum(_accepts(self.sockets / f"w{number}.sock") for number in range(WORKERS))

    def stranger_status(self) -> int:
        try:
            with urlopen(f"{self.gateway}/v1/echo", timeout=5) as answer:
                return int(answer.status)
        except HTTPError as refused:
            return refused.code
        except OSError:
            return 0

    def ledger(self) -> Connection:
        """For reading, in one transaction."""
        return self.engine.connect().execution_options(read_only=True)

    def wait_until(self, is_so: Callable[[], bool], what: str, within_s: float = START_TIMEOUT_S) -> None:
        deadline = time.monotonic() + within_s
        while not is_so():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {within_s:.0f} s in vain: {what}\n{self.plugin.log[-2000:]}")
            time.sleep(0.02)

    # --- healing ----------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """Undo every fault, start again what is dead, and return when strangers are refused by the plugin itself."""
        for proxy in (self.to_valkey, self.portal_to_valkey, self.to_portal):
            proxy.heal()
        if self.postgres is not None and not self.postgres.is_running:
            self.postgres.start()
        if not answers_ping(self.valkey.socket):
            self.valkey.kill9()
            self.valkey.start()
        for child in (self.portal_process, self.plugin):
            if not child.is_running:
                child.end()
                child.start()
        self.wait_until(self.portal_answers, "the portal answers")
        self.wait_until(lambda: self.ready_workers() >= WORKERS, "the plugin's workers listen")
        self.wait_until(lambda: self.stranger_status() == 401, "the gateway asks the plugin")

    # --- damage -----------------------------------------------------------------------------------------------------

    def restart_portal(self, how: signal.Signals = signal.SIGKILL, away_s: float = 0.0) -> None:
        self.portal_process.end(how)
        time.sleep(away_s)
        self.portal_process.start()

    def restart_plugin(self, how: signal.Signals = signal.SIGKILL) -> None:
        """With SIGKILL only the keeper dies at once; the workers see it and leave."""
        self.end_plugin(how)
        self.plugin.start()

    def end_plugin(self, how: signal.Signals, *, workers_too: bool = False) -> None:
        """Returns when no process of it is left. ``workers_too``: all get the signal, as when a container is killed."""
        workers = self.plugin.children
        for pid in (self.plugin.pid, *workers) if workers_too else ():
            os.kill(pid, how)
        self.plugin.end(how)
        for pid in workers:
            self.wait_until(lambda pid=pid: not _exists(pid), "no worker outlives its keeper")  # type: ignore[misc]

    def move_to(self, valkey: Valkey) -> None:
        """Everybody finds this server at the known addresses from now on; the one from before is ended for good."""
        before, self.valkey = self.valkey, valkey
        self.store.close()
        self.store = self._client()
        for proxy in (self.to_valkey, self.portal_to_valkey):
            proxy.target = f"unix:{valkey.socket}"
            proxy.cut()
        before.close()

    def _client(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.valkey.socket), socket_timeout=5)

    def limit_file_size(self, pid: int, limit_bytes: int) -> None:
        """A disk that is full for one process, near enough: no file of it grows beyond this. -1 lifts it."""
        soft = resource.RLIM_INFINITY if limit_bytes < 0 else limit_bytes
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, resource.RLIM_INFINITY))

    # --- ending -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        self._is_archiving = False
        if hasattr(self, "envoy"):
            self.envoy.kill9()
        for name in ("plugin", "portal_process"):
            if hasattr(self, name):
                getattr(self, name).end(signal.SIGKILL)
        self.upstream_server.stop(signal.SIGKILL)
        self.store.close()
        for proxy in (self.to_valkey, self.portal_to_valkey, self.to_portal):
            if proxy.address:
                proxy.close()
        self.valkey.close()
        if hasattr(self, "engine"):
            self.engine.dispose()
        if self.postgres is not None:
            self.postgres.close()
        if self._archivist.ident is not None:
            self._archivist.join()
        shutil.rmtree(self.sockets, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _archive_spools(self) -> None:
        """Keep every segment under a second name: the plugin deletes what is shipped, and the oracle reads it all."""
        while self._is_archiving:
            for segment in list(self.spools.glob("*.seg")):
                kept = self.archive / segment.name
                if not kept.exists():
                    try:
                        kept.hardlink_to(segment)
                    except FileNotFoundError:
                        continue  # deleted at this very moment; segments live for seconds, so it was here before
            time.sleep(_ARCHIVE_EVERY_S)


def _with_option(text: str, route: str, option: str) -> str:
    before, name, after = text.partition(f"- name: {route}\n")
    assert name, f"the route {route} is not in the configuration"
    return before + name + after.replace("timeout: 30s}", f"timeout: 30s, {option}}}", 1)


def _accepts(path: Path) -> bool:
    import socket

    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def _exists(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False

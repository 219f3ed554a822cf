"""What is measured: an Envoy with nothing, with a plugin that decides nothing, or with all of Farebox behind it.

The configuration is the shipped one; only the bench's routes are added, and Envoy answers them by itself
(direct_response), so that no upstream takes a share of the machine. But an answer that Envoy has made itself comes in
one piece: those that come in many have an upstream (pieces.py).
"""

import json
import os
import random
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2

from bench.accounts import add_accounts
from bench.answers import DOWNLOAD, JSON_ANSWER, QUESTION, SSE_ANSWER, UNITS
from bench.cpu import children
from bench.load import Ask
from builders.provider import Buyer, Provider
from farebox.v1.digest import ALPHABET, SECRET_LENGTH, checksum
from farebox_portal.demo.envoy_config import GatewayConfig, Route, render_config
from rig.envoy import Envoy
from rig.ports import free_port
from rig.valkey import Valkey

TESTS = Path(__file__).parents[1]
TOKEN = "a-token-for-the-benchmark"
START_TIMEOUT_S = 90.0
DRAIN_TIMEOUT_S = 180.0
QUIET_S = 1.0  # the access log comes after 0.2 s, spools are shipped after another 0.1 s
PLENTY = 10**12
METERS = ("api_requests", "egress_bytes", "input_tokens", "output_tokens")


@dataclass(frozen=True)
class Answer:
    """A route of the bench, and what Envoy answers there; None: the upstream does, in pieces."""

    route: Route
    body: str | None
    content_type: str = "text/plain"


COUNT, BYTES, CHAT_JSON, CHAT_SSE, CHAT_PIECES, CHAT_GUARDED = (
    Answer(Route("/bench/count", "default"), "ok\n"),
    Answer(Route("/bench/bytes", "bytes"), DOWNLOAD),
    Answer(Route("/bench/json", "chat", body=True), JSON_ANSWER, "application/json"),
    Answer(Route("/bench/sse", "chat", body=True), SSE_ANSWER, "text/event-stream"),
    Answer(Route("/bench/pieces", "chat", body=True), None),
    Answer(Route("/bench/guarded", "capped", cut_off=True), None),
)
ANSWERS = (COUNT, BYTES, CHAT_JSON, CHAT_SSE, CHAT_PIECES, CHAT_GUARDED)


@dataclass(frozen=True)
class Gateway:
    """Where to ask, and whose CPU counts: a process with its descendants; 0 = there is none."""

    envoy: Envoy
    plugin: int = 0
    keeper: int = 0  # the part of the plugin that ships spools, off the request's path
    valkey: int = 0
    portal: int = 0

    @property
    def is_metered(self) -> bool:
        return self.keeper != 0


@dataclass(frozen=True)
class Farebox(Gateway):
    """Everything, and a buyer with plenty of units of every meter."""

    folder: Path = Path()
    store: Valkey = field(kw_only=True)
    provider: Provider = field(kw_only=True)
    buyer: Buyer = field(kw_only=True)

    @property
    def database(self) -> Path:
        return self.folder / "farebox.db"

    @property
    def sockets(self) -> list[Path]:
        """The workers' sockets."""
        return sorted(self.folder.glob("w?.sock"))

    @property
    def workers(self) -> list[int]:
        return children(self.keeper)

    def ledger(self) -> dict[str, int]:
        """Units of each meter that have been booked."""
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=20)) as database:
            found = dict(database.execute("SELECT meter, sum(quantity) FROM usage_hours GROUP BY meter"))
        return {meter: int(found.get(meter, 0)) for meter in METERS}

    def drained(
        self, before: Mapping[str, int], units: Mapping[str, int], served: int, let_in: Callable[[], int]
    ) -> dict[str, int]:
        """What the ledger has more than ``before``, once it has all that was let in; or at least what was served, and
        no more comes (a client that left before its answer did not pay)."""
        deadline = time.monotonic() + DRAIN_TIMEOUT_S
        gained, came_at = dict.fromkeys(METERS, 0), time.monotonic()
        while time.monotonic() < deadline:
            now = {meter: units - before[meter] for meter, units in self.ledger().items()}
            if now != gained:
                gained, came_at = now, time.monotonic()
            if units and all(gained[meter] == each * let_in() for meter, each in units.items()):
                break
            is_quiet = time.monotonic() - came_at > QUIET_S
            if is_quiet and all(gained[meter] >= each * served for meter, each in units.items()):
                break
            time.sleep(0.1)
        return gained

    def rest(self) -> None:
        """Wait until nothing more comes into the ledger."""
        self.drained(self.ledger(), {}, 0, int)

    def many(self, accounts: int, keys_each: int = 1) -> tuple[str, ...]:
        """Keys of new accounts, on a plan like the buyer's, once the gateway's store has them all."""
        keys = add_accounts(self.database, self.buyer.subscription_id, accounts, keys_each, datetime.now(UTC))
        wait_for(lambda: self._unpublished() == 0, f"{accounts} accounts were not published")
        return keys

    def _unpublished(self) -> int:
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=20)) as database:
            query = "SELECT count(*) FROM customers WHERE published_version < entitlements_version"
            return int(database.execute(query).fetchone()[0])


@contextmanager
def alone() -> Iterator[Gateway]:
    """An Envoy with the same configuration, asked for a route on which Farebox's filters do nothing."""
    with a_folder() as folder, Envoy(folder, config((f"{folder}/w0.sock",), "127.0.0.1:9")) as envoy:
        yield Gateway(envoy)


@contextmanager
def noop(transport: str) -> Iterator[Gateway]:
    """A plugin on this transport that lets everything pass."""
    with a_folder() as folder, ExitStack() as stack:
        path = folder / "w0.sock"
        command = ["-m", "bench.noop", "--transport", transport, "--listen", f"unix:{path}"]
        plugin = stack.enter_context(running("noop", command, {}, folder))
        wait_for(lambda: accepts(path), "the plugin that decides nothing did not start")
        envoy = stack.enter_context(Envoy(folder, config((str(path),), "127.0.0.1:9")))
        yield Gateway(envoy, plugin)


@contextmanager
def farebox(transport: str = "h2", workers: int = 1) -> Iterator[Farebox]:
    """All parts as a user would start them, each in its own process."""
    with a_folder() as folder, ExitStack() as stack:
        valkey = stack.enter_context(Valkey(folder / "valkey"))
        port = free_port()
        told = environment(folder, valkey.url, port)
        (folder / "logs").mkdir()
        command = ["-m", "farebox_portal.demo.portal", "--port", str(port)]
        portal = stack.enter_context(running("portal", command, told, folder))
        keeper = stack.enter_context(plugin(folder, told, transport, workers))
        sockets = [folder / f"w{worker}.sock" for worker in range(workers)]
        wait_for(lambda: all(map(accepts, sockets)), "the plugin did not start")
        upstream = f"127.0.0.1:{free_port()}"
        stack.enter_context(running("pieces", ["-m", "bench.pieces", "--listen", upstream], {}, folder))
        envoy = stack.enter_context(Envoy(folder, config(tuple(map(str, sockets)), upstream)))
        provider = Provider(_Addresses(f"http://127.0.0.1:{port}", envoy.url))  # type: ignore[arg-type]
        stack.callback(provider.close)
        wait_for(lambda: _is_up(provider), "the portal did not start")
        buyer = provider.a_buyer(provider.a_plan(dict.fromkeys(METERS, PLENTY)))
        wait_for(lambda: provider.call(buyer, COUNT.route.path).status_code == 200, "the gateway serves nobody")
        yield Farebox(
            envoy, keeper, keeper, valkey.pid, portal, folder=folder, store=valkey, provider=provider, buyer=buyer
        )


def environment(folder: Path, redis_url: str, portal_port: int) -> dict[str, str]:
    """What portal and plugin are told."""
    return {
        "FAREBOX_STATE_DIR": str(folder),
        "FAREBOX_SPOOL_DIR": str(folder / "spool"),
        "FAREBOX_REDIS_URL": redis_url,
        "FAREBOX_ADMIN_TOKEN": TOKEN,
        "FAREBOX_PLUGIN_TOKEN": TOKEN + "-of-the-plugin",
        "FAREBOX_PORTAL_URL": f"http://127.0.0.1:{portal_port}",
    }


@contextmanager
def plugin(folder: Path, told: Mapping[str, str], transport: str, workers: int) -> Iterator[int]:
    """`farebox plugin` on sockets in ``folder``; the keeper's pid. Does not wait until it serves."""
    listen = ["--listen", f"unix:{folder}/w%d.sock", "--workers", str(workers), "--transport", transport]
    with running("plugin", ["-m", "farebox_plugin", *listen], told, folder) as pid:
        yield pid


def ask(answer: Answer, keys: tuple[str, ...]) -> Ask:
    """A load on one of the bench's routes."""
    body = json.dumps(QUESTION).encode() if answer.route.policy in ("chat", "capped") else b""
    return Ask(answer.route.path, keys, body, units=UNITS[answer.route.policy])


def refused(keys: tuple[str, ...], status: int) -> Ask:
    """A load that nobody may make."""
    return Ask(COUNT.route.path, keys, expected=status)


def strangers(count: int) -> tuple[str, ...]:
    """Well-formed keys of nobody: only the store can tell."""
    bodies = ("fb_test_" + "".join(random.choices(ALPHABET, k=SECRET_LENGTH)) for _ in range(count))
    return tuple(body + checksum(body) for body in bodies)


def config(sockets: tuple[str, ...], upstream: str) -> str:
    """The shipped configuration with the bench's routes. Raises AssertionError when it is not as it was believed."""
    routes = tuple(answer.route for answer in ANSWERS)
    text = render_config(GatewayConfig(sockets=sockets, upstream=upstream, routes=routes))
    text = _replaced(
        text, "  name: gateway\n", "  name: gateway\n            max_direct_response_body_size_bytes: 1048576\n"
    )
    # One that speaks HTTP/2, for the answers in pieces.
    text = _replaced(
        text, "explicit_http_config: {http_protocol_options: {}}", "explicit_http_config: {http2_protocol_options: {}}"
    )
    for answer in ANSWERS:
        if answer.body is not None:
            match = f"  match: {{path_separated_prefix: {answer.route.path}}}\n"
            routed = f"{match}                route: {{cluster: upstream, timeout: 30s}}\n"
            text = _replaced(text, routed, match + answered(answer.body, answer.content_type))
    return text


def answered(body: str, content_type: str) -> str:
    """The lines of a route that Envoy answers by itself."""
    header = f"{{header: {{key: content-type, value: {content_type}}}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}}"
    return (
        f"                direct_response: {{status: 200, body: {{inline_string: {json.dumps(body)}}}}}\n"
        f"                response_headers_to_add: [{header}]\n"
    )


@contextmanager
def a_folder() -> Iterator[Path]:
    """Directly below /tmp: the path of a Unix socket ends at 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="fbb-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running(name: str, arguments: list[str], told: Mapping[str, str], folder: Path) -> Iterator[int]:
    """A Python process of ours; its pid. What it says goes to ``folder``."""
    with (folder / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=TESTS, env=os.environ | told, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield process.pid
    except Exception:
        said = (folder / f"{name}.log").read_text(errors="replace").splitlines()[-20:]
        if process.poll() not in (None, 0):
            sys.stderr.write(f"{name} has ended; it said last:\n" + "\n".join(said) + "\n")
        raise
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def accepts(path: Path) -> bool:
    """Whether somebody listens on this socket; one that was left behind refuses."""
    with socket.socket(socket.AF_UNIX) as link:
        try:
            link.connect(str(path))
        except OSError:
            return False
        return True


def wait_for(condition: Callable[[], Any], otherwise: str, every_s: float = 0.05) -> None:
    """Raises RuntimeError with ``otherwise`` when it does not come true."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(otherwise)
        time.sleep(every_s)


@dataclass(frozen=True)
class _Addresses:
    """As much of a demo as a Provider needs."""

    portal: str
    gateway: str
    upstream: str = "http://127.0.0.1:9"

    @property
    def admin(self) -> dict[str, str]:
        return {"authorization": f"Bearer {TOKEN}"}


def _is_up(provider: Provider) -> bool:
    try:
        return provider.rest.get("/v1/meters").status_code == 200
    except httpx2.TransportError:
        return False


def _replaced(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, f"{text.count(old)} times {old!r}"
    return text.replace(old, new)

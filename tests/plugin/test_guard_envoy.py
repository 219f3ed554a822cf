"""Responses that end where a limit ends: the real Envoy, the shipped filter, the real Valkey."""

import asyncio
import json
import re
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from builders.plugin import Part, a_part, a_policy, an_account
from farebox.v1.entitlements_pb2 import Policy
from farebox.v1.usage_pb2 import UsageEvent
from farebox_plugin.access_log import AccessLog
from farebox_plugin.authz import Authz
from farebox_plugin.ext_proc import ExtProc, Watch
from farebox_plugin.guard import ENDS
from farebox_plugin.records import Unavailable
from farebox_plugin.spool import SETTLED, SpoolReader
from farebox_plugin.transport import Services
from farebox_plugin.transport.h2 import serve
from farebox_plugin.worker import ACCESS_LOGS, CHECK, HEALTH_CHECK, HEALTH_WATCH, PROCESS, Health
from farebox_portal.demo.envoy_config import GatewayConfig
from rig.envoy import Envoy
from rig.upstream import Upstream
from rig.valkey import Valkey

TOKENS = a_policy("capped", {"api_requests": 1, "tokens": "usage.outputTokens"}, cut_off=True)
BYTES = a_policy("capped", {"api_requests": 1, "bytes": "response.bytes"}, cut_off=True)


@dataclass(frozen=True)
class Answer:
    """A response as it arrived: whole, or broken off."""

    status: int
    body: bytes
    is_whole: bool

    @property
    def words(self) -> int:
        """Events with generated text."""
        return len(re.findall(rb'"content":"[^"]', self.body))


@dataclass
class Gateway:
    part: Part
    ext_proc: ExtProc
    address: tuple[str, int]
    key: str

    async def chat(self, max_tokens: int, *, delay_ms: int = 0) -> Answer:
        document = {"model": "gpt-4o", "stream": True, "max_tokens": max_tokens, "delay_ms": delay_ms}
        body = json.dumps(document | {"messages": [{"role": "user", "content": "tell me a story"}]}).encode()
        return await asyncio.to_thread(self._call, "POST", "/v1/capped/chat/completions", body)

    async def get(self, path: str) -> Answer:
        return await asyncio.to_thread(self._call, "GET", "/v1/capped" + path, b"")

    def _call(self, method: str, path: str, body: bytes) -> Answer:
        """By hand: a client library hides how much of a broken response it got."""
        with socket.create_connection(self.address, timeout=20) as connection:
            head = f"{method} {path} HTTP/1.1\r\nhost: x\r\nx-api-key: {self.key}\r\ncontent-length: {len(body)}\r\n"
            connection.sendall(head.encode() + b"content-type: application/json\r\nconnection: close\r\n\r\n" + body)
            received = b""
            try:
                while piece := connection.recv(65536):
                    received += piece
            except ConnectionResetError:
                pass
        head_bytes, _, rest = received.partition(b"\r\n\r\n")
        status = int(head_bytes.split(b" ", 2)[1])
        if b"transfer-encoding: chunked" in head_bytes.lower():
            return Answer(status, _unchunked(rest), rest.endswith(b"0\r\n\r\n"))
        length = int(head_bytes.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return Answer(status, rest, len(rest) == length)

    def events(self) -> list[UsageEvent]:
        frames = SpoolReader(self.part.folder, "w0").read()
        return [UsageEvent.FromString(r.body) for frame in frames for r in frame.records if r.kind == SETTLED]

    async def quiet(self) -> None:
        """Until everything is settled."""
        async with asyncio.timeout(20):
            while not await self._is_quiet():  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def _is_quiet(self) -> bool:
        try:
            return all(hold.startswith("!") for hold in (await self.part.holds()).values())
        except Unavailable:
            return False


def _unchunked(raw: bytes) -> bytes:
    body = b""
    while raw:
        size, _, raw = raw.partition(b"\r\n")
        if not size or int(size, 16) == 0:
            break
        body, raw = body + raw[: int(size, 16)], raw[int(size, 16) + 2 :]
    return body


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    with Upstream(tmp_path_factory.mktemp("upstream")) as running:
        yield running


class Late:
    """Takes what Envoy says after a while: until its headers are answered, Envoy gathers a whole response."""

    def __init__(self, watch: Watch, delay_s: float) -> None:
        self._watch = watch
        self._delay_s = delay_s

    def receive(self, message: bytes) -> None:
        asyncio.get_running_loop().call_later(self._delay_s, self._watch.receive, message)

    def closed(self) -> None:
        asyncio.get_running_loop().call_later(self._delay_s, self._watch.closed)


@asynccontextmanager
async def a_gateway(
    valkey: Valkey, upstream: Upstream, folder: Path, capped: Policy, *, delay_s: float = 0, **limits: Any
) -> AsyncIterator[Gateway]:
    sockets = Path(tempfile.mkdtemp(prefix="fbg-", dir="/tmp"))
    path = str(sockets / "w0.sock")
    config = GatewayConfig(upstream=upstream.address, sockets=(path,))
    async with a_part(valkey, folder / "spool") as part:
        key = await part.publish(an_account(**limits), a_policy(), capped)
        load = part.rebuilder.load
        await load("acct1")
        await part.directory.load_policies()
        authz = Authz(part.directory, part.admission, part.recent, load, b"", "")
        ext_proc = ExtProc(part.directory, part.settlements, part.extensions)
        health = Health()
        services = Services(
            {CHECK: authz.check, HEALTH_CHECK: health.check},
            {
                ACCESS_LOGS: AccessLog(part.link, part.directory, part.settlements).open,
                PROCESS: ext_proc.open if not delay_s else lambda reply: Late(ext_proc.open(reply), delay_s),
                HEALTH_WATCH: health.watch,
            },
        )
        transport = await serve(services, f"unix:{path}")
        envoy = Envoy(folder / "envoy", config)
        try:
            await asyncio.to_thread(envoy.start)
            gateway = Gateway(part, ext_proc, ("127.0.0.1", envoy.port), key)
            async with asyncio.timeout(20):
                while (await gateway.get("/none")).status != 404:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            await gateway.quiet()
            yield gateway
        finally:
            await asyncio.to_thread(envoy.kill9)
            await transport.stop(0)
            shutil.rmtree(sockets)


async def test_a_stream_ends_where_the_token_limit_ends(valkey: Valkey, upstream: Upstream, tmp_path: Path) -> None:
    async with a_gateway(valkey, upstream, tmp_path, TOKENS, limit=100, tokens=150) as gateway:
        whole = await gateway.chat(100)
        assert (whole.status, whole.is_whole, b'"total_tokens"' in whole.body) == (200, True, True)
        await gateway.quiet()
        cut = await gateway.chat(400, delay_ms=5)
        assert (cut.status, cut.is_whole) == (200, False)
        assert b"quota_exceeded" in cut.body
        assert cut.words == 50
        await gateway.quiet()
        last = gateway.events()[-1]
        assert {meter.meter: meter.quantity for meter in last.meters}["tokens"] == 50
        assert "cut_off" in last.flags
        assert (await gateway.part.counter())["tokens"] == 150
        refused = await gateway.chat(1)
        assert refused.status == 403
        assert b"quota_exceeded" in refused.body


async def test_parallel_streams_share_what_is_left_and_get_no_more(
    valkey: Valkey, upstream: Upstream, tmp_path: Path
) -> None:
    async with a_gateway(valkey, upstream, tmp_path, TOKENS, limit=100, tokens=500) as gateway:
        answers = await asyncio.gather(*(gateway.chat(200, delay_ms=5) for _ in range(8)))
        await gateway.quiet()
        passed = [answer for answer in answers if answer.status == 200]
        assert sum(answer.words for answer in passed) == 500
        assert any(not answer.is_whole for answer in passed)
        assert any(b"quota_exceeded" in answer.body for answer in passed)
        used = sum(meter.quantity for event in gateway.events() for meter in event.meters if meter.meter == "tokens")
        assert used == (await gateway.part.counter())["tokens"] == 500


async def test_of_a_stream_that_comes_in_one_piece_passes_what_is_held_and_why_it_ends(
    valkey: Valkey, upstream: Upstream, tmp_path: Path
) -> None:
    async with a_gateway(valkey, upstream, tmp_path, TOKENS, delay_s=0.2, limit=100, tokens=50) as gateway:
        cut = await gateway.chat(400)
        assert (cut.status, cut.words) == (200, 50)
        assert cut.body.endswith(ENDS["quota_exceeded"][0]), "Envoy ends it as a whole one, so this is what tells"
        await gateway.quiet()
        assert (await gateway.part.counter())["tokens"] == 50


async def test_a_document_that_comes_in_one_piece_and_is_not_covered_is_refused(
    valkey: Valkey, upstream: Upstream, tmp_path: Path
) -> None:
    async with a_gateway(valkey, upstream, tmp_path, BYTES, delay_s=0.2, limit=100, bytes=3000) as gateway:
        await gateway.quiet()
        before = (await gateway.part.counter())["bytes"]
        cut = await gateway.get("/bytes/5000")
        assert (cut.status, json.loads(cut.body)["code"]) == (403, "quota_exceeded")
        await gateway.quiet()
        assert (await gateway.part.counter())["bytes"] == before, "what did not pass costs nothing"


async def test_bytes_are_cut_at_the_byte(valkey: Valkey, upstream: Upstream, tmp_path: Path) -> None:
    async with a_gateway(valkey, upstream, tmp_path, BYTES, limit=100, bytes=300_000) as gateway:
        await gateway.get("/bytes/100000")
        await gateway.quiet()
        before = (await gateway.part.counter())["bytes"]
        cut = await gateway.get("/bytes/5000000")
        await gateway.quiet()
        assert (cut.status, cut.is_whole, len(cut.body)) == (200, False, 300_000 - before)
        assert (await gateway.part.counter())["bytes"] == 300_000
        assert (await gateway.get("/bytes/1")).status == 403


async def test_a_plan_may_limit_how_many_run_at_once(valkey: Valkey, upstream: Upstream, tmp_path: Path) -> None:
    async with a_gateway(valkey, upstream, tmp_path, TOKENS, limit=1000, concurrency=3, tokens=10**6) as gateway:
        answers = await asyncio.gather(*(gateway.get("/slow/600") for _ in range(8)))
        assert sorted(answer.status for answer in answers) == [200] * 3 + [429] * 5
        await gateway.quiet()
        assert (await gateway.get("/slow/0")).status == 200, "what is over makes room"


async def test_a_store_that_is_away_ends_running_responses_under_deny(
    valkey: Valkey, upstream: Upstream, tmp_path: Path
) -> None:
    async with a_gateway(valkey, upstream, tmp_path, TOKENS, limit=100, tokens=10**6) as gateway:
        running = asyncio.ensure_future(gateway.chat(4000))
        async with asyncio.timeout(20):
            while gateway.ext_proc.counts["streams"] < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        valkey.freeze()
        try:
            answer = await running
        finally:
            valkey.thaw()
        assert (answer.status, answer.is_whole) == (200, False)
        assert answer.body.endswith(ENDS["metering_unavailable"][0])
        await gateway.quiet()
        assert (await gateway.part.counter())["tokens"] >= answer.words

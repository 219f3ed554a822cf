"""A real Envoy with the shipped configuration in front of the h2 transport, with the real servicers, on uvloop."""

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
import uvloop

from builders.plugin import Part, a_part, a_policy, an_account
from farebox_plugin.access_log import AccessLog
from farebox_plugin.authz import Authz
from farebox_plugin.ext_proc import ExtProc
from farebox_plugin.transport import Services
from farebox_plugin.transport.h2 import serve
from farebox_plugin.worker import ACCESS_LOGS, CHECK, HEALTH_CHECK, HEALTH_WATCH, PROCESS, Health
from farebox_portal.demo.envoy_config import GatewayConfig
from rig.envoy import Envoy
from rig.upstream import Upstream
from rig.valkey import Valkey

CALLS, CHATS = 60, 10
CHAT = {"model": "gpt-4o", "stream": True, "max_tokens": 50, "messages": [{"role": "user", "content": "hello"}]}


@dataclass
class Feeds:
    """What a worker serves, on parts that need no keeper."""

    authz: Authz
    access_log: AccessLog
    ext_proc: ExtProc

    def services(self) -> Services:
        health = Health()
        return Services(
            {CHECK: self.authz.check, HEALTH_CHECK: health.check},
            {ACCESS_LOGS: self.access_log.open, PROCESS: self.ext_proc.open, HEALTH_WATCH: health.watch},
        )


@pytest.fixture
def socket_folder() -> Iterator[Path]:
    folder = tempfile.mkdtemp(prefix="fbt-", dir="/tmp")
    yield Path(folder)
    shutil.rmtree(folder)


def test_envoy_asks_watches_and_reports_over_it_and_is_sent_away_politely(
    valkey: Valkey, tmp_path: Path, socket_folder: Path
) -> None:
    path = str(socket_folder / "w0.sock")
    with Upstream(tmp_path / "upstream") as upstream:
        gateway = Envoy(tmp_path / "gateway", GatewayConfig(upstream=upstream.address, sockets=(path,)))
        try:
            uvloop.run(_scenario(valkey, gateway, path, tmp_path))
        finally:
            gateway.kill9()


async def _scenario(valkey: Valkey, gateway: Envoy, path: str, folder: Path) -> None:
    async with a_part(valkey, folder / "spool") as part:
        tokens = a_policy("chat", {"tokens": "usage.outputTokens"})
        key = await part.publish(an_account(CALLS, tokens=100_000), a_policy(), tokens)
        load = part.rebuilder.load
        feeds = Feeds(
            Authz(part.directory, part.admission, part.recent, load, b"", "https://portal.example"),
            AccessLog(part.link, part.directory, part.settlements),
            ExtProc(part.directory, part.settlements, part.extensions),
        )
        transport = await serve(feeds.services(), f"unix:{path}")
        try:
            await _use(feeds, part, gateway, key)
            await transport.stop(1)
            transport = await serve(feeds.services(), f"unix:{path}")
            await _find_it_again(gateway)
        finally:
            await transport.stop(0)


async def _use(feeds: Feeds, part: Part, gateway: Envoy, key: str) -> None:
    await asyncio.to_thread(gateway.start)
    headers = {"x-api-key": key}
    async with httpx2.AsyncClient(base_url=gateway.url, timeout=20) as client:
        await _ready(client)
        assert (await client.get("/v1/echo", headers=headers)).status_code == 200  # the account is loaded by now
        answers = await asyncio.gather(*(client.get("/v1/echo", headers=headers) for _ in range(CALLS + 4)))
        assert sorted(answer.status_code for answer in answers) == [200] * (CALLS - 1) + [403] * 5  # the quota holds
        assert (await client.get("/v1/echo", headers={"x-api-key": "wrong"})).status_code == 401
        chats = [client.post("/v1/chat/completions", headers=headers, json=CHAT) for _ in range(CHATS)]
        assert [answer.status_code for answer in await asyncio.gather(*chats)] == [200] * CHATS
        async with asyncio.timeout(20):
            while (await part.counter()).get("tokens", 0) == 0 or await part.holds():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    assert feeds.ext_proc.counts["streams"] == CHATS
    assert feeds.access_log.counts["entries"] == CALLS + CHATS
    assert (await part.counter())["api_requests"] == CALLS

    stats = await asyncio.to_thread(gateway.stats, "cluster.farebox_")
    assert _sum(stats, "upstream_cx_protocol_error") == 0
    assert _sum(stats, "http2.rx_messaging_error") == 0
    assert stats["cluster.farebox_authz.upstream_rq_rx_reset"] == 0


async def _find_it_again(gateway: Envoy) -> None:
    async with httpx2.AsyncClient(base_url=gateway.url, timeout=20) as client:
        await _ready(client)
    stats = await asyncio.to_thread(gateway.stats, "cluster.farebox_authz")
    assert stats["cluster.farebox_authz.upstream_cx_close_notify"] >= 1  # GOAWAY was understood


async def _ready(client: httpx2.AsyncClient) -> None:
    """Until the worker answers: then it says 401."""
    async with asyncio.timeout(20):
        while (await client.get("/v1/echo")).status_code != 401:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def _sum(stats: dict[str, int], suffix: str) -> int:
    return sum(value for name, value in stats.items() if name.endswith(suffix))

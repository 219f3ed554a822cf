"""The connection to a real Valkey: whose it is, what it is told, and what it does when that changes."""

import asyncio

import pytest

from farebox_plugin.link import Link, StoreFault
from farebox_plugin.records import Unavailable
from farebox_plugin.scripts import BEGIN
from rig.valkey import Valkey


async def until(condition: object) -> None:
    async with asyncio.timeout(15):
        while not condition():  # type: ignore[operator]  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_replies_come_in_order_and_errors_are_told_apart(valkey: Valkey) -> None:
    link = Link(valkey.url)
    await link.open()
    replies = await asyncio.gather(*(link.ask("ECHO", str(number)) for number in range(100)))
    assert replies == [str(number).encode() for number in range(100)]
    with pytest.raises(StoreFault):
        await link.ask("NOSUCHCOMMAND")
    await link.close()


async def test_a_script_that_the_server_forgot_runs_all_the_same(valkey: Valkey) -> None:
    link = Link(valkey.url)
    await link.open()
    for _ in range(2):
        assert await link.ask_script(BEGIN, ["t"], ["host/1", "host/", 1000]) == 1
        await link.ask("SCRIPT", "FLUSH")
    await link.close()


async def test_what_was_read_is_invalidated_when_somebody_else_changes_it_and_nothing_else_is(valkey: Valkey) -> None:
    told: list[list[bytes] | None] = []
    link, other = Link(valkey.url, told.append), Link(valkey.url)
    await link.open()
    await other.open()
    told.clear()
    await link.ask("GET", "read")
    await link.ask("HGET", "counted", "field")
    await other.ask("HSET", "counted", "field", 1)
    await other.ask("SET", "read", 1)
    await until(lambda: told)
    assert told == [[b"read"]]
    await link.close()
    await other.close()


async def test_a_restarted_server_is_another_generation_and_everything_is_forgotten(valkey: Valkey) -> None:
    told: list[list[bytes] | None] = []
    link = Link(valkey.url, told.append)
    await link.open()
    before = link.generation
    valkey.kill9()
    await until(lambda: not link.is_up)
    assert link.generation == ""
    with pytest.raises(Unavailable):
        await link.ask("PING")
    told.clear()
    valkey.start()
    await until(lambda: link.is_up)
    assert link.generation not in ("", before)
    assert None in told
    await link.close()


async def test_a_server_that_was_demoted_and_promoted_again_is_another_generation(valkey: Valkey) -> None:
    link, operator = Link(valkey.url), Link(valkey.url)
    await link.open()
    await operator.open()
    before = link.generation
    await operator.ask("REPLICAOF", "127.0.0.1", "1")
    await operator.ask("REPLICAOF", "NO", "ONE")
    await until(lambda: link.generation not in ("", before))
    await link.close()
    await operator.close()


async def test_a_server_that_is_silent_is_given_up_and_found_again(valkey: Valkey) -> None:
    link = Link(valkey.url)
    await link.open()
    valkey.freeze()
    await until(lambda: not link.is_up)
    valkey.thaw()
    await until(lambda: link.is_up)
    assert await link.ask("PING") == b"PONG"
    await link.close()


async def test_a_server_that_may_evict_is_refused_for_good(valkey: Valkey) -> None:
    link = Link(valkey.url)
    await link.open()
    await link.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    await link.close()
    refused = Link(valkey.url)
    await refused.open()
    assert not refused.is_up
    assert "noeviction" in str(refused.fault)
    await refused.close()


async def test_what_is_published_is_heard_also_over_a_connection_that_was_made_anew(valkey: Valkey) -> None:
    heard: list[bytes] = []
    told: list[list[bytes] | None] = []
    link, other = Link(valkey.url, told.append), Link(valkey.url)
    link.subscribe("before", heard.append)
    await link.open()
    await other.open()
    link.subscribe("after", heard.append)
    # A reply behind the subscriptions: the pushes that confirm them take nobody's place.
    assert await link.ask("ECHO", "x") == b"x"
    await other.ask("PUBLISH", "before", b"1")
    await other.ask("PUBLISH", "after", b"2")
    await until(lambda: heard == [b"1", b"2"])
    link.drop()
    await until(lambda: told == [None] * 3)  # connected, lost, connected
    await link.ask("ECHO", "x")
    await other.ask("PUBLISH", "after", b"3")
    await until(lambda: heard[2:] == [b"3"])
    await link.close()
    await other.close()

"""The connection to a real Valkey, one server or a cluster of three: whose it is, what it is told, and what it does
when that changes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
import redis

from farebox_plugin.link import Link, StoreFault
from farebox_plugin.records import Unavailable
from farebox_plugin.scripts import BEGIN
from rig.valkey import Node, Valkey, ValkeyCluster


@pytest.fixture(scope="module", params=[Valkey, ValkeyCluster], ids=["server", "cluster"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey | ValkeyCluster]:
    """Each test leaves it running."""
    with request.param(tmp_path_factory.mktemp("store")) as running:
        yield running


@pytest.fixture
async def link(store: Valkey | ValkeyCluster) -> AsyncIterator[Link]:
    one = Link(store.url)
    await one.open()
    yield one
    await one.close()


@pytest.fixture
async def other(store: Valkey | ValkeyCluster) -> AsyncIterator[Link]:
    one = Link(store.url)
    await one.open()
    yield one
    await one.close()


def server_with(store: Valkey | ValkeyCluster, key: str) -> Valkey | Node:
    return store if isinstance(store, Valkey) else store.master_of(key)


async def until(condition: object) -> None:
    async with asyncio.timeout(30):
        while not condition():  # type: ignore[operator]  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def answered(link: Link, key: str) -> None:
    """A node that was started again takes two seconds before it answers for its slots."""
    async with asyncio.timeout(30):
        while True:
            try:
                await link.ask("GET", key)
                return
            except Unavailable:
                await asyncio.sleep(0.05)


async def test_replies_come_in_order_and_errors_are_told_apart(link: Link) -> None:
    replies = await asyncio.gather(*(link.ask("ECHO", str(number)) for number in range(100)))
    assert replies == [str(number).encode() for number in range(100)]
    with pytest.raises(StoreFault):
        await link.ask("NOSUCHCOMMAND")


async def test_a_script_that_the_server_forgot_runs_all_the_same(link: Link) -> None:
    for _ in range(2):
        assert await link.ask_script(BEGIN, ["{a}t", "{a}c", "{a}e"], ["host/1", "host/", 1000, "g"]) == 1
        await link.server_of("{a}t").ask("SCRIPT", "FLUSH")


async def test_what_was_read_is_invalidated_when_somebody_else_changes_it_and_nothing_else_is(
    store: Valkey | ValkeyCluster, other: Link
) -> None:
    told: list[list[bytes] | None] = []
    link = Link(store.url, told.append)
    await link.open()
    told.clear()
    await link.ask("GET", "read")
    await link.ask("HGET", "counted", "field")
    await other.ask("HSET", "counted", "field", 1)
    await other.ask("SET", "read", 1)
    await until(lambda: told)
    assert told == [[b"read"]]
    await link.close()


async def test_a_restarted_server_is_another_generation_and_everything_is_forgotten(
    store: Valkey | ValkeyCluster,
) -> None:
    told: list[list[bytes] | None] = []
    link = Link(store.url, told.append)
    await link.open()
    before = link.server_of("key").generation
    server = server_with(store, "key")
    server.kill9()
    await until(lambda: not link.server_of("key").is_up)
    assert link.server_of("key").generation == ""
    with pytest.raises(Unavailable):
        await link.ask("GET", "key")
    told.clear()
    server.start()
    await until(lambda: link.server_of("key").is_up)
    assert link.server_of("key").generation not in ("", before)
    assert None in told
    await answered(link, "key")
    await link.close()


async def test_a_server_that_is_silent_is_given_up_and_found_again(store: Valkey | ValkeyCluster, link: Link) -> None:
    server = server_with(store, "key")
    server.freeze()
    await until(lambda: not link.server_of("key").is_up)
    server.thaw()
    await answered(link, "key")
    assert link.server_of("key").is_up


async def test_a_server_that_may_evict_is_refused_for_good(store: Valkey | ValkeyCluster, link: Link) -> None:
    server = link.server_of("key")
    await server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    refused = Link(store.url)
    await refused.open()
    assert not refused.server_of("key").is_up
    assert "noeviction" in str(refused.fault)
    await refused.close()
    await server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")


@contextmanager
def nodes_hear(store: Valkey | ValkeyCluster, channel: str) -> Iterator[Callable[[bytes], None]]:
    """Waits until each node of a cluster has passed a message on. They take 40 ms for it, and whoever subscribes to
    another node meanwhile hears it again.
    """
    with ExitStack() as stack:
        ears = []
        for node in [] if isinstance(store, Valkey) else store.nodes:
            client = stack.enter_context(redis.Redis(port=node.port, socket_timeout=10))
            ears.append(stack.enter_context(client.pubsub()))
            ears[-1].subscribe(channel)
            assert ears[-1].get_message(timeout=10)["type"] == "subscribe"

        def wait(message: bytes) -> None:
            for ear in ears:
                assert ear.get_message(timeout=10)["data"] == message

        yield wait


async def test_what_is_published_is_heard_also_over_a_connection_that_was_made_anew(
    store: Valkey | ValkeyCluster, other: Link
) -> None:
    heard: list[bytes] = []
    told: list[list[bytes] | None] = []
    link = Link(store.url, told.append)
    link.subscribe("before", heard.append)
    await link.open()
    link.subscribe("after", heard.append)
    # A reply behind the subscriptions: the pushes that confirm them take nobody's place.
    assert await link.ask("ECHO", "x") == b"x"
    with nodes_hear(store, "after") as passed_on:
        await other.ask("PUBLISH", "before", b"1")
        await other.ask("PUBLISH", "after", b"2")
        await until(lambda: heard == [b"1", b"2"])
        passed_on(b"2")
    told.clear()
    link.drop()
    nodes = 1 if isinstance(store, Valkey) else len(store.nodes)
    await until(lambda: len(told) > nodes)  # all lost, each connected
    assert set(map(str, told)) == {"None"}
    async with asyncio.timeout(15):
        while not heard[2:]:  # what is said while a busy node is being connected again is missed
            await other.ask("PUBLISH", "after", b"3")
            await asyncio.sleep(0.2)
    assert set(heard[2:]) == {b"3"}
    await link.close()


async def test_every_key_that_a_pattern_names_is_found(link: Link) -> None:
    names = [f"scanned:{number}" for number in range(1200)]
    for start in range(0, len(names), 100):
        await asyncio.gather(*(link.ask("SET", name, 1) for name in names[start : start + 100]))
    assert sorted({key.decode() async for key in link.scan("scanned:*")}) == sorted(names)


async def test_what_may_travel_together_is_all_of_it_on_one_server_and_one_slot_on_a_cluster(link: Link) -> None:
    names = ["{a}1", "{b}1", "{a}2", "{b}2", "{a}3"]
    together = [list(batch) for batch in link.batches(names, lambda name: name)]
    assert together == ([["{a}1", "{a}2", "{a}3"], ["{b}1", "{b}2"]] if link.is_cluster else [names])


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

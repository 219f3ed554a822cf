"""What only a cluster does: slots that move, nodes that fail and are replaced. On three real masters."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox_plugin.link import Elsewhere, Link
from farebox_plugin.link.link import seeds
from farebox_plugin.link.slots import slot_of
from farebox_plugin.records import Unavailable
from farebox_plugin.scripts import BEGIN, LOOK
from rig.valkey import Node, ValkeyCluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyCluster]:
    """Each test leaves it whole; where a slot lies may change."""
    with ValkeyCluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@asynccontextmanager
async def linked(url: str, told: list[list[bytes] | None] | None = None) -> AsyncIterator[Link]:
    link = Link(url, (lambda keys: None) if told is None else told.append)
    await link.open()
    try:
        yield link
    finally:
        await link.close()


async def until(condition: object) -> None:
    async with asyncio.timeout(30):
        while not condition():  # type: ignore[operator]  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def another(cluster: ValkeyCluster, key: str) -> Node:
    """A master that does not have the key."""
    return next(node for node in cluster.masters if node is not cluster.master_of(key))


@given(st.text(min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_a_key_has_the_slot_that_the_server_says(cluster: ValkeyCluster, key: str) -> None:
    assert slot_of(key) == cluster.nodes[0].ask("CLUSTER", "KEYSLOT", key.encode())


@pytest.mark.parametrize(
    "key", ["123456789", "{user1000}.following", "foo{}{bar}", "foo{{bar}}zap", "foo{bar}{zap}", "{", ""]
)
def test_braces_make_a_hash_tag_as_the_server_says(cluster: ValkeyCluster, key: str) -> None:
    assert slot_of(key) == cluster.nodes[0].ask("CLUSTER", "KEYSLOT", key)


async def test_keys_lie_on_all_masters_and_each_is_asked_where_it_lies(cluster: ValkeyCluster) -> None:
    async with linked(cluster.url) as link:
        await asyncio.gather(*(link.ask("SET", f"spread:{number}", number) for number in range(60)))
        found = await asyncio.gather(*(link.ask("GET", f"spread:{number}") for number in range(60)))
        assert found == [b"%d" % number for number in range(60)]
        assert len({link.server_of(f"spread:{number}").generation for number in range(60)}) == 3
    assert all(node.ask("DBSIZE") > 5 for node in cluster.masters)


async def test_a_command_follows_a_slot_that_moved_and_a_script_is_only_told_where(cluster: ValkeyCluster) -> None:
    async with linked(cluster.url) as link:
        await link.ask("SET", "{moved}x", 1)
        before = link.server_of("{moved}x")
        asked = another(cluster, "{moved}x")
        cluster.move(slot_of("{moved}x"), asked)
        # The link has not looked again yet: it learns it from the first reply.
        link._owners[slot_of("{moved}x")] = before
        with pytest.raises(Elsewhere):
            await link.ask_script(LOOK, ["{moved}x", "{moved}y"], [])
        assert link.server_of("{moved}x").port == asked.port
        assert link.server_of("{moved}x").generation != before.generation
        assert await link.ask_script(BEGIN, ["{moved}t", "{moved}c", "{moved}e"], ["a", "a", 1000, "g"]) == 1
        link._owners[slot_of("{moved}x")] = before
        assert await link.ask("GET", "{moved}x") == b"1"
        assert link.server_of("{moved}x").port == asked.port


async def test_a_topology_that_was_asked_for_before_a_slot_moved_is_not_adopted_after(cluster: ValkeyCluster) -> None:
    async with linked(cluster.url) as link:
        await link.ask("SET", "{overtaken}x", 1)
        slot, before = slot_of("{overtaken}x"), link.server_of("{overtaken}x")
        reading = asyncio.ensure_future(link._read_topology())
        await asyncio.sleep(0)  # it is asked for; its answer is read after all of this
        asked = another(cluster, "{overtaken}x")
        link._moved(before, Elsewhere(f"MOVED {slot} 127.0.0.1:{asked.port}"))
        await reading
        assert link.server_of("{overtaken}x").port == asked.port
        await until(lambda: link.server_of("{overtaken}x") is before)  # it is looked at again, and it has not moved


async def test_while_a_slot_moves_commands_follow_and_scripts_do_not(cluster: ValkeyCluster) -> None:
    told: list[list[bytes] | None] = []
    async with linked(cluster.url, told) as link, linked(cluster.url) as other:
        await link.ask("HSET", "{moves}x", "gen", link.server_of("{moves}x").generation)
        await link.ask("SET", "{moves}read", 1)
        there = another(cluster, "{moves}x")
        cluster.move(slot_of("{moves}x"), there, half=True)
        try:
            told.clear()
            assert await link.ask("GET", "{moves}read") == b"1"
            assert await link.ask("HDEL", "{moves}x", "nothing") == 0
            # It would be admitted there under the old master's generation, while somebody who knows the new one loads.
            with pytest.raises(Unavailable):
                await link.ask_script(LOOK, ["{moves}x", "{moves}y"], [])
            await other.ask("SET", "{moves}read", 2)
            await until(lambda: [b"{moves}read"] in told)  # not tracked there, so it is soon forgotten
        finally:
            cluster.finish_move(slot_of("{moves}x"), there)
        assert await link.ask("GET", "{moves}read") == b"2"


async def test_a_topology_that_changed_makes_everything_that_was_read_forgotten(cluster: ValkeyCluster) -> None:
    told: list[list[bytes] | None] = []
    async with linked(cluster.url, told) as link:
        there = another(cluster, "{again}")
        told.clear()
        cluster.move(slot_of("{again}"), there)
        await until(lambda: link.server_of("{again}").port == there.port)
        assert told == [None]


async def test_a_node_that_fails_takes_only_its_own_slots(cluster: ValkeyCluster) -> None:
    lost, kept = "{a}", next(key for key in "bcdef" if cluster.master_of(key) is not cluster.master_of("{a}"))
    async with linked(cluster.url) as link:
        generation = link.server_of(kept).generation
        node = cluster.master_of(lost)
        node.kill9()
        await until(lambda: not link.server_of(lost).is_up)
        with pytest.raises(Unavailable):
            await link.ask("GET", lost)
        assert await link.ask("SET", kept, 1) == b"OK"
        assert link.server_of(kept).generation == generation
        assert link.is_up
        node.start()
        await until(lambda: link.server_of(lost).is_up)
        async with asyncio.timeout(30):
            while await _fails(link, lost):  # noqa: ASYNC110
                await asyncio.sleep(0.05)


async def _fails(link: Link, key: str) -> bool:
    try:
        await link.ask("GET", key)
    except Unavailable:
        return True
    return False


async def test_what_is_published_is_heard_when_the_node_that_was_listened_to_has_gone(cluster: ValkeyCluster) -> None:
    heard: list[bytes] = []
    async with linked(cluster.url) as link:
        link.subscribe("news", heard.append)
        ear = link._ear
        assert ear is not None
        node = cluster.node_at(ear.port)
        node.kill9()
        await until(lambda: not ear.is_up)
        speaker = next(each for each in cluster.masters if each is not node)
        async with asyncio.timeout(30):
            while not heard:
                speaker.ask("PUBLISH", "news", "x")
                await asyncio.sleep(0.05)
        node.start()
        await until(lambda: ear.is_up)


async def test_one_node_that_answers_is_enough_to_find_the_others(cluster: ValkeyCluster) -> None:
    url = f"redis://127.0.0.1:1,127.0.0.1:{cluster.nodes[2].port}"
    async with linked(url) as link:
        assert link.server_of("{a}").is_up
        assert link.fault is None


async def test_several_hosts_that_are_no_cluster_are_refused(tmp_path: Path) -> None:
    alone = Node(tmp_path / "alone", is_cluster=False)
    alone.start()
    try:
        async with linked(f"redis://127.0.0.1:{alone.port},127.0.0.1:1") as link:
            assert "no cluster" in str(link.fault)
    finally:
        alone.kill9()


async def test_a_promoted_replica_is_another_generation_and_found_by_itself(tmp_path: Path) -> None:
    with ValkeyCluster(tmp_path / "replicated", masters=3, replicas=1) as cluster:
        master, replica = cluster.masters[0], cluster.nodes[3]
        key = next(key for key in (f"k{n}" for n in range(99)) if cluster.master_of(key) is master)
        async with linked(f"redis://127.0.0.1:{replica.port}") as link:  # a replica knows who the masters are, too
            before = link.server_of(key).generation
            assert before != ""
            await link.ask("SET", key, 1)
            master.kill9()
            await until(lambda: link.server_of(key).port == replica.port and link.server_of(key).generation != "")
            assert link.server_of(key).generation != before
            async with asyncio.timeout(30):
                while await _fails(link, key):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://a:1,b:2", ["redis://a:1", "redis://b:2"]),
        ("rediss://user:p%40ss@a:1,b:2/0", ["rediss://user:p%40ss@a:1/0", "rediss://user:p%40ss@b:2/0"]),
        ("redis://[::1]:7", ["redis://[::1]:7"]),
        ("unix:///tmp/a,b.sock", ["unix:/tmp/a,b.sock"]),
    ],
)
def test_a_url_names_some_servers_that_share_everything_else(url: str, expected: list[str]) -> None:
    assert [each.geturl() for each in seeds(url)] == expected

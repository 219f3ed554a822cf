"""Publishing to a real cluster of three masters: what one node loses comes back, and its trouble is nobody else's."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.cluster import RedisCluster
from sqlalchemy import Engine
from sqlmodel import select

from builders.portal import NOW, a_feature, a_meter, an_account
from farebox.v1 import layout
from farebox.v1.entitlements_pb2 import Account
from farebox_portal.customers.tables import Customer
from farebox_portal.db import transaction
from farebox_portal.entitlements.publish import ensure_directory, publish_pending, publish_policies
from farebox_portal.entitlements.store import Store, connect
from farebox_portal.subscriptions.tables import ApiKey
from rig.valkey import Node, Valkey, ValkeyCluster, slot_of

MARKS = [layout.directory_part(part) for part in layout.PARTS]
SLICE = 5


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyCluster]:
    with ValkeyCluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture
def store(cluster: ValkeyCluster) -> Iterator[RedisCluster]:
    for node in cluster.masters:
        node.ask("FLUSHALL")
    with Store(cluster.url) as found:
        client = found.client()
        assert isinstance(client, RedisCluster)
        yield client


@pytest.fixture
def engine(engine: Engine) -> Engine:
    with transaction(engine) as session:
        a_meter(session)
        a_feature(session, meter_slug="api_requests")
    return engine


def accounts(engine: Engine, count: int = 24) -> list[str]:
    with transaction(engine) as session:
        return [an_account(session, f"customer_{number:03d}")[0].id for number in range(count)]


def records(engine: Engine) -> list[str]:
    with transaction(engine) as session:
        return [layout.api_key(digest) for digest in session.exec(select(ApiKey.digest))]


def generation(node: Node) -> bytes:
    with connect(f"redis://127.0.0.1:{node.port}") as client:
        return layout.generation({name: str(value) for name, value in client.info().items()}).encode()


def is_complete(cluster: ValkeyCluster, mark: str) -> bool:
    node = cluster.master_of(mark)
    return bool(node.ask("GET", mark) == generation(node))


def contents(node: Node) -> dict[bytes, bytes]:
    return {key: node.ask("DUMP", key) for key in node.ask("KEYS", "*")}


def ensured(engine: Engine, store: RedisCluster) -> None:
    """What the portal's loop does; a node that was started again takes two seconds before it answers for its slots."""
    deadline = time.monotonic() + 30
    while True:
        try:
            if not ensure_directory(engine, store, NOW):
                return
        except redis.RedisError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_what_is_published_lies_with_the_masters_of_its_slots(
    engine: Engine, store: RedisCluster, cluster: ValkeyCluster
) -> None:
    ids = accounts(engine)
    assert publish_pending(engine, store, NOW) == len(ids)
    assert publish_pending(engine, store, NOW) == 0
    for account in ids:
        node = cluster.master_of(layout.account(account))
        assert Account.FromString(node.ask("GET", layout.account(account))).id == account
        assert node.ask("HGET", layout.counters(account), "ver") == b"1"
    assert all(cluster.master_of(name).ask("EXISTS", name) for name in records(engine))
    assert all(len(contents(node)) > 4 for node in cluster.masters)


def test_every_part_of_the_directory_is_complete_for_its_own_node(
    engine: Engine, store: RedisCluster, cluster: ValkeyCluster
) -> None:
    accounts(engine)
    assert ensure_directory(engine, store, NOW)
    assert not ensure_directory(engine, store, NOW)
    assert all(is_complete(cluster, mark) for mark in MARKS)
    assert len({cluster.master_of(mark).port for mark in MARKS}) == 3
    assert store.exists(layout.POLICIES)
    assert not store.exists(layout.DIRECTORY)


def test_what_an_emptied_node_had_comes_back_and_nothing_else_is_written(
    engine: Engine, store: RedisCluster, cluster: ValkeyCluster
) -> None:
    accounts(engine)
    ensured(engine, store)
    emptied, *others = cluster.masters
    before = contents(emptied)
    for node in others:
        node.ask("DEL", next(key for key in contents(node) if key.endswith(b":e")))
    untouched = [contents(node) for node in others]
    emptied.ask("FLUSHALL")
    assert ensure_directory(engine, store, NOW)
    assert contents(emptied) == before
    assert [contents(node) for node in others] == untouched
    assert not ensure_directory(engine, store, NOW)


def test_a_node_that_was_killed_and_started_again_gets_everything_again(
    engine: Engine, store: RedisCluster, cluster: ValkeyCluster
) -> None:
    accounts(engine)
    ensured(engine, store)
    node = cluster.masters[1]
    before = generation(node)
    node.kill9()
    with pytest.raises(redis.RedisError):
        ensure_directory(engine, store, NOW)
    node.start()
    ensured(engine, store)
    assert generation(node) != before
    assert all(is_complete(cluster, mark) for mark in MARKS)


def test_changes_reach_all_other_nodes_while_one_is_away_and_that_one_later(
    engine: Engine, store: RedisCluster, cluster: ValkeyCluster
) -> None:
    ids = accounts(engine)
    publish_policies(engine, store)
    node = cluster.masters[2]
    there = {account for account in ids if cluster.master_of(layout.counters(account)) is node}
    keys_there = {name for name in records(engine) if cluster.master_of(name) is node}
    node.kill9()
    with pytest.raises(redis.RedisError):
        publish_pending(engine, store, NOW)
    elsewhere = [account for account in ids if account not in there]
    assert there
    assert keys_there
    assert all(store.exists(layout.account(account)) for account in elsewhere)
    with transaction(engine) as session:
        noted = {customer.id for customer in session.exec(select(Customer)) if customer.published_version == 1}
    assert noted
    assert noted < set(elsewhere), "an account is only done when its key records are, wherever they lie"
    node.start()
    deadline = time.monotonic() + 30
    while True:
        try:
            publish_pending(engine, store, NOW)
            break
        except redis.RedisError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert all(store.exists(layout.account(account)) for account in ids)
    assert all(store.exists(name) for name in records(engine))


def test_an_emptied_node_gets_everything_again_while_another_is_away(
    engine: Engine, store: RedisCluster, cluster: ValkeyCluster
) -> None:
    accounts(engine)
    ensured(engine, store)
    away, emptied, _ = cluster.masters
    before = contents(emptied)
    away.kill9()
    emptied.ask("FLUSHALL")
    with pytest.raises(redis.RedisError):  # of the one that is away: it is tried again
        ensure_directory(engine, store, NOW)
    assert contents(emptied).keys() == before.keys()
    assert all(is_complete(cluster, mark) for mark in MARKS if cluster.master_of(mark) is emptied)
    away.start()
    ensured(engine, store)
    assert all(is_complete(cluster, mark) for mark in MARKS)


def test_a_part_whose_slot_has_moved_is_republished_for_its_new_node(
    engine: Engine, store: RedisCluster, cluster: ValkeyCluster
) -> None:
    accounts(engine)
    ensured(engine, store)
    mark = MARKS[5]
    there = next(node for node in cluster.masters if node is not cluster.master_of(mark))
    cluster.move(slot_of(mark), there)
    assert not is_complete(cluster, mark)
    ensure_directory(engine, store, NOW)  # learns of the move
    ensured(engine, store)
    assert cluster.master_of(mark) is there
    assert all(is_complete(cluster, mark) for mark in MARKS)


def test_a_change_is_published_to_wherever_its_account_has_moved(
    engine: Engine, store: RedisCluster, cluster: ValkeyCluster
) -> None:
    (account,) = accounts(engine, 1)
    publish_pending(engine, store, NOW)
    name = layout.counters(account)
    there = next(node for node in cluster.masters if node is not cluster.master_of(name))
    cluster.move(slot_of(name), there)
    with transaction(engine) as session:
        session.get_one(Customer, account).entitlements_version += 1
    assert publish_pending(engine, store, NOW) == 1
    assert there.ask("HGET", name, "ver") == b"2"


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farebox_portal.entitlements.publish._ACCOUNTS_IN_A_SLICE", SLICE)


@pytest.mark.usefixtures("small_slices")
def test_republishing_goes_on_where_its_time_ran_out_and_begins_anew_when_a_node_is_emptied_meanwhile(
    engine: Engine, store: RedisCluster, cluster: ValkeyCluster
) -> None:
    ids = accounts(engine, 4 * SLICE)

    def documents() -> int:
        return sum(bool(store.exists(layout.account(account))) for account in ids)

    for expected in (SLICE, 2 * SLICE):
        assert ensure_directory(engine, store, NOW, for_s=0)
        assert documents() == expected
        assert not any(is_complete(cluster, mark) for mark in MARKS)
    cluster.masters[0].ask("FLUSHALL")
    while ensure_directory(engine, store, NOW, for_s=0):
        pass
    assert documents() == len(ids)
    assert all(is_complete(cluster, mark) for mark in MARKS)


def test_one_host_that_answers_is_enough_and_a_single_server_is_none(cluster: ValkeyCluster, tmp_path: Path) -> None:
    with Store(f"redis://127.0.0.1:1,127.0.0.1:{cluster.nodes[1].port}") as store:
        assert isinstance(store.client(), RedisCluster)
    with Valkey(tmp_path / "single") as server, Store(server.url) as store:
        assert isinstance(store.client(), redis.Redis)
        assert store.client() is store.client()


def test_a_store_that_is_away_says_so_when_it_is_used_and_is_found_later(tmp_path: Path) -> None:
    server = Valkey(tmp_path / "late")
    with Store(server.url) as store:
        with pytest.raises(redis.ConnectionError):
            store.client().get("key")
        with server:
            assert store.client().get("key") is None

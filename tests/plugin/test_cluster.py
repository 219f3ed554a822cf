"""Admission, settling, rebuild and reconciliation on a real cluster of three masters: exact while slots move and nodes
fail, and what one node loses is nobody else's loss."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from builders.plugin import START_MS, Part, a_part, an_account, ask, code, settled
from farebox.v1 import layout
from farebox.v1.digest import digest
from farebox_plugin.keeper.peers import Peers
from farebox_plugin.keeper.reconcile import Reconciler
from farebox_plugin.records import Grant, Refusal, Settlement, Unavailable
from rig.valkey import Node, ValkeyCluster, slot_of

LIMIT = 10


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyCluster]:
    with ValkeyCluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture(autouse=True)
def emptied(cluster: ValkeyCluster) -> None:
    for node in cluster.masters:
        node.ask("FLUSHALL")


@pytest.fixture
async def part(cluster: ValkeyCluster, tmp_path: Path) -> AsyncIterator[Part]:
    async with a_part(cluster, tmp_path / "spool") as one:
        yield one


def spread(cluster: ValkeyCluster, count: int = 2) -> list[tuple[str, Node]]:
    """Accounts, `count` on each master."""
    found: Counter[int] = Counter()
    accounts = []
    for number in range(1000):
        node = cluster.master_of(layout.counters(f"acct{number}"))
        if found[node.port] < count:
            found[node.port] += 1
            accounts.append((f"acct{number}", node))
        if len(accounts) == 3 * count:
            break
    return accounts


async def ask_many(part: Part, account: str, count: int) -> Counter[str]:
    return Counter(code(each) for each in await asyncio.gather(*(ask(part, account=account) for _ in range(count))))


async def loads(part: Part, account: str) -> None:
    """Wait until a node that was started again can be asked."""
    async with asyncio.timeout(30):
        while True:
            try:
                await part.rebuilder.load(account)
                return
            except Unavailable:
                await asyncio.sleep(0.05)


def settlement(rid: str, account: str, units: int) -> Settlement:
    return Settlement(Grant(rid, account, "sub1", "key1", "costs-1"), 200, {"api_requests": units})


async def test_limits_are_exact_on_every_node_and_what_was_used_is_settled(cluster: ValkeyCluster, part: Part) -> None:
    accounts = [account for account, _ in spread(cluster)]
    for account in accounts:
        await part.publish(an_account(limit=LIMIT, id=account))
    answers = await asyncio.gather(*(ask_many(part, account, 3 * LIMIT) for account in accounts))
    assert answers == [Counter(allowed=LIMIT, quota_exceeded=2 * LIMIT)] * len(accounts)
    for account in accounts:
        holds = await part.holds(account)
        assert len(holds) == LIMIT
        part.settlements.settle([settlement(rid, account, number % 2) for number, rid in enumerate(holds)])
    await settled(part)
    for account in accounts:
        assert await part.counter(account) == {"api_requests": LIMIT // 2}


async def test_two_workers_share_limits_on_every_node(cluster: ValkeyCluster, part: Part) -> None:
    accounts = [account for account, _ in spread(cluster)]
    async with a_part(cluster, part.folder, "w1") as other:
        for account in accounts:
            await part.publish(an_account(limit=LIMIT, id=account))
        other.ledger.accounts.update(part.ledger.accounts)
        answers = await asyncio.gather(
            *(ask_many(each, account, LIMIT) for account in accounts for each in (part, other))
        )
    assert sum(answers, Counter()) == Counter(allowed=LIMIT * len(accounts), quota_exceeded=LIMIT * len(accounts))


async def test_a_killed_node_takes_its_accounts_with_it_only_and_they_come_back_exact(
    cluster: ValkeyCluster, part: Part
) -> None:
    accounts = spread(cluster, 1)
    for account, _ in accounts:
        await part.publish(an_account(limit=LIMIT, id=account))
        assert await ask_many(part, account, 4) == Counter(allowed=4)
    (lost, node), *others = accounts
    node.kill9()
    async with asyncio.timeout(30):
        while part.link.server_of(layout.counters(lost)).is_up:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert await ask_many(part, lost, 3) == Counter(metering_unavailable=3)
    for account, _ in others:
        assert await ask_many(part, account, 1) == Counter(allowed=1)
    assert part.rebuilder.rebuilt_count == 3
    node.start()
    await loads(part, lost)
    assert await ask_many(part, lost, LIMIT) == Counter(allowed=LIMIT - 4, quota_exceeded=4)
    for account, _ in others:
        assert await ask_many(part, account, LIMIT) == Counter(allowed=LIMIT - 5, quota_exceeded=5)
    assert part.rebuilder.rebuilt_count == 4, "only what the killed node had was rebuilt"


async def test_a_node_that_hangs_delays_nobody_elses_requests(cluster: ValkeyCluster, tmp_path: Path) -> None:
    async with a_part(cluster, tmp_path / "own", timeout_s=0.3) as part:
        (lost, node), *others = spread(cluster, 1)
        for account, _ in [(lost, node), *others]:
            await part.publish(an_account(limit=LIMIT, id=account))
            await part.rebuilder.load(account)
        node.freeze()
        try:
            hanging = asyncio.ensure_future(ask_many(part, lost, 3))
            for account, _ in others:
                assert await ask_many(part, account, 3) == Counter(allowed=3)
            assert await hanging == Counter(metering_unavailable=3)
        finally:
            node.thaw()
        await loads(part, lost)
        async with asyncio.timeout(30):
            while await part.counter(lost) != {"api_requests": 0}:  # noqa: ASYNC110
                await asyncio.sleep(0.05)


async def test_a_node_that_was_emptied_is_rebuilt_and_the_others_are_left_alone(
    cluster: ValkeyCluster, part: Part
) -> None:
    accounts = spread(cluster, 1)
    for account, _ in accounts:
        await part.publish(an_account(limit=LIMIT, id=account))
        assert await ask_many(part, account, 4) == Counter(allowed=4)
    accounts[0][1].ask("FLUSHALL")
    for account, _ in accounts:
        assert await ask_many(part, account, LIMIT) == Counter(allowed=LIMIT - 4, quota_exceeded=4)
    assert part.rebuilder.rebuilt_count == 4


async def test_a_key_that_its_node_has_lost_is_unavailable_and_never_invalid(
    cluster: ValkeyCluster, part: Part
) -> None:
    key = await part.publish(an_account())
    unknown = next(each for each in (digest(f"k{n}") for n in range(99)) if each[0] == digest(key)[0])
    elsewhere = next(
        each
        for each in (digest(f"k{n}") for n in range(99))
        if cluster.master_of(layout.api_key(each)) is not cluster.master_of(layout.api_key(unknown))
    )
    await part.directory.load_key(unknown)
    assert isinstance(part.directory.find_key(unknown), Refusal)
    cluster.master_of(layout.api_key(unknown)).ask("FLUSHALL")
    part.directory.invalidated(None)
    for lost in (unknown, digest(key)):
        with pytest.raises(Unavailable):
            await part.directory.load_key(lost)
    await part.directory.load_key(elsewhere)
    assert isinstance(part.directory.find_key(elsewhere), Refusal)
    await part.publish(an_account(), api_key=key)
    await part.directory.load_key(digest(key))
    assert not isinstance(part.directory.find_key(digest(key)), Refusal | None)


async def test_the_keys_of_a_slot_that_moved_are_not_believed_to_be_all_before_it_is_republished(
    cluster: ValkeyCluster, part: Part
) -> None:
    key = await part.publish(an_account())
    unknown = next(each for each in (digest(f"k{n}") for n in range(99)) if each[0] == digest(key)[0])
    name = layout.api_key(unknown)
    there = next(node for node in cluster.masters if node is not cluster.master_of(name))
    cluster.move(slot_of(name), there)
    part.directory.invalidated(None)
    await part.directory.load_key(digest(key))
    assert not isinstance(part.directory.find_key(digest(key)), Refusal | None)
    with pytest.raises(Unavailable):
        await part.directory.load_key(unknown)


async def test_policies_that_their_node_has_lost_are_not_taken_for_none(cluster: ValkeyCluster, part: Part) -> None:
    await part.publish(an_account())
    await part.directory.load_policies()
    cluster.master_of(layout.POLICIES).ask("FLUSHALL")
    with pytest.raises(Unavailable):
        await part.directory.load_policies()


async def test_a_live_account_that_is_moved_to_another_node_stays_exact(cluster: ValkeyCluster, part: Part) -> None:
    """Two workers admit all the time while the slot goes round all masters, its keys with it."""
    account, limit = "moving", 300
    slot = slot_of(layout.counters(account))
    await part.publish(an_account(limit=limit, id=account))
    async with a_part(cluster, part.folder, "w1") as other:
        other.ledger.accounts.update(part.ledger.accounts)
        answers: Counter[str] = Counter()
        is_moving = True

        async def client(worker: Part) -> None:
            while is_moving or answers["allowed"] < limit:
                answers[code(await ask(worker, account=account))] += 1
                await asyncio.sleep(0.01)

        clients = [asyncio.ensure_future(client(worker)) for worker in (part, other) for _ in range(3)]
        for _ in range(2):
            for node in cluster.masters:
                if cluster.master_of(layout.counters(account)) is not node:
                    await asyncio.to_thread(cluster.move, slot, node)
                await asyncio.sleep(0.2)
        is_moving = False
        async with asyncio.timeout(60):
            await asyncio.gather(*clients)
            while not (part.settlements.is_idle and other.settlements.is_idle):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert await ask_many(other, account, 5) == Counter(quota_exceeded=5)
        assert await ask_many(part, account, 5) == Counter(quota_exceeded=5)
    assert answers["allowed"] == limit
    assert part.rebuilder.rebuilt_count + other.rebuilder.rebuilt_count >= 5, "each master that had it rebuilt it"
    open_holds = [hold for hold in (await part.holds(account)).values() if not hold.startswith("!")]
    assert len(open_holds) == limit
    assert await part.counter(account) == {"api_requests": limit}


async def test_a_request_that_came_to_the_old_master_is_asked_at_the_new_one(
    cluster: ValkeyCluster, part: Part
) -> None:
    account = "asked"
    await part.publish(an_account(limit=LIMIT, id=account))
    assert await ask_many(part, account, 4) == Counter(allowed=4)
    name = layout.counters(account)
    cluster.move(slot_of(name), next(node for node in cluster.masters if node is not cluster.master_of(name)))
    assert await ask_many(part, account, LIMIT) == Counter(allowed=LIMIT - 4, quota_exceeded=4)


async def test_accounts_of_all_nodes_are_reconciled(cluster: ValkeyCluster, part: Part) -> None:
    accounts = [account for account, _ in spread(cluster)]
    for account in accounts:
        await part.publish(an_account(limit=LIMIT, id=account))
        assert await ask_many(part, account, 2) == Counter(allowed=2)
    peers = Peers(part.link, part.index, "host")
    reconciler = Reconciler(part.link, part.index, peers, part.ledger, part.rebuilder)  # type: ignore[arg-type]
    assert sorted([account async for account in reconciler.accounts()]) == sorted(accounts)
    wrong = accounts[3]
    await part.link.ask(
        "HINCRBY", layout.counters(wrong), layout.counter_field("sub1", "api_requests.P1M", START_MS), -1
    )
    results = {account: (await reconciler.reconcile(account, repair=True)).result for account in accounts}
    assert results == dict.fromkeys(accounts, "right") | {wrong: "repaired"}
    assert await part.counter(wrong) == {"api_requests": 2}


async def test_a_request_for_the_old_master_is_not_let_in_at_the_new_one_while_the_account_is_rebuilt_there(
    cluster: ValkeyCluster, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state came along with the slot, and names the old master. What is admitted into it after the spools were
    read would be forgotten by the rebuild, and its units given out once more."""
    name = layout.counters("moved")
    await part.publish(an_account(limit=1, id="moved"))
    await part.rebuilder.load("moved")
    old = part.link.server_of(name)
    cluster.move(slot_of(name), next(node for node in cluster.masters if node is not cluster.master_of(name)))
    async with a_part(cluster, part.folder, "w1", gateway="other") as other:
        other.ledger.accounts.update(part.ledger.accounts)
        has_read, may_go_on = asyncio.Event(), asyncio.Event()
        gather = other.rebuilder._peers.gather

        async def gather_slowly(*arguments: Any, **options: Any) -> Any:
            found = await gather(*arguments, **options)
            has_read.set()
            await may_go_on.wait()
            return found

        monkeypatch.setattr(other.rebuilder._peers, "gather", gather_slowly)
        loading = asyncio.ensure_future(other.rebuilder.load("moved"))
        await has_read.wait()
        assert part.link._owners is not None
        part.link._owners[slot_of(name)] = old
        asked = asyncio.ensure_future(ask(part, account="moved"))
        await asyncio.sleep(0.1)
        may_go_on.set()
        await loading
        assert code(await asked) == "allowed"
        assert await ask_many(other, "moved", 2) == Counter(quota_exceeded=2)


async def test_keys_and_policies_of_a_node_that_is_gone_stop_nobody_elses_requests(
    cluster: ValkeyCluster, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await part.publish(an_account())
    node = cluster.master_of(layout.api_key(digest(key)))
    await part.directory.load_key(digest(key))
    if cluster.master_of(layout.POLICIES) is not node:
        cluster.move(slot_of(layout.POLICIES), node)
    async with asyncio.timeout(30):
        while part.link.server_of(layout.POLICIES).port != node.port:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    monkeypatch.setattr("farebox_plugin.directory.TTL_S", 0.0)
    await part.directory.load_policies()
    await part.directory.load_key(digest(key))
    node.kill9()
    async with asyncio.timeout(30):
        while not part.link.is_away(layout.POLICIES):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert part.directory.find_policy("default") is not None
    assert not isinstance(part.directory.find_key(digest(key)), Refusal | None)
    node.start()
    async with asyncio.timeout(30):
        while part.link.is_away(layout.POLICIES):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert part.directory.find_policy("default") is None, "it is asked again"
    assert part.directory.find_key(digest(key)) is None

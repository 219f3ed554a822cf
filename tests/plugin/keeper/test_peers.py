"""Two gateways on one real Valkey: what one admitted, the other one's rebuild counts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog.testing

from builders.plugin import START_MS, Part, a_call_of, a_part, an_account, ask, code, settled
from farebox.v1 import layout
from farebox.v1.usage_pb2 import AccountState, PendingAnswer, PendingQuestion, UsageEvent
from farebox_plugin.keeper import peers as peers_module
from farebox_plugin.keeper.index import KEEP_SHIPPED_S, OpenRequest
from farebox_plugin.keeper.peers import Peers, Pending, merged
from farebox_plugin.keeper.rebuild import Rebuilder
from farebox_plugin.keeper.reconcile import Reconciler
from farebox_plugin.keeper.sweep import Sweeper
from farebox_plugin.records import Grant, Settlement, Unavailable
from farebox_plugin.spool import CLOSED, INTENT, record
from rig.valkey import Valkey


def now() -> float:
    return asyncio.get_running_loop().time()


@dataclass
class Gateway:
    """A worker's parts and its keeper's, on a spool directory of their own."""

    part: Part
    peers: Peers

    @property
    def rebuilder(self) -> Rebuilder:
        return self.part.rebuilder

    async def hold(self, stream: int, units: int = 1) -> None:
        assert code(await ask(self.part, stream=stream, units=units)) == "allowed"

    def settle(self, stream: int, units: int) -> None:
        """Its end stands in the spool when this returns."""
        grant = Grant(a_call_of(stream).rid, "acct1", "sub1", "key1", "default")
        self.part.settlements.settle([Settlement(grant, 200, {"api_requests": units})])

    def ship(self, state: AccountState) -> None:
        """As the shipper does, without a portal: the ledger's cursor moves, its sums are the test's business."""
        index = self.part.index
        index.catch_up(now())
        for spool in index.spools:
            while (batch := index.next_batch(spool, 100)) is not None:
                index.shipped(spool, batch.end, now())
                state.cursors[spool] = batch.end


@asynccontextmanager
async def a_gateway(valkey: Valkey, folder: Path, name: str, *, listens: bool = True) -> AsyncIterator[Gateway]:
    async with a_part(valkey, folder / name, f"{name}.1.w0", gateway=name) as part:
        peers = part.rebuilder._peers
        if listens:
            peers.listen()
            while not await part.link.ask("PUBLISH", layout.questions(name), b""):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        yield Gateway(part, peers)


@pytest.fixture
def state() -> AccountState:
    """The ledger of both."""
    state = AccountState()
    for name in ("one", "two"):
        state.gateways.add(name=name, is_live=True)
    return state


@pytest.fixture
async def one(valkey: Valkey, tmp_path: Path, state: AccountState) -> AsyncIterator[Gateway]:
    async with a_gateway(valkey, tmp_path, "one") as gateway:
        gateway.part.ledger.state = state
        await gateway.part.publish(an_account(limit=10))
        yield gateway


@pytest.fixture
async def two(valkey: Valkey, tmp_path: Path, one: Gateway) -> AsyncIterator[Gateway]:
    async with a_gateway(valkey, tmp_path, "two") as gateway:
        gateway.part.ledger = one.part.ledger
        gateway.rebuilder._portal = one.part.ledger  # type: ignore[assignment]
        yield gateway


async def flush(gateway: Gateway) -> None:
    """FLUSHALL, and the portal publishes anew."""
    await gateway.part.link.ask("FLUSHALL")
    await gateway.part.publish(gateway.part.ledger.accounts["acct1"])


async def test_what_is_open_and_what_is_unshipped_elsewhere_is_rebuilt_too(one: Gateway, two: Gateway) -> None:
    await one.hold(6000, units=2)
    await two.hold(6001, units=3)
    await two.hold(6002, units=5)
    two.settle(6002, 4)
    await settled(two.part)
    assert await one.part.counter() == {"api_requests": 9}
    await flush(one)
    await one.rebuilder.load("acct1")
    assert await one.part.counter() == {"api_requests": 9}
    assert sorted(await one.part.holds()) == sorted([a_call_of(6000).rid, a_call_of(6001).rid])
    assert code(await ask(one.part, stream=6003, units=2)) == "quota_exceeded"
    # And the other way round, with holds that end as they would have.
    await flush(one)
    await two.rebuilder.load("acct1")
    two.settle(6001, 1)
    await settled(two.part)
    assert await two.part.counter() == {"api_requests": 7}


async def test_usage_that_is_shipped_after_the_view_of_the_ledger_counts_once(
    one: Gateway, two: Gateway, state: AccountState
) -> None:
    await two.hold(6010, units=3)
    two.settle(6010, 3)
    await settled(two.part)
    await flush(one)
    view = one.part.ledger.account_state

    async def overtaken(account: str, gateway: str):  # type: ignore[no-untyped-def]
        answer = await view(account, gateway)
        two.ship(state)
        return answer

    one.part.ledger.account_state = overtaken  # type: ignore[method-assign]
    await one.rebuilder.load("acct1")
    assert await one.part.counter() == {"api_requests": 3}


async def test_who_has_forgotten_what_the_view_lacks_says_so_and_another_view_is_taken(
    one: Gateway, two: Gateway, state: AccountState
) -> None:
    await two.hold(6020, units=3)
    two.settle(6020, 3)
    await settled(two.part)
    await flush(one)
    view, views = one.part.ledger.account_state, 0

    async def slow(account: str, gateway: str):  # type: ignore[no-untyped-def]
        nonlocal views
        views += 1
        answer = await view(account, gateway)
        if views == 1:  # on its way for longer than usage is kept
            two.ship(state)
            two.part.index.forget_shipped(now() + KEEP_SHIPPED_S)
            state.counters.add(subscription_id="sub1", quota_id="api_requests.P1M", period_start_ms=START_MS, used=3)
        return answer

    one.part.ledger.account_state = slow  # type: ignore[method-assign]
    await one.rebuilder.load("acct1")
    assert views == 2
    assert await one.part.counter() == {"api_requests": 3}
    assert one.peers.counts["behind"] == 1


async def test_a_live_gateway_that_does_not_answer_leaves_the_account_unloaded(
    one: Gateway, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers_module, "WAITS_S", (0.05, 0.05))
    with structlog.testing.capture_logs() as logs:
        for _ in range(2):
            with pytest.raises(Unavailable, match="two"):
                await one.rebuilder.load("acct1")
    said = [entry for entry in logs if entry["event"] == "gateway_does_not_answer"]
    assert [entry["gateway"] for entry in said] == ["two"], "once, not for each account"
    assert "start its plugin again" in said[0]["remedy"]
    assert await one.part.counter() == {}
    assert await one.part.link.ask("EXISTS", layout.rebuild_token("acct1")) == 0, "another gateway may try at once"


async def test_a_question_that_got_lost_is_asked_again(one: Gateway, two: Gateway) -> None:
    await two.hold(6030, units=4)
    await flush(one)
    hear, heard = two.part.link._channels[layout.questions("two")], 0

    def deaf_at_first(message: bytes) -> None:
        nonlocal heard
        heard += 1
        if heard > 1:
            hear(message)

    two.part.link._channels[layout.questions("two")] = deaf_at_first
    await one.rebuilder.load("acct1")
    assert await one.part.counter() == {"api_requests": 4}


async def test_a_lost_gateway_is_not_waited_for_but_heard_if_it_listens(
    one: Gateway, two: Gateway, state: AccountState
) -> None:
    state.gateways[1].is_live = False
    state.gateways.add(name="three", is_live=False)
    await two.hold(6040, units=4)
    await flush(one)
    with structlog.testing.capture_logs() as logs:
        await one.rebuilder.load("acct1")
    assert await one.part.counter() == {"api_requests": 4}
    warned = [entry["gateway"] for entry in logs if entry["event"] == "rebuilding_without_lost_gateway"]
    assert warned == ["three"]
    assert one.peers.counts["went_without_lost_gateway"] == 1


async def test_a_refusal_that_crosses_a_rebuild_of_another_gateway_is_given_back(one: Gateway, two: Gateway) -> None:
    await two.hold(6050)
    hold = next(iter((await two.part.holds()).values()))
    two.part.spool.append([record(INTENT, "acct1", "sub1", "key1", "default", hold, "5-1")])
    await flush(one)
    await one.rebuilder.load("acct1")  # sees the intent, but not yet that it was refused
    assert await one.part.counter() == {"api_requests": 2}
    two.part.spool.append([record(CLOSED, "acct1", "5-1")])
    sweeper = Sweeper(two.part.index, two.part.settlements, lambda: {"two.1.w0"}, orphan_after_s=60)
    two.part.index.catch_up(now())
    sweeper.sweep(now())
    await settled(two.part)
    assert await one.part.counter() == {"api_requests": 1}


async def test_the_reconciler_compares_with_what_all_gateways_have(one: Gateway, two: Gateway) -> None:
    def reconciler(gateway: Gateway) -> Reconciler:
        part = gateway.part
        return Reconciler(part.link, part.index, gateway.peers, part.ledger, part.rebuilder)  # type: ignore[arg-type]

    await one.hold(6060, units=2)
    await two.hold(6061, units=3)
    await two.hold(6062, units=5)
    two.settle(6062, 1)  # in its spool; the SETTLE has not left yet
    for gateway in (one, two):
        assert (await reconciler(gateway).reconcile("acct1", repair=False)).result == "right"
    await settled(two.part)
    for gateway in (one, two):
        assert (await reconciler(gateway).reconcile("acct1", repair=False)).result == "right"
    await one.part.link.ask("HDEL", layout.holds("acct1"), a_call_of(6061).rid)
    finding = await reconciler(one).reconcile("acct1", repair=True)
    assert [drift.what for drift in finding.drifts] == [f"hold {a_call_of(6061).rid}"]
    assert (await reconciler(two).reconcile("acct1", repair=False)).result == "right"
    assert two.part.index.open_of("acct1")[0].is_rebuilt, "the repair held it"


async def test_an_answer_that_is_too_large_is_a_call_for_a_newer_view(
    one: Gateway, two: Gateway, state: AccountState, monkeypatch: pytest.MonkeyPatch
) -> None:
    await two.hold(6070)
    await two.hold(6071)
    monkeypatch.setattr(peers_module, "ANSWER_BYTES_MAX", 100)
    assert await one.peers.gather("acct1", state, is_rebuild=True) is None


@pytest.mark.parametrize("nonsense", [b"\xff", b"not a message"])
async def test_nonsense_on_a_channel_hurts_nobody(one: Gateway, two: Gateway, nonsense: bytes) -> None:
    await two.hold(6080, units=4)
    await flush(one)
    for channel in (layout.questions("two"), layout.answers("one")):
        await one.part.link.ask("PUBLISH", channel, nonsense)
    stranger = PendingAnswer(id="nobody asked", gateway="two").SerializeToString()
    await one.part.link.ask("PUBLISH", layout.answers("one"), stranger)
    await one.rebuilder.load("acct1")
    assert await one.part.counter() == {"api_requests": 4}


async def test_a_question_carries_only_the_asked_gateway_s_cursors(one: Gateway, state: AccountState) -> None:
    state.cursors.update({"one.1.w0": 5, "two.1.w0": 6, "twofold.1.w0": 7})
    asked = PendingQuestion()

    def hear(message: bytes) -> None:
        asked.ParseFromString(message)
        answer = PendingAnswer(id=asked.id, gateway="two").SerializeToString()
        one.part.link.call(("PUBLISH", layout.answers("one"), answer), lambda reply: None)

    one.part.link.subscribe(layout.questions("two"), hear)
    await one.peers.gather("acct1", state, is_rebuild=True, holds=["r"])
    assert (asked.asker, asked.account, dict(asked.cursors)) == ("one", "acct1", {"two.1.w0": 6})
    assert (asked.is_rebuild, list(asked.holds)) == (True, ["r"])


def an_open(rid: str, **claims: bool) -> OpenRequest:
    """With the hold of whoever is named first."""
    return OpenRequest(Grant(rid, "a", "s", "k", "p"), f"{next(iter(claims))};f|m|{len(claims)}", 0.0, claims)


def test_one_request_that_two_gateways_know_of_is_one_request() -> None:
    found = merged([
        Pending([UsageEvent(rid="settled", status=1)], [an_open("both", g1=False), an_open("elsewhere", g1=True)]),
        Pending([UsageEvent(rid="settled", status=2), UsageEvent(rid="elsewhere")], [an_open("both", g2=True)]),
        Pending([], [an_open("over", g3=True), an_open("own", g3=False)], {"over": {"m": 1}}),
        Pending([], [an_open("over", g4=True)]),
    ])  # fmt: skip
    assert sorted((event.rid, event.status) for event in found.unshipped) == [("elsewhere", 0), ("settled", 1)]
    opened = {request.grant.rid: request for request in found.open_requests}
    assert opened.keys() == {"both", "own"}
    assert opened["both"].is_allowed
    assert opened["both"].hold.startswith("g2;"), "who let it in knows what is held"
    assert set(opened["both"].claims) == {"g1", "g2"}
    assert not opened["own"].is_allowed
    assert found.ended == {"over": {"m": 1}}

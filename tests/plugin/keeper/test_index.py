"""What several spools say together, in whatever order they are read."""

import json
import random
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import pytest

from farebox.v1.usage_pb2 import UsageEvent
from farebox_plugin.keeper.index import FORGOTTEN_REMEMBERED_S, KEEP_SHIPPED_S, RETIRE_AFTER_S, Index
from farebox_plugin.keeper.rebuild import TOKEN_TTL_MS
from farebox_plugin.spool import ALLOWED, CLOSED, INTENT, VOID, SpoolWriter, record, settled_record

HOLD = "w0;v:sub1/api.P1M@0|api|1"


def intent(rid: str, account: str = "acct1") -> bytes:
    return record(INTENT, account, "sub1", "key1", "default", HOLD, rid)


def allowed(rid: str, account: str = "acct1") -> bytes:
    return record(ALLOWED, account, rid)


def closed(rid: str, account: str = "acct1") -> bytes:
    return record(CLOSED, account, rid)


def void(rid: str, account: str = "acct1") -> bytes:
    return record(VOID, account, rid)


def event(rid: str, account: str = "acct1", units: int = 1, alike: Sequence[str] = ()) -> bytes:
    message = UsageEvent(rid=rid, account_id=account, subscription_id="sub1", admitted_at_ms=5, alike=alike)
    message.meters.add(meter="api", quantity=units)
    return settled_record(message.SerializeToString())


def index_of(folder: Path, spools: dict[str, list[bytes]]) -> Index:
    for name, records in spools.items():
        writer = SpoolWriter(folder, name)
        for one in records:
            writer.append([one])
        writer.close()
    index = Index(folder)
    index.catch_up(0.0)
    return index


@pytest.mark.parametrize(
    ("spools", "is_open", "is_allowed"),
    [
        ({"w0": [intent("r")]}, True, False),
        ({"w0": [intent("r"), allowed("r")]}, True, True),
        ({"w0": [intent("r"), closed("r")]}, False, False),
        ({"w0": [intent("r"), allowed("r"), event("r")]}, False, False),
        ({"w0": [intent("r"), allowed("r"), void("r")]}, False, False),
        # Envoy asked w0, which gave up, and then w1, which let it in: w0's giving up does not close it.
        ({"w0": [intent("r"), closed("r")], "w1": [intent("r"), allowed("r")]}, True, True),
        ({"w1": [intent("r"), closed("r")], "w0": [intent("r"), allowed("r")]}, True, True),
        # w0 died in the middle; w1 let it in; w2 got the access log entry.
        ({"w0": [intent("r")], "w1": [intent("r"), allowed("r")], "w2": [event("r")]}, False, False),
        # The end is read before the beginning.
        ({"w0": [event("r")], "w1": [intent("r"), allowed("r")]}, False, False),
        ({"w0": [void("r")], "w1": [intent("r"), allowed("r")]}, False, False),
    ],
)
def test_whether_a_request_is_open(
    tmp_path: Path, spools: dict[str, list[bytes]], is_open: bool, is_allowed: bool
) -> None:
    found = index_of(tmp_path, spools).open_of("acct1")
    assert bool(found) == is_open
    assert any(request.is_allowed for request in found) == is_allowed


def test_the_order_in_which_spools_are_read_changes_nothing(tmp_path: Path) -> None:
    spools = {
        "a": [intent("r1"), intent("r2"), allowed("r2"), closed("r1"), event("r5")],
        "b": [intent("r1"), allowed("r1"), intent("r3"), void("r2"), intent("r5"), allowed("r5")],
        "c": [event("r1"), intent("r4"), allowed("r4"), closed("r3")],
    }
    seen = set()
    for number, order in enumerate(permutations("abc")):
        renamed = {f"{place}{name}": spools[name] for place, name in enumerate(order)}
        index = index_of(tmp_path / str(number), renamed)
        seen.add(tuple(sorted((r.grant.rid, r.is_allowed) for r in index.open_of("acct1"))))
    assert seen == {(("r3", False), ("r4", True))}


def test_accounts_are_kept_apart(tmp_path: Path) -> None:
    index = index_of(tmp_path, {"w0": [intent("r", "a"), intent("r", "b"), closed("r", "a")]})
    assert index.open_of("a") == []
    assert len(index.open_of("b")) == 1


def test_unshipped_usage_is_what_lies_behind_the_cursor(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, "w0")
    ends = []
    for number in range(5):
        writer.append([event(f"r{number}"), event(f"x{number}", "other")])
        ends.append(writer.end)
    index = Index(tmp_path)
    index.catch_up(0.0)
    for done, end in enumerate([0, *ends]):
        found = index.unshipped_of("acct1", {"w0": end})
        assert [each.rid for each in found] == [f"r{number}" for number in range(done, 5)]
    index.shipped("w0", ends[2], 0.0)
    index.forget_shipped(KEEP_SHIPPED_S)
    assert [each.rid for each in index.unshipped_of("acct1", {})] == ["r3", "r4"]
    assert index.unshipped_count == 4
    writer.close()


def test_a_batch_is_whole_frames_and_ends_where_the_ledger_can_stand(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, "w0")
    ends = []
    for number in range(4):
        writer.append([event(f"r{number}.{n}") for n in range(3)])
        ends.append(writer.end)
    writer.close()
    index = Index(tmp_path)
    index.catch_up(0.0)
    batch = index.next_batch("w0", 7)
    assert batch is not None
    assert (batch.end, batch.request_count, len(batch.events)) == (ends[1], 6, 6)
    index.shipped("w0", ends[1], 0.0)
    batch = index.next_batch("w0", 1)
    assert batch is not None
    assert (batch.end, batch.request_count) == (ends[2], 3), "a frame that is larger than the batch still goes"
    index.shipped("w0", ends[3], 0.0)
    assert index.next_batch("w0", 7) is None


def test_a_request_settled_by_two_feeds_is_shipped_twice_and_counted_once(tmp_path: Path) -> None:
    index = index_of(tmp_path, {"w0": [event("r")], "w1": [event("r")]})
    assert index.unshipped_count == 2
    assert len(index.unshipped_of("acct1", {})) == 1


def test_an_event_of_several_requests_ends_each_of_them_and_counts_as_so_many(tmp_path: Path) -> None:
    alike = ["6-b", "7-c"]
    records = [intent("5-a"), intent("6-b"), intent("7-c"), intent("8-d"), event("5-a", units=2, alike=alike)]
    index = index_of(tmp_path, {"w0": records, "w1": [event("6-b", units=2)]})
    assert [request.grant.rid for request in index.open_of("acct1")] == ["8-d"]
    assert index.ended_of("acct1") == {rid: {"api": 2} for rid in ("5-a", "6-b", "7-c")}
    assert index.unshipped_count == 4
    found = index.unshipped_of("acct1", {})
    assert [(one.rid, one.admitted_at_ms, one.meters[0].quantity) for one in found] == [
        ("5-a", 5, 2), ("6-b", 6, 2), ("7-c", 7, 2)
    ]  # fmt: skip
    behind = {"w1": index.position("w1")}
    assert {one.rid for one in index.unshipped_of("acct1", behind)} == {"5-a", "7-c"}, "the ledger has one of them"


def test_a_batch_counts_requests_not_events(tmp_path: Path) -> None:
    index = index_of(tmp_path, {"w0": [event("1-a", alike=["2-b", "3-c"]), event("4-d", alike=["5-e"])]})
    batch = index.next_batch("w0", 4)
    assert batch is not None
    assert (batch.request_count, len(batch.events)) == (3, 1)


@pytest.mark.parametrize("seed", range(20))
def test_a_restart_from_a_checkpoint_goes_on_as_if_nothing_had_happened(tmp_path: Path, seed: int) -> None:
    random_ = random.Random(seed)
    steps: list[tuple[str, bytes]] = []
    for number in range(30):
        rid, spool, other = f"r{number}", *random_.sample(["a", "b", "c"], 2)
        life = [(spool, intent(rid)), (spool, random_.choice([allowed(rid), closed(rid)]))]
        life += random_.choice([[], [(other, event(rid))], [(spool, void(rid))]]) if life[1][1] == allowed(rid) else []
        steps += life[: random_.randint(1, 3)]
    cut = random_.randint(0, len(steps))
    writers = {name: SpoolWriter(tmp_path, name) for name in "abc"}
    index = Index(tmp_path)
    for spool, one in steps[:cut]:
        writers[spool].append([one])
    index.catch_up(0.0)
    for name in "abc":
        if (batch := index.next_batch(name, 2)) is not None and random_.random() < 0.5:
            index.shipped(name, batch.end, 0.0)
    successor = Index(tmp_path)
    successor.restore(index.checkpoint(), 0.0)
    for spool, one in steps[cut:]:
        writers[spool].append([one])
    for each in (index, successor):
        each.catch_up(0.0)
    for writer in writers.values():
        writer.close()

    def state(of: Index) -> object:
        opened = sorted((r.grant.rid, r.hold, tuple(sorted(r.claims.items()))) for r in of.open_requests())
        return opened, {name: of.next_batch(name, 1000) for name in "abc"}, {n: of.position(n) for n in "abc"}

    assert state(successor) == state(index)


def test_ends_are_forgotten_after_a_while_and_not_before(tmp_path: Path) -> None:
    index = index_of(tmp_path, {"w0": [intent("r1"), allowed("r1"), event("r1", units=4)]})
    assert index.ended_since(0.0) == [("r1", "acct1", {"api": 4})]
    index.forget_ends(0.0)
    assert len(index.ended_since(0.0)) == 1
    index.forget_ends(0.1)
    assert index.ended_since(0.0) == []


def rids(index: Index, cursors: dict[str, int]) -> list[str]:
    return [event.rid for event in index.unshipped_of("acct1", cursors)]


def test_what_was_shipped_a_moment_ago_still_counts_for_an_older_view_of_the_ledger(tmp_path: Path) -> None:
    index = index_of(tmp_path, {"w0": [intent("r"), allowed("r"), event("r")]})
    end = index.position("w0")
    index.shipped("w0", end, 100.0)
    index.forget_shipped(100.0 + KEEP_SHIPPED_S - 0.1)
    assert rids(index, {}) == ["r"]
    assert rids(index, {"w0": end}) == []
    assert not index.is_behind({})


def test_who_comes_with_a_view_from_before_what_was_forgotten_is_behind(tmp_path: Path) -> None:
    index = index_of(tmp_path, {"w0": [intent("r"), allowed("r"), event("r")]})
    end = index.position("w0")
    index.shipped("w0", end, 100.0)
    index.forget_shipped(100.0 + KEEP_SHIPPED_S)
    assert rids(index, {}) == []
    assert index.is_behind({})
    assert index.is_behind({"w0": end - 1})
    assert not index.is_behind({"w0": end})
    # A ledger that came back from a backup is behind for ever: it is believed in the end.
    index.forget_shipped(100.0 + KEEP_SHIPPED_S + FORGOTTEN_REMEMBERED_S + 0.1)
    assert not index.is_behind({})


def test_after_a_restart_a_view_from_before_the_last_delivery_is_behind(tmp_path: Path) -> None:
    index = index_of(tmp_path, {"w0": [event("r")], "w1": [event("x")]})
    ends = {spool: index.position(spool) for spool in ("w0", "w1")}
    for spool, end in ends.items():
        index.shipped(spool, end, 0.0)
    document = json.loads(json.dumps(index.checkpoint()))
    next(tmp_path.glob("w1.*.seg")).unlink()  # delivered and deleted, and then the keeper died
    again = Index(tmp_path)
    again.restore(document, 1.0)
    again.catch_up(1.0)
    assert again.spools == ["w0"]
    assert not again.is_behind(ends)
    for spool in ends:
        assert again.is_behind(ends | {spool: ends[spool] - 1}), spool


def test_a_deleted_spool_is_retired_when_no_view_can_need_its_cursor_any_more(tmp_path: Path) -> None:
    index = index_of(tmp_path, {"w0": [event("r")], "w1": [event("x")]})
    for spool in ("w0", "w1"):
        index.shipped(spool, index.position(spool), 0.0)
        next(tmp_path.glob(f"{spool}.*.seg")).unlink()
    index.forget_spool("w0", 10.0)
    again = Index(tmp_path)  # the keeper dies before it has noted that it deleted w1 as well
    again.restore(json.loads(json.dumps(index.checkpoint())), 20.0)
    assert again.retirable(20.0 + RETIRE_AFTER_S - 0.1) == []
    assert sorted(again.retirable(20.0 + RETIRE_AFTER_S)) == ["w0", "w1"]
    again.retired(["w0"])
    assert again.retirable(20.0 + RETIRE_AFTER_S) == ["w1"]
    once_more = Index(tmp_path)
    once_more.restore(json.loads(json.dumps(again.checkpoint())), 90.0)
    assert once_more.retirable(90.0 + RETIRE_AFTER_S) == ["w1"], "not told yet, so not forgotten"


def test_nothing_is_retired_that_somebody_may_still_ask_for() -> None:
    assert RETIRE_AFTER_S > KEEP_SHIPPED_S + FORGOTTEN_REMEMBERED_S
    assert KEEP_SHIPPED_S * 1000 >= TOKEN_TTL_MS, "what a rebuild may need is there for as long as the rebuild may take"


def test_after_a_restart_recent_usage_still_counts(tmp_path: Path) -> None:
    index = index_of(tmp_path, {"w0": [intent("r"), allowed("r"), event("r")]})
    again = Index(tmp_path)
    again.restore(json.loads(json.dumps(index.checkpoint())), 1.0)
    again.catch_up(1.0)
    assert rids(again, {}) == rids(index, {}) == ["r"]


def test_usage_that_stands_in_two_spools_is_in_the_ledger_as_soon_as_one_is_shipped(tmp_path: Path) -> None:
    index = index_of(tmp_path, {"w0": [intent("r"), allowed("r"), event("r")], "w1": [event("r")]})
    assert rids(index, {}) == ["r"]
    for spool in ("w0", "w1"):
        assert rids(index, {spool: index.position(spool)}) == []


def test_what_a_worker_gave_up_and_was_asked_about_again_is_not_given_up(tmp_path: Path) -> None:
    """Envoy may have found no other worker, and this one may have let it in at the second try."""
    index = index_of(tmp_path, {"w0": [intent("r"), closed("r")], "w1": [intent("r"), closed("r")]})
    assert sorted(spool for _, _, spool in index.given_up_since(0.0, rebuilt=False)) == ["w0", "w1"]
    writer = SpoolWriter(tmp_path / "again", "w0")
    writer.append([intent("r"), closed("r"), intent("r"), allowed("r")])
    writer.close()
    again = Index(tmp_path / "again")
    again.catch_up(0.0)
    assert again.given_up_since(0.0, rebuilt=False) == []
    assert [each.is_allowed for each in again.open_of("acct1")] == [True]


def test_what_a_worker_gave_up_is_remembered_and_whether_a_rebuild_held_it(tmp_path: Path) -> None:
    index = index_of(tmp_path, {"w0": [intent("old")]})
    writer = SpoolWriter(tmp_path, "w1")
    writer.append([intent("r"), intent("held")])
    index.catch_up(1.0)
    for request in index.open_of("acct1"):
        request.is_rebuilt |= request.grant.rid == "held"
    writer.append([closed("r"), closed("held")])
    index.catch_up(2.0)
    writer.close()
    assert index.given_up_since(2.0, rebuilt=True) == [("held", "acct1", "w1")]
    assert index.given_up_since(2.0, rebuilt=False) == [("r", "acct1", "w1"), ("held", "acct1", "w1")]
    assert index.given_up_since(2.1, rebuilt=False) == []
    assert [each.is_rebuilt for each in index.open_of("acct1")] == [True], "what was there before us may be held"

"""A gateway's name, its heartbeat and its leaving, against the portal's side in memory."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from farebox.v1.usage_pb2 import Heartbeat, HeartbeatReceipt, UsageEvent
from farebox_plugin.keeper import membership
from farebox_plugin.keeper.index import RETIRE_AFTER_S, Index
from farebox_plugin.keeper.membership import Identity, Membership, host_name, read_identity, write_identity
from farebox_plugin.keeper.portal import NameTaken
from farebox_plugin.records import Unavailable
from farebox_plugin.settings import SettingsError, load_settings
from farebox_plugin.spool import INTENT, SpoolWriter, record, settled_record


@dataclass
class Heard:
    """The portal: what it was told, and what goes wrong with the next heartbeats."""

    heartbeats: list[Heartbeat] = field(default_factory=list)
    faults: list[Exception] = field(default_factory=list)
    was_away: bool = False

    async def beat(self, heartbeat: Heartbeat) -> HeartbeatReceipt:
        if self.faults:
            raise self.faults.pop(0)
        self.heartbeats.append(heartbeat)
        return HeartbeatReceipt(was_away=self.was_away)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JOIN_RETRY_S", "INTERVAL_S"):
        monkeypatch.setattr(membership, name, 0.01)


def a_membership(
    folder: Path, portal: Heard, *, is_known: bool = False, was_away: Callable[[], None] = lambda: None
) -> Membership:
    index: Any = Index(folder)
    return Membership(portal, index, folder, Identity("g1", "i1", is_known), "b1", was_away)  # type: ignore[arg-type]


def is_known(folder: Path) -> bool:
    return bool(json.loads((folder / "gateway.json").read_text())["is_known"])


def test_a_spool_directory_keeps_its_name_and_instance(tmp_path: Path) -> None:
    first = read_identity(tmp_path, "edge-1")
    assert first.name == "edge-1"
    write_identity(tmp_path, first)
    assert read_identity(tmp_path, "") == read_identity(tmp_path, "edge-1") == first
    with pytest.raises(SettingsError, match=r"FAREBOX_GATEWAY_NAME.*edge-1"):
        read_identity(tmp_path, "edge-2")


def test_a_new_gateway_is_named_after_its_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "fünf.example.com" + "x" * 60)
    name = read_identity(tmp_path, "").name
    assert name == host_name() == "f-nf-example-com" + "x" * 24
    assert read_identity(tmp_path, "").instance != read_identity(tmp_path, "").instance


def test_a_damaged_identity_is_a_start_error(tmp_path: Path) -> None:
    (tmp_path / "gateway.json").write_text("{")
    with pytest.raises(SettingsError, match="damaged"):
        read_identity(tmp_path, "")


@pytest.mark.parametrize("name", ["a.b", "a b", "x" * 41, "ü", "a/b"])
def test_a_name_that_no_spool_can_bear_is_refused(name: str) -> None:
    others = {"redis_url": "redis://x", "portal_url": "http://x", "plugin_token": "x"}
    assert load_settings({}, gateway_name="edge-1", **others).gateway_name == "edge-1"
    with pytest.raises(SettingsError, match="FAREBOX_GATEWAY_NAME"):
        load_settings({}, gateway_name=name, **others)


async def test_a_new_gateway_waits_for_the_portal_and_an_old_one_does_not(tmp_path: Path) -> None:
    portal = Heard(faults=[Unavailable("away")] * 3)
    await a_membership(tmp_path, portal).join()
    (heartbeat,) = portal.heartbeats
    assert (heartbeat.gateway, heartbeat.instance, heartbeat.boot, heartbeat.is_first) == ("g1", "i1", "b1", True)
    assert is_known(tmp_path)

    away = Heard(faults=[Unavailable("away")] * 100)
    await a_membership(tmp_path, away, is_known=True).join()
    assert len(away.faults) == 99


async def test_a_name_that_is_taken_is_a_start_error_with_its_remedy(tmp_path: Path) -> None:
    portal = Heard(faults=[NameTaken("set FAREBOX_GATEWAY_NAME to a name of its own")])
    with pytest.raises(SettingsError, match="FAREBOX_GATEWAY_NAME"):
        await a_membership(tmp_path, portal).join()
    assert not (tmp_path / "gateway.json").exists()


async def test_only_the_first_heartbeat_that_arrives_is_the_first(tmp_path: Path) -> None:
    portal = Heard()
    member = a_membership(tmp_path, portal, is_known=True)
    portal.faults = [Unavailable("away")]
    await member.join()
    await member.beat()
    await member.beat()
    assert [heartbeat.is_first for heartbeat in portal.heartbeats] == [True, False]


async def test_it_beats_through_outages_until_its_place_is_taken(tmp_path: Path) -> None:
    portal = Heard(faults=[Unavailable("away"), Unavailable("away")])
    beating = asyncio.create_task(a_membership(tmp_path, portal).run())
    while len(portal.heartbeats) < 2:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    portal.faults = [NameTaken("superseded")]
    with pytest.raises(NameTaken):
        await beating


async def test_who_was_away_is_told_each_time(tmp_path: Path) -> None:
    told: list[int] = []
    portal = Heard(was_away=True)
    member = a_membership(tmp_path, portal, was_away=lambda: told.append(1))
    await member.join()
    portal.was_away = False
    await member.beat()
    assert told == [1]


async def test_a_spool_is_retired_once_the_portal_has_heard_it(tmp_path: Path) -> None:
    portal = Heard(faults=[Unavailable("away")])
    member = a_membership(tmp_path, portal, is_known=True)
    at = asyncio.get_running_loop().time()
    member._index.forget_spool("g1.b0.w0", at - RETIRE_AFTER_S)
    member._index.forget_spool("g1.b0.w1", at)
    with pytest.raises(Unavailable):
        await member.beat()
    await member.beat()
    await member.beat()
    assert [list(heartbeat.retired) for heartbeat in portal.heartbeats] == [["g1.b0.w0"], []]


EVENT = settled_record(UsageEvent(rid="r", account_id="a").SerializeToString())


@pytest.mark.parametrize(
    ("records", "leaves"),
    [
        ([], True),
        ([record(INTENT, "a", "s", "k", "p", "w;f|m|1", "5-r")], False),
        ([EVENT], False),
    ],
    ids=["nothing", "open", "unshipped"],
)
async def test_it_leaves_only_if_there_is_nothing_left_to_ask_it_for(
    tmp_path: Path, records: list[bytes], leaves: bool
) -> None:
    portal = Heard()
    member = a_membership(tmp_path, portal)
    await member.join()
    if records:
        writer = SpoolWriter(tmp_path, "g1.b1.w0")
        writer.append(records)
        writer.close()
    member._index.catch_up(0.0)
    await member.leave()
    assert [heartbeat.is_leaving for heartbeat in portal.heartbeats] == [False] + [True] * leaves
    assert is_known(tmp_path) is not leaves


async def test_who_could_not_say_goodbye_is_still_known(tmp_path: Path) -> None:
    portal = Heard()
    member = a_membership(tmp_path, portal)
    await member.join()
    portal.faults = [Unavailable("away")]
    await member.leave()
    assert is_known(tmp_path)

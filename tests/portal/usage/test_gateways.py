"""Which gateways there are: who is live, who may bear a name, and what goes with a spool that is no more."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlmodel import Session, select

from builders.portal import NOW, a_batch
from builders.portal_http import Portal
from farebox.v1.usage_pb2 import Heartbeat, HeartbeatReceipt
from farebox_portal.clock import SystemClock
from farebox_portal.db import transaction
from farebox_portal.errors import Conflict
from farebox_portal.usage.gateways import GONE_AFTER, LOST_AFTER, cursors_of, every, hear, known_gateways, show
from farebox_portal.usage.ingest import apply_batch
from farebox_portal.usage.routes import router
from farebox_portal.usage.tables import GatewayRow, SpoolCursor

SECOND = timedelta(seconds=1)


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with transaction(engine) as session:
        yield session


def a_heartbeat(name: str = "g1", **fields: object) -> Heartbeat:
    return Heartbeat(**{"gateway": name, "instance": "i1", "boot": "b1"} | fields)  # type: ignore[arg-type]


def statuses(session: Session, after: timedelta) -> dict[str, str]:
    session.flush()
    session.expire_all()
    return {row.name: show(row, NOW + after).status for row in session.exec(every())}


def test_a_gateway_is_live_until_it_is_silent_for_a_minute_or_leaves(session: Session) -> None:
    hear(session, a_heartbeat("a"), NOW)
    hear(session, a_heartbeat("b"), NOW)
    hear(session, a_heartbeat("b", is_leaving=True), NOW + SECOND)
    assert statuses(session, LOST_AFTER - SECOND) == {"a": "live", "b": "left"}
    assert statuses(session, LOST_AFTER) == {"a": "lost", "b": "left"}

    def asked(after: timedelta) -> list[tuple[str, bool]]:
        return [(gateway.name, gateway.is_live) for gateway in known_gateways(session, NOW + after)]

    assert asked(LOST_AFTER - SECOND) == [("a", True)]
    assert asked(LOST_AFTER) == [("a", False)]
    assert asked(GONE_AFTER) == []


@pytest.mark.parametrize(
    ("before", "after", "was_away"),
    [
        ([], timedelta(0), True),
        ([a_heartbeat()], 5 * SECOND, False),
        ([a_heartbeat()], LOST_AFTER, True),
        ([a_heartbeat(), a_heartbeat(is_leaving=True)], SECOND, True),
    ],
    ids=["new", "live", "lost", "left"],
)
def test_a_gateway_learns_that_it_may_not_have_been_asked(
    session: Session, before: list[Heartbeat], after: timedelta, was_away: bool
) -> None:
    for heartbeat in before:
        hear(session, heartbeat, NOW)
    assert hear(session, a_heartbeat(), NOW + after) == HeartbeatReceipt(was_away=was_away)
    assert statuses(session, after) == {"g1": "live"}


@pytest.mark.parametrize(
    ("next_one", "after", "code"),
    [
        (a_heartbeat(boot="b2", is_first=True), SECOND, ""),  # started again
        (a_heartbeat(boot="b2"), SECOND, "gateway_superseded"),  # the one before it, or a copy of it
        (a_heartbeat(instance="i2", boot="b2", is_first=True), SECOND, "gateway_name_taken"),
        (a_heartbeat(instance="i2", boot="b2", is_first=True), LOST_AFTER, ""),
        (a_heartbeat("g2", instance="i2", boot="b2", is_first=True), SECOND, ""),
    ],
)
def test_one_name_is_one_living_gateway(session: Session, next_one: Heartbeat, after: timedelta, code: str) -> None:
    hear(session, a_heartbeat(is_first=True), NOW)
    if not code:
        hear(session, next_one, NOW + after)
        return
    with pytest.raises(Conflict, match="FAREBOX_GATEWAY_NAME") as refused:
        hear(session, next_one, NOW + after)
    assert refused.value.code == code
    row = session.get_one(GatewayRow, "g1")
    assert (row.instance, row.boot, row.last_seen_at) == ("i1", "b1", NOW)


def test_of_two_that_take_a_name_at_the_same_moment_one_gets_it(engine: Engine) -> None:
    def take(instance: str) -> bool:
        try:
            with transaction(engine) as session:
                hear(session, a_heartbeat(instance=instance, boot=instance, is_first=True), NOW)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(take, ["i1", "i2", "i3", "i4"])) == [False, False, False, True]


def test_a_retired_spool_s_cursor_goes_and_what_comes_of_it_again_still_counts_once(session: Session) -> None:
    for spool in ("g1.1.w0", "g1.1.w1", "g2.1.w0"):
        apply_batch(session, a_batch(spool=spool, end=7), NOW)
    hear(session, a_heartbeat(retired=["g1.1.w0", "g1.0.w9", "g2.1.w0"]), NOW)
    assert sorted(session.exec(select(SpoolCursor.spool))) == ["g1.1.w1", "g2.1.w0"], "only one's own"
    assert apply_batch(session, a_batch(spool="g1.1.w0", end=7), NOW).end == 7


def test_cursors_are_those_of_the_named_gateways_and_of_no_other_with_a_similar_name(session: Session) -> None:
    for spool in ("g1.1.w0", "g11.1.w0", "g-1.1.w0", "g.1.w0"):
        apply_batch(session, a_batch(spool=spool, end=7), NOW)
    assert cursors_of(session, ["g1", "g-1"]) == {"g1.1.w0": 7, "g-1.1.w0": 7}
    assert cursors_of(session, ["g", ""]) == {"g.1.w0": 7}
    assert cursors_of(session, []) == {}


def test_an_operator_sees_every_gateway(tmp_path: Path, engine: Engine) -> None:
    now = SystemClock().now()
    with transaction(engine) as session:
        hear(session, a_heartbeat("here"), now)
        hear(session, a_heartbeat("away"), now - LOST_AFTER)
        hear(session, a_heartbeat("gone", is_leaving=True), now)
    with Portal(tmp_path, router, engine=engine) as portal:
        listed = portal.get("/v1/gateways").json()
    assert [(each["name"], each["status"]) for each in listed["items"]] == [
        ("away", "lost"), ("gone", "left"), ("here", "live"),
    ]  # fmt: skip
    assert listed["totalCount"] == 3

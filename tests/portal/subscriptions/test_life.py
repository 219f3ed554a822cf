from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox_portal.catalog.tables import Addon
from farebox_portal.errors import Conflict
from farebox_portal.subscriptions.addon_holds import Hold, Order
from farebox_portal.subscriptions.life import (
    STATES,
    TABLE,
    Cancel,
    Change,
    Command,
    Delete,
    HaveAddon,
    Life,
    Pause,
    Restore,
    Resume,
    Segment,
    State,
    UnscheduleAddon,
    UnscheduleCancelation,
    UnscheduleChange,
    apply,
    begun,
    events,
    scheduled,
)

START = datetime(2026, 1, 31, tzinfo=UTC)
DAY = timedelta(days=1)
NOW = START + 10 * DAY
LATER = NOW + 5 * DAY
LATEST = NOW + 50 * DAY

ACTIVE = begun(START, START, "free")


def taken(life: Life, command: Command, now: datetime = NOW) -> Life:
    after = apply(life, command, now)
    assert after is not None
    return after


ADDON = Addon(
    id="seats",
    key="seats",
    version=1,
    name="Seats",
    instance_type="multiple",
    currency="USD",
    rate_cards=[],
    created_at=START,
    updated_at=START,
)


def a_hold(*orders: tuple[datetime, int]) -> Hold:
    return Hold("hold", ADDON, tuple(Order(at, quantity) for at, quantity in orders))


def with_plans(life: Life) -> Life:
    """And an add-on that there will be more of."""
    return replace(life, addons=(a_hold((START, 1), (LATEST, 2)),))


LIVES: dict[State, Life] = {
    "scheduled": begun(LATER, LATER, "free"),
    "active": ACTIVE,
    "canceled": taken(ACTIVE, Cancel(LATEST)),
    "paused": taken(ACTIVE, Pause(NOW)),
    "inactive": taken(ACTIVE, Cancel(NOW)),
}
COMMANDS: dict[type[Command], Callable[[datetime], Command]] = {
    Change: lambda at: Change(at, "pro"),
    Cancel: Cancel,
    UnscheduleCancelation: lambda _: UnscheduleCancelation(),
    UnscheduleChange: lambda _: UnscheduleChange(),
    Restore: lambda _: Restore(),
    Pause: Pause,
    Resume: Resume,
    Delete: lambda _: Delete(),
    HaveAddon: lambda at: HaveAddon(a_hold((at, 1))),
    UnscheduleAddon: lambda _: UnscheduleAddon("hold"),
}
NOTHING_TO_TAKE_BACK = {"cancelation_not_scheduled", "change_not_scheduled", "nothing_scheduled"}


def tried(life: Life, command: Command) -> State | str | None:
    """The state after it, or the code of the refusal."""
    try:
        after = apply(life, command, NOW)
    except Conflict as refusal:
        return refusal.code
    return None if after is None else after.state(NOW)


@pytest.mark.parametrize("state", STATES)
def test_a_life_is_in_the_state_that_its_name_says(state: State) -> None:
    assert LIVES[state].state(NOW) == state


@pytest.mark.parametrize("kind", COMMANDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("state", STATES)
def test_every_command_in_every_state_does_what_the_table_says(kind: type[Command], state: State) -> None:
    cell = TABLE[kind][STATES.index(state)]
    life = with_plans(LIVES[state])
    found = {tried(life, COMMANDS[kind](max(at, life.start))) for at in (NOW, LATER + DAY)}
    if isinstance(cell, str):
        assert found == {cell}
    else:
        assert found - NOTHING_TO_TAKE_BACK <= cell


def test_every_result_that_the_table_promises_can_be_had() -> None:
    planned = [
        *LIVES.values(),
        *(taken(LIVES[state], Change(LATER + DAY, "pro")) for state in ("scheduled", "active")),
        taken(LIVES["scheduled"], Cancel(LATEST)),
        taken(taken(ACTIVE, Cancel(LATEST)), Pause(LATER)),
        taken(taken(ACTIVE, Cancel(LATEST)), Pause(NOW)),
        taken(ACTIVE, Pause(NOW, LATER)),
    ]
    for kind, cells in TABLE.items():
        for state, cell in zip(STATES, cells, strict=True):
            lives = [with_plans(life) for life in planned if life.state(NOW) == state]
            found = {tried(life, COMMANDS[kind](max(at, life.start))) for life in lives for at in (NOW, LATER + DAY)}
            assert found >= (cell if not isinstance(cell, str) else {cell}), (kind.__name__, state)


def test_an_addon_takes_the_place_of_what_was_held_under_its_id_and_goes_when_nothing_of_it_is_ordered() -> None:
    life = taken(taken(ACTIVE, HaveAddon(a_hold((NOW, 1)))), HaveAddon(replace(a_hold((LATER, 2)), id="other")))
    assert [hold.id for hold in life.addons] == ["hold", "other"]
    life = taken(life, HaveAddon(a_hold((NOW, 5))))
    assert [hold.orders[0].quantity for hold in life.addons] == [5, 2], "the oldest first"
    assert [hold.id for hold in taken(life, UnscheduleAddon("other")).addons] == ["hold"]
    assert taken(life, Cancel(LATEST)).addons == life.addons, "what ends by the end comes back with it"


def test_the_last_word_counts() -> None:
    life = taken(ACTIVE, Change(LATEST, "free"))
    life = taken(life, Change(LATER, "pro"))
    assert [segment.plan_id for segment in life.segments] == ["free", "pro"], "what was planned for later gives way"
    life = taken(life, Change(LATEST, "ai"))
    assert [segment.plan_id for segment in life.segments] == ["free", "pro", "ai"], "what was planned for before stays"
    life = taken(life, Cancel(LATEST))
    assert [segment.plan_id for segment in life.segments] == ["free", "pro"]
    assert taken(life, UnscheduleCancelation()).end is None


def test_a_change_of_what_has_not_begun_changes_what_it_begins_with() -> None:
    life = taken(LIVES["scheduled"], Change(LATER, "pro"))
    assert life.segments == (Segment(LATER, "pro", LATER),)


def test_a_pause_may_say_when_it_ends() -> None:
    life = taken(ACTIVE, Pause(LATER, LATEST))
    assert [(event.kind, event.at) for event in scheduled(life, NOW)] == [("pause", LATER), ("resume", LATEST)]
    assert [life.state(at) for at in (NOW, LATER, LATEST)] == ["active", "paused", "active"]
    assert taken(life, UnscheduleChange()) == ACTIVE
    assert life.segment_at(LATEST).phase_start == START, "its phase went on"


def test_a_pause_that_is_resumed_at_once_leaves_no_trace() -> None:
    assert taken(taken(ACTIVE, Pause(NOW)), Resume(NOW)) == ACTIVE


def test_a_pause_in_the_instant_of_a_change_does_not_undo_what_the_change_was() -> None:
    """That allowances began anew with it, and what is credited of the fee before."""
    change = Change(NOW, "pro", None, is_fresh=True, used_share=Fraction(7, 10))
    changed = taken(ACTIVE, change)
    paused = taken(changed, Pause(NOW))
    assert paused.segments[-1] == replace(changed.segments[-1], is_paused=True)
    assert taken(paused, Resume(NOW)) == changed
    later = taken(taken(changed, Pause(LATER)), Resume(LATEST), LATER).segments[-1]
    assert (later.start, later.is_fresh, later.used_share) == (LATEST, False, None)


def test_a_pause_ends_with_the_life() -> None:
    life = taken(LIVES["canceled"], Pause(LATER, LATEST + DAY))
    assert [(event.kind, event.at) for event in scheduled(life, NOW)] == [("pause", LATER), ("end", LATEST)]


@pytest.mark.parametrize("command", [Pause(LATEST), Pause(LATEST + DAY)])
def test_nothing_is_planned_for_after_the_end(command: Command) -> None:
    assert tried(LIVES["canceled"], command) == "subscription_ends_before"


def test_what_goes_on_is_taken_back_whole() -> None:
    life = taken(taken(ACTIVE, Change(LATER, "pro")), Cancel(LATEST))
    assert taken(life, Restore()) == ACTIVE


def test_a_life_that_was_called_off_has_no_events() -> None:
    assert list(events(taken(LIVES["scheduled"], Cancel(LATER)))) == []


@pytest.mark.parametrize(
    ("ends", "starts", "overlap"),
    [(LATER, LATER, False), (LATER, LATER - DAY, True), (None, LATEST, True), (START, START - DAY, False)],
)
def test_lives_overlap_when_they_have_an_instant_in_common(
    ends: datetime | None, starts: datetime, overlap: bool
) -> None:
    one, other = replace(ACTIVE, end=ends), begun(starts, starts, "free")
    assert one.overlaps(other) == other.overlaps(one) == overlap


HOURS = st.integers(0, 20)


def commands(now: datetime) -> st.SearchStrategy[Command]:
    at = HOURS.map(lambda hours: now + timedelta(hours=hours))
    return st.one_of(
        st.builds(Change, at, st.sampled_from(["free", "pro", "ai"]), is_fresh=st.booleans()),
        st.builds(Cancel, at),
        st.builds(Pause, at, st.none()),
        st.builds(lambda at, hours: Pause(at, at + timedelta(hours=hours)), at, st.integers(1, 20)),
        st.builds(Resume, at),
        st.sampled_from([UnscheduleCancelation(), UnscheduleChange(), Restore()]),
    )


@given(st.data(), st.integers(0, 5))
def test_whatever_is_asked_segments_tile_the_life_and_the_past_stays(data: st.DataObject, later: int) -> None:
    life, now = begun(START + timedelta(hours=later), START, "free"), START
    for _ in range(8):
        now += timedelta(hours=data.draw(HOURS))
        command = data.draw(commands(max(now, life.start)))
        before = life
        try:
            life = taken(life, command, now)
        except Conflict:
            continue
        starts = [segment.start for segment in life.segments]
        assert starts[0] == life.start
        assert all(one < other for one, other in pairwise(starts))
        assert life.end is None or starts[-1] < life.end or (life.end == life.start and len(starts) == 1)
        assert not any(later.only_goes_on(earlier) for earlier, later in pairwise(life.segments))
        gone_by = [segment for segment in before.segments if segment.start < now]
        assert list(life.segments[: len(gone_by)]) == gone_by
        assert life.anchor == before.anchor

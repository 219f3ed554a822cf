from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from builders.invoices import DAY, HOUR
from builders.portal import a_card
from builders.quotes import a_price
from builders.subscriptions import a_fee
from farebox_portal.catalog.tables import Plan
from farebox_portal.invoicing.charges import charges
from farebox_portal.invoicing.steps import LATE, Step, again, next_step, steps
from farebox_portal.subscriptions.life import Cancel, Change, Life, Pause, apply, begun
from farebox_portal.subscriptions.stretches import stretches

JAN = datetime(2026, 1, 31, 13, 37, tzinfo=UTC)
LONG = JAN + timedelta(days=400)


def a_plan(key: str, *cards: dict[str, object], cadence: str = "P1M") -> Plan:
    phases = [{"key": "default", "name": "Default", "rateCards": list(cards)}]
    given = {"version": 1, "name": key, "currency": "USD", "billing_cadence": cadence, "phases": phases}
    return Plan(id=key, key=key, created_at=JAN, updated_at=JAN, published_at=JAN, **given)


USAGE = a_price({"type": "unit", "amount": "0.01"})
PLANS = {
    plan.id: plan
    for plan in (
        a_plan("flat", a_fee("10")),
        a_plan("pro", a_fee("29"), USAGE),
        a_plan("usage", USAGE),
        a_plan("free", a_card()),
        a_plan("weekly", a_fee("10", billingCadence="P1W"), cadence="P1W"),
    )
}


def steps_of(life: Life, until: datetime, window: timedelta = HOUR, after: datetime | None = None) -> list[Step]:
    cut = stretches(life, PLANS)
    dues = list(charges(cut, life.anchor, until))
    return steps(life, cut, dues, window, after or life.start - datetime.resolution, until)


def told(found: list[Step]) -> list[tuple[str, datetime, bool]]:
    return [(step.kind, step.at, step.with_usage) for step in found]


FEB, MARCH, APRIL = (datetime(2026, month, day, 13, 37, tzinfo=UTC) for month, day in ((2, 28), (3, 31), (4, 30)))


def test_fees_come_at_once_and_usage_after_the_window() -> None:
    life = begun(JAN, JAN, "pro")
    assert told(steps_of(life, FEB)) == [("start", JAN, False), ("period", FEB, False)]
    assert told(steps_of(life, FEB + HOUR, after=FEB)) == [("period", FEB + HOUR, True)]
    # Who comes late has no use for the draft.
    assert told(steps_of(life, FEB + HOUR)) == [("start", JAN, False), ("period", FEB + HOUR, True)]
    assert steps_of(life, FEB)[1].waits


def test_without_a_price_by_usage_or_without_a_window_nothing_waits() -> None:
    expected = [("start", JAN, False), ("period", FEB, True), ("period", MARCH, True)]
    assert told(steps_of(begun(JAN, JAN, "flat"), MARCH)) == expected
    assert told(steps_of(begun(JAN, JAN, "pro"), MARCH, timedelta())) == expected


def test_periods_tile_from_the_start_to_the_end() -> None:
    life = apply(begun(JAN, JAN, "pro"), Cancel(APRIL + DAY), JAN)
    assert life is not None
    found = [step for step in steps_of(life, LONG) if step.with_usage and step.kind != "late"]
    assert [step.period.end for step in found] == [FEB, MARCH, APRIL, APRIL + DAY]
    assert found[0].period.start == JAN
    assert all(before.period.end == after.period.start for before, after in pairwise(found))
    assert found[-1].kind == "final"


def test_after_the_end_late_usage_is_looked_for_and_then_never_again() -> None:
    life = apply(begun(JAN, JAN, "pro"), Cancel(FEB), JAN)
    assert life is not None
    late = [step for step in steps_of(life, LONG) if step.kind == "late"]
    assert [step.at for step in late] == [FEB + HOUR + by for by in LATE]
    cut = stretches(life, PLANS)
    assert next_step(life, cut, [], HOUR, FEB) == FEB + HOUR
    assert next_step(life, cut, [], HOUR, FEB + HOUR + LATE[0]) == FEB + HOUR + LATE[1]
    assert next_step(life, cut, [], HOUR, FEB + HOUR + LATE[-1]) is None


def test_a_change_within_the_window_waits_for_the_usage_of_the_period_before() -> None:
    life = apply(begun(JAN, JAN, "pro"), Change(FEB + HOUR / 2, "flat"), FEB + HOUR / 2)
    assert life is not None
    assert [(step.kind, step.at, step.waits) for step in steps_of(life, FEB + HOUR)] == [
        ("start", JAN, False),
        ("period", FEB, True),
        ("change", FEB + HOUR / 2, True),
        ("period", FEB + HOUR, False),
    ]


def test_what_was_called_off_has_no_steps() -> None:
    life = apply(begun(FEB, JAN, "pro"), Cancel(FEB), JAN)
    assert life is not None
    cut = stretches(life, PLANS)
    assert steps_of(life, LONG) == again(life, cut, [], HOUR, LONG) == []
    assert next_step(life, cut, [], HOUR, JAN) is None


def test_a_life_that_is_still_to_come_is_looked_at_when_it_does() -> None:
    life = begun(FEB, JAN, "pro")
    cut = stretches(life, PLANS)
    assert next_step(life, cut, [], HOUR, JAN) == FEB
    assert again(life, cut, [], HOUR, JAN) == []


@given(
    plan=st.sampled_from(sorted(PLANS)),
    to=st.sampled_from(sorted(PLANS)),
    change=st.integers(0, 90),
    pause=st.integers(1, 60),
    end=st.integers(1, 60) | st.none(),
    looks=st.lists(st.integers(0, 200 * 24), min_size=1, max_size=12),
)
def test_looking_when_it_is_said_misses_no_step(
    plan: str, to: str, change: int, pause: int, end: int | None, looks: list[int]
) -> None:
    """However often somebody looks in between: every step is taken once, in order, and none before its time."""
    at = JAN + change * DAY
    life = apply(begun(JAN, JAN, plan), Change(at, to), at)
    assert life is not None
    life = apply(life, Pause(at + pause * DAY, at + 2 * pause * DAY), at)
    assert life is not None
    if end is not None:
        life = apply(life, Cancel(at + 2 * pause * DAY + end * DAY), at)
        assert life is not None
    cut = stretches(life, PLANS)
    taken: list[Step] = []
    seen = JAN - datetime.resolution
    for hours in sorted(looks):
        now = JAN + hours * HOUR
        while True:
            dues = list(charges(cut, life.anchor, now + 40 * DAY))
            found = steps(life, cut, dues, HOUR, seen, now)
            due = next_step(life, cut, dues, HOUR, seen)
            assert all(step.at <= now for step in found)
            if not found:
                break
            assert due is not None
            assert due <= found[0].at
            taken += found
            seen = found[-1].at
    whole = steps_of(life, JAN + max(looks) * HOUR)
    kept = {(step.kind, step.closes_at) for step in whole if step.with_usage}
    assert [step.at for step in taken] == sorted(step.at for step in taken)
    assert {(step.kind, step.closes_at) for step in taken if step.with_usage} == kept
    assert len([step for step in taken if step.with_usage]) == len([step for step in whole if step.with_usage])

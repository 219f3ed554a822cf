from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine
from sqlmodel import Session

from builders.portal import a_batch, a_card, a_plan, an_event
from builders.subscriptions import APRIL, a_catalog, a_fee, a_trial, an_order
from farebox_portal.catalog import configuration
from farebox_portal.catalog.tables import Plan
from farebox_portal.db import transaction
from farebox_portal.errors import Conflict, FareboxError, Invalid, NotFound
from farebox_portal.subscriptions import document, lifecycle, plan_change
from farebox_portal.subscriptions.plan_change import ChangeDocument, ChangeInput, Direction, MigrateInput, direction_of
from farebox_portal.subscriptions.rows import read_life
from farebox_portal.subscriptions.stretches import stretches
from farebox_portal.subscriptions.tables import Subscription
from farebox_portal.usage.access import usage_document, used_share
from farebox_portal.usage.ingest import apply_batch

DAY = timedelta(days=1)
MID = APRIL + 15 * DAY
MAY = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with transaction(engine) as session:
        yield session


@pytest.fixture
def catalog(session: Session) -> dict[str, Plan]:
    return a_catalog(session)


def use(session: Session, row: Subscription, units: int, at: datetime) -> None:
    event = an_event(row, rid=f"r{at.timestamp()}-{units}", at=at, api_requests=units)
    apply_batch(session, a_batch(event, spool=f"s{at.timestamp()}-{units}"), at)


def change(session: Session, row: Subscription, plan: str, now: datetime, **fields: Any) -> ChangeDocument:
    plan_change.lock(session, row)
    wanted = ChangeInput.model_validate({"plan": {"key": plan}} | fields)
    planned = plan_change.plan_change(session, row, wanted, used_share, now)
    answer = plan_change.show(session, planned, now)
    plan_change.carry_out(session, planned, now)
    return answer


def migrate(session: Session, row: Subscription, now: datetime, **fields: Any) -> ChangeDocument:
    planned = plan_change.plan_migration(session, row, MigrateInput.model_validate(fields), now)
    answer = plan_change.show(session, planned, now)
    plan_change.carry_out(session, planned, now)
    return answer


def plan_at(session: Session, row: Subscription, at: datetime) -> str:
    return document.show(session, row, at).plan.key


def entitled(session: Session, row: Subscription, at: datetime) -> tuple[int | None, int | None]:
    """(limit, units used)"""
    found = usage_document(session, row.id, at).entitlements["api_requests"]
    return found.limit, found.usage


@pytest.mark.parametrize(
    ("current", "target", "direction"),
    [
        ("free", "pro", "upgrade"),
        ("pro", "free", "downgrade"),
        ("pro", "pro", "upgrade"),
        ("pro", "private", "upgrade"),
        ("private", "free", "upgrade"),
    ],
)
def test_what_stands_earlier_in_the_order_is_down_and_all_else_is_up(
    current: str, target: str, direction: Direction
) -> None:
    assert direction_of(["free", "pro", "max"], current, target) == direction


@pytest.mark.usefixtures("catalog")
def test_an_upgrade_is_at_once_with_fresh_allowances_and_credit_for_what_is_left(session: Session) -> None:
    row = an_order(session, "pro")
    use(session, row, 7000, APRIL + DAY)
    answer = change(session, row, "max", MID)
    assert (answer.effective_at, answer.direction, answer.quota) == (MID, "upgrade", "fresh")
    assert answer.credit.wire() == {"amount": "8.70", "currency": "USD", "isEstimate": False}
    assert (answer.current.plan.key, answer.next.plan.key) == ("pro", "max")
    assert (answer.next.id, answer.next.billing_anchor) == (answer.current.id, APRIL)
    assert entitled(session, row, MID) == (100_000, 0)
    use(session, row, 5, MID + DAY)
    assert entitled(session, row, MID + 2 * DAY) == (100_000, 5)
    assert entitled(session, row, MAY) == (100_000, 0)


@pytest.mark.usefixtures("catalog")
def test_time_counts_where_little_was_used_and_usage_that_comes_late_changes_nothing(session: Session) -> None:
    row = an_order(session, "pro")
    assert change(session, row, "max", MID).credit.amount == "14.50"


@pytest.mark.usefixtures("catalog")
def test_a_plan_may_say_that_time_alone_tells_what_is_given_back_or_that_nothing_is(session: Session) -> None:
    for config, amount in (
        ({"enabled": True, "mode": "max_consumption_based"}, "8.70"),
        ({"enabled": True, "mode": "prorate_prices"}, "14.50"),
        ({"enabled": False, "mode": "max_consumption_based"}, "0.00"),
    ):
        key = amount.replace(".", "_")
        a_plan(session, a_card(limit=10_000), a_fee("29"), key=key, pro_rating_config=config)
        row = an_order(session, key, customer=key)
        use(session, row, 7000, APRIL + DAY)
        assert change(session, row, "max", MID).credit.amount == amount


@pytest.mark.usefixtures("catalog")
def test_what_replaces_a_change_in_the_same_instant_leaves_the_plan_that_was_in_force(session: Session) -> None:
    """And not the one that was ordered and never used: nobody gets more back by way of a third plan."""
    row = an_order(session, "pro")
    use(session, row, 7000, APRIL + DAY)
    assert change(session, row, "max", MID).credit.amount == "8.70"
    a_plan(session, a_fee("99"), key="max", version=2)
    assert migrate(session, row, MID).credit.amount == "8.70"
    assert change(session, row, "free", MID, timing="immediate").credit.amount == "8.70"


@pytest.mark.usefixtures("catalog")
def test_a_downgrade_waits_for_the_next_cycle_and_can_be_taken_back(session: Session) -> None:
    row = an_order(session, "pro")
    answer = change(session, row, "free", MID)
    assert (answer.effective_at, answer.direction, answer.quota) == (MAY, "downgrade", "kept")
    assert answer.credit.wire() == {"amount": "0.00", "currency": "USD", "isEstimate": False}
    [planned] = document.show(session, row, MID).scheduled
    assert (planned.at, planned.kind, planned.plan and planned.plan.key) == (MAY, "change", "free")
    assert [plan_at(session, row, at) for at in (MID, MAY - DAY, MAY)] == ["pro", "pro", "free"]
    lifecycle.unschedule_change(session, row, MID)
    assert plan_at(session, row, MAY) == "pro"
    assert document.show(session, row, MID).scheduled == []


@pytest.mark.usefixtures("catalog")
def test_timing_overrides_and_a_downgrade_at_once_keeps_what_was_used(session: Session) -> None:
    row = an_order(session, "pro")
    use(session, row, 50, APRIL + DAY)
    answer = change(session, row, "free", MID, timing="immediate")
    assert (answer.effective_at, answer.quota, answer.credit.amount) == (MID, "kept", "14.50")
    assert entitled(session, row, MID) == (100, 50)
    upgrade = change(session, row, "max", MID, timing="next_billing_cycle")
    assert (upgrade.effective_at, upgrade.quota) == (MAY, "kept")
    later = change(session, row, "pro", MID, timing=(MAY + 3 * DAY).isoformat())
    assert later.effective_at == MAY + 3 * DAY
    kinds = [(event.at, event.plan and event.plan.key) for event in document.show(session, row, MID).scheduled]
    assert kinds == [(MAY, "max"), (MAY + 3 * DAY, "pro")]


@pytest.mark.usefixtures("catalog")
def test_of_a_change_that_lies_in_a_later_period_the_credit_is_an_estimate(session: Session) -> None:
    answer = change(session, an_order(session, "pro"), "max", APRIL, timing=MID.isoformat())
    assert answer.credit.wire() == {"amount": "14.50", "currency": "USD", "isEstimate": True}


@pytest.mark.usefixtures("catalog")
@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"plan": {"key": "none"}}, "plan_not_found"),
        ({"plan": {"key": "pro", "version": 7}}, "plan_not_found"),
        ({"plan": {"key": "pro"}}, "plan_unchanged"),
        ({"plan": {"key": "euro"}}, "currency_mismatch"),
        ({"plan": {"key": "trial"}, "startingPhase": "none"}, "invalid_request"),
        ({"plan": {"key": "max"}, "timing": "2026-01-01T00:00:00Z"}, "invalid_request"),
    ],
)
def test_a_change_that_cannot_be_is_refused_precisely(session: Session, fields: dict[str, Any], code: str) -> None:
    a_plan(session, key="euro", currency="EUR")
    row = an_order(session, "pro")
    with pytest.raises((Conflict, NotFound, Invalid)) as refused:
        plan_change.plan_change(session, row, ChangeInput.model_validate(fields), used_share, MID)
    assert refused.value.code == code


@pytest.mark.usefixtures("catalog")
def test_a_phase_of_its_own_begins_with_the_change(session: Session) -> None:
    row = an_order(session, "free")
    change(session, row, "trial", MID)
    phase = document.show(session, row, MID).phase
    assert (phase.key, phase.active_from, phase.active_to) == ("trial", MID, MID + 14 * DAY)
    change(session, row, "trial", MID + DAY, startingPhase="full")
    assert document.show(session, row, MID + DAY).phase.wire() == {
        "key": "full",
        "name": "Full",
        "activeFrom": "2026-04-17T00:00:00Z",
    }


@pytest.mark.usefixtures("catalog")
def test_a_phase_with_another_allowance_counts_anew_and_one_with_the_same_goes_on(session: Session) -> None:
    row = an_order(session, "trial")
    use(session, row, 10, APRIL + DAY)
    assert entitled(session, row, APRIL + 13 * DAY) == (10, 10)
    assert entitled(session, row, APRIL + 14 * DAY) == (1000, 0)
    same = a_plan(session, key="same", phases=a_trial(limit=1000))
    other = an_order(session, same.key, customer="other")
    use(session, other, 11, APRIL + DAY)
    assert entitled(session, other, APRIL + 14 * DAY) == (1000, 11)


@pytest.mark.usefixtures("catalog")
def test_a_pause_at_the_very_end_of_a_phase_does_not_hide_that_the_next_one_counts_anew(session: Session) -> None:
    row = an_order(session, "trial")
    use(session, row, 10, APRIL + DAY)
    ends = APRIL + 14 * DAY
    lifecycle.pause(session, row, lifecycle.PauseInput(), ends)
    lifecycle.resume(session, row, "immediate", ends + DAY)
    assert entitled(session, row, ends + DAY) == (1000, 0)


@pytest.mark.usefixtures("catalog")
def test_a_migration_keeps_phase_and_allowance_and_credits_by_time_alone(session: Session) -> None:
    row = an_order(session, "pro")
    a_plan(session, a_card(limit=20_000), a_fee("39"), key="pro", version=2)
    use(session, row, 9000, APRIL + DAY)
    answer = migrate(session, row, MID)
    assert (answer.direction, answer.quota, answer.credit.amount) == ("migration", "kept", "14.50")
    assert answer.next.plan.version == 2
    assert entitled(session, row, MID) == (20_000, 9000)
    assert migrate(session, row, MID + DAY, targetVersion=1).next.plan.version == 1


@pytest.mark.usefixtures("catalog")
def test_a_migration_goes_on_in_its_phase_or_asks_for_one(session: Session) -> None:
    row = an_order(session, "trial")
    a_plan(session, key="trial", version=2, phases=a_trial(limit=20))
    answer = migrate(session, row, APRIL + DAY)
    assert (answer.next.phase.key, answer.next.phase.active_from) == ("trial", APRIL), "it does not begin anew"
    a_plan(session, key="trial", version=3)
    with pytest.raises(Invalid) as refused:
        migrate(session, row, APRIL + 2 * DAY)
    assert [fault["pointer"] for fault in refused.value.errors] == ["/startingPhase"]
    assert migrate(session, row, APRIL + 2 * DAY, startingPhase="default").next.phase.key == "default"


@pytest.mark.usefixtures("catalog")
@pytest.mark.parametrize(("version", "code"), [(9, "plan_not_found"), (2, "plan_not_active"), (1, "plan_unchanged")])
def test_a_migration_needs_a_published_version(session: Session, version: int, code: str) -> None:
    row = an_order(session, "pro")
    a_plan(session, key="pro", version=2, published_at=None)
    with pytest.raises(FareboxError) as refused:
        migrate(session, row, MID, targetVersion=version)
    assert refused.value.code == code


@pytest.mark.usefixtures("catalog")
def test_with_several_subscriptions_no_plan_is_had_twice(session: Session) -> None:
    configuration.change(session, {"multipleSubscriptionsEnabled": True}, APRIL)
    row = an_order(session, "free")
    an_order(session, "pro")
    for order in (lambda: an_order(session, "pro"), lambda: change(session, row, "pro", MID)):
        with pytest.raises(Conflict) as refused:
            order()
        assert refused.value.code == "subscription_duplicate"
    assert change(session, row, "max", MID).next.plan.key == "max"


def test_no_usage_is_a_share_of_nothing(session: Session, catalog: dict[str, Plan]) -> None:
    row = an_order(session, "free")
    cut = stretches(read_life(session, row), {plan.id: plan for plan in catalog.values()})
    assert used_share(session, row.id, APRIL, cut, MID) == Fraction(0)
    use(session, row, 150, APRIL)
    assert used_share(session, row.id, APRIL, cut, MID) == Fraction(3, 2)


STEPS = st.lists(
    st.tuples(
        st.integers(0, 40 * 24),
        st.sampled_from(["free", "pro", "max", "trial"]),
        st.sampled_from([None, "immediate", "next_billing_cycle"]),
        st.integers(0, 3000),
    ),
    min_size=1,
    max_size=5,
)


@contextmanager
def undone(engine: Engine) -> Iterator[Session]:
    """A transaction that leaves nothing behind, so that a thousand examples need one database."""
    with engine.connect() as connection, connection.begin() as begun, Session(bind=connection) as session:
        yield session
        begun.rollback()


def outcome(session: Session, row: Subscription, wanted: ChangeInput, now: datetime) -> ChangeDocument | str | None:
    try:
        return plan_change.show(session, plan_change.plan_change(session, row, wanted, used_share, now), now)
    except Conflict as refused:
        return refused.code


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_what_is_shown_before_is_what_happens(engine: Engine, steps: list[tuple[int, str, str | None, int]]) -> None:
    """The preview, the answer of the change, and the subscription when the change has come are one."""
    with undone(engine) as session:
        a_catalog(session)
        row = an_order(session, "pro")
        now = APRIL
        for hours, plan, timing, units in steps:
            now += timedelta(hours=hours)
            use(session, row, units, now)
            now += timedelta(seconds=1)
            previewed = outcome(
                session, row, ChangeInput.model_validate({"plan": {"key": plan}, "timing": timing}), now
            )
            if not isinstance(previewed, ChangeDocument):
                assert previewed in ("plan_unchanged", "subscription_canceled")
                continue
            assert change(session, row, plan, now, timing=timing) == previewed
            assert document.show(session, row, previewed.effective_at) == previewed.next
            if previewed.quota == "fresh":
                assert entitled(session, row, previewed.effective_at)[1] == 0

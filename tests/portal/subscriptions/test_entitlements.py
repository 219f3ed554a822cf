"""What a subscription's life means at the gateway: compiled here, and read there by the plugin's own code."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine
from sqlmodel import Session

from builders.portal import a_card, a_key, a_plan
from builders.subscriptions import APRIL, a_catalog, an_order
from farebox_plugin.directory import read_account
from farebox_plugin.records import Refusal
from farebox_plugin.terms import Policy, terms
from farebox_portal.clock import from_ms, to_ms
from farebox_portal.db import transaction
from farebox_portal.entitlements.compile import compile_account, counters_digest, recompile_at
from farebox_portal.entitlements.facts import AccountFacts, read_facts
from farebox_portal.subscriptions import lifecycle, plan_change
from farebox_portal.subscriptions.lifecycle import PauseInput
from farebox_portal.subscriptions.plan_change import ChangeInput
from farebox_portal.subscriptions.tables import Subscription
from farebox_portal.usage.access import used_share

DAY = timedelta(days=1)
MID = APRIL + 15 * DAY
MAY = datetime(2026, 5, 1, tzinfo=UTC)
POLICY = Policy("default", {"api_requests": 1})


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with transaction(engine) as session:
        a_catalog(session)
        yield session


@pytest.fixture
def row(session: Session) -> Subscription:
    subscription = an_order(session, "pro")
    a_key(session, subscription)
    return subscription


def facts(session: Session, row: Subscription) -> AccountFacts:
    return read_facts(session, [row.customer_id])[0]


def at_gateway(session: Session, row: Subscription, compiled_at: datetime, at: datetime) -> tuple[int, str] | str:
    """(limit, counter) or the refusal that a request meets at `at` by the document of `compiled_at`."""
    account = read_account(compile_account(facts(session, row), compiled_at))
    [key_id] = account.keys
    found = terms(account, key_id, POLICY, to_ms(at))
    if isinstance(found, Refusal):
        return found.code
    [counter] = found.counters
    return counter.limit, counter.field


def digest(session: Session, row: Subscription, now: datetime) -> str:
    known = facts(session, row)
    return counters_digest(known, compile_account(known, now), now)


def change(session: Session, row: Subscription, plan: str, now: datetime, timing: str | None = None) -> None:
    wanted = ChangeInput.model_validate({"plan": {"key": plan}, "timing": timing})
    plan_change.carry_out(session, plan_change.plan_change(session, row, wanted, used_share, now), now)


def test_an_upgrade_counts_on_a_new_counter_and_the_next_period_on_the_usual_one(
    session: Session, row: Subscription
) -> None:
    before, old = digest(session, row, MID), at_gateway(session, row, MID, MID)
    change(session, row, "max", MID)
    fresh, following = at_gateway(session, row, MID, MID), at_gateway(session, row, MID, MAY)
    assert (old[0], fresh[0], following[0]) == (10_000, 100_000, 100_000)
    assert len({old[1], fresh[1], following[1]}) == 3
    assert str(to_ms(MID)) in fresh[1]
    assert digest(session, row, MID) != before, "the counters are loaded anew"
    assert at_gateway(session, row, MAY + DAY, MAY + DAY) == following, "whenever it is compiled"


def test_a_downgrade_at_once_goes_on_counting(session: Session, row: Subscription) -> None:
    before = at_gateway(session, row, MID, MID)
    change(session, row, "free", MID, "immediate")
    assert at_gateway(session, row, MID, MID) == (100, before[1])


def test_what_is_scheduled_is_compiled_when_its_time_comes(session: Session, row: Subscription) -> None:
    change(session, row, "free", MID)
    known = facts(session, row)
    assert recompile_at(known, compile_account(known, MID), MID) == MAY
    assert at_gateway(session, row, MAY - DAY, MAY - DAY)[0] == 10_000
    assert at_gateway(session, row, MAY, MAY)[0] == 100


def test_a_phase_with_another_allowance_counts_on_a_new_counter(session: Session) -> None:
    trial = an_order(session, "trial", customer="trial")
    a_key(session, trial)
    ends = APRIL + 14 * DAY
    known = facts(session, trial)
    assert recompile_at(known, compile_account(known, APRIL), APRIL) == ends
    before, after = (at_gateway(session, trial, at, at) for at in (ends - DAY, ends))
    assert (before[0], after[0]) == (10, 1000)
    assert before[1] != after[1]
    assert digest(session, trial, ends) != digest(session, trial, ends - DAY)


def test_begin_pause_and_end_act_to_the_millisecond_by_a_document_of_long_before(
    session: Session, row: Subscription
) -> None:
    paused = PauseInput.model_validate({"timing": MID, "resumesAt": MID + DAY})
    lifecycle.pause(session, row, paused, APRIL)
    lifecycle.cancel(session, row, "next_billing_cycle", APRIL)
    tick = timedelta(milliseconds=1)

    def is_admitted(at: datetime) -> bool:
        return at_gateway(session, row, APRIL, at) != "no_active_subscription"

    edges = [APRIL, MID, MID + DAY, MAY]
    assert [(is_admitted(edge - tick), is_admitted(edge)) for edge in edges] == [
        (False, True),
        (True, False),
        (False, True),
        (True, False),
    ]


def test_a_pause_changes_neither_counter_nor_digest(session: Session, row: Subscription) -> None:
    before, names = digest(session, row, MID + DAY), at_gateway(session, row, MID, MID)
    lifecycle.pause(session, row, PauseInput(), MID)
    lifecycle.resume(session, row, "immediate", MID + DAY)
    assert at_gateway(session, row, MID + DAY, MID + DAY) == names
    assert digest(session, row, MID + DAY) == before


def test_a_rate_limit_is_that_of_the_plan_in_force(session: Session, row: Subscription) -> None:
    a_plan(session, a_card(), key="slow", rate_limit={"requests": 1, "per": "second"})
    change(session, row, "slow", MID)
    for at, requests in ((MID - DAY, 0), (MID, 1)):
        [sold] = compile_account(facts(session, row), at).subscriptions
        assert (sold.plan_key, sold.rate_limit.requests) == ("slow" if requests else "pro", requests)


def test_boundaries_keep_to_the_calendar_around_a_fresh_start(session: Session, row: Subscription) -> None:
    change(session, row, "max", MID)
    [quota] = compile_account(facts(session, row), MID + DAY).subscriptions[0].quotas
    assert [from_ms(ms) for ms in quota.resets_ms[1:4]] == [APRIL, MID, MAY]

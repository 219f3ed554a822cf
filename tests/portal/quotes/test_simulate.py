from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlmodel import Session

from builders.documents import a_plan as a_document
from builders.portal import a_card, a_plan
from builders.quotes import Use, a_price, included
from builders.subscriptions import APRIL, a_fee, an_order
from farebox_portal.catalog import plans
from farebox_portal.errors import Invalid, NotFound
from farebox_portal.quotes.simulate import SimulationDocument, SimulationInput, simulate
from farebox_portal.quotes.upcoming import upcoming
from farebox_portal.subscriptions import lifecycle, plan_change
from farebox_portal.subscriptions.plan_change import ChangeInput
from farebox_portal.usage.access import used_share

pytestmark = pytest.mark.usefixtures("shelf")

DAY = timedelta(days=1)
MID = APRIL + 15 * DAY
MAY = datetime(2026, 5, 1, tzinfo=UTC)


def run(session: Session, *cards: dict[str, Any], key: str = "pro", **fields: Any) -> SimulationDocument:
    document = a_document(*cards, key=key, **fields.pop("plan", {}))
    said = {"from": APRIL, "to": MAY, "plan": document} | fields
    return simulate(session, SimulationInput.model_validate(said))


CHEAP = (a_fee("9"), a_price({"type": "unit", "amount": "0.02"}))


def test_the_same_plan_brings_the_same(session: Session, use: Use) -> None:
    row = an_order(session, "pro")
    use(row, MID, 3000)
    found = run(session, a_fee("29"), a_price(included(1000, "0.01")))
    assert (found.before, found.after, found.difference) == ("49.00", "49.00", "0.00")
    assert (found.customers, found.customers_paying_more, found.customers_paying_less) == (1, 0, 0)


def test_another_plan_is_told_by_revenue_and_by_customer(session: Session, use: Use) -> None:
    light, heavy, idle = (an_order(session, "pro", customer=name) for name in ("light", "heavy", "idle"))
    an_order(session, "max", customer="of_another_plan")
    use(light, MID, 500)  # 29 → 19
    use(heavy, MID, 5000)  # 69 → 109
    use(idle, MID - 30 * DAY, 9000)  # before the time that is asked about: 29 → 9
    found = run(session, *CHEAP)
    assert (found.before, found.after, found.difference) == ("127.00", "137.00", "10.00")
    assert (found.customers, found.customers_paying_more, found.customers_paying_less) == (3, 1, 2)
    assert [(one.customer_key, one.before, one.after, one.difference) for one in found.items] == [
        ("heavy", "69.00", "109.00", "40.00"),
        ("idle", "29.00", "9.00", "-20.00"),
        ("light", "29.00", "19.00", "-10.00"),
    ]


def test_what_hard_limits_would_have_refused_is_counted(session: Session, use: Use) -> None:
    row, other = an_order(session, "pro"), an_order(session, "pro", customer="other")
    for at in (APRIL, MID, MID + timedelta(hours=1), MAY):
        use(row, at, 70)
    use(other, MID, 100)
    monthly = run(session, a_card(limit=150))
    assert [(one.customer_key, one.over_limit) for one in monthly.items if one.over_limit] == [
        ("acme", {"api_requests": 60})
    ]
    assert monthly.customers_over_limit == 1
    later = run(session, a_card(limit=150), to=MAY + 2 * DAY, **{"from": MAY})
    assert later.customers_over_limit == 0, "what was used before the time that is asked about"
    daily = {"type": "metered", "issueAfterReset": 100, "usagePeriod": "P1D"}
    assert {one.customer_key: one.over_limit for one in run(session, a_card(entitlementTemplate=daily)).items} == {
        "acme": {"api_requests": 40},
        "other": None,
    }
    assert run(session, a_card(limit=1, soft=True)).customers_over_limit == 0


def test_the_subscribers_of_another_plan_can_be_meant(session: Session) -> None:
    an_order(session, "pro")
    found = run(session, a_fee("49"), key="new_one", subscribersOf="pro")
    assert (found.plan_key, found.subscribers_of, found.before, found.after) == ("new_one", "pro", "29.00", "49.00")
    with pytest.raises(NotFound, match="new_one"):
        run(session, a_fee("49"), key="new_one")


def test_only_periods_that_begin_in_the_time_count(session: Session, use: Use) -> None:
    row = an_order(session, "pro")
    use(row, MAY, 4000)
    assert run(session, *CHEAP).before == "29.00"
    both = run(session, *CHEAP, to=MAY + DAY)
    assert (both.before, both.after) == ("88.00", "98.00")
    assert run(session, *CHEAP, **{"from": APRIL - 30 * DAY}, to=APRIL).customers == 0


def test_what_it_says_of_the_present_is_what_was_invoiced(session: Session, use: Use) -> None:
    row = an_order(session, "pro")
    use(row, MID, 3210)
    invoiced = upcoming(session, row.id, MID)
    usage = sum(Decimal(line.amount) for line in invoiced.lines if line.kind == "usage")
    assert Decimal(run(session, *CHEAP).before) == usage + 29


def test_a_life_with_a_change_is_replaced_only_where_the_plan_was(session: Session, use: Use) -> None:
    row = an_order(session, "pro")
    use(row, APRIL, 2000)
    planned = plan_change.plan_change(
        session, row, ChangeInput.model_validate({"plan": {"key": "max"}}), used_share, MID
    )
    plan_change.carry_out(session, planned, MID)
    use(row, MID, 8000)
    found = run(session, *CHEAP)
    # Half of a month's fee, and the usage of that half: 14.50 + 10, or 4.50 + 40.
    assert (found.before, found.after) == ("24.50", "44.50")


def test_every_version_of_the_plan_counts_and_other_phases_begin_at_the_first(session: Session) -> None:
    an_order(session, "pro")
    a_plan(session, a_fee("39"), key="pro", version=2, published_at=MID)
    plans.get_version(session, "pro", 1).archived_at = MID  # type: ignore[union-attr]
    session.flush()
    an_order(session, "pro", customer="later", now=MID)
    phases = [
        {"key": "new", "name": "New", "duration": "P10D", "rateCards": [a_card(limit=1)]},
        {"key": "default", "name": "Default", "rateCards": [a_fee("30")]},
    ]
    found = run(session, plan={"phases": phases})
    assert found.before == "68.00"  # 29 + 39
    assert found.after == "40.00"  # of both 20 of 30 days, to the first and to the sixteenth of May


def test_nothing_is_written(session: Session, use: Use) -> None:
    use(an_order(session, "pro"), MID, 10)
    session.flush()
    run(session, *CHEAP)
    assert not session.new
    assert not session.dirty


def test_who_never_began_is_not_affected(session: Session) -> None:
    row = an_order(session, "pro", timing=(APRIL + 5 * DAY).isoformat())
    lifecycle.cancel(session, row, "immediate", APRIL)
    assert run(session, *CHEAP).customers == 0


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"to": APRIL}, "/to"),
        ({"plan": {"currency": "EUR"}}, "/plan/currency"),
        ({"plan": {"billingCadence": "P2M"}}, "/plan/billingCadence"),
        ({"plan": {"phases": []}}, "/plan/phases"),
    ],
    ids=["time", "currency", "cadence", "phases"],
)
def test_what_cannot_be_simulated_says_why(session: Session, fields: Any, place: str) -> None:
    with pytest.raises(Invalid) as refused:
        run(session, *CHEAP, **fields)
    assert [fault["pointer"] for fault in refused.value.errors] == [place]

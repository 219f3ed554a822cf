"""What an invoice gives back for a change of plan is what its preview said, to the cent."""

from dataclasses import replace
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from builders.addons import a_seat_fee
from builders.portal import NOW
from builders.subscriptions import APRIL, a_fee
from farebox_portal.catalog.tables import Addon, Plan
from farebox_portal.invoicing.charges import charges
from farebox_portal.invoicing.fees import fees
from farebox_portal.subscriptions.addon_holds import Hold, Offer, Order
from farebox_portal.subscriptions.credit import addon_credit, credit
from farebox_portal.subscriptions.life import Cancel, Change, Command, Life, Pause, apply, begun
from farebox_portal.subscriptions.stretches import stretches

DAY = timedelta(days=1)
MARCH = APRIL - 31 * DAY
TICK = timedelta(microseconds=1)
HOURS = 30 * 24


def a_plan(key: str, *cards: dict[str, Any]) -> Plan:
    phases = [{"key": "default", "name": "Default", "rateCards": list(cards)}]
    given = {"version": 1, "name": key, "currency": "USD", "billing_cadence": "P1M", "phases": phases}
    return Plan(id=key, key=key, created_at=NOW, updated_at=NOW, **given)


def kept(life: Life, plans: dict[str, Plan], at: datetime) -> dict[str, int]:
    """What may be kept of each fee, by charge."""
    dues = charges(stretches(life, plans), life.anchor, at)
    return {fee.due.key: fee.kept_minor for fee in fees(dues, life, at)}


def life_with(*commands: Command) -> Life:
    """On `pro` from April on; each command is given at its instant."""
    life = begun(APRIL, APRIL, "pro")
    for command in commands:
        after = apply(life, command, getattr(command, "at", APRIL))
        assert after is not None
        life = after
    return life


@pytest.mark.parametrize("mode", ["max_consumption_based", "prorate_prices"])
@pytest.mark.parametrize("term", ["in_advance", "in_arrears"])
def test_without_proration_what_is_begun_is_charged_in_full_and_never_given_back(mode: str, term: str) -> None:
    """OpenMeter's and Zuplo's `proRatingConfig` with `enabled` false."""
    price = {"type": "flat", "amount": "30", "paymentTerm": term}
    plans = {"pro": a_plan("pro", a_fee("30", price=price)), "max": a_plan("max", a_fee("90"))}
    for plan in plans.values():
        plan.pro_rating_config = {"enabled": False, "mode": mode}
    mid = APRIL + 10 * DAY
    for life, fee in (
        (life_with(Change(mid, "max", used_share=Fraction(0))), [3000, 9000]),
        (life_with(Pause(mid, mid + DAY)), [3000]),
        (life_with(Pause(mid), Cancel(mid + DAY)), [3000]),
        (begun(mid, APRIL, "pro"), [3000]),
    ):
        dues = list(charges(stretches(life, plans), APRIL, mid + 2 * DAY))
        found = fees([replace(due, at=APRIL) for due in dues], life, mid + 2 * DAY)
        assert sorted((one.owed_minor, one.kept_minor) for one in found) == [(minor, minor) for minor in fee]
    assert credit(stretches(life_with(), plans), APRIL, mid, Fraction(0)) == 0


amounts = st.integers(0, 10_000).map(str) | st.integers(0, 10**6).map(lambda thousandths: f"{thousandths / 1000:.3f}")
hours = st.integers(1, HOURS - 1)


@settings(deadline=None, max_examples=200)
@given(
    amount=amounts,
    off=st.integers(0, 100),
    cuts=st.lists(hours, max_size=2, unique=True),
    at=hours,
    used=hours,
    config=st.sampled_from([None, {"enabled": True, "mode": "prorate_prices"}, {"enabled": False}]),
)
@example(amount="29.01", off=0, cuts=[], at=HOURS // 2, used=1, config=None)  # half a cent
@example(amount="10.0049", off=0, cuts=[], at=719, used=1, config=None)
@example(amount="29.01", off=0, cuts=[100, 200], at=400, used=1, config=None)
@example(amount="10.005", off=0, cuts=[], at=HOURS // 2, used=1, config=None)  # not two months of 10.005
@example(amount="29.00", off=0, cuts=[], at=HOURS // 2, used=500, config={"enabled": True, "mode": "prorate_prices"})
def test_a_preview_is_the_result(
    amount: str, off: int, cuts: list[int], at: int, used: int, config: dict[str, Any] | None
) -> None:
    """With a pause before it, an allowance that may be used further than time is, and seats that the change ends."""
    plans = {"pro": a_plan("pro", a_fee(amount, discounts={"percentage": off})), "max": a_plan("max")}
    plans["pro"].pro_rating_config = config
    seats = {"instance_type": "multiple", "rate_cards": [a_seat_fee(amount)], "currency": "USD", "name": "Seats"}
    addon = Addon(id="seats", key="seats", version=1, created_at=NOW, updated_at=NOW, **seats)
    hold = Hold("hold", addon, (Order(APRIL, 2), Order(APRIL + DAY, 3)), (Offer("pro", "default", APRIL),))
    life: Life | None = Life(MARCH, None, APRIL, begun(MARCH, APRIL, "pro").segments, (hold,))
    change = Change(APRIL + at * timedelta(hours=1), "max", used_share=Fraction(used, HOURS))
    pauses = [APRIL + min(cut, at) * timedelta(hours=1) for cut in sorted(cuts)]
    steps: list[Command] = [Pause(*pauses)] if len(pauses) == 2 and pauses[0] < pauses[1] < change.at else []
    for step in steps:
        assert life is not None
        life = apply(life, step, APRIL)
    assert life is not None
    after = apply(life, change, change.at)
    assert after is not None
    before_minor, after_minor = kept(life, plans, change.at - TICK), kept(after, plans, change.at)
    assert change.used_share is not None
    left, follows = stretches(life, plans), stretches(after, plans)
    previewed = credit(left, APRIL, change.at, change.used_share)
    previewed += addon_credit(left, follows, APRIL, change.at, change.used_share)
    assert previewed == sum(before_minor.values()) - sum(after_minor[key] for key in before_minor)
    for fee in fees(charges(follows, APRIL, change.at), after, change.at):
        assert fee.owed_minor <= fee.kept_minor, "or what was given back is charged again"


def test_by_time_alone_what_was_used_does_not_count() -> None:
    plans = {"pro": a_plan("pro", a_fee("30")), "max": a_plan("max")}
    life = life_with(Change(APRIL + 15 * DAY, "max", used_share=Fraction(9, 10)))
    assert list(kept(life, plans, APRIL + 15 * DAY).values()) == [2700]
    plans["pro"].pro_rating_config = {"enabled": True, "mode": "prorate_prices"}
    assert list(kept(life, plans, APRIL + 15 * DAY).values()) == [1500]

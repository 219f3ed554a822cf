"""Add-ons and coupons on the next invoice, and add-ons in a price preview."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlmodel import Session

from builders.addons import a_seat_fee, an_addon, offered
from builders.portal import a_card
from builders.quotes import Use, a_price
from builders.subscriptions import APRIL, an_order
from farebox_portal.catalog import coupons as catalog
from farebox_portal.catalog.coupons import CouponInput
from farebox_portal.errors import Invalid
from farebox_portal.quotes.preview import PreviewInput, preview
from farebox_portal.quotes.simulate import SimulationInput, simulate
from farebox_portal.quotes.upcoming import UpcomingLine, upcoming
from farebox_portal.subscriptions import addons, coupons, lifecycle
from farebox_portal.subscriptions.addons import AddonOrderInput, QuantityInput
from farebox_portal.subscriptions.lifecycle import PauseInput
from farebox_portal.subscriptions.tables import Subscription

pytestmark = pytest.mark.usefixtures("shelf")

DAY = timedelta(days=1)
MID = APRIL + 15 * DAY
MAY = datetime(2026, 5, 1, tzinfo=UTC)
UNIT = {"type": "unit", "amount": "0.10"}


def order(session: Session, row: Subscription, key: str, now: datetime = APRIL, **fields: Any) -> str:
    return addons.add(session, row, AddonOrderInput.model_validate({"addon": {"key": key}} | fields), now)


def a_coupon(session: Session, **fields: Any) -> None:
    given = {"code": "TEN", "duration": "forever"} | fields
    catalog.create(session, CouponInput.model_validate(given), APRIL)
    session.flush()


def line(found: UpcomingLine) -> tuple[str, str | None, str, str]:
    return found.rate_card_key, found.addon and found.addon.key, found.quantity, found.amount


def test_an_addon_s_fees_stand_beside_the_plan_s_by_how_many_there_are(session: Session) -> None:
    offered(session, an_addon(session), "pro")
    row = an_order(session, "pro")
    hold = order(session, row, "seats", MID, quantity=2)
    addons.change(session, row, hold, QuantityInput(quantity=5), MID)
    addons.change(session, row, hold, QuantityInput(quantity=3), MID)
    found = upcoming(session, row.id, MID)
    assert [line(one) for one in found.lines] == [("fee", None, "1", "29.00"), ("seat", "seats", "3", "30.00")]
    assert found.total == "59.00"
    assert (found.lines[1].period.from_, found.lines[1].plan.key) == (MAY, "pro")


def test_what_is_ordered_for_later_in_the_period_is_on_it_for_what_is_left(session: Session) -> None:
    offered(session, an_addon(session), "pro")
    row = an_order(session, "pro")
    order(session, row, "seats", quantity=2, timing=MID)
    assert [line(one) for one in upcoming(session, row.id, APRIL).lines][1:] == [
        ("seat", "seats", "2", "10.00"),
        ("seat", "seats", "2", "20.00"),
    ]


def test_fees_in_arrears_and_usage_of_an_addon_are_for_the_time_it_was_there(session: Session, use: Use) -> None:
    meter = a_price(UNIT, entitlementTemplate=None)
    offered(session, an_addon(session, a_seat_fee("10", "in_arrears"), meter), "free")
    row = an_order(session, "free")
    hold = order(session, row, "seats", APRIL + 10 * DAY, quantity=3)
    addons.change(session, row, hold, QuantityInput(quantity=0, timing=APRIL + 25 * DAY), APRIL + 10 * DAY)
    for day in (5, 12, 26):
        use(row, APRIL + day * DAY, 7)
    found = upcoming(session, row.id, APRIL + 27 * DAY)
    assert [line(one) for one in found.lines] == [
        ("seat", "seats", "3", "15.00"),
        ("api_requests", "seats", "7", "0.70"),
    ]
    assert found.lines[1].meter == "api_requests"


def test_a_pause_pauses_an_addon_s_fees_too(session: Session) -> None:
    offered(session, an_addon(session), "pro")
    row = an_order(session, "pro")
    order(session, row, "seats")
    lifecycle.pause(session, row, PauseInput.model_validate({"timing": MID, "resumesAt": MAY + 15 * DAY}), APRIL)
    assert upcoming(session, row.id, MID).lines == []
    found = upcoming(session, row.id, MAY).lines[:2]
    assert [(one.rate_card_key, one.period.from_) for one in found] == [
        ("fee", MAY + 15 * DAY),
        ("fee", MAY + 31 * DAY),
    ]


@pytest.mark.parametrize(
    ("fields", "amounts"),
    [
        ({"percentOff": 10}, ["26.10", "9.00", "1.80"]),
        ({"amountOff": "10", "currency": "USD"}, ["21.93", "7.56", "1.51"]),
        ({"percentOff": 50, "appliesTo": {"featureKeys": ["api_requests"]}}, ["29.00", "10.00", "1.00"]),
        ({"percentOff": 50, "appliesTo": {"planKeys": ["pro"]}}, ["14.50", "5.00", "1.00"]),
    ],
    ids=["a percentage", "an amount, spread", "of one feature", "of the plan"],
)
def test_a_coupon_takes_off_what_it_applies_to(
    session: Session, use: Use, fields: dict[str, Any], amounts: list[str]
) -> None:
    a_coupon(session, **fields)
    offered(session, an_addon(session), "pro")
    row = an_order(session, "pro", coupon="TEN")
    order(session, row, "seats")
    use(row, APRIL + DAY, 1200)
    found = upcoming(session, row.id, MID)
    by_card = {"fee": 0, "seat": 1, "api_requests": 2}
    charged = sorted((one for one in found.lines if one.amount != "0.00"), key=lambda one: by_card[one.rate_card_key])
    assert [one.amount for one in charged] == amounts
    reduced = [one for one in charged if one.reductions]
    assert {one.kind for each in reduced for one in each.reductions or []} == {"coupon"}


def test_a_coupon_that_is_over_or_removed_takes_nothing_off(session: Session) -> None:
    a_coupon(session, percentOff=10, duration="repeating", durationInMonths=1)
    row = an_order(session, "pro", coupon="TEN")
    assert upcoming(session, row.id, APRIL).total == "29.00", "May begins when it is over"
    a_coupon(session, code="THEN", percentOff=10)
    coupons.redeem(session, row, "THEN", MAY)
    assert upcoming(session, row.id, MAY).total == "26.10"
    coupons.remove(session, row, MAY)
    assert upcoming(session, row.id, MAY).total == "29.00"


def test_before_a_subscription_begins_its_coupon_is_on_the_first_invoice(session: Session) -> None:
    a_coupon(session, percentOff=10, duration="once")
    row = an_order(session, "pro", timing=MAY, coupon="TEN")
    assert upcoming(session, row.id, APRIL).total == "26.10"


# --- previews --------------------------------------------------------------------------------------------------------


def previewed(session: Session, **fields: Any) -> list[tuple[str, str, str]]:
    found = preview(session, PreviewInput.model_validate({"planKey": "pro"} | fields), APRIL)
    return [(one.description, one.quantity, one.amount) for one in found.lines]


def test_a_preview_has_addons_beside_the_plan(session: Session) -> None:
    an_addon(session)
    an_addon(session, a_price(UNIT, "large"), key="models")
    wanted = [{"addon": {"key": "seats"}, "quantity": 3}, {"addon": {"key": "models"}}]
    assert previewed(session, addons=wanted, usage={"large": "20"}) == [
        ("Fee", "1", "29.00"),
        ("Seat", "3", "30.00"),
        ("large", "20", "2.00"),
    ]


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"addons": [{"addon": {"key": "nothing"}}]}, "/addons/0/addon"),
        ({"addons": [{"addon": {"key": "seats"}}, {"addon": {"key": "euro"}}]}, "/addons/1/addon"),
        ({"planKey": None, "rateCard": a_card(), "addons": [{"addon": {"key": "seats"}}]}, "/addons"),
    ],
    ids=["unknown", "another currency", "beside a card"],
)
def test_what_a_preview_cannot_have(session: Session, fields: dict[str, Any], place: str) -> None:
    an_addon(session)
    an_addon(session, key="euro", currency="EUR")
    with pytest.raises(Invalid) as refused:
        previewed(session, **fields)
    assert [fault["pointer"] for fault in refused.value.errors] == [place]


def test_a_simulation_compares_plans_alone(session: Session) -> None:
    offered(session, an_addon(session), "pro")
    row = an_order(session, "pro")
    order(session, row, "seats")
    plan = {"key": "pro", "name": "Pro", "currency": "USD", "billingCadence": "P1M"}
    card = {"type": "flat_fee", "key": "fee", "name": "Fee", "billingCadence": "P1M"}
    card["price"] = {"type": "flat", "amount": "39"}
    phases = [{"key": "default", "name": "Default", "rateCards": [card]}]
    wanted = SimulationInput.model_validate({"plan": plan | {"phases": phases}, "from": APRIL, "to": MAY})
    found = simulate(session, wanted)
    assert (found.before, found.after) == ("29.00", "39.00")

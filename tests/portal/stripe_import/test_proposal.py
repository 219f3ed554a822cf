"""What Stripe Billing has becomes what it would be here, to the cent and to the day, or is named with a reason."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.stripe_billing import (
    Json,
    a_billed_customer,
    a_billed_subscription,
    a_billing_meter,
    a_price,
    a_product,
    an_item,
    at,
    tiers,
)
from farebox_portal.catalog.plan_rules import FeatureFacts, faults
from farebox_portal.pricing.money import currency, decimal_text
from farebox_portal.quotes.card import rate_whole, read_card
from farebox_portal.stripe_import.prices import Unmapped, cadence_of, card_of, key_of
from farebox_portal.stripe_import.proposal import Known, Proposal, lines, propose
from farebox_portal.stripe_import.records import Billing, Customer, Meter, Price, Product, Subscription

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
END = at(2026, 4, 1)
NOTHING = Known({}, {}, frozenset(), {}, frozenset(), takes_several=False)
API = a_product("prod_api", "API")
PRO = a_price("price_1Pro", "prod_api")
CALLS = a_price("price_1Calls", "prod_api", "0.08", meter="mtr_1")
METER = a_billing_meter("mtr_1", "api_calls")


def billing(
    *subscriptions: Json,
    prices: tuple[Json, ...] = (PRO, CALLS),
    products: tuple[Json, ...] = (API,),
    meters: tuple[Json, ...] = (METER,),
    customers: tuple[Json, ...] = (a_billed_customer("cus_1"), a_billed_customer("cus_2", "Bolt")),
) -> Billing:
    return Billing(
        products=tuple(map(Product.from_json, products)),
        prices=tuple(map(Price.from_json, prices)),
        meters=tuple(map(Meter.from_json, meters)),
        customers=tuple(map(Customer.from_json, customers)),
        subscriptions=tuple(map(Subscription.from_json, subscriptions)),
    )


def subscribed(id_: str = "sub_1", customer: str = "cus_1", *items: Json, **fields: Any) -> Json:
    given = {"anchor_s": END} | fields
    return a_billed_subscription(id_, customer, *(items or (an_item(PRO, END),)), **given)


def reasons(proposal: Proposal) -> dict[str, str]:
    return {left.id: left.reason for left in proposal.left}


# --- prices ----------------------------------------------------------------------------------------------------------


def cost(price: Json, quantity: str, *, licensed: int = 1) -> str:
    """What a period of it costs by our engine."""
    card = card_of(Price.from_json(price), Product.from_json(API), licensed, "calls")
    document = {name: value for name, value in card.items() if name not in ("taxConfig", "entitlementTemplate")}
    of = currency(price["currency"].upper())
    rated = rate_whole(read_card(document), Decimal(quantity), of)
    return decimal_text(sum(line.amount_minor for line in rated), of)


GRADUATED = tiers("graduated", (100, "10", 500), (None, "5", 0))
VOLUME = tiers("volume", (100, "10", 0), (None, "5", 0))
PACKAGE = {"transform_quantity": {"divide_by": 1000, "round": "up"}}
FLOOR = {"transform_quantity": {"divide_by": 1000, "round": "down"}}


@pytest.mark.parametrize(
    ("price", "quantity", "licensed", "amount"),
    [
        (a_price("p", "prod_api", "1900"), "0", 1, "19.00"),
        (a_price("p", "prod_api", "1900"), "0", 3, "57.00"),
        (a_price("p", "prod_api", "0.5"), "0", 3, "0.02"),
        (a_price("p", "prod_api", None, **GRADUATED), "0", 150, "17.50"),  # 5 + 100 × 0.10 + 50 × 0.05
        (a_price("p", "prod_api", None, **VOLUME), "0", 150, "7.50"),
        (a_price("p", "prod_api", "500", **PACKAGE), "0", 1001, "10.00"),
        (a_price("p", "prod_api", "500", **FLOOR), "0", 1999, "5.00"),
        (a_price("p", "prod_api", "0.08", meter="m"), "12345", 1, "9.88"),
        (a_price("p", "prod_api", None, meter="m", **GRADUATED), "150", 1, "17.50"),
        (a_price("p", "prod_api", None, meter="m", **VOLUME), "150", 1, "7.50"),
        (a_price("p", "prod_api", "500", meter="m", **PACKAGE), "1001", 1, "10.00"),
        (a_price("p", "prod_api", "500", meter="m", **FLOOR), "1999", 1, "5.00"),
        (a_price("p", "prod_api", "1900", currency="jpy"), "0", 1, "1900"),
        (a_price("p", "prod_api", "190000", currency="isk"), "0", 1, "1900"),
        (a_price("p", "prod_api", "19000", currency="kwd"), "0", 1, "19.000"),
    ],
)
def test_a_price_costs_what_it_cost(price: Json, quantity: str, licensed: int, amount: str) -> None:
    assert cost(price, quantity, licensed=licensed) == amount


@given(quantity=st.integers(0, 5000), unit=st.integers(1, 9999), flat=st.integers(0, 9999), edge=st.integers(1, 2000))
def test_graduated_tiers_of_any_size_cost_what_they_say(quantity: int, unit: int, flat: int, edge: int) -> None:
    price = a_price("p", "prod_api", None, meter="m", **tiers("graduated", (edge, str(unit), 0), (None, "1", flat)))
    beyond = max(0, quantity - edge)
    cents = min(quantity, edge) * unit + (beyond + flat if beyond else 0)
    assert cost(price, str(quantity)) == decimal_text(cents, currency("USD"))


@pytest.mark.parametrize(
    ("interval", "count", "cadence"),
    [
        ("day", 1, "P1D"), ("day", 7, "P1W"), ("week", 1, "P1W"), ("week", 2, "P2W"), ("week", 4, "P4W"),
        ("month", 1, "P1M"), ("month", 3, "P3M"), ("month", 6, "P6M"), ("month", 12, "P1Y"), ("year", 1, "P1Y"),
    ],
)  # fmt: skip
def test_intervals(interval: str, count: int, cadence: str) -> None:
    assert cadence_of(Price.from_json(a_price("p", "x", interval=interval, interval_count=count))) == cadence


@pytest.mark.parametrize(("interval", "count"), [("day", 3), ("month", 2), ("year", 2), ("week", 3)])
def test_an_interval_that_no_plan_has_is_said(interval: str, count: int) -> None:
    with pytest.raises(Unmapped, match=f"every {count} {interval}s"):
        cadence_of(Price.from_json(a_price("p", "x", interval=interval, interval_count=count)))


@pytest.mark.parametrize(
    ("price", "reason"),
    [
        (a_price("p", "prod_api", type="one_time", recurring=None), "charged once"),
        (
            a_price("p", "prod_api", None, custom_unit_amount={"maximum": None, "minimum": None, "preset": None}),
            "chooses",
        ),
        (a_price("p", "prod_api", None, billing_scheme="tiered", tiers_mode="volume"), "tiers were not told"),
        (a_price("p", "prod_api", None), "neither an amount nor tiers"),
        (a_price("p", "prod_api", currency="xau"), "not an ISO 4217"),
        (a_price("p", "prod_api", currency="kpw"), "does not charge KPW"),
        (a_price("p", "prod_api", meter="mtr_gone"), "its meter mtr_gone"),
    ],
)
def test_a_price_that_is_nothing_here_says_why(price: Json, reason: str) -> None:
    proposal = propose(billing(prices=(price,)), NOTHING, NOW)
    assert reason in reasons(proposal)["p"]
    assert proposal.plans == []


def test_tax_goes_along() -> None:
    taxed = a_price("p", "prod_api", tax_behavior="inclusive")
    product = Product.from_json(API | {"tax_code": "txcd_10103001"})
    card = card_of(Price.from_json(taxed), product, 1, None)
    assert card["taxConfig"] == {"behavior": "inclusive", "stripe": {"code": "txcd_10103001"}}


@given(st.text(st.characters(codec="ascii", min_codepoint=33), min_size=1, max_size=120))
def test_every_id_has_a_key_of_its_own(id_: str) -> None:
    assert "/key" not in {one["pointer"] for one in faults({"key": key_of(id_)}, {})}


def test_ids_that_differ_in_case_alone_have_different_keys() -> None:
    assert key_of("price_1A") != key_of("price_1a")
    assert key_of("gold") == "gold"


# --- all of it -------------------------------------------------------------------------------------------------------


def test_each_price_on_sale_is_a_plan_that_the_catalog_takes() -> None:
    proposal = propose(billing(), NOTHING, NOW)
    assert [meter["slug"] for meter in proposal.meters] == ["api_calls"]
    assert proposal.features == [{"key": "api_calls", "name": "Api_calls", "meterSlug": "api_calls"}]
    assert [plan["key"] for plan in proposal.plans] == [key_of("price_1Pro"), key_of("price_1Calls")]
    for plan in proposal.plans:
        assert faults(plan, {"api_calls": FeatureFacts("SUM")}) == []
        assert "zuplo_private_plan" not in plan["metadata"]
    assert [customer.stripe_id for customer in proposal.customers] == ["cus_1", "cus_2"]


def test_a_set_of_prices_and_quantities_is_a_private_plan_of_its_own() -> None:
    first = subscribed("sub_1", "cus_1", an_item(PRO, END, 3), an_item(CALLS, END, None))
    second = subscribed("sub_2", "cus_2", an_item(CALLS, END, None), an_item(PRO, END, 3))
    proposal = propose(billing(first, second), NOTHING, NOW)
    (bundle,) = [plan for plan in proposal.plans if plan["key"].startswith("bundle_")]
    assert bundle["metadata"] == {"stripe_prices": "price_1Calls:1,price_1Pro:3", "zuplo_private_plan": "true"}
    assert [card["price"]["amount"] for card in bundle["phases"][0]["rateCards"]] == ["0.0008", "57.00"]
    assert {one.plan for one in proposal.subscriptions} == {bundle["key"]}


def test_a_subscription_begins_where_its_period_ends_and_is_to_be_canceled_there() -> None:
    proposal = propose(billing(subscribed()), NOTHING, NOW)
    (one,) = proposal.subscriptions
    assert one.plan == key_of("price_1Pro")
    assert one.starts_at == one.anchor == datetime(2026, 4, 1, tzinfo=UTC)
    (cancellation,) = proposal.cancellations
    assert (cancellation.subscription, cancellation.at) == ("sub_1", one.starts_at)


@pytest.mark.parametrize(
    ("anchor", "end", "kept"),
    [
        ((2026, 1, 31), (2026, 4, 30), (2026, 1, 31)),  # the 31st comes back
        ((2020, 1, 31), (2026, 4, 30), (2024, 1, 31)),  # too old for us, and the same calendar
        ((2026, 1, 15), (2026, 4, 1), (2026, 4, 1)),  # not a period's end of this anchor
        ((2026, 4, 1), (2026, 4, 1), (2026, 4, 1)),  # a trial: it begins there
    ],
)
def test_the_calendar_is_the_same(anchor: Any, end: Any, kept: Any) -> None:
    subscription = subscribed("sub_1", "cus_1", an_item(PRO, at(*end)), anchor_s=at(*anchor))
    (one,) = propose(billing(subscription), NOTHING, NOW).subscriptions
    assert one.anchor == datetime(*kept, tzinfo=UTC)
    assert one.starts_at == datetime(*end, tzinfo=UTC)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"status": "unpaid"}, "it is unpaid"),
        ({"status": "incomplete"}, "it is incomplete"),
        ({"discounts": ["di_1"]}, "discount"),
        ({"collection_method": "send_invoice"}, "sent invoices"),
        ({"pause_collection": {"behavior": "void", "resumes_at": None}}, "paused"),
        ({"schedule": "sub_sched_1"}, "schedule"),
        ({"transfer_data": {"amount_percent": None, "destination": "acct_2"}}, "connected account"),
        ({"billing_thresholds": {"amount_gte": 100, "reset_billing_cycle_anchor": None}}, "threshold"),
        ({"cancel_at_period_end": True}, "by itself"),
        ({"cancel_at": END - 1}, "by itself"),
        ({"default_tax_rates": [{"id": "txr_1"}]}, "tax rates"),
    ],
)
def test_a_subscription_that_cannot_go_on_here_says_why(fields: dict[str, Any], reason: str) -> None:
    proposal = propose(billing(subscribed(**fields)), NOTHING, NOW)
    assert reason in reasons(proposal)["sub_1"]
    assert (proposal.subscriptions, proposal.cancellations) == ([], [])


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ((an_item(PRO, at(2026, 3, 1)),), "period ended"),
        ((an_item(PRO, END), an_item(CALLS, END + 86_400, None)), "end at different times"),
        ((an_item(PRO, END, discounts=["di_1"]),), "discount"),
        ((an_item(a_price("price_gone", "prod_api"), END),), "not among those"),
    ],
)
def test_items_that_cannot_be_carried_say_why(items: tuple[Json, ...], reason: str) -> None:
    proposal = propose(billing(subscribed("sub_1", "cus_1", *items)), NOTHING, NOW)
    assert reason in reasons(proposal)["sub_1"]


def test_what_ends_later_ends_here_too() -> None:
    (one,) = propose(billing(subscribed(cancel_at=END + 86_400)), NOTHING, NOW).subscriptions
    assert one.cancel_at == datetime(2026, 4, 2, tzinfo=UTC)


def test_of_several_of_one_customer_the_first_is_taken_unless_several_may_be() -> None:
    both = billing(subscribed("sub_1"), subscribed("sub_2", "cus_1", an_item(PRO, END, 2)))
    one = propose(both, NOTHING, NOW)
    assert [each.stripe_id for each in one.subscriptions] == ["sub_1"]
    assert "multipleSubscriptionsEnabled" in reasons(one)["sub_2"]
    assert len(propose(both, replace(NOTHING, takes_several=True), NOW).subscriptions) == 2
    twice = billing(subscribed("sub_1"), subscribed("sub_2"))
    assert "twice" in reasons(propose(twice, replace(NOTHING, takes_several=True), NOW))["sub_2"]


def test_what_was_imported_stays_and_is_still_to_be_canceled_until_it_is() -> None:
    known = replace(
        NOTHING,
        subscriptions=frozenset({"sub_1"}),
        customers={"cus_1": "c1", "cus_2": "c2"},
        plans=frozenset({key_of("price_1Pro"), key_of("price_1Calls")}),
        meters={"api_calls": "SUM"},
        features={"api_calls": FeatureFacts("SUM")},
    )
    again = propose(billing(subscribed()), known, NOW)
    assert (again.meters, again.features, again.plans, again.customers, again.subscriptions) == ([], [], [], [], [])
    assert [one.subscription for one in again.cancellations] == ["sub_1"]
    canceled = propose(billing(subscribed(cancel_at_period_end=True)), known, NOW)
    assert (canceled.cancellations, reasons(canceled)) == ([], {})


@pytest.mark.parametrize(
    ("known", "reason"),
    [
        ({"meters": {"api_calls": "MAX"}}, "that is a MAX"),
        ({"features": {"api_calls": FeatureFacts(None)}}, "has no meter"),
    ],
)
def test_a_meter_that_means_something_else_here_is_left(known: dict[str, Any], reason: str) -> None:
    proposal = propose(billing(), replace(NOTHING, **known), NOW)
    assert reason in reasons(proposal)["mtr_1"]
    assert "price_1Calls" in reasons(proposal)


def test_a_meter_of_the_last_value_is_left() -> None:
    proposal = propose(billing(meters=(a_billing_meter("mtr_1", "seats", "last"),)), NOTHING, NOW)
    assert "takes the last value" in reasons(proposal)["mtr_1"]


def test_a_plan_that_lets_nobody_in_is_told_of_and_a_grant_helps() -> None:
    bare = propose(billing(), NOTHING, NOW)
    assert any(key_of("price_1Pro") in note for note in bare.notes)
    known = replace(NOTHING, features={"requests": FeatureFacts("COUNT")}, grants=("requests",))
    granted = propose(billing(), known, NOW)
    assert granted.notes == []
    assert [card["key"] for card in granted.plans[0]["phases"][0]["rateCards"]][-1] == "requests"


def test_everything_is_carried_over_or_left_with_a_reason() -> None:
    """Nothing falls between the two."""
    unused = a_price("price_old", "prod_api", active=False)
    orphan = a_product("prod_empty", "Empty")
    once = a_price("price_once", "prod_api", type="one_time", recurring=None)
    all_of_it = billing(
        subscribed("sub_1"), subscribed("sub_2", "cus_2", status="unpaid"), subscribed("sub_3", "cus_gone"),
        prices=(PRO, CALLS, unused, once), products=(API, orphan),
    )  # fmt: skip
    proposal = propose(all_of_it, NOTHING, NOW)
    planned = " ".join(plan["metadata"]["stripe_prices"] for plan in proposal.plans)
    left = reasons(proposal)
    for price in all_of_it.prices:
        assert (f"{price.id}:" in planned) != (price.id in left), price.id
    for subscription in all_of_it.subscriptions:
        carried = [one.stripe_id for one in proposal.subscriptions]
        assert (subscription.id in carried) != (subscription.id in left), subscription.id
    assert {"prod_empty", "price_old", "price_once", "sub_2", "sub_3"} <= set(left)
    told = "\n".join(lines(proposal))
    for id_ in (*left, "sub_1", "cus_1", "cus_2"):
        assert id_ in told

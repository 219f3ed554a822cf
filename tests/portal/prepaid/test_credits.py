"""Credit that is granted: what it pays, in which order, when it ends, and what the books say of it."""

from datetime import timedelta
from typing import Any

import pytest

from builders.documents import faults
from builders.invoices import DAY, HOUR
from builders.subscriptions import APRIL
from builders.wallets import Counter

MINUTE = timedelta(minutes=1)
LATER = APRIL + 3 * DAY


# --- money -----------------------------------------------------------------------------------------------------------


def test_money_pays_a_fee_before_anything_is_asked_for(counter: Counter) -> None:
    counter.a_subscription("pro")
    counter.grant(amount="10.00", currency="USD", name="Welcome")
    counter.work()
    (invoice,) = counter.invoices()
    assert (invoice.total_minor, invoice.status) == (1900, "issued")
    (line,) = counter.client.get(f"/v1/invoices/{invoice.id}").json()["lines"]
    assert [(one["kind"], one["description"], one["amount"]) for one in line["reductions"]] == [
        ("credit", "Welcome", "10.00")
    ]
    assert counter.accounts() == {"promotion": 1000, "revenue": -2900, "receivable": 1900}


def test_what_covers_an_invoice_has_it_paid_at_once(counter: Counter) -> None:
    counter.a_subscription("pro")
    lot = counter.grant(amount="100.00")
    counter.work()
    (invoice,) = counter.invoices()
    assert (invoice.total_minor, invoice.status) == (0, "paid")
    assert counter.left(lot) == 7100
    assert counter.get("/wallet")["money"][0]["balance"] == "71.00"
    assert counter.accounts() == {"promotion": 10000, "revenue": -2900, "credit": -7100}


def test_it_burns_by_priority_then_by_expiry_then_by_age(counter: Counter) -> None:
    counter.a_subscription("pro")
    low = counter.grant(amount="5.00", priority=2, expiresAt=LATER.isoformat())
    old = counter.grant(amount="5.00")
    counter.clock.advance(timedelta(seconds=1))
    young = counter.grant(amount="25.00")
    ending = counter.grant(amount="5.00", expiresAt=(APRIL + 30 * DAY).isoformat())
    counter.work()
    assert [counter.left(one) for one in (ending, old, young, low)] == [0, 0, 600, 500]


@pytest.mark.parametrize(
    "fields",
    [{"currency": "EUR"}, {"effectiveAt": LATER.isoformat()}, {"expiresAt": (APRIL + HOUR).isoformat()}],
    ids=["another currency", "not yet", "not any more"],
)
def test_what_does_not_fit_or_is_not_in_force_pays_nothing(counter: Counter, fields: dict[str, str]) -> None:
    counter.a_subscription("pro")
    counter.grant(**({"amount": "10.00", "currency": "USD"} | fields))
    counter.clock.advance(HOUR)
    counter.work()
    assert [one.total_minor for one in counter.invoices()] == [2900]


def test_subscriptions_of_a_customer_share_it_and_take_it_once(counter: Counter) -> None:
    counter.client.patch("/v1/monetization-configuration", json={"multipleSubscriptionsEnabled": True})
    counter.a_subscription("pro")
    counter.a_subscription("max")
    counter.grant(amount="40.00")
    counter.work()
    assert sorted(one.total_minor for one in counter.invoices()) == [0, 1800]


def test_what_expires_lapses_and_what_was_taken_stays_taken(counter: Counter) -> None:
    counter.a_subscription("pro")
    lot = counter.grant(amount="30.00", expiration={"duration": "P1W", "count": 1})
    counter.work()
    counter.work(7 * DAY)
    (shown,) = counter.get("/credits")["items"]
    assert (shown["spent"], shown["lapsed"], shown["left"], shown["status"]) == ("29.00", "1.00", "0.00", "expired")
    assert counter.accounts() == {"promotion": 2900, "revenue": -2900}
    counter.work(DAY)
    assert counter.left(lot) == 0


def test_voiding_takes_what_is_left_once(counter: Counter) -> None:
    counter.a_subscription("pro")
    lot = counter.grant(amount="30.00")
    counter.work()
    for _ in range(2):
        answer = counter.send("POST", f"/credits/{lot}/void")
        assert (answer.status_code, answer.json()["status"]) == (200, "voided")
    assert counter.get("/wallet")["money"] == []
    counter.work()
    assert counter.accounts() == {"promotion": 2900, "revenue": -2900}
    actions = [entry["action"] for entry in counter.client.get("/v1/audit").json()["items"]]
    assert (actions.count("credit.grant"), actions.count("credit.void")) == (1, 1)


def test_a_void_invoice_gives_back_what_paid_it(counter: Counter) -> None:
    counter.a_subscription("pro")
    kept, ended = counter.grant(amount="5.00"), counter.grant(amount="4.00", expiresAt=LATER.isoformat())
    counter.work()
    counter.work(4 * DAY)
    (invoice,) = counter.invoices()
    assert invoice.total_minor == 2000
    assert counter.invoice(invoice.id, "void").status_code == 200
    assert counter.left(kept) == 500
    counter.work()
    assert counter.left(ended) == 0, "it had expired meanwhile, and lapses"
    assert counter.accounts() == {"promotion": 500, "credit": -500}


def test_an_invoice_paid_by_credit_is_replayed_to_the_byte(counter: Counter) -> None:
    counter.a_subscription("pro")
    counter.grant(amount="10.00")
    counter.work()
    (invoice,) = counter.invoices()
    assert counter.client.get(f"/v1/invoices/{invoice.id}/replay").json()["isIdentical"]


def test_a_grant_that_is_sent_twice_is_one(counter: Counter) -> None:
    counter.a_subscription("pro")
    document, headers = {"amount": "10.00"}, {"Idempotency-Key": "once"}
    first, second = (counter.send("POST", "/credits", document, headers=headers) for _ in range(2))
    assert first.json() == second.json()
    assert counter.get("/credits")["totalCount"] == 1


@pytest.mark.parametrize(
    ("document", "places"),
    [
        ({}, {""}),
        ({"amount": "1", "units": 1, "featureKey": "credits"}, {""}),
        ({"units": 5}, {""}),
        ({"amount": "1.00", "featureKey": "credits"}, {""}),
        ({"amount": "1.00", "subscriptionId": "x"}, {""}),
        ({"amount": "0.00"}, {"/amount"}),
        ({"amount": "-1"}, {"/amount"}),
        ({"amount": 5}, {"/amount"}),
        ({"amount": "0.001"}, {"/amount"}),
        ({"amount": "1", "currency": "XXY"}, {"/currency"}),
        ({"amount": "1", "priority": 0}, {"/priority"}),
        ({"amount": "1", "expiresAt": "2026-03-31T00:00:00Z"}, {"/expiresAt"}),
        ({"amount": "1", "effectiveAt": "2036-03-31T00:00:00Z"}, {"/effectiveAt"}),
        ({"amount": "1", "effectiveAt": "9999-12-31T00:00:00Z", "expiration": {"duration": "P1Y", "count": 1000}},
         {"/effectiveAt", "/expiresAt"}),
        ({"units": True, "featureKey": "credits"}, {"/units"}),
        ({"units": 1, "featureKey": "credits", "expiresAt": "2026-03-31T00:00:00Z"}, {"/expiresAt"}),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_its_place(counter: Counter, document: dict[str, Any], places: set[str]) -> None:
    counter.a_subscription()
    assert set(faults(counter.send("POST", "/credits", document))) == places
    assert counter.get("/credits")["totalCount"] == 0


def test_money_without_a_currency_needs_somebody_who_has_one(counter: Counter) -> None:
    counter.client.post("/v1/customers", json={"key": "nobody", "name": "Nobody"})
    answer = counter.send("POST", "/credits", {"amount": "1.00"}, "nobody")
    assert set(faults(answer)) == {"/currency"}


# --- units -----------------------------------------------------------------------------------------------------------


def test_units_are_the_limit_that_is_published(counter: Counter) -> None:
    row = counter.a_subscription()
    assert counter.limit(row) == 0
    counter.grant(units=500, featureKey="credits")
    counter.grant(units=70, featureKey="credits")
    assert counter.limit(row) == 570
    counter.use(row, counter.clock.now(), credits=100)
    assert counter.limit(row) == 570, "what is used is on the counter"
    (units,) = counter.get("/wallet")["units"]
    assert (units["balance"], units["usage"]) == (470, 100)


def test_units_may_be_granted_in_the_instant_in_which_the_subscription_begins(counter: Counter) -> None:
    counter.clock.instant = APRIL + timedelta(microseconds=1_234_567)
    row = counter.a_subscription()
    counter.grant(units=500, featureKey="credits")
    assert counter.limit(row) == 500


def test_no_reset_takes_units_nor_keeps_them_back(counter: Counter) -> None:
    row = counter.a_subscription()
    counter.grant(units=500, featureKey="credits")
    counter.use(row, counter.clock.now(), credits=100)
    for _ in range(14):
        assert counter.limit(row, counter.clock.now() + 35 * DAY) == 500
        counter.work(30 * DAY)
    assert counter.get("/wallet")["units"][0]["balance"] == 400


def test_where_there_are_resets_they_take_the_plans_units_and_not_those_that_were_paid_for(counter: Counter) -> None:
    row = counter.a_subscription("monthly")
    counter.grant(units=50, featureKey="credits")
    counter.invoice(counter.top_up(units=500, featureKey="credits")["invoiceId"], "pay")
    counter.use(row, APRIL + HOUR, credits=14)
    counter.clock.instant = APRIL + 30 * DAY + 2 * MINUTE
    assert counter.limit(row) == 10 + 46 + 500


def test_what_expires_lowers_the_limit_at_its_instant_with_nobody_there(counter: Counter) -> None:
    row = counter.a_subscription()
    counter.grant(units=500, featureKey="credits", expiresAt=LATER.isoformat())
    counter.grant(units=70, featureKey="credits")
    counter.use(row, APRIL, credits=100)
    assert counter.limit(row, LATER - timedelta(milliseconds=1)) == 570
    assert counter.limit(row, LATER) == 170


def test_late_usage_never_lowers_a_limit(counter: Counter) -> None:
    row = counter.a_subscription()
    counter.grant(units=500, featureKey="credits", expiresAt=LATER.isoformat())
    counter.grant(units=70, featureKey="credits")
    counter.use(row, APRIL, credits=100)
    counter.clock.instant = LATER + HOUR
    before = counter.limit(row)
    counter.use(row, APRIL + HOUR, credits=30)
    assert (before, counter.limit(row)) == (170, 200)


def test_units_are_voided_with_what_is_left(counter: Counter) -> None:
    row = counter.a_subscription()
    lot = counter.grant(units=500, featureKey="credits")
    counter.use(row, APRIL, credits=100)
    counter.clock.advance(MINUTE)
    assert counter.send("POST", f"/credits/{lot}/void").status_code == 200
    assert counter.limit(row) == 100
    assert counter.get("/wallet")["units"][0]["balance"] == 0


@pytest.mark.parametrize(
    ("document", "status", "code"),
    [
        ({"featureKey": "nothing"}, 404, "feature_not_found"),
        ({"featureKey": "api_requests"}, 409, "entitlement_not_metered"),
        ({"featureKey": "credits", "subscriptionId": "another"}, 404, "subscription_not_found"),
    ],
)
def test_units_of_what_the_plan_has_not_are_refused(
    counter: Counter, document: dict[str, str], status: int, code: str
) -> None:
    counter.a_subscription()
    answer = counter.send("POST", "/credits", {"units": 5} | document)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_units_need_a_subscription_and_of_several_one_that_is_named(counter: Counter) -> None:
    counter.client.post("/v1/customers", json={"key": "acme", "name": "Acme"})
    document = {"units": 5, "featureKey": "credits"}
    assert counter.send("POST", "/credits", document).json()["code"] == "no_active_subscription"
    counter.client.patch("/v1/monetization-configuration", json={"multipleSubscriptionsEnabled": True})
    first, second = counter.a_subscription(), counter.a_subscription("more_packs")
    assert counter.send("POST", "/credits", document).json()["code"] == "several_subscriptions"
    counter.grant(subscriptionId=second, **document)
    assert (counter.limit(first), counter.limit(second)) == (0, 5)


def test_credit_of_somebody_else_is_not_found(counter: Counter) -> None:
    counter.a_subscription()
    lot = counter.grant(units=5, featureKey="credits")
    counter.a_subscription(customer="other")
    answer = counter.send("POST", f"/credits/{lot}/void", customer="other")
    assert (answer.status_code, answer.json()["code"]) == (404, "credit_not_found")

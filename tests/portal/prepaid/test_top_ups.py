"""Credit that is bought, where invoices are paid by hand."""

from datetime import timedelta
from typing import Any

import pytest
from sqlmodel import col, select

from builders.documents import faults
from builders.invoices import DAY, HOUR
from builders.subscriptions import APRIL
from builders.wallets import Counter
from farebox_portal.db import transaction
from farebox_portal.invoicing import credit_notes
from farebox_portal.invoicing.tables import Invoice
from farebox_portal.usage.grant_rows import GrantRow
from farebox_portal.wallet import purchases
from farebox_portal.wallet.tables import CreditLot

MINUTE = timedelta(minutes=1)
UNITS = {"units": 2000, "featureKey": "credits"}


def status(counter: Counter) -> list[str]:
    return [one["status"] for one in counter.get("/wallet/top-ups")["items"]]


def test_there_is_nothing_to_use_before_it_is_paid_and_all_of_it_once_it_is(counter: Counter) -> None:
    row = counter.a_subscription()
    bought = counter.top_up(**UNITS)
    assert (bought["status"], bought.get("creditId"), counter.limit(row)) == ("pending", None, 0)
    assert counter.get("/wallet")["units"][0]["pending"] == 2000
    invoice = counter.client.get(f"/v1/invoices/{bought['invoiceId']}").json()
    assert (invoice["kind"], invoice["total"], invoice["status"]) == ("top_up", "20.00", "issued")
    assert [line["description"] for line in invoice["lines"]] == ["Prepaid credit: 2000 credits"]
    counter.invoice(bought["invoiceId"], "pay")
    assert (status(counter), counter.limit(row)) == (["paid"], 2000)
    assert counter.get("/wallet")["units"][0]["pending"] == 0
    assert counter.accounts() == {"cash": 2000, "credit": -2000}


def test_money_that_was_bought_pays_the_next_invoice_after_what_was_given(counter: Counter) -> None:
    counter.a_subscription("pro")
    bought = counter.top_up("50.00")
    counter.invoice(bought["invoiceId"], "pay")
    given = counter.grant(amount="10.00")
    counter.work()
    (paid,) = counter.get("/wallet/top-ups")["items"]
    assert (counter.left(given), counter.left(paid["creditId"])) == (0, 3100)
    assert counter.accounts() == {"cash": 5000, "promotion": 1000, "revenue": -2900, "credit": -3100}
    moved = [(one["debit"].partition(":")[0], one["credit"].partition(":")[0], one["amount"])
             for one in counter.get("/wallet/ledger")["items"]]  # fmt: skip
    assert moved == [
        ("credit", "revenue", "19.00"), ("credit", "revenue", "10.00"),
        ("promotion", "credit", "10.00"), ("receivable", "credit", "50.00"),
    ]  # fmt: skip


def test_a_payment_that_is_told_twice_delivers_once(counter: Counter) -> None:
    row = counter.a_subscription()
    bought = counter.top_up(**UNITS)
    counter.invoice(bought["invoiceId"], "pay")
    assert counter.invoice(bought["invoiceId"], "pay").status_code == 409
    with transaction(counter.engine) as session:
        purchases.deliver(session, bought["invoiceId"], 2000, counter.clock.now())
    assert counter.limit(row) == 2000


def test_nobodys_access_depends_on_a_top_up_that_is_not_paid(counter: Counter) -> None:
    row = counter.a_subscription()
    bought = counter.top_up(**UNITS)
    for verb in ("mark-uncollectible", None):
        subscription = counter.client.get(f"/v1/subscriptions/{row}").json()
        assert subscription["paymentStatus"] == "not_required"
        if verb:
            counter.invoice(bought["invoiceId"], verb)
    assert status(counter) == ["failed"]
    assert counter.accounts() == {}, "nothing is lost: the credit never was"


def test_one_that_was_given_up_and_is_paid_after_all_is_delivered(counter: Counter) -> None:
    row = counter.a_subscription()
    bought = counter.top_up(**UNITS)
    counter.invoice(bought["invoiceId"], "mark-uncollectible")
    counter.invoice(bought["invoiceId"], "pay")
    assert counter.limit(row) == 2000
    assert counter.accounts() == {"cash": 2000, "credit": -2000}


def test_one_that_is_void_is_canceled_and_not_made_again(counter: Counter) -> None:
    row = counter.a_subscription()
    bought = counter.top_up(**UNITS)
    again = counter.client.post(f"/v1/invoices/{bought['invoiceId']}/void", json={"rebill": True})
    assert (again.status_code, again.json()["code"]) == (409, "invoice_is_top_up")
    counter.invoice(bought["invoiceId"], "void")
    assert (status(counter), counter.limit(row), counter.accounts()) == (["canceled"], 0, {})


def test_it_expires_so_long_after_it_was_paid(counter: Counter) -> None:
    row = counter.a_subscription()
    bought = counter.top_up(**UNITS, expiration={"duration": "P1D", "count": 3})
    counter.work(10 * DAY)
    counter.invoice(bought["invoiceId"], "pay")
    ends = counter.clock.now() + 3 * DAY
    assert (counter.limit(row, ends - MINUTE), counter.limit(row, ends)) == (2000, 0)


def test_what_was_used_of_units_is_earned_and_what_expires_is_breakage(counter: Counter) -> None:
    row = counter.a_subscription()
    counter.invoice(counter.top_up(**UNITS, expiration={"duration": "P1D", "count": 3})["invoiceId"], "pay")
    counter.use(row, APRIL + HOUR, credits=333)
    counter.work(2 * HOUR)
    assert counter.accounts() == {"cash": 2000, "revenue": -333, "credit": -1667}
    counter.clock.instant = APRIL + 3 * DAY
    counter.work()
    counter.use(row, APRIL + 2 * DAY, credits=7)  # on its way when it expired
    counter.work(2 * MINUTE)
    assert counter.accounts() == {"cash": 2000, "revenue": -340, "breakage": -1660}
    counter.work(DAY)
    assert counter.accounts() == {"cash": 2000, "revenue": -340, "breakage": -1660}


def test_credit_that_is_used_up_is_earned_to_the_cent(counter: Counter) -> None:
    row = counter.a_subscription()
    counter.invoice(counter.top_up("10.00", units=3, featureKey="credits")["invoiceId"], "pay")
    earned = []
    for _ in range(3):
        counter.use(row, counter.clock.now(), credits=1)
        counter.work(HOUR)
        earned.append(-counter.accounts()["revenue"])
    assert earned == [333, 667, 1000]


def test_what_was_not_used_is_refunded_on_its_invoice(counter: Counter) -> None:
    row = counter.a_subscription()
    bought = counter.top_up(**UNITS)
    counter.invoice(bought["invoiceId"], "pay")
    refused = counter.client.post(
        f"/v1/invoices/{bought['invoiceId']}/credit-notes", json={"amount": "1", "reason": "x"}
    )
    assert (refused.status_code, refused.json()["code"]) == (409, "invoice_is_top_up")
    (credit,) = [one["creditId"] for one in counter.get("/wallet/top-ups")["items"]]
    counter.clock.advance(HOUR)
    assert counter.send("POST", f"/credits/{credit}/void", {"refund": True}).status_code == 200
    assert counter.limit(row) == 0
    counter.use(row, APRIL + MINUTE, credits=500)  # on its way when it was voided
    counter.work(2 * MINUTE)
    invoice = counter.client.get(f"/v1/invoices/{bought['invoiceId']}").json()
    assert (invoice["amountRefunded"], invoice["amountCredited"]) == ("15.00", "15.00")
    assert counter.accounts() == {"cash": 500, "revenue": -500}


def test_what_was_refunded_outside_takes_the_credit_with_it(counter: Counter) -> None:
    row = counter.a_subscription()
    for _ in range(2):
        counter.invoice(counter.top_up(**UNITS)["invoiceId"], "pay")
        counter.clock.advance(MINUTE)
    counter.use(row, counter.clock.now(), credits=500)
    counter.work(2 * MINUTE)
    with transaction(counter.engine) as session:
        first, second = session.exec(select(Invoice).order_by(col(Invoice.number)))
        credit_notes.adopt(session, first, 2000, "outside", counter.clock.now())
        credit_notes.adopt(session, second, 700, "outside", counter.clock.now())
    assert counter.limit(row) == 500 + 2000
    assert counter.accounts() == {"cash": 1300, "credit": -1300}, "what was used of the first was for nothing"


def test_what_was_given_for_nothing_is_not_refunded(counter: Counter) -> None:
    counter.a_subscription()
    lot = counter.grant(amount="5.00")
    answer = counter.send("POST", f"/credits/{lot}/void", {"refund": True})
    assert (answer.status_code, answer.json()["code"]) == (409, "credit_not_paid")
    assert counter.left(lot) == 500


def test_its_invoice_is_replayed_to_the_byte_and_has_a_page(counter: Counter) -> None:
    counter.a_subscription()
    bought = counter.top_up(**UNITS)
    at = f"/v1/invoices/{bought['invoiceId']}"
    assert counter.client.get(f"{at}/replay").json()["isIdentical"]
    assert "Prepaid credit: 2000 credits" in counter.client.get(f"{at}.html").text


def test_it_disturbs_no_invoice_of_a_period(counter: Counter) -> None:
    """Also one that is a draft by then."""
    row = counter.a_subscription("pro")
    counter.work()
    counter.clock.instant = APRIL + 30 * DAY + MINUTE
    counter.work()
    first, second = (counter.top_up("20.00") for _ in range(2))
    counter.use(row, APRIL + DAY, api_requests=1100)
    counter.work(2 * HOUR)
    kinds = {one.kind: (one.sequence, one.total_minor) for one in counter.invoices() if one.kind != "top_up"}
    assert kinds == {"start": (1, 2900), "period": (2, 3000)}
    for one in counter.invoices():
        assert counter.client.get(f"/v1/invoices/{one.id}/replay").json()["isIdentical"]
    assert first["invoiceId"] != second["invoiceId"]


def test_many_of_them_leave_room_for_what_an_operator_grants(counter: Counter) -> None:
    row = counter.a_subscription()
    for _ in range(51):
        counter.invoice(counter.top_up("1.00", units=1, featureKey="credits")["invoiceId"], "pay")
    counter.grant(units=9, featureKey="credits")
    assert counter.limit(row) == 60


def test_the_plan_may_have_lost_the_feature_by_the_time_it_is_paid(counter: Counter) -> None:
    row = counter.a_subscription()
    bought = counter.top_up(**UNITS)
    counter.client.post(f"/v1/subscriptions/{row}/change", json={"plan": {"key": "pro"}, "timing": "immediate"})
    assert counter.invoice(bought["invoiceId"], "pay").status_code == 200
    with transaction(counter.engine, read_only=True) as session:
        (lot,) = (session.get_one(CreditLot, one["creditId"]) for one in counter.get("/wallet/top-ups")["items"])
        assert session.get_one(GrantRow, lot.id).amount == 2000
    counter.work(HOUR)


def test_nothing_is_sold_to_a_subscription_that_has_not_begun_and_what_it_was_granted_goes_with_it(
    counter: Counter,
) -> None:
    counter.client.post("/v1/customers", json={"key": "acme", "name": "Acme"})
    order = {"plan": {"key": "packs"}, "customerKey": "acme", "timing": (APRIL + DAY).isoformat()}
    row = counter.client.post("/v1/subscriptions", json=order).json()["id"]
    counter.grant(units=5, featureKey="credits")
    for method, path, more in (("POST", "top-ups", {}), ("PUT", "auto-recharge", {"thresholdUnits": 1})):
        answer = counter.send(method, f"/wallet/{path}", {"amount": "5.00"} | UNITS | more)
        assert (answer.status_code, answer.json()["code"]) == (409, "subscription_not_started")
    assert counter.client.delete(f"/v1/subscriptions/{row}").status_code == 204
    assert counter.get("/credits")["items"] == []


def test_an_order_that_is_sent_twice_is_one(counter: Counter) -> None:
    counter.a_subscription()
    headers = {"Idempotency-Key": "once"}
    first, second = (
        counter.send("POST", "/wallet/top-ups", {"amount": "5.00"}, headers=headers).json() for _ in range(2)
    )
    assert first == second
    assert len(counter.invoices()) == 1


@pytest.mark.parametrize(
    ("document", "places"),
    [
        ({}, {"/amount"}),
        ({"amount": "0.49"}, {"/amount"}),
        ({"amount": "-5"}, {"/amount"}),
        ({"amount": "5.001"}, {"/amount"}),
        ({"amount": "5", "units": 5}, {""}),
        ({"amount": "5", "units": 0, "featureKey": "credits"}, {"/units"}),
        ({"amount": "5", "expiration": {"duration": "P1D"}}, {"/expiration/count"}),
        ({"amount": "5", "currency": "EUR"}, {"/currency"}),
    ],
)
def test_what_cannot_be_bought_is_refused_with_its_place(
    counter: Counter, document: dict[str, Any], places: set[str]
) -> None:
    counter.a_subscription()
    assert set(faults(counter.send("POST", "/wallet/top-ups", document))) == places
    assert counter.invoices() == []

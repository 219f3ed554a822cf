"""Money that goes back: by our credit notes, and in the provider's dashboard; never twice, and always in our books."""

from collections.abc import Iterator
from typing import Any

import pytest

from builders.payments import DAY, Shop
from builders.stripe_client import KEY
from farebox_portal.db import transaction
from farebox_portal.invoicing.verify import verify
from farebox_portal.standin.keys import PERMISSIONS


@pytest.fixture(autouse=True)
def the_books_hold(shop: Shop) -> Iterator[None]:
    """Every rule of money, in whatever a test has made of the books."""
    yield
    with transaction(shop.engine, read_only=True) as session:
        assert verify(session) == []


@pytest.fixture
def paid(shop: Shop) -> Shop:
    shop.a_customer()
    shop.a_subscription()
    shop.work()
    return shop


def give(shop: Shop, amount: str) -> dict[str, Any]:
    answer = shop.client.post(f"/v1/invoices/{shop.invoice().id}/credit-notes", json={"amount": amount, "reason": "x"})
    assert answer.status_code == 201, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


def refunded(shop: Shop) -> int:
    return sum(one["amount_refunded"] for one in shop.standin.books.all("charge"))


def refunds(shop: Shop) -> list[tuple[str, int]]:
    found = shop.client.get("/v1/payment-refunds").json()["items"]
    return [(one["status"], one["amountMinor"]) for one in found]


def outside(shop: Shop, amount: int) -> None:
    shop.standin.act("refund", invoice=shop.invoice().provider_id, amount=amount)


def test_what_a_credit_note_gives_back_is_refunded(paid: Shop) -> None:
    give(paid, "9.00")
    paid.work()
    paid.hear("charge.refunded")
    assert (refunded(paid), refunds(paid)) == (900, [("done", 900)])
    assert (paid.invoice().status, paid.invoice().refunded_minor) == ("paid", 900)
    assert len(paid.client.get(f"/v1/invoices/{paid.invoice().id}").json()["creditNotes"]) == 1


@pytest.mark.parametrize("mode", ["drop_before", "drop_after", "stored_500", "lock_timeout", "rate_limit"])
@pytest.mark.parametrize("hears", [False, True])
def test_whatever_goes_wrong_it_is_refunded_once(paid: Shop, mode: str, hears: bool) -> None:
    paid.standin.fault(mode, "POST /v1/credit_notes")
    give(paid, "9.00")
    paid.work()
    if hears:
        paid.hear("charge.refunded")
    for _ in range(4):
        paid.later(DAY / 2)
    assert (refunded(paid), paid.invoice().refunded_minor) == (900, 900)
    # A 500 says that it was not done: then an event that tells of it may be of anybody.
    assert refunds(paid) == [("outside" if hears and mode == "stored_500" else "done", 900)]


def test_what_was_refunded_in_the_dashboard_becomes_a_credit_note(paid: Shop) -> None:
    outside(paid, 1000)
    paid.hear("charge.refunded")
    outside(paid, 500)
    paid.hear("charge.refunded")
    for event in paid.client.get("/v1/payment-events").json()["items"]:
        paid.client.post(f"/v1/payment-events/{event['id']}/replay")
    paid.work()
    assert (refunded(paid), paid.invoice().refunded_minor, paid.invoice().credited_minor) == (1500, 1500, 1500)
    assert paid.collection().refunded_minor == 1500, "also when the first is heard of last"
    notes = paid.client.get(f"/v1/invoices/{paid.invoice().id}").json()["creditNotes"]
    assert sorted(one["refunded"] for one in notes) in (["10.00", "5.00"], ["15.00"])
    assert {status for status, _ in refunds(paid)} == {"outside"}


def test_a_key_that_may_not_refund_leaves_it_to_the_operator_and_stops_nothing(paid: Shop) -> None:
    paid.standin.control("keys", {"key": KEY, "permissions": list(PERMISSIONS)})
    give(paid, "9.00")
    paid.work()
    assert (refunded(paid), refunds(paid)) == (0, [("by_operator", 900)])
    assert paid.client.get("/v1/billing-readiness").json()["isReady"] is True
    outside(paid, 900)
    paid.hear("charge.refunded")
    assert (refunds(paid), paid.invoice().refunded_minor) == ([("outside", 900)], 900)


def test_whoever_was_quicker_in_the_dashboard_is_not_followed_by_a_second_refund(paid: Shop) -> None:
    paid.standin.fault("rate_limit", "POST /v1/credit_notes")
    give(paid, "9.00")
    paid.work()
    outside(paid, 900)
    paid.hear("charge.refunded")
    paid.later(DAY)
    assert (refunded(paid), refunds(paid), paid.invoice().refunded_minor) == (900, [("outside", 900)], 900)


def test_a_payment_that_is_disputed_cannot_be_refunded_and_an_operator_is_told_so(paid: Shop) -> None:
    paid.standin.act("dispute", invoice=paid.invoice().provider_id)
    give(paid, "9.00")
    paid.work()
    (found,) = paid.client.get("/v1/payment-refunds").json()["items"]
    assert (found["status"], found["fault"]) == ("by_operator", "charge_disputed")


def test_a_refund_in_the_dashboard_that_is_heard_of_before_ours_is_begun_is_the_only_one(paid: Shop) -> None:
    give(paid, "9.00")
    outside(paid, 900)
    paid.hear("charge.refunded")
    assert (refunded(paid), refunds(paid), paid.invoice().refunded_minor) == (900, [("outside", 900)], 900)
    assert paid.collection().refunded_minor == 900

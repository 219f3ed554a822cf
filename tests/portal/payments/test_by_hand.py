"""Customers who pay by bank transfer beside a provider: issued, due, paid in parts, refused when it is too late."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from builders.payments import DAY, Shop
from builders.subscriptions import APRIL
from farebox_portal.db import transaction
from farebox_portal.invoicing.actions import mark_overdue
from farebox_portal.invoicing.verify import verify


@pytest.fixture(autouse=True)
def the_books_hold(shop: Shop) -> Iterator[None]:
    """Every rule of money, in whatever a test has made of the books."""
    yield
    with transaction(shop.engine, read_only=True) as session:
        assert verify(session) == []


MAY = datetime(2026, 5, 1, tzinfo=APRIL.tzinfo)


def pay(shop: Shop, **said: Any) -> Any:
    return shop.client.post(f"/v1/invoices/{shop.invoice().id}/pay", json=said)


def transfers(shop: Shop) -> str:
    shop.a_customer(card=None, metadata={"payment_provider": "manual"})
    id_ = shop.a_subscription()
    shop.work()
    return id_


def test_a_transfer_is_waited_for_until_it_is_due_and_then_for_the_days_of_grace(shop: Shop) -> None:
    id_ = transfers(shop)
    invoice = shop.client.get(f"/v1/invoices/{shop.invoice().id}").json()
    assert (invoice["status"], invoice["provider"], invoice["dueAt"]) == (
        "issued", {"name": "manual"}, "2026-05-01T00:00:00Z",
    )  # fmt: skip
    assert shop.standing(id_) == ("pending", None), "nothing failed, and nobody is refused"
    shop.clock.instant = MAY
    with transaction(shop.engine) as session:
        mark_overdue(session, MAY)
    assert shop.standing(id_) == ("failed", MAY + 3 * DAY)
    assert pay(shop, reference="SEPA 4711").json()["status"] == "paid"
    assert shop.standing(id_)[0] != "failed"
    told = shop.client.get("/v1/audit", params={"objectId": shop.invoices()[0].id}).json()["items"]
    assert {"reference": "SEPA 4711"}.items() <= next(one for one in told if one["action"] == "invoice.pay")[
        "after"
    ].items()
    assert shop.there() == [], "the provider never heard of it"


def test_what_comes_in_parts_is_paid_when_the_last_one_has_come(shop: Shop) -> None:
    transfers(shop)
    first = pay(shop, amount="9.00").json()
    assert (first["status"], first["amountPaid"], first["amountDue"]) == ("issued", "9.00", "20.00")
    too_much = pay(shop, amount="20.01")
    assert (too_much.status_code, too_much.json()["errors"]) == (
        422, [{"pointer": "/amount", "detail": "only 20.00 is outstanding"}],
    )  # fmt: skip
    assert [pay(shop, amount=amount).status_code for amount in ("0", "1.005")] == [422, 422]
    last = pay(shop, amount="20.00").json()
    assert (last["status"], last["amountPaid"], last["amountDue"]) == ("paid", "29.00", "0.00")
    assert pay(shop).status_code == 409


def test_the_provider_takes_only_what_was_not_transferred(shop: Shop) -> None:
    shop.a_customer()
    shop.a_subscription()
    shop.standin.act("fail_next", decline_code="insufficient_funds")
    shop.work()
    assert pay(shop, amount="9.00").json()["status"] == "issued"
    shop.later(timedelta(days=1, minutes=1))
    assert (shop.invoice().status, shop.charges()) == ("paid", [2000])

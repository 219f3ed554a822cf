"""Every step to the provider goes wrong in every way; in the end there is one invoice, paid once, to the cent."""

import time
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from sqlmodel import select

from builders.payments import Shop
from builders.stripe_client import KEY, Checked
from farebox_portal.db import transaction
from farebox_portal.invoicing.tables import LedgerEntry
from farebox_portal.payments.stripe_gateway import StripeGateway

FAULTS: tuple[dict[str, Any], ...] = (
    {"mode": "drop_before"}, {"mode": "drop_after"}, {"mode": "late", "ms": 500}, {"mode": "stored_500"},
    {"mode": "stored_500", "effect": False}, {"mode": "bad_gateway"},
    {"mode": "lock_timeout"}, {"mode": "rate_limit"}, {"mode": "conflict_409"},
)  # fmt: skip
STEPS = {
    "look": "GET /v1/invoices",
    "create": "POST /v1/invoices",
    "line": "POST /v1/invoiceitems",
    "compare": "GET /v1/invoices/*/lines",
    "finalize": "POST /v1/invoices/*/finalize",
    "pay": "POST /v1/invoices/*/pay",
}
TIMEOUT_S = 0.25  # less than what is late takes


def has_card(shop: Shop, customer: str) -> bool:
    return shop.payer(customer).method_id is not None


def impatient(shop: Shop) -> None:
    http = Checked(shop.http.contract, TIMEOUT_S)
    shop.till = replace(shop.till, gateway=StripeGateway(KEY, shop.standin.url, http_client=http))


def cash(shop: Shop) -> int:
    with transaction(shop.engine, read_only=True) as session:
        return sum(
            (entry.debit == "cash") * entry.amount_minor - (entry.credit == "cash") * entry.amount_minor
            for entry in session.exec(select(LedgerEntry))
        )


@pytest.mark.parametrize("step", STEPS)
def test_whatever_goes_wrong_there_is_one_invoice_with_the_same_lines_and_one_payment(bundle: Shop, step: str) -> None:
    bundle.client.patch("/v1/monetization-configuration", json={"multipleSubscriptionsEnabled": True})
    bundle.a_customer()
    impatient(bundle)
    for number, fault in enumerate(FAULTS, start=1):
        bundle.a_subscription(plan=f"bundle_{number}")
        bundle.standin.fault(match=STEPS[step], nth=2 if step == "line" else 1, **fault)
        bundle.until(lambda: all(one.state == "done" for one in bundle.collections()))
        assert bundle.standin.control("faults")["faults"] == [], "the fault was not met"
        assert len(bundle.collections()) == number, fault
        assert [one[1:] for one in bundle.there()] == [("paid", 3401, (2900, 501))] * number, fault
        assert bundle.charges() == [3401] * number, fault
    assert [one.status for one in bundle.invoices()] == ["paid"] * len(FAULTS)
    assert cash(bundle) == 3401 * len(FAULTS)
    assert len({id_ for id_, *_ in bundle.there()}) == len(FAULTS)


@pytest.mark.parametrize("match", ["POST /v1/customers", "POST /v1/checkout/sessions", "POST /v1/customers/*"])
def test_whatever_goes_wrong_a_customer_is_made_once_and_its_card_is_found(shop: Shop, match: str) -> None:
    for number, fault in enumerate(FAULTS):
        key = f"customer-{number}"
        customer = shop.a_customer(key, card=None)
        shop.standin.fault(match=match, **fault)
        link = shop.order(key).json()["checkoutUrl"].removeprefix(shop.settings.public_url)
        for _ in range(100):
            answer = shop.client.get(link)
            if answer.status_code == 303:
                break
            assert answer.status_code == 503
            time.sleep(0.02)
        session = answer.headers["location"].rpartition("/")[2]
        shop.standin.act("complete_checkout", session=session)
        shop.client.get("/checkout/done", params={"session": session})
        shop.until(partial(has_card, shop, customer))
        shop.standin.control("faults", method="DELETE")
        assert shop.order(key).status_code == 201, fault
    assert len(list(shop.standin.books.all("customer"))) == len(FAULTS)


def test_a_provider_that_is_away_for_a_day_is_nobodys_failure(bundle: Shop) -> None:
    bundle.a_customer()
    id_ = bundle.a_subscription(plan="bundle")
    bundle.standin.fault("drop_before", times=1000)
    for _ in range(30):
        bundle.later(timedelta(hours=1))
    row = bundle.collection()
    assert (row.state, row.failed_at, row.tries) == ("waiting", None, 0)
    assert bundle.subscription(id_).payment_status == "pending"
    bundle.standin.control("faults", method="DELETE")
    bundle.until(lambda: bundle.collection().state == "done")
    assert bundle.charges() == [3401]


def test_nothing_of_what_stripe_would_bill_by_itself_is_ever_made(bundle: Shop) -> None:
    bundle.a_customer()
    bundle.a_subscription(plan="bundle")
    bundle.work()
    paths = {entry["path"] for entry in bundle.standin.log()}
    assert any("/v1/invoices" in path for path in paths)
    assert not [path for path in paths if any(word in path for word in ("product", "price", "subscription", "plan"))]

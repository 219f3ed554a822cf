"""Several at once, on both databases: each cent is taken once, and what makes something by itself makes it once."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from builders.databases import DIALECTS
from builders.invoices import DAY, TERMS
from builders.wallets import Counter
from farebox_portal.db import transaction
from farebox_portal.invoicing import actions
from farebox_portal.invoicing.close import close_slice
from farebox_portal.invoicing.tables import Invoice
from farebox_portal.prepaid.booking import book_slice
from farebox_portal.prepaid.recharge import recharge, recharge_slice

RULE = {"amount": "20.00", "units": 2000, "featureKey": "credits", "thresholdUnits": 100}
THREADS = 4


@pytest.fixture(scope="session", params=DIALECTS)
def dialect(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def at_once(work: Any) -> None:
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda _: work(), range(THREADS)))


def test_jobs_that_run_at_once_order_one_recharge(counter: Counter) -> None:
    counter.a_subscription()
    assert counter.send("PUT", "/wallet/auto-recharge", RULE).status_code == 200
    now = counter.clock.now()

    def looked_at_before_the_others_did() -> None:
        with transaction(counter.engine) as session:
            customer = counter.client.get("/v1/customers/acme").json()["id"]
            recharge(session, counter.settings, customer, now)

    at_once(looked_at_before_the_others_did)
    at_once(lambda: recharge_slice(counter.engine, counter.settings, now))
    assert len(counter.invoices()) == 1


def test_payments_that_are_told_at_once_deliver_once(counter: Counter) -> None:
    row = counter.a_subscription()
    bought = counter.top_up("20.00", units=2000, featureKey="credits")
    at_once(lambda: counter.invoice(bought["invoiceId"], "pay"))
    assert counter.limit(row) == 2000
    assert counter.accounts() == {"cash": 2000, "credit": -2000}


def test_runs_at_once_take_each_cent_once_and_lapse_it_once(counter: Counter) -> None:
    counter.client.patch("/v1/monetization-configuration", json={"multipleSubscriptionsEnabled": True})
    for customer in ("acme", "other"):
        counter.a_subscription("pro", customer)
        counter.a_subscription("max", customer)
        counter.grant(customer, amount="60.00", expiration={"duration": "P1D", "count": 1})
    now = counter.clock.now()
    at_once(lambda: close_slice(counter.engine, now, TERMS))
    while close_slice(counter.engine, now, TERMS):
        pass  # a run that met only customers who were locked leaves
    assert [one.total_minor for one in counter.invoices()] == [0] * 4
    now += DAY
    at_once(lambda: book_slice(counter.engine, now))
    while book_slice(counter.engine, now):
        pass
    assert counter.accounts() == {"promotion": 11600, "revenue": -11600}


def test_a_grant_and_an_invoice_at_once_agree(counter: Counter) -> None:
    """Whoever is first: what was there when the invoice was issued has paid it, and nothing is lost."""
    counter.a_subscription("pro")
    now = counter.clock.now()
    at_once(lambda: (counter.grant(amount="5.00"), close_slice(counter.engine, now, TERMS)))
    while close_slice(counter.engine, now, TERMS):
        pass
    (invoice,) = counter.invoices()
    taken = 2900 - invoice.total_minor
    assert counter.accounts().get("credit", 0) == taken - 500 * THREADS
    with transaction(counter.engine) as session:
        actions.void(session, session.get_one(Invoice, invoice.id), TERMS, now)
    assert counter.accounts() == {"promotion": 500 * THREADS, "credit": -500 * THREADS}

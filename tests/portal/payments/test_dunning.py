"""What failed, and who goes on with it: the payer on the provider's page, or the provider by itself."""

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from builders.payments import DAY, Shop
from builders.stripe_contract import Contract
from builders.stripe_flows import ASKS, DECLINED_WHEN_CHARGED, PAYS
from builders.subscriptions import APRIL
from farebox_portal.db import transaction
from farebox_portal.invoicing.terms import terms_of
from farebox_portal.payments import events
from farebox_portal.payments.work import Till
from rig.standin import Standin

MAY = datetime(2026, 5, 1, tzinfo=APRIL.tzinfo)
HOUR = timedelta(hours=1)


def shown(shop: Shop, id_: str) -> tuple[str, str | None]:
    document = shop.client.get(f"/v1/subscriptions/{id_}").json()
    usage = shop.client.get(f"/v1/subscriptions/{id_}/usage").json()["paymentStatus"]
    assert (usage["status"], usage.get("url")) == (document["paymentStatus"], document.get("paymentUrl"))
    return document["paymentStatus"], document.get("paymentUrl")


@pytest.mark.parametrize("is_renewal", [False, True])
def test_a_payment_that_its_payer_has_to_confirm_is_shown_with_the_page_for_it(shop: Shop, is_renewal: bool) -> None:
    shop.a_customer(card=PAYS if is_renewal else ASKS)
    id_ = shop.a_subscription()
    shop.work()
    if is_renewal:
        shop.new_card("acme", ASKS)
        shop.clock.instant = MAY + HOUR
        shop.work()
    invoice = shop.invoices()[-1]
    told: dict[str, Any] = shop.client.get(f"/v1/invoices/{invoice.id}").json()["payment"]
    url = told["url"]
    assert (told["status"], url.startswith(f"{shop.standin.url}/pay/invoice/")) == ("action_required", True)
    assert shown(shop, id_) == ("failed", url)
    assert shop.collections()[-1].pay_at is None, "it is never tried again by itself"

    shop.standin.act("pay_invoice", invoice=invoice.provider_id, card=ASKS, authenticated=True)
    shop.hear("invoice.paid")
    assert shown(shop, id_) == ("paid", None)
    assert "payment" not in shop.client.get(f"/v1/invoices/{invoice.id}").json()


@pytest.fixture
def theirs(engine: Engine, tmp_path: Path, standin: Standin, contract: Contract) -> Shop:
    """Stripe tries again, in an installation that says so."""
    shop = Shop(engine, tmp_path, standin, contract, FAREBOX_DUNNING="stripe")
    shop.till = Till(engine, shop.gateway, terms_of(shop.settings))
    shop.connect()
    shop.a_customer()
    shop.a_subscription()
    shop.work()
    shop.new_card("acme", DECLINED_WHEN_CHARGED)
    shop.clock.instant = MAY + HOUR
    shop.work()
    return shop


def pays(shop: Shop) -> int:
    return sum(one["method"] == "POST" and one["path"].endswith("/pay") for one in shop.standin.log())


def test_where_stripe_tries_again_we_do_not(theirs: Shop) -> None:
    id_ = theirs.invoices()[0].subscription_id
    assert theirs.standing(id_) == ("failed", MAY + HOUR + 3 * DAY), "the days of grace are ours all the same"
    before = pays(theirs)
    for _ in range(10):
        theirs.later(DAY)
    assert (pays(theirs), theirs.invoices()[1].status) == (before, "issued")
    updates = [one for one in theirs.operations() if one.step.startswith("retries")]
    assert [one.request for one in updates] == [{"id": theirs.invoices()[1].provider_id}]
    (there,) = theirs.standin.books.all("invoice", id=theirs.invoices()[1].provider_id)
    assert there["auto_advance"] is True

    (customer,) = theirs.standin.books.all("customer")
    methods = list(theirs.standin.books.all("payment_method", customer=customer["id"]))
    for method in methods:
        method["_number"] = PAYS  # the bank has made its peace with the card
        theirs.standin.books.save(method)
    theirs.standin.advance(8 * 86_400)
    theirs.hear("invoice.paid")
    assert (theirs.invoices()[1].status, theirs.standing(id_), pays(theirs)) == ("paid", ("paid", None), before)


def test_what_stripe_gives_up_is_given_up(theirs: Shop) -> None:
    theirs.gateway.send("uncollectible", {"id": theirs.invoices()[1].provider_id}, "as the dashboard says")
    theirs.hear("invoice.marked_uncollectible")
    assert theirs.invoices()[1].status == "uncollectible"
    assert theirs.standing(theirs.invoices()[0].subscription_id)[0] == "uncollectible"


def test_a_new_card_is_tried_at_once_whoever_tries_else(theirs: Shop) -> None:
    theirs.new_card("acme", PAYS)
    theirs.hear("payment_method.attached")
    assert theirs.invoices()[1].status == "paid"


def test_a_card_that_its_bank_has_renewed_is_tried_at_once(shop: Shop) -> None:
    shop.a_customer(card=PAYS)
    shop.a_subscription()
    shop.standin.act("fail_next", decline_code="insufficient_funds")
    shop.work()
    assert shop.invoice().status == "issued"
    (method,) = shop.standin.books.all("payment_method")
    thing = shop.standin.books.show(method)
    event = {"id": "evt_renewed", "object": "event", "type": "payment_method.automatically_updated"}
    body = json.dumps(event | {"data": {"object": thing}}).encode()
    with transaction(shop.engine) as session:
        events.store(session, shop.gateway.hint(body), body, shop.clock.now())
    shop.work()
    assert shop.invoice().status == "paid"

"""Credit that is bought through the provider: it is there when the money is, and not before."""

from datetime import timedelta
from typing import Any

import pytest
from sqlmodel import select

from builders.payments import DAY, Shop
from builders.portal import a_card, a_feature, a_meter, a_plan
from builders.stripe_flows import DECLINED_WHEN_CHARGED, PAYS
from builders.wallets import LASTING
from farebox_portal.db import transaction
from farebox_portal.invoicing import ledger, replay
from farebox_portal.invoicing.tables import Invoice, LedgerEntry
from farebox_portal.payments import account
from farebox_portal.payments.payers import refresh
from farebox_portal.prepaid.booking import book_slice
from farebox_portal.prepaid.recharge import recharge_slice

UNITS: dict[str, Any] = {"amount": "9.99", "units": 1000, "featureKey": "credits"}
RULE = UNITS | {"thresholdUnits": 100}


@pytest.fixture
def packs(shop: Shop) -> Shop:
    """Sells `packs`, which is free and allows nothing that was not paid for."""
    with transaction(shop.engine) as session:
        a_meter(session, "credits")
        a_feature(session, "credits", "credits")
        a_plan(session, a_card("credits", entitlementTemplate=LASTING), key="packs")
    return shop


def balance(shop: Shop) -> int:
    units = shop.client.get("/v1/customers/acme/wallet").json()["units"]
    return int(units[0]["balance"]) if units else 0


def recharge(shop: Shop) -> None:
    shop.clock.advance(timedelta(seconds=2))
    recharge_slice(shop.engine, shop.settings, shop.clock.now())
    shop.work()


def rule(shop: Shop) -> str:
    return str(shop.client.get("/v1/customers/acme/wallet/auto-recharge").json()["status"])


def credit_account(shop: Shop) -> int:
    with transaction(shop.engine, read_only=True) as session:
        found = ledger.balances(session.exec(select(LedgerEntry)))
    assert sum(found.values()) == 0
    return -sum(total for (account, _), total in found.items() if account.startswith("credit:"))


def test_without_a_card_nothing_is_ordered_and_with_one_it_is_paid_and_there(packs: Shop) -> None:
    packs.a_customer(card=None)
    packs.a_subscription(plan="packs")
    refused = packs.client.post("/v1/customers/acme/wallet/top-ups", json=UNITS)
    assert (refused.status_code, refused.json()["code"]) == (409, "payment_method_required")
    assert packs.invoices() == []
    session = packs.open_checkout(refused.json()["checkoutUrl"])
    packs.standin.act("complete_checkout", session=session, card=PAYS)
    packs.client.get("/checkout/done", params={"session": session})
    assert packs.client.post("/v1/customers/acme/wallet/top-ups", json=UNITS).status_code == 201
    packs.work()
    assert (packs.invoice().status, packs.charges(), balance(packs)) == ("paid", [999], 1000)
    (bought,) = packs.client.get("/v1/customers/acme/wallet/top-ups").json()["items"]
    assert bought["status"] == "paid"
    assert bought["invoiceUrl"].startswith(packs.standin.url)


def test_a_recharge_that_is_declined_is_tried_on_its_days_alone_and_then_given_up(packs: Shop) -> None:
    packs.a_customer(card=DECLINED_WHEN_CHARGED)
    packs.a_subscription(plan="packs")
    packs.client.put("/v1/customers/acme/wallet/auto-recharge", json=RULE)
    recharge(packs)
    assert (rule(packs), balance(packs), packs.collection().tries) == ("failing", 0, 1)
    for days, tries, found in ((1, 2, "failing"), (2, 3, "failing"), (2, 4, "failing"), (2, 5, "payment_failed")):
        packs.clock.advance(days * DAY)
        recharge(packs)
        assert (packs.collection().tries, rule(packs)) == (tries, found)
    packs.clock.advance(30 * DAY)
    recharge(packs)
    assert (packs.invoice().status, credit_account(packs), packs.charges()) == ("uncollectible", 0, [])


def test_another_card_pays_what_waits_at_once_and_only_that(packs: Shop) -> None:
    customer = packs.a_customer(card=DECLINED_WHEN_CHARGED)
    packs.a_subscription(plan="packs")
    packs.client.put("/v1/customers/acme/wallet/auto-recharge", json=RULE)
    recharge(packs)
    packs.new_card("acme", PAYS)
    with transaction(packs.engine, read_only=True) as session:
        known = account.connected(session)
    assert known is not None
    refresh(packs.engine, packs.gateway, known, customer, packs.clock.now())  # as its webhook has it done
    recharge(packs)
    assert (balance(packs), rule(packs), packs.charges()) == (1000, "idle", [999])


@pytest.mark.parametrize(("behavior", "charged", "worth"), [("exclusive", 1199, 999), ("inclusive", 999, 832)])
def test_units_are_taxed_when_they_are_bought_and_what_is_refunded_is_refunded_with_its_tax(
    packs: Shop, behavior: str, charged: int, worth: int
) -> None:
    (profile,) = packs.client.get("/v1/billing/profiles").json()["items"]
    workflow = {"tax": {"enabled": True}, "invoicing": {"defaultTaxConfig": {"behavior": behavior}}}
    packs.client.put(f"/v1/billing/profiles/{profile['id']}", json=profile | {"workflow": workflow})
    packs.a_customer(card=None)
    session = packs.open_checkout(packs.order().json()["checkoutUrl"])
    packs.standin.act("complete_checkout", session=session, address={"country": "AT"})
    packs.client.get("/checkout/done", params={"session": session})
    packs.a_subscription(plan="packs")
    money = packs.client.post("/v1/customers/acme/wallet/top-ups", json={"amount": "9.99"})
    assert (money.status_code, money.json()["code"]) == (409, "money_not_taxable")

    bought = packs.client.post("/v1/customers/acme/wallet/top-ups", json=UNITS).json()
    assert packs.invoice().status == "held"
    packs.work()
    assert (packs.invoice().status, packs.charges(), balance(packs)) == ("paid", [charged], 1000)
    assert credit_account(packs) == worth
    with transaction(packs.engine, read_only=True) as session_:
        invoice = session_.get_one(Invoice, bought["invoiceId"])
        assert replay.replay(session_, invoice).text == invoice.document
    (bought,) = packs.client.get("/v1/customers/acme/wallet/top-ups").json()["items"]
    packs.client.post(f"/v1/customers/acme/credits/{bought['creditId']}/void", json={"refund": True})
    packs.clock.advance(timedelta(minutes=2))
    book_slice(packs.engine, packs.clock.now())
    assert (packs.invoice().refunded_minor, credit_account(packs)) == (charged, 0)

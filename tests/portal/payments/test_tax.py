"""Tax, from the billing profile to what is frozen: off, best effort, strict; on top of prices and within them."""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from builders.payments import DAY, Shop
from builders.portal import a_plan
from builders.subscriptions import APRIL, a_fee
from farebox_portal.db import transaction
from farebox_portal.invoicing import replay
from farebox_portal.invoicing.tables import Invoice
from farebox_portal.invoicing.tax import TaxTerms, tax_terms
from farebox_portal.invoicing.verify import verify
from farebox_portal.payments import account
from farebox_portal.payments.payers import refresh
from farebox_portal.pricing.money import currency, to_stripe
from farebox_portal.standin.tax import RATES


@pytest.fixture(autouse=True)
def the_books_hold(shop: Shop) -> Iterator[None]:
    """Every rule of money, in whatever a test has made of the books."""
    yield
    with transaction(shop.engine, read_only=True) as session:
        assert verify(session) == []


def sold(shop: Shop, amount: str = "9.99", key: str = "taxed", **config: Any) -> None:
    with transaction(shop.engine) as session:
        a_plan(session, a_fee(amount, taxConfig=config or None), key=key)


def taxed(shop: Shop, *, enforced: bool = False, behavior: str | None = None) -> None:
    """The default profile has tax worked out from now on."""
    (profile,) = shop.client.get("/v1/billing/profiles").json()["items"]
    workflow = {"tax": {"enabled": True, "enforced": enforced}}
    if behavior:
        workflow["invoicing"] = {"defaultTaxConfig": {"behavior": behavior}}
    answer = shop.client.put(f"/v1/billing/profiles/{profile['id']}", json=profile | {"workflow": workflow})
    assert answer.status_code == 200, answer.text


def from_(shop: Shop, country: str | None, key: str = "acme") -> None:
    """A customer with a card, at home there."""
    shop.a_customer(key, card=None)
    refused = shop.order(key)
    session = shop.open_checkout(refused.json()["checkoutUrl"])
    address = {"country": country} if country else {}
    shop.standin.act("complete_checkout", session=session, address=address)
    shop.client.get("/checkout/done", params={"session": session})


def is_replayed(shop: Shop, invoice: Invoice) -> bool:
    with transaction(shop.engine, read_only=True) as session:
        found = session.get_one(Invoice, invoice.id)
        return replay.replay(session, found).text == found.document


@pytest.mark.parametrize(("behavior", "total", "tax"), [("exclusive", 1199, 200), ("inclusive", 999, 167)])
def test_tax_comes_on_top_of_a_price_or_is_within_it(shop: Shop, behavior: str, total: int, tax: int) -> None:
    taxed(shop)
    sold(shop, behavior=behavior, stripe={"code": "txcd_10103001"})
    from_(shop, "AT")
    shop.a_subscription(plan="taxed")
    shop.work()

    invoice = shop.invoice()
    assert (invoice.status, invoice.subtotal_minor, invoice.tax_minor, invoice.total_minor) == ("paid", 999, tax, total)
    assert shop.charges() == [total]
    shown = shop.client.get(f"/v1/invoices/{invoice.id}").json()
    assert shown["automaticTax"] == {"status": "complete"}
    assert shown["lines"][0]["taxes"] == [
        {
            "name": "VAT", "amount": f"{tax / 100:.2f}", "isInclusive": behavior == "inclusive", "percentage": "20",
            "jurisdiction": "AT", "reason": "standard_rated",
        }
    ]  # fmt: skip
    assert json.loads(invoice.document or "")["tax"] == f"{tax / 100:.2f}"
    assert is_replayed(shop, invoice)
    page = shop.client.get(f"/v1/invoices/{invoice.id}.html").text
    assert ("of which VAT 20%" if behavior == "inclusive" else ">VAT 20%") in page


MAY = datetime(2026, 5, 1, tzinfo=APRIL.tzinfo)
HOUR = timedelta(hours=1)


def lost(shop: Shop) -> None:
    """The customer's address there is none any more, and nobody tells us."""
    (customer,) = (one for one in shop.standin.books.all("customer") if not one.get("deleted"))
    customer["address"] = None
    shop.standin.books.save(customer)


def a_subscriber(shop: Shop, *, enforced: bool = False) -> str:
    taxed(shop, enforced=enforced, behavior="exclusive")
    sold(shop)
    from_(shop, "AT")
    id_ = shop.a_subscription(plan="taxed")
    shop.work()
    return id_


def test_where_the_tax_cannot_be_worked_out_best_effort_bills_without_and_says_so(shop: Shop) -> None:
    id_ = a_subscriber(shop)
    lost(shop)
    shop.clock.instant = MAY + HOUR
    shop.work()

    first, second = shop.invoices()
    assert (second.status, second.tax_minor, second.total_minor) == ("paid", 0, 999)
    shown = shop.client.get(f"/v1/invoices/{second.id}").json()
    assert shown["automaticTax"] == {"status": "left_out", "fault": "customer_tax_location_invalid"}
    assert shop.standing(id_) == ("paid", None)
    assert (shop.charges(), is_replayed(shop, first), is_replayed(shop, second)) == ([1199, 999], True, True)
    assert [one["status"] for one in shop.standin.books.all("invoice")] == ["paid", "paid"], "no draft is left over"


def test_where_tax_is_enforced_the_invoice_is_held_until_it_can_be_worked_out(shop: Shop) -> None:
    id_ = a_subscriber(shop, enforced=True)
    lost(shop)
    shop.clock.instant = MAY + HOUR
    shop.work()
    _, held = shop.invoices()
    shown = shop.client.get(f"/v1/invoices/{held.id}").json()
    assert (shown["status"], [one["code"] for one in shown["reasons"]]) == ("held", ["tax_failed"])
    assert shop.standing(id_) == ("pending", None), "nobody is refused for what we cannot say"

    shop.later(2 * DAY)
    assert shop.invoices()[1].status == "held"
    (there,) = shop.standin.books.all("customer")
    shop.gateway.send("method", {"id": there["id"], "method": there["invoice_settings"]["default_payment_method"],
                                 "address": {"country": "FR"}}, "moved")  # fmt: skip
    shop.later(DAY)
    paid = shop.invoices()[1]
    assert (paid.status, paid.tax_minor, shop.charges()) == ("paid", 200, [1199, 1199])
    assert is_replayed(shop, paid)


def test_an_operator_may_have_it_issued_without_its_tax(shop: Shop) -> None:
    a_subscriber(shop, enforced=True)
    lost(shop)
    shop.clock.instant = MAY + HOUR
    shop.work()
    _, held = shop.invoices()
    assert shop.client.post(f"/v1/invoices/{held.id}/finalize").json()["status"] == "issued"
    shop.client.post(f"/v1/invoices/{held.id}/collect")
    shop.work()
    shown = shop.client.get(f"/v1/invoices/{held.id}").json()
    assert (shown["status"], shown["automaticTax"]) == ("paid", {"status": "left_out", "fault": "by_operator"})
    assert shop.charges() == [1199, 999]


@pytest.mark.parametrize(
    ("country", "code"),
    [("AT", None), ("BR", "tax_not_collecting"), (None, "tax_unrecognized_location")],
)
def test_where_tax_is_enforced_nothing_is_sold_without(shop: Shop, country: str | None, code: str | None) -> None:
    taxed(shop, enforced=True, behavior="exclusive")
    sold(shop)
    from_(shop, country)
    answer = shop.order(plan="taxed")
    assert answer.json().get("code") == code
    assert answer.status_code == (201 if code is None else 409)
    assert not any(word in answer.text for word in ("cus_", "acct_", "stripe"))
    if code is not None:
        assert shop.client.get("/v1/subscriptions").json()["items"] == [], "a refusal writes nothing"


def test_an_upgrade_too_is_refused_where_tax_is_enforced_and_not_known(shop: Shop) -> None:
    id_ = a_subscriber(shop, enforced=True)
    lost(shop)
    with transaction(shop.engine, read_only=True) as session:
        account_row = account.connected(session)
    assert account_row is not None
    refresh(shop.engine, shop.gateway, account_row, shop.invoices()[0].customer_id, shop.clock.now())
    answer = shop.client.post(f"/v1/subscriptions/{id_}/change", json={"plan": {"key": "max"}})
    assert (answer.status_code, answer.json()["code"]) == (409, "tax_unrecognized_location")
    assert shop.client.get(f"/v1/subscriptions/{id_}").json()["plan"]["key"] == "taxed"


def test_a_customer_for_whom_tax_is_known_by_now_is_found_by_the_clock(shop: Shop) -> None:
    taxed(shop, enforced=True, behavior="exclusive")
    sold(shop)
    from_(shop, "BR")
    RATES["BR"] = Decimal(17)  # a registration was added in the dashboard, and no event tells
    try:
        assert shop.order(plan="taxed").status_code == 409
        assert not shop.till.look_at_taxes(shop.clock.now())
        shop.clock.advance(HOUR)
        assert shop.till.look_at_taxes(shop.clock.now())
        assert shop.order(plan="taxed").status_code == 201
        assert not shop.till.look_at_taxes(shop.clock.now() + HOUR)
    finally:
        del RATES["BR"]


def test_nobody_calls_before_the_first_fee_is_paid_also_while_its_tax_is_unknown(shop: Shop) -> None:
    taxed(shop, behavior="exclusive")
    sold(shop)
    from_(shop, "AT")
    id_ = shop.a_subscription(plan="taxed")
    assert shop.invoice().status == "held"
    assert shop.standing(id_) == ("pending", APRIL)
    shop.work()
    assert shop.standing(id_) == ("paid", None)


@pytest.mark.parametrize(
    ("mode", "path"),
    [
        ("drop_after", "POST /v1/invoices"),
        ("drop_after", "POST /v1/invoiceitems"),
        ("drop_after", "POST /v1/invoices/*/finalize"),
        ("stored_500", "POST /v1/invoices/*/finalize"),
        ("drop_before", "GET /v1/invoices/*/lines"),
        ("drop_before", "POST /v1/tax/calculations"),
    ],
)
def test_whatever_is_lost_on_the_way_the_tax_that_is_charged_is_the_one_that_is_frozen(
    shop: Shop, mode: str, path: str
) -> None:
    taxed(shop, behavior="exclusive")
    sold(shop)
    from_(shop, "AT")
    shop.a_subscription(plan="taxed")
    shop.standin.fault(mode, path)
    shop.until(lambda: shop.invoice().status == "paid")
    invoice = shop.invoice()
    assert (invoice.tax_minor, invoice.total_minor, shop.charges()) == (200, 1199, [1199])
    assert len(shop.there()) == 1
    assert is_replayed(shop, invoice)


def test_taxes_that_do_not_come_to_what_is_charged_stop_it(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    taxed(shop, behavior="exclusive")
    sold(shop)
    from_(shop, "AT")
    monkeypatch.setattr(shop.gateway, "line_taxes", lambda _: {})
    shop.a_subscription(plan="taxed")
    shop.work()
    assert (shop.invoice().status, shop.charges()) == ("held", [])
    assert (shop.collection().state, shop.collection().fault) == ("stopped", "tax_differs")


def test_the_profile_says_it_where_neither_the_card_nor_the_plan_does() -> None:
    card = {"stripe": {"code": "txcd_10103001"}}
    plan, profile = {"behavior": "inclusive"}, {"behavior": "exclusive", "stripe": {"code": "txcd_99999999"}}
    assert tax_terms(card, plan, profile) == TaxTerms("inclusive", "txcd_10103001")
    assert tax_terms(None, None, profile) == TaxTerms("exclusive", "txcd_99999999")
    assert tax_terms(None, {}, None) == TaxTerms(None, None)


def test_a_behaviour_that_nobody_has_said_is_a_fault_of_tax_and_blocks_nobody(shop: Shop) -> None:
    taxed(shop)
    sold(shop)
    from_(shop, "AT")
    shop.a_subscription(plan="taxed")
    shop.work()
    invoice = shop.invoice()
    assert (invoice.status, invoice.tax_status, invoice.tax_fault) == ("paid", "left_out", "tax_settings")


def test_whoever_pays_by_hand_waits_for_no_tax(shop: Shop) -> None:
    taxed(shop, behavior="exclusive")
    sold(shop)
    shop.a_customer(card=None, metadata={"payment_provider": "manual"})
    shop.a_subscription(plan="taxed")
    shop.work()
    assert (shop.invoice().status, shop.invoice().tax_status) == ("issued", None)


@pytest.mark.parametrize(
    ("code", "amount", "total"),
    [("ISK", "1000", 1200), ("UGX", "5000", 6000), ("JPY", "999", 1199), ("KWD", "9.99", 11990), ("KWD", "1.01", 1210)],
)
def test_tax_is_charged_in_steps_of_the_currency(shop: Shop, code: str, amount: str, total: int) -> None:
    taxed(shop, behavior="exclusive")
    with transaction(shop.engine) as session:
        a_plan(session, a_fee(amount), key="abroad", currency=code)
    from_(shop, "AT")
    shop.a_subscription(plan="abroad")
    shop.work()
    invoice = shop.invoice()
    assert (invoice.status, invoice.total_minor) == ("paid", total)
    assert shop.charges() == [to_stripe(total, currency(code))]
    assert is_replayed(shop, invoice)


# --- before an invoice -----------------------------------------------------------------------------------------------


def test_purchase_details_say_what_will_be_charged_with_its_tax(shop: Shop) -> None:
    taxed(shop)
    sold(shop, behavior="exclusive")
    from_(shop, "AT")
    plan = shop.client.get("/v1/plans").json()["items"]
    id_ = next(one["id"] for one in plan if one["key"] == "taxed")
    shown = shop.client.get(f"/v1/plans/{id_}/purchase-details", params={"customerId": "acme"}).json()
    assert shown["key"] == "taxed"
    assert shown["tax"] == {
        "status": "complete", "currency": "USD", "subtotal": 999, "total": 1199, "taxAmount": 200,
        "taxInclusive": False,
        "taxes": [{"name": "VAT", "type": "exclusive", "amount": 200, "taxType": "vat", "percentage": "20",
                   "jurisdiction": "AT"}],
        "items": [{"description": shown["tax"]["items"][0]["description"], "amount": 999, "taxAmount": 200}],
    }  # fmt: skip
    abroad = shop.client.get(f"/v1/plans/{id_}/purchase-details", params={"country": "DE"}).json()["tax"]
    assert (abroad["total"], abroad["taxes"][0]["percentage"]) == (1189, "19")
    nowhere = shop.client.get(f"/v1/plans/{id_}/purchase-details").json()["tax"]
    assert (nowhere["status"], nowhere["fault"], nowhere["total"]) == ("failed", "location_unknown", 999)
    assert shop.client.get("/v1/subscriptions").json()["items"] == []
    assert shop.client.get("/v1/customers").json()["totalCount"] == 1


def test_the_preview_of_a_change_is_what_the_change_charges(shop: Shop) -> None:
    taxed(shop, behavior="exclusive")
    from_(shop, "AT")
    id_ = shop.a_subscription(plan="pro")
    shop.work()
    shop.clock.advance(15 * DAY)
    wanted = {"plan": {"key": "max"}}
    previewed = shop.client.post(f"/v1/subscriptions/{id_}/change/preview", json=wanted).json()["tax"]
    assert len(shop.invoices()) == 1
    assert shop.client.post(f"/v1/subscriptions/{id_}/change", json=wanted).status_code == 200
    shop.work()
    _, second = shop.invoices()
    assert (previewed["total"], previewed["taxAmount"]) == (second.total_minor, second.tax_minor)
    assert second.tax_minor > 0
    assert shop.charges()[1] == second.total_minor


def test_the_upcoming_invoice_has_its_tax(shop: Shop) -> None:
    id_ = a_subscriber(shop)
    shown = shop.client.get(f"/v1/subscriptions/{id_}/invoices/upcoming").json()
    assert (shown["total"], shown["tax"]["total"], shown["tax"]["taxAmount"]) == ("9.99", 1199, 200)
    shop.standin.fault("drop_before", "POST /v1/tax/calculations", times=9)
    shown = shop.client.get(f"/v1/subscriptions/{id_}/invoices/upcoming").json()
    assert (shown["tax"]["status"], shown["tax"]["total"]) == ("failed", 999)


def test_without_a_profile_that_wants_it_nobody_is_asked_for_tax(shop: Shop) -> None:
    sold(shop, behavior="exclusive")
    from_(shop, "AT")
    id_ = shop.a_subscription(plan="taxed")
    shop.work()
    assert "tax" not in shop.client.get(f"/v1/subscriptions/{id_}/invoices/upcoming").json()
    assert (shop.invoice().total_minor, shop.invoice().tax_status) == (999, None)
    asked = [one for one in shop.standin.log() if "tax" in one["path"]]
    assert len(asked) == 1, "the probe of the key alone"


# --- credit notes -----------------------------------------------------------------------------------------------------


def test_what_is_credited_before_it_is_paid_takes_its_share_of_the_tax_along(shop: Shop) -> None:
    taxed(shop, behavior="exclusive")
    sold(shop)
    from_(shop, "AT")
    shop.a_subscription(plan="taxed")
    shop.standin.act("fail_next", decline_code="insufficient_funds")
    shop.work()
    invoice = shop.invoice()
    note = shop.client.post(f"/v1/invoices/{invoice.id}/credit-notes", json={"amount": "5.00", "reason": "Outage"})
    assert (note.json()["tax"], note.json()["total"]) == ("1.00", "6.00")
    shop.client.post(f"/v1/invoices/{invoice.id}/collect")
    shop.work()
    assert (shop.invoice().status, shop.charges()) == ("paid", [599])
    assert sorted(one[1] for one in shop.there()) == ["paid", "void"]
    assert is_replayed(shop, shop.invoice())

"""An invoice on its way through the provider: closed, failed, tried again, given up; and what else may happen to it."""

from datetime import datetime, timedelta

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from builders.payments import DAY, Shop
from builders.portal import a_plan
from builders.stripe_flows import ASKS, DECLINED_WHEN_CHARGED
from builders.subscriptions import APRIL, a_fee
from farebox_portal.db import transaction
from farebox_portal.entitlements.compile import compile_account
from farebox_portal.entitlements.facts import read_facts
from farebox_portal.invoicing.tables import Invoice
from farebox_portal.payments.collect import wake

MAY = datetime(2026, 5, 1, tzinfo=APRIL.tzinfo)
HOUR = timedelta(hours=1)


def steps_of(shop: Shop, customer: str) -> list[tuple[int, str]]:
    """The access that is published: (days since the renewal, refusal)."""
    with transaction(shop.engine, read_only=True) as session:
        (facts,) = read_facts(session, [customer])
        (sold,) = compile_account(facts, shop.clock.now()).subscriptions
    renewed_ms = int((MAY + HOUR).timestamp() * 1000)
    return [((step.from_ms - renewed_ms) // 86_400_000, step.refusal) for step in sold.access]


@pytest.fixture
def renewing(shop: Shop) -> Shop:
    """Paid for April; the card declines from then on."""
    shop.a_customer()
    shop.a_subscription()
    shop.work()
    shop.new_card("acme", DECLINED_WHEN_CHARGED)
    shop.clock.instant = MAY + HOUR
    return shop


def id_of(shop: Shop) -> str:
    return shop.invoices()[0].subscription_id


def test_a_renewal_that_fails_is_borne_for_three_days_counted_from_the_failure(renewing: Shop) -> None:
    renewing.work()
    assert renewing.standing(id_of(renewing)) == ("failed", MAY + HOUR + 3 * DAY)
    assert steps_of(renewing, renewing.invoices()[0].customer_id) == [(-31, ""), (3, "payment_required")]


@pytest.mark.parametrize(
    ("customer", "plan", "configured", "days"),
    [
        (None, None, None, 3),
        (None, None, 5, 5),
        (None, "7", 5, 7),
        ("2", "7", 5, 2),
        ("0", "7", 5, 0),
    ],
)
def test_the_customers_word_on_grace_counts_before_the_plans_and_that_before_the_configurations(
    shop: Shop, customer: str | None, plan: str | None, configured: int | None, days: int
) -> None:
    key = "zuplo_max_payment_overdue_days"
    with transaction(shop.engine) as session:
        a_plan(session, a_fee("29"), key="borne", metadata_={key: plan} if plan else {})
    if configured is not None:
        answer = shop.client.patch("/v1/monetization-configuration", json={"maxPaymentOverdueDays": configured})
        assert answer.status_code == 200
    shop.a_customer(metadata={key: customer} if customer else {})
    id_ = shop.a_subscription(plan="borne")
    shop.work()
    shop.standin.act("fail_next", decline_code="insufficient_funds")
    shop.clock.instant = MAY
    shop.work()
    assert shop.standing(id_) == ("failed", MAY + days * DAY)
    may_call = shop.client.get("/v1/subscriptions").json()["items"][0]["paymentStatus"]
    assert may_call == "failed"


def test_it_is_tried_on_days_1_3_5_and_7_and_then_given_up_here_and_there(renewing: Shop) -> None:
    tried = []
    for _ in range(18):
        renewing.work()
        row = next(one for one in renewing.collections() if one.state != "done")
        if row.tries > len(tried):
            tried.append((renewing.clock.now() - MAY - HOUR) / DAY)
        renewing.clock.advance(DAY / 2)
    assert tried == [0, 1, 3, 5, 7]
    invoice = renewing.invoices()[1]
    assert (invoice.status, renewing.standing(id_of(renewing))[0]) == ("uncollectible", "uncollectible")
    assert sorted(one[1] for one in renewing.there()) == ["paid", "uncollectible"]
    assert steps_of(renewing, invoice.customer_id)[0] == (-31, "payment_required")


@pytest.mark.parametrize("after", [DAY / 2, 4 * DAY, 20 * DAY])
def test_a_payment_restores_access_at_once_whenever_it_comes(renewing: Shop, after: timedelta) -> None:
    renewing.work()
    for _ in range(5):
        renewing.later(after / 5)
    invoice = renewing.invoices()[1]
    done = renewing.standin.act("pay_invoice", invoice=invoice.provider_id, card="4242424242424242")
    assert done["error"] is None
    with transaction(renewing.engine) as session:
        wake(session, invoice.id, renewing.clock.now())  # as its webhook does
    renewing.work()
    assert renewing.invoices()[1].status == "paid"
    assert renewing.standing(id_of(renewing)) == ("paid", None)
    assert steps_of(renewing, invoice.customer_id) == [(-31, "")]


def test_a_payment_that_waits_for_its_payer_is_given_up_a_week_later_without_another_try(shop: Shop) -> None:
    shop.a_customer(card=ASKS)
    id_ = shop.a_subscription()
    for _ in range(9):
        shop.work()
        shop.clock.advance(DAY)
    assert (shop.collection().tries, shop.standing(id_)[0]) == (1, "uncollectible")
    assert [one[1] for one in shop.there()] == ["uncollectible"]


def test_a_portal_that_was_away_for_a_fortnight_tries_once_more_and_gives_up(renewing: Shop) -> None:
    renewing.work()
    renewing.later(14 * DAY)
    row = next(one for one in renewing.collections() if one.state != "done")
    assert (row.tries, renewing.invoices()[1].status) == (2, "uncollectible")


def test_an_invoice_that_was_paid_by_hand_is_called_off_at_the_provider(renewing: Shop) -> None:
    renewing.work()
    invoice = renewing.invoices()[1]
    renewing.clock.advance(HOUR)
    assert renewing.client.post(f"/v1/invoices/{invoice.id}/pay", json={}).status_code == 200
    renewing.work()
    assert sorted(one[1] for one in renewing.there()) == ["paid", "void"]
    assert renewing.charges() == [2900]


def test_an_invoice_that_was_voided_here_is_voided_there(renewing: Shop) -> None:
    renewing.work()
    invoice = renewing.invoices()[1]
    renewing.clock.advance(HOUR)
    assert renewing.client.post(f"/v1/invoices/{invoice.id}/void", json={}).status_code == 200
    renewing.work()
    assert sorted(one[1] for one in renewing.there()) == ["paid", "void"]
    assert renewing.standing(id_of(renewing)) == ("paid", None)


def test_a_customer_who_was_deleted_there_is_not_charged_until_a_card_is_left_again(shop: Shop) -> None:
    customer = shop.a_customer()
    id_ = shop.a_subscription()
    shop.work()
    before = shop.payer(customer).provider_id
    shop.standin.act("delete_customer", customer=before)
    shop.clock.instant = MAY + HOUR
    shop.work()
    assert shop.standing(id_)[0] == "failed"
    assert shop.charges() == [2900]
    assert shop.order("acme", "flat").status_code == 409
    link = shop.order("acme", "cents")
    assert link.status_code == 409


@pytest.mark.parametrize(
    ("meddle", "reason"),
    [("line", "lines_differ"), ("amount", "lines_differ"), ("twin", "several_invoices")],
)
def test_what_cannot_come_from_us_stops_it_before_it_is_final(shop: Shop, meddle: str, reason: str) -> None:
    customer = shop.a_customer()
    shop.a_subscription()
    shop.standin.fault("drop_before", "POST /v1/invoices/*/finalize", times=1)
    shop.work()
    row, instance = shop.collection(), shop.operations()[0].key.split(":")[1]
    v1 = shop.gateway._v1
    payer = shop.payer(customer).provider_id or ""
    if meddle == "twin":
        twin = {"fb_instance": instance, "fb_invoice_id": row.invoice_id}
        v1.invoices.create({"customer": payer, "currency": "usd", "metadata": twin})
        with transaction(shop.engine) as session:
            stored = session.get_one(type(row), row.invoice_id)
            stored.provider_id = None
            session.add(stored)
    elif meddle == "line":
        v1.invoice_items.create({"customer": payer, "invoice": row.provider_id or "", "amount": 1, "currency": "usd"})
    else:
        line = next(iter(shop.standin.books.all("line_item")))
        line["amount"] += 1
    shop.later(timedelta(minutes=6))
    assert (shop.collection().state, shop.collection().fault) == ("stopped", reason)
    assert {one[1] for one in shop.there()} == {"draft"}
    shown = shop.client.get("/v1/payment-collections", params={"status": "stopped"}).json()["items"]
    assert [(one["invoiceId"], one["fault"]) for one in shown] == [(row.invoice_id, reason)]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger_entries SET amount_minor = amount_minor - 1",
        "UPDATE invoice_lines SET amount_minor = amount_minor + 100",
        "UPDATE invoices SET total_minor = 0; UPDATE ledger_entries SET amount_minor = 0",
        "UPDATE invoices SET refunded_minor = 1, credited_minor = 1",
    ],
)
def test_an_invoice_that_does_not_add_up_is_not_charged(shop: Shop, statement: str) -> None:
    shop.a_customer()
    shop.a_subscription()
    with transaction(shop.engine) as session:
        for part in statement.split(";"):
            session.connection().execute(text(part))
    with capture_logs() as logged:
        shop.work()
    row = shop.collection()
    assert shop.charges() == []
    assert shop.there() == []
    if "total_minor = 0" not in statement:  # that is nothing to charge anyway
        assert (row.state, row.fault) == ("stopped", "arithmetic")
        assert [line["log_level"] for line in logged if line["event"] == "money_fault"] == ["error"]


def test_what_was_stopped_goes_on_when_an_operator_says_so(shop: Shop) -> None:
    customer = shop.a_customer()
    shop.a_subscription()
    shop.standin.fault("drop_before", "POST /v1/invoices/*/finalize", times=1)
    shop.work()
    row = shop.collection()
    v1 = shop.gateway._v1
    item = v1.invoice_items.create(
        {"customer": shop.payer(customer).provider_id or "", "invoice": row.provider_id or "", "amount": 1,
         "currency": "usd"}
    )  # fmt: skip
    shop.later(timedelta(minutes=6))
    v1.invoice_items.delete(item.id)
    assert shop.client.post(f"/v1/invoices/{row.invoice_id}/collect").status_code == 200
    shop.work()
    assert (shop.collection().state, shop.charges()) == ("done", [2900])


def test_a_draft_that_somebody_deleted_there_is_made_again(shop: Shop) -> None:
    shop.a_customer()
    shop.a_subscription()
    shop.standin.fault("drop_before", "POST /v1/invoices/*/finalize", times=1)
    shop.work()
    shop.gateway._v1.invoices.delete(shop.collection().provider_id or "")
    shop.later(timedelta(minutes=6))
    assert (shop.collection().state, shop.charges()) == ("done", [2900])


def test_amounts_are_stripes_own_for_currencies_with_another_scale(shop: Shop) -> None:
    for code, amount, there in (("ISK", "500", 50000), ("JPY", "500", 500), ("KWD", "5.120", 5120)):
        with transaction(shop.engine) as session:
            a_plan(session, a_fee(amount), key=code.lower(), currency=code)
        shop.a_customer(code.lower(), card=None)
        refused = shop.order(code.lower(), code.lower())
        session_id = shop.open_checkout(refused.json()["checkoutUrl"])
        shop.standin.act("complete_checkout", session=session_id)
        shop.client.get("/checkout/done", params={"session": session_id})
        shop.a_subscription(code.lower(), code.lower())
        shop.work()
        assert shop.charges()[-1] == there
    assert {invoice.status for invoice in shop.invoices()} == {"paid"}


def test_a_currency_that_stripe_does_not_charge_is_paid_by_hand(shop: Shop) -> None:
    with transaction(shop.engine) as session:
        a_plan(session, a_fee("100"), key="lyd", currency="LYD")
    shop.a_customer(card=None)
    shop.a_subscription(plan="lyd")
    shop.work()
    assert (shop.invoice().provider, shop.there()) == ("manual", [])


def test_a_key_that_was_revoked_stops_everything_and_says_so_until_it_is_mended(shop: Shop) -> None:
    shop.a_customer()
    id_ = shop.a_subscription()
    key = shop.settings.stripe_api_key
    assert key is not None
    shop.standin.control("keys", {"key": key.get_secret_value(), "revoked": True})
    shop.work()
    readiness = shop.client.get("/v1/billing-readiness").json()
    assert (readiness["isReady"], readiness["fault"]) == (False, "The key is not valid.")
    assert shop.standing(id_) == ("pending", APRIL)
    assert shop.collection().tries == 0
    shop.standin.control("keys", {"key": key.get_secret_value()})
    assert shop.client.post("/v1/setup/stripe/rotate").status_code == 200
    shop.later(timedelta(minutes=6))
    assert shop.standing(id_) == ("paid", None)


def test_every_attempt_has_a_key_that_names_installation_object_step_and_attempt(shop: Shop) -> None:
    shop.a_customer()
    shop.a_subscription()
    shop.standin.fault("stored_500", "POST /v1/invoices/*/pay", effect=False)
    shop.work()
    invoice: Invoice = shop.invoice()
    keys = [one.key for one in shop.operations() if one.step == "pay"]
    prefix = f"fb1:{shop.operations()[0].key.split(':')[1]}:{invoice.id}:pay"
    assert keys == [f"{prefix}:1", f"{prefix}:2"]
    sent = [entry for entry in shop.standin.log() if entry["method"] == "POST" and entry["path"].endswith("/pay")]
    assert [one["idempotencyKey"] for one in sent] == keys

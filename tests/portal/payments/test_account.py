"""Connecting the provider: one account, one mode, every permission; and what is said about it."""

import re
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, inspect, text

from builders.payments import Shop
from builders.stripe_client import KEY
from builders.stripe_contract import Contract
from farebox_portal.db import transaction
from farebox_portal.payments import account
from farebox_portal.payments.permissions import row_of
from farebox_portal.payments.stripe_gateway import EVENTS
from farebox_portal.payments.tables import PaymentAccount
from farebox_portal.payments.webhook_endpoint import is_reachable
from farebox_portal.standin.keys import PERMISSIONS
from rig.standin import Standin

ROWS = {
    "rak_accounts_kyc_basic_read": "Accounts: read",
    "rak_customer_write": "Customers: write",
    "rak_payment_method_read": "Payment Methods: read",
    "rak_checkout_session_write": "Checkout Sessions: write",
    "rak_customer_portal_write": "Customer portal: write",
    "rak_invoice_write": "Invoices: write",
    "rak_tax_calculations_write": "Tax Calculations and Transactions: write",
    "rak_webhook_write": "Webhook Endpoints and Event Destinations: write",
}


def restrict(shop: Shop, **terms: object) -> None:
    shop.standin.control("keys", {"key": KEY} | terms)


def test_it_is_connected_once(bare: Shop) -> None:
    before = bare.client.get("/v1/billing-readiness").json()
    assert (before["provider"], before["hasStripeApp"]) == ("manual", False)
    answer = bare.client.post("/v1/setup/stripe")
    assert answer.status_code == 201, answer.text
    readiness = bare.client.get("/v1/billing-readiness").json()
    assert readiness == answer.json()
    assert (readiness["isReady"], readiness["mode"]) == (True, "test")
    assert readiness["stripeAppId"] == bare.gateway.account().id
    again = bare.client.post("/v1/setup/stripe")
    assert (again.status_code, again.json()["code"]) == (409, "stripe_already_connected")


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("sk_live_4eC39HqLyjWDarjtT1zdp7dc", "stripe_key_refused"),
        ("pk_test_4eC39HqLyjWDarjtT1zdp7dc", "stripe_key_refused"),
        ("rk_test_another", "stripe_key_differs"),
    ],
)
def test_a_key_in_the_request_must_be_the_environments(bare: Shop, said: str, code: str) -> None:
    answer = bare.client.post("/v1/setup/stripe", json={"apiKey": said})
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert [fault["pointer"] for fault in answer.json()["errors"]] == ["/apiKey"]
    assert said not in answer.text
    assert bare.client.get("/v1/billing-readiness").json()["hasStripeApp"] is False
    assert bare.client.post("/v1/setup/stripe", json={"apiKey": KEY, "name": "Ours"}).status_code == 201


def test_the_eight_permissions_are_those_that_the_provider_names(bare: Shop) -> None:
    assert set(ROWS) == set(PERMISSIONS)
    restrict(bare, permissions=list(PERMISSIONS))
    assert bare.gateway.lacking() == []


@pytest.mark.parametrize("missing", ROWS)
def test_a_restricted_key_is_refused_with_the_row_that_is_missing(bare: Shop, missing: str) -> None:
    restrict(bare, permissions=[each for each in PERMISSIONS if each != missing])
    assert bare.gateway.lacking() == [ROWS[missing]]
    answer = bare.client.post("/v1/setup/stripe")
    assert (answer.status_code, answer.json()["code"]) == (422, "stripe_permission_missing")
    assert ROWS[missing] in answer.text
    assert [row for row in ROWS.values() if row in answer.text] == [ROWS[missing]]
    assert bare.client.get("/v1/billing-readiness").json()["hasStripeApp"] is False


@pytest.mark.parametrize(
    ("refusal", "row"),
    [
        ("Having the 'rak_accounts_kyc_basic_read' permission would", "Accounts: read"),
        ("Having the 'rak_accounts_kyc_id_numbers_read' permission would", "Accounts: read"),
        ("Having the 'rak_customer_portal_write' permission would", "Customer portal: write"),
        ("Having the 'rak_customer_read' permission would", "Customers: write"),
        ("Having the 'rak_payment_method_read' permission would", "Payment Methods: read"),
        ("Having the 'rak_checkout_session_write' permission would", "Checkout Sessions: write"),
        ("Having the 'rak_invoices_write' permission would", "Invoices: write"),
        ("Having the 'rak_tax_calculations_write' permission would", "Tax Calculations and Transactions: write"),
        ("Having the 'rak_webhook_endpoints_read' permission", "Webhook Endpoints and Event Destinations: write"),
        ("Having the 'rak_plan_write' permission would", None),
        ("the required permissions are not available for use by restricted keys.", None),
    ],
)
def test_the_words_of_a_refusal_are_those_of_a_row_in_the_dashboard(refusal: str, row: str | None) -> None:
    assert row_of(refusal) == row


def test_a_permission_that_goes_missing_later_is_named_and_nothing_more_is_sent(shop: Shop) -> None:
    shop.a_customer()
    restrict(shop, permissions=[each for each in PERMISSIONS if each != "rak_invoice_write"])
    shop.a_subscription()
    shop.work()
    readiness = shop.client.get("/v1/billing-readiness").json()
    assert readiness["isReady"] is False
    assert readiness["fault"] == "The restricted key lacks the permission 'Invoices: write'."
    restrict(shop)
    assert shop.client.post("/v1/setup/stripe/rotate").json()["isReady"] is True
    shop.later(timedelta(hours=2))
    assert shop.charges() == [2900]


def test_a_key_that_nobody_has_checked_is_used_for_nothing(shop: Shop) -> None:
    shop.a_customer(card=None)
    url = shop.order().json()["checkoutUrl"]
    shop.a_customer("bolt")
    shop.a_subscription("bolt")
    with transaction(shop.engine) as session:
        row = session.get_one(PaymentAccount, "stripe")
        row.key_fingerprint = "of the key before"  # of another account, perhaps, where nobody is known
        session.add(row)
    before = len(shop.standin.log())
    shop.work()
    page = shop.client.get(url.removeprefix(shop.settings.public_url))
    assert page.status_code == 503
    assert shop.client.post("/v1/customers/bolt/payment-page", json={}).json()["code"] == "provider_failed"
    readiness = shop.client.get("/v1/billing-readiness").json()
    assert (readiness["isReady"], readiness["remedy"]) == (False, "POST /v1/setup/stripe/rotate")
    assert len(shop.standin.log()) == before
    assert shop.client.post("/v1/setup/stripe/rotate").json()["isReady"] is True
    shop.work()
    assert shop.charges() == [2900]


def test_probing_changes_nothing_there(bare: Shop) -> None:
    bare.gateway.lacking()
    kinds = {one["object"] for one in bare.standin.books.all("event")}
    assert kinds == set()
    for kind in ("customer", "invoice", "checkout.session", "webhook_endpoint"):
        assert list(bare.standin.books.all(kind)) == []


def test_a_key_that_is_not_valid_is_refused(bare: Shop) -> None:
    restrict(bare, revoked=True)
    answer = bare.client.post("/v1/setup/stripe")
    assert (answer.status_code, answer.json()["code"]) == (422, "stripe_key_refused")
    assert KEY not in answer.text


def test_a_key_of_another_account_is_not_taken_in_its_place(shop: Shop) -> None:
    restrict(shop, account="acct_another")
    answer = shop.client.post("/v1/setup/stripe/rotate")
    assert (answer.status_code, answer.json()["code"]) == (409, "stripe_account_differs")


def test_a_key_of_the_other_mode_is_not_taken_in_its_place(shop: Shop) -> None:
    with transaction(shop.engine) as session:
        row = session.get_one(PaymentAccount, "stripe")
        row.is_live = True
        session.add(row)
    answer = shop.client.post("/v1/setup/stripe/rotate")
    assert (answer.status_code, answer.json()["code"]) == (409, "stripe_mode_differs")


def test_the_key_is_nowhere_in_the_database(shop: Shop) -> None:
    shop.a_customer()
    shop.a_subscription()
    shop.work()
    with shop.engine.connect() as connection:
        names = inspect(connection).get_table_names()
        assert "payment_accounts" in names
        for name in names:
            assert KEY not in str(connection.execute(text(f'SELECT * FROM "{name}"')).all()), name


def test_an_endpoint_is_registered_for_the_events_that_are_understood_and_its_secret_kept(
    engine: Engine, tmp_path: Path, standin: Standin, contract: Contract
) -> None:
    shop = Shop(engine, tmp_path, standin, contract, FAREBOX_PUBLIC_URL="http://127.0.0.1:9")
    shop.connect()
    (endpoint,) = standin.books.all("webhook_endpoint")
    assert endpoint["url"] == "http://127.0.0.1:9/v1/webhooks/stripe"
    assert set(endpoint["enabled_events"]) == set(EVENTS)
    with transaction(engine, read_only=True) as session:
        first = session.get_one(PaymentAccount, "stripe").webhook_secrets
    assert first == [endpoint["_secrets"][0]["secret"]]
    assert shop.client.post("/v1/setup/stripe/rotate").status_code == 200  # the endpoint is there, nothing is made
    assert [one["id"] for one in standin.books.all("webhook_endpoint")] == [endpoint["id"]]
    with transaction(engine) as session:
        row = session.get_one(PaymentAccount, "stripe")
        row.webhook_secrets = []  # its answer was lost
        session.add(row)
    assert shop.client.post("/v1/setup/stripe/rotate").status_code == 200
    (made,) = standin.books.all("webhook_endpoint")
    assert made["id"] != endpoint["id"]


@pytest.mark.parametrize(
    ("public_url", "is_local", "reachable"),
    [
        ("https://portal.example.com", False, True),
        ("http://portal.example.com", False, False),
        ("http://127.0.0.1:8001", False, False),
        ("http://127.0.0.1:8001", True, True),
        ("http://portal.example.com", True, False),
    ],
)
def test_webhooks_are_asked_for_only_where_they_can_arrive(
    bare: Shop, public_url: str, is_local: bool, reachable: bool
) -> None:
    base = {"stripe_api_base": "http://127.0.0.1:1" if is_local else "https://api.stripe.com"}
    assert is_reachable(bare.settings.model_copy(update={"public_url": public_url} | base)) is reachable


def test_a_secret_from_the_environment_is_taken_and_no_endpoint_made(
    engine: Engine, tmp_path: Path, standin: Standin, contract: Contract
) -> None:
    given = {"FAREBOX_PUBLIC_URL": "http://127.0.0.1:9", "FAREBOX_STRIPE_WEBHOOK_SECRET": "whsec_ofthecli"}
    shop = Shop(engine, tmp_path, standin, contract, **given)
    shop.connect()
    assert list(standin.books.all("webhook_endpoint")) == []
    assert shop.client.get("/v1/billing-readiness").json()["webhooks"]["mode"] == "events"


def test_one_file_alone_knows_the_sdk_of_the_provider() -> None:
    portal = Path(account.__file__).parents[1]
    knows = {
        path.name for path in portal.rglob("*.py") if re.search(r"^\s*(import|from) stripe\b", path.read_text(), re.M)
    }
    assert knows == {"stripe_gateway.py"}


@pytest.mark.parametrize("flow", [None, "payment_method_update"])
def test_a_customer_is_led_to_the_providers_page(shop: Shop, flow: str | None) -> None:
    shop.a_customer(card=None)
    refused = shop.client.post("/v1/customers/acme/payment-page", json={})
    assert (refused.status_code, refused.json()["code"]) == (409, "no_payment_customer")
    shop.leave_card("acme")
    document = {"returnUrl": "https://example.com/back"} | ({"flow": flow} if flow else {})
    answer = shop.client.post("/v1/customers/acme/payment-page", json=document)
    assert answer.status_code == 200
    assert answer.json()["url"].startswith(shop.standin.url)
    (session,) = shop.standin.books.all("billing_portal.session")
    assert session["return_url"] == "https://example.com/back"
    assert (session["flow"] and session["flow"]["type"]) == flow
    script = shop.client.post("/v1/customers/acme/payment-page", json={"returnUrl": "javascript:alert(1)"})
    assert script.status_code == 422

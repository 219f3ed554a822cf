"""What people see: plain forms that work without a script, and say that no money moves."""

import re
from typing import Any
from urllib.parse import urlencode

import httpx2
import pytest
import stripe

from builders.stripe_flows import (
    ASKS,
    DECLINED_AT_ONCE,
    DECLINED_WHEN_CHARGED,
    PAYS,
    a_customer,
    a_draft,
    a_paid_invoice,
    a_paying_customer,
    a_session,
)
from farebox_portal.standin.cards import CARDS
from farebox_portal.standin.pages import money
from rig.standin import Standin

LABEL = "Demo payments: no money moves"
ADDRESS = {"name": "Ada", "country": "FR", "postal_code": "75001"}


def get(url: str) -> httpx2.Response:
    return httpx2.get(url, trust_env=False, timeout=20)


def submit(url: str, **fields: str) -> httpx2.Response:
    """What a browser does with the form; redirects are not followed."""
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    return httpx2.post(url, content=urlencode(fields), headers=headers, trust_env=False, timeout=20)


def hidden_fields(page: str) -> dict[str, str]:
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page))


def page_of(session: Any) -> str:
    assert session.url is not None
    return str(session.url)


def test_every_page_says_what_it_is_and_runs_no_script(standin: Standin, stripe_v1: stripe.V1Services) -> None:
    customer = a_paying_customer(stripe_v1, standin)
    paid = a_paid_invoice(stripe_v1, customer.id, 1000)
    portal = stripe_v1.billing_portal.sessions.create({"customer": customer.id, "return_url": "http://127.0.0.1:1/"})
    for url in (standin.url, page_of(a_session(stripe_v1, customer.id)), portal.url, str(paid.hosted_invoice_url)):
        shown = get(url)
        assert shown.status_code == 200
        assert f"<header>{LABEL}</header>" in shown.text
        assert "<script" not in shown.text
        assert "stripe.com" not in shown.text
        assert shown.headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert shown.headers["Cache-Control"] == "no-store"


def test_checkout_offers_the_test_cards_and_says_what_will_be_charged(stripe_v1: stripe.V1Services) -> None:
    shown = get(page_of(a_session(stripe_v1, a_customer(stripe_v1).id))).text
    assert all(number in shown for number in CARDS)
    assert "You will be charged $49.00 now, then monthly" in shown
    assert 'href="http://127.0.0.1:1/back"' in shown


def test_a_person_saves_a_card_and_comes_back(stripe_v1: stripe.V1Services) -> None:
    customer = a_customer(stripe_v1)
    session = a_session(stripe_v1, customer.id)
    url = page_of(session)
    done = submit(url, card=PAYS, **ADDRESS)
    assert (done.status_code, done.headers["Location"]) == (303, f"http://127.0.0.1:1/done?cs={session.id}")
    assert stripe_v1.checkout.sessions.retrieve(session.id).status == "complete"
    found = stripe_v1.customers.retrieve(customer.id).address
    assert found is not None
    assert (found.country, found.postal_code) == ("FR", "75001")
    again = get(url)
    assert (again.status_code, "complete" in again.text) == (400, True)


def test_a_declined_card_can_be_replaced_by_another(stripe_v1: stripe.V1Services) -> None:
    url = page_of(a_session(stripe_v1, a_customer(stripe_v1).id))
    declined = submit(url, card=DECLINED_AT_ONCE, **ADDRESS)
    assert (declined.status_code, "Your card has insufficient funds." in declined.text) == (200, True)
    assert submit(url, card=DECLINED_WHEN_CHARGED, **ADDRESS).status_code == 303


@pytest.mark.parametrize(("step", "status"), [("confirm", 303), ("fail", 200)])
def test_a_card_that_asks_leads_over_the_banks_page(stripe_v1: stripe.V1Services, step: str, status: int) -> None:
    url = page_of(a_session(stripe_v1, a_customer(stripe_v1).id))
    asked = submit(url, card=ASKS, **ADDRESS)
    assert "Your bank asks" in asked.text
    fields = hidden_fields(asked.text)
    assert fields == {"card": ASKS} | ADDRESS
    answered = submit(url, **fields, step=step)
    assert answered.status_code == status
    assert ("unable to authenticate" in answered.text) == (step == "fail")


def test_a_real_card_number_is_not_accepted(stripe_v1: stripe.V1Services) -> None:
    shown = submit(page_of(a_session(stripe_v1, a_customer(stripe_v1).id)), card="4111111111111111")
    assert (shown.status_code, "knows its test cards alone" in shown.text) == (400, True)
    assert "4111111111111111" not in shown.text


def test_the_portal_changes_the_card_and_shows_the_invoices(standin: Standin, stripe_v1: stripe.V1Services) -> None:
    customer = a_paying_customer(stripe_v1, standin, DECLINED_WHEN_CHARGED)
    final = stripe_v1.invoices.finalize_invoice(a_draft(stripe_v1, customer.id, 123_456).id)
    portal = stripe_v1.billing_portal.sessions.create({"customer": customer.id, "return_url": "http://127.0.0.1:1/"})
    shown = get(portal.url).text
    assert str(final.number) in shown
    assert "USD 1,234.56" in shown
    assert "0341" in shown
    changed = submit(portal.url, card=PAYS)
    assert re.search(r"4242</code> \(default\)", changed.text)
    deep = stripe_v1.billing_portal.sessions.create(
        {"customer": customer.id, "return_url": "http://127.0.0.1:1/b", "flow_data": {"type": "payment_method_update"}}
    )
    assert submit(deep.url, card=PAYS).headers["Location"] == "http://127.0.0.1:1/b"


def test_a_link_to_the_portal_expires(standin: Standin, stripe_v1: stripe.V1Services) -> None:
    customer = a_customer(stripe_v1)
    portal = stripe_v1.billing_portal.sessions.create({"customer": customer.id, "return_url": "http://127.0.0.1:1/"})
    standin.advance(3601)
    assert "has expired" in get(portal.url).text
    assert submit(portal.url, card=PAYS).status_code == 400
    assert stripe_v1.customers.payment_methods.list(customer.id).data == []


def test_an_invoice_is_paid_on_its_page(standin: Standin, stripe_v1: stripe.V1Services) -> None:
    final = stripe_v1.invoices.finalize_invoice(a_draft(stripe_v1, a_customer(stripe_v1).id, 4900).id)
    url = str(final.hosted_invoice_url)
    assert "Pay USD 49.00" in get(url).text
    assert "Your card was declined." in submit(url, card=DECLINED_WHEN_CHARGED).text
    assert "<strong>paid</strong>" in submit(url, card=PAYS).text
    assert stripe_v1.invoices.retrieve(final.id).status == "paid"
    assert "already paid" in submit(url, card=PAYS).text


def test_a_payment_that_the_bank_asks_about_is_confirmed_there(standin: Standin, stripe_v1: stripe.V1Services) -> None:
    draft = a_draft(stripe_v1, a_paying_customer(stripe_v1, standin, ASKS).id, 4900)
    with pytest.raises(stripe.CardError):
        stripe_v1.invoices.pay(draft.id)
    url = str(stripe_v1.invoices.retrieve(draft.id).hosted_invoice_url)
    shown = get(url).text
    assert "Your bank asks" in shown
    assert "<strong>paid</strong>" in submit(url, **hidden_fields(shown), step="confirm").text


@pytest.mark.parametrize("path", ["/pay/checkout/cs_test_x", "/pay/portal/bps_x", "/pay/invoice/x"])
def test_a_link_that_leads_nowhere_says_so(standin: Standin, path: str) -> None:
    shown = get(standin.url + path)
    assert (shown.status_code, LABEL in shown.text) == (404, True)


def test_what_people_enter_is_text_and_never_markup(standin: Standin, stripe_v1: stripe.V1Services) -> None:
    name = "<script>alert(1)</script>"
    customer = a_customer(stripe_v1, name=name)
    draft = a_draft(stripe_v1, customer.id, description=name, footer=name)
    stripe_v1.invoices.add_lines(draft.id, {"lines": [{"amount": 500, "description": name}]})
    final = stripe_v1.invoices.finalize_invoice(draft.id)
    session = a_session(stripe_v1, customer.id, custom_text={"submit": {"message": name}})
    for url in (page_of(session), str(final.hosted_invoice_url)):
        shown = get(url).text
        assert name not in shown
        assert "&lt;script&gt;" in shown
    assert name not in submit(page_of(session), card=ASKS, name='"><script>').text


@pytest.mark.parametrize("url", ["javascript:alert(1)", "data:text/html,x", "//elsewhere", "/done", "ftp://x/"])
def test_no_page_leads_to_what_is_no_web_address(stripe_v1: stripe.V1Services, url: str) -> None:
    customer = a_customer(stripe_v1).id
    for field in ("success_url", "cancel_url"):
        with pytest.raises(stripe.InvalidRequestError) as caught:
            a_session(stripe_v1, customer, **{field: url})
        assert caught.value.param == field
    with pytest.raises(stripe.InvalidRequestError):
        stripe_v1.billing_portal.sessions.create({"customer": customer, "return_url": url})


@pytest.mark.parametrize(
    ("amount", "currency", "text"),
    [
        (0, "usd", "USD 0.00"),
        (123_456_789, "eur", "EUR 1,234,567.89"),
        (-5, "usd", "USD -0.05"),
        (500, "jpy", "JPY 500"),
        (1230, "kwd", "KWD 1.230"),
        (500, "isk", "ISK 5.00"),
    ],
)
def test_money_is_written_with_its_currencys_decimals(amount: int, currency: str, text: str) -> None:
    assert money(amount, currency) == text


# ---- control


def test_a_page_of_another_site_cannot_press_the_buttons(standin: Standin) -> None:
    """A form of another site can post, but not say that it is JSON."""
    shown = submit(f"{standin.url}/__standin/reset")
    assert shown.status_code == 400
    sent = httpx2.post(f"{standin.url}/__standin/faults", content='{"mode": "slow"}', trust_env=False)
    assert sent.status_code == 400
    assert standin.control("faults") == {"faults": []}


def test_a_reset_forgets_everything(standin: Standin, stripe_v1: stripe.V1Services) -> None:
    a_customer(stripe_v1)
    standin.fault("drop_before", "POST /v1/none")
    standin.control("webhooks", {"duplicates": 3})
    standin.advance(1000)
    standin.control("reset", {})
    assert stripe_v1.customers.list().data == []
    assert standin.control("clock")["ahead_s"] == 0
    assert standin.control("webhooks")["duplicates"] == 1
    assert standin.control("faults") == {"faults": []}
    customer = a_customer(stripe_v1)
    assert stripe_v1.billing_portal.sessions.create({"customer": customer.id, "return_url": "http://127.0.0.1:1/"})


@pytest.mark.parametrize(
    ("path", "given"),
    [
        ("actions/nothing", {}),
        ("actions/dispute", {}),
        ("actions/dispute", {"invoice": "in_none"}),
        ("actions/fail_next", {"decline_code": "bad_mood"}),
        ("clock", {"advance_s": -1}),
        ("clock", {"advance_s": "1"}),
        ("keys", {}),
        ("keys", {"key": "rk_test_x", "rights": []}),
        ("account", {"tax": "maybe"}),
        ("webhooks/stop", {}),
        ("webhooks/roll", {"endpoint": "we_none"}),
    ],
    ids=str,
)
def test_what_control_does_not_understand_it_says(standin: Standin, path: str, given: Any) -> None:
    with pytest.raises(RuntimeError, match=r"\w"):
        standin.control(path, given)


def test_control_answers_what_is_no_json(standin: Standin) -> None:
    headers = {"Content-Type": "application/json"}
    sent = httpx2.post(f"{standin.url}/__standin/clock", content="{", headers=headers, trust_env=False)
    assert sent.status_code == 400
    with pytest.raises(RuntimeError, match="object"):
        standin.control("clock", [])


def test_the_front_page_documents_every_button(standin: Standin) -> None:
    shown = get(standin.url).text
    for path in ("faults", "webhooks", "deliveries", "clock", "log", "keys", "account", "reset"):
        assert f"/__standin/{path}" in shown
    assert "/__standin/actions/complete_checkout" in shown
    assert "drop_after" in shown

"""What we assume of Stripe and could not read anywhere, each as a question with the answer that the code relies on."""

import time
from typing import Any

import pytest
import stripe

from farebox_portal.payments.gateway import Declined, Missing, Rejected
from farebox_portal.payments.permissions import PERMISSIONS
from farebox_portal.payments.smoke import smoke
from farebox_portal.payments.stripe_gateway import EVENTS, StripeGateway
from farebox_portal.settings import STRIPE_API_BASE

from .conftest import RESTRICTED, Asked, key_of

BACK = "https://example.com/back"


def test_may_the_whole_walk_be_made(asked: Asked) -> None:
    done = smoke(asked.gateway, None)
    assert done.status == "pass", [step for step in done.steps if step.status == "fail"]


def test_does_every_probe_pass_with_a_key_that_may_do_everything(asked: Asked) -> None:
    """Anything else would mean that a probe is refused for another reason than its permission."""
    assert asked.gateway.lacking() == []


def test_does_the_account_tell_its_id_country_and_time(asked: Asked) -> None:
    """`doctor` compares clocks by the header, and the supplier's country with the account's."""
    found = asked.gateway.account()
    assert found.id.startswith("acct_")
    assert found.country
    assert found.answered_at is not None


def test_is_permission_looked_at_before_anything_else_and_named() -> None:
    """The probes presume it: with no permission but the account's, each of the others is named."""
    gateway = StripeGateway(key_of(RESTRICTED), STRIPE_API_BASE)
    assert gateway.account().id.startswith("acct_")
    rows = [permission.row for permission in PERMISSIONS if permission.row != "Accounts: read"]
    assert sorted(gateway.lacking()) == sorted(rows)


def test_does_a_setup_page_take_the_customers_address(asked: Asked) -> None:
    """`customer_update` in setup mode: else the address has to be copied from the card."""
    request = {"instance": asked.instance, "our_customer": "c", "customer": asked.customer(), "currency": "USD",
               "message": "You will be charged $49.00 now", "success_url": BACK, "cancel_url": BACK}  # fmt: skip
    made = asked.send("checkout", request)
    assert made.url is not None
    assert asked.gateway.checkout(made.id).status == "open"


def test_is_what_was_made_listed_at_once(asked: Asked) -> None:
    """Closing a period looks for its invoice by the list. Said nowhere, and relied on after a lost answer only."""
    customer = asked.customer()
    for number in range(3):
        made = asked.draft(customer, name=f"i{number}")
        assert [one.id for one in asked.gateway.invoices(customer, asked.instance, f"i{number}")] == [made]


def test_are_the_lines_of_a_draft_there_at_once_and_in_our_words(asked: Asked) -> None:
    id_ = asked.draft(asked.customer(), 4900, 123)
    assert sorted(asked.gateway.invoice(id_).lines) == [("l0", 4900), ("l1", 123)]


def test_is_a_card_that_there_is_not_refused(asked: Asked) -> None:
    with pytest.raises(Rejected):
        asked.customer("pm_card_of_nobody")


def test_what_is_said_when_there_is_nothing_to_pay_with(asked: Asked) -> None:
    """It counts as a failed try: not as an outcome that nobody knows, and not as the bank's no."""
    id_ = asked.finalized(asked.customer(), 4900)
    with pytest.raises(Rejected) as refused:
        asked.send("pay", {"id": id_})
    assert not refused.value.is_passing
    assert asked.gateway.invoice(id_).status == "open"


def test_what_is_said_when_the_bank_declines(asked: Asked) -> None:
    id_ = asked.finalized(asked.customer("pm_card_chargeCustomerFail"), 4900)
    with pytest.raises(Declined) as declined:
        asked.send("pay", {"id": id_})
    assert not declined.value.needs_action
    assert asked.gateway.invoice(id_).status == "open"


def test_what_is_said_when_the_payer_has_to_confirm(asked: Asked) -> None:
    """3-D Secure: the payer is sent to the invoice's page, and nothing is tried again before."""
    id_ = asked.finalized(asked.customer("pm_card_threeDSecure2Required"), 4900)
    with pytest.raises(Declined) as declined:
        asked.send("pay", {"id": id_})
    assert declined.value.needs_action
    assert asked.gateway.invoice(id_).url is not None


def test_does_the_same_key_give_the_same_answer(asked: Asked) -> None:
    customer = asked.customer()
    assert asked.draft(customer) == asked.draft(customer)


def test_is_a_deleted_customer_told_as_one(asked: Asked) -> None:
    """With 200 and a flag when it is read; as missing when something is made for it."""
    customer = asked.customer()
    asked.gateway.remove_customer(customer)
    assert asked.gateway.customer(customer).is_deleted
    with pytest.raises(Missing):
        asked.draft(customer)


def test_are_negative_lines_refused_beside_automatic_tax(asked: Asked) -> None:
    """We never send one where tax is on. If Stripe took it, credits could be lines of the provider's too."""
    customer = asked.customer("pm_card_visa")
    asked.raw.v1.customers.update(customer, {"address": {"country": "DE", "postal_code": "10115", "city": "Berlin"}})
    given: Any = {"customer": customer, "currency": "usd", "automatic_tax": {"enabled": True}}
    invoice = asked.raw.v1.invoices.create(given)

    def bill() -> None:
        for amount in (4900, -100):
            line: Any = {"customer": customer, "invoice": invoice.id, "currency": "usd", "amount": amount,
                         "tax_behavior": "exclusive"}  # fmt: skip
            asked.raw.v1.invoice_items.create(line)
        asked.raw.v1.invoices.finalize_invoice(invoice.id)

    with pytest.raises(stripe.InvalidRequestError):
        bill()


def test_does_the_portal_page_open_or_say_that_it_was_never_set_up(asked: Asked) -> None:
    try:
        assert asked.gateway.portal_url(asked.customer(), BACK).startswith("http")
    except Rejected as refused:
        assert "configuration" in refused.detail  # noqa: PT017 - either is an answer that we can show


def test_how_many_lines_are_taken_at_once(asked: Asked) -> None:
    """`add_lines` would halve the calls of a period's close. We send lines one by one, and assume 100 to be taken."""
    id_ = asked.draft(asked.customer())
    lines: Any = [{"amount": 1, "description": f"Line {number}"} for number in range(100)]
    asked.raw.v1.invoices.add_lines(id_, {"lines": lines})
    assert len(asked.gateway.invoice(id_).lines) == 100


def test_is_an_endpoint_registered_for_all_that_we_understand(asked: Asked) -> None:
    made = asked.gateway.add_endpoint("https://example.com/farebox", asked.instance, f"fb1:{asked.instance}:webhook:1")
    assert made.secret
    (found,) = [one for one in asked.gateway.endpoints(asked.instance) if one.id == made.id]
    assert (found.is_ours, found.is_enabled, found.is_current, found.untold) == (True, True, True, ())


def test_both_events_of_a_payment_that_needs_action_are_told(stripe_itself: Asked) -> None:
    id_ = stripe_itself.finalized(stripe_itself.customer("pm_card_threeDSecure2Required"), 4900)
    with pytest.raises(Declined):
        stripe_itself.send("pay", {"id": id_})
    assert {"invoice.payment_action_required", "invoice.payment_failed"} <= events_about(stripe_itself, id_)


def test_a_card_that_is_set_up_is_told_to_an_endpoint_of_ours(stripe_itself: Asked) -> None:
    """The key needs no permission for Setup Intents: events follow the account. Told is what waits for an endpoint."""
    url, key = "https://example.com/farebox", f"fb1:{stripe_itself.instance}:webhook:1"
    stripe_itself.gateway.add_endpoint(url, stripe_itself.instance, key)
    customer = stripe_itself.customer()
    given: Any = {"customer": customer, "payment_method": "pm_card_visa", "confirm": True, "usage": "off_session",
                  "automatic_payment_methods": {"enabled": True, "allow_redirects": "never"}}  # fmt: skip
    intent = stripe_itself.raw.v1.setup_intents.create(given)
    assert "setup_intent.succeeded" in EVENTS
    found = [one for one in recent(stripe_itself, "setup_intent.succeeded") if one.data.object["id"] == intent.id]
    assert [one.pending_webhooks > 0 for one in found] == [True]


def test_billing_is_read_page_by_page(stripe_itself: Asked) -> None:
    """`import-stripe` reads these lists; an account without Billing has empty ones."""
    for path in ("/v1/products", "/v1/prices", "/v1/billing/meters", "/v1/subscriptions"):
        assert isinstance(list(stripe_itself.gateway.rows(path, {})), list)


def events_about(asked: Asked, object_id: str) -> set[str]:
    deadline = time.monotonic() + 20
    found: set[str] = set()
    while time.monotonic() < deadline and len(found) < 2:
        page = asked.raw.v1.events.list({"limit": 100})
        found = {one.type for one in page.data if one.data.object.get("id") == object_id and "payment_" in one.type}
        time.sleep(1)
    return found


def recent(asked: Asked, kind: str) -> list[stripe.Event]:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = asked.raw.v1.events.list({"limit": 20, "type": kind}).data
        if found:
            return list(found)
        time.sleep(1)
    return []

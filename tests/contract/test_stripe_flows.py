"""Each flow of an API biller against the stand-in, with Stripe's own client: (a) subscribe … (g) the key's check.

Every request and every answer is held against the contract; so is every object that a webhook carries.
"""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import stripe

from builders.stripe_client import KEY, stripe_client
from builders.stripe_contract import Contract
from builders.stripe_flows import (
    ASKS,
    DECLINED_AT_ONCE,
    DECLINED_WHEN_CHARGED,
    a_customer,
    a_draft,
    a_paid_invoice,
    a_paying_customer,
    a_session,
    default_method,
    intent_of,
)
from farebox_portal.standin.app import OPERATIONS
from farebox_portal.standin.operation import match
from rig.standin import Receiver, Standin

EVENTS: Any = [
    "setup_intent.succeeded", "setup_intent.setup_failed", "checkout.session.completed", "checkout.session.expired",
    "invoice.finalized", "invoice.finalization_failed", "invoice.paid", "invoice.payment_failed",
    "invoice.payment_action_required", "invoice.marked_uncollectible", "invoice.voided", "payment_method.detached",
    "customer.updated", "customer.deleted", "charge.refunded", "charge.dispute.created",
]  # fmt: skip


@pytest.fixture(scope="session")
def contract() -> Contract:
    return Contract()


@pytest.fixture
def standin(contract: Contract) -> Iterator[Standin]:
    with Standin() as standin:
        yield standin
        for event in standin.books.all("event"):
            assert contract.object_faults(standin.books.show(event)) == []
            assert contract.object_faults(event["data"]["object"]) == [], event["type"]


@pytest.fixture
def v1(standin: Standin, contract: Contract) -> stripe.V1Services:
    return stripe_client(standin.url, contract).v1


# ---- (a) subscribe


def test_a_person_leaves_a_card_and_is_charged_for_the_first_period(standin: Standin, v1: stripe.V1Services) -> None:
    customer = a_customer(v1)
    session = a_session(v1, customer.id, setup_intent_data={"metadata": {"am_subscription_id": "sub_1"}})
    assert (session.status, session.url) == ("open", f"{standin.url}/pay/checkout/{session.id}")

    done = standin.act("complete_checkout", session=session.id, name="Ada", address={"country": "FR"})

    assert done["redirect"] == f"http://127.0.0.1:1/done?cs={session.id}"
    session = v1.checkout.sessions.retrieve(session.id)
    assert (session.status, session.client_reference_id, session.url) == ("complete", "sub_1", None)
    customer = v1.customers.retrieve(customer.id)
    assert customer.address is not None
    assert (customer.name, customer.address.country) == ("Ada", "FR")
    assert customer.invoice_settings is not None
    assert customer.invoice_settings.default_payment_method is None, "to set a card up is not to make it the default"
    method = v1.customers.payment_methods.list(customer.id).data[0]
    v1.customers.update(customer.id, {"invoice_settings": {"default_payment_method": method.id}})
    assert a_paid_invoice(v1, customer.id, 4900).status == "paid"


def test_the_setup_intents_event_has_the_card_and_our_metadata(standin: Standin, v1: stripe.V1Services) -> None:
    session = a_session(v1, a_customer(v1).id, setup_intent_data={"metadata": {"am_subscription_id": "sub_1"}})
    standin.act("complete_checkout", session=session.id)
    event = v1.events.list({"type": "setup_intent.succeeded"}).data[0]
    assert event.data.object["payment_method"].startswith("pm_")
    assert event.data.object["metadata"]["am_subscription_id"] == "sub_1"


def test_a_card_that_is_declined_at_setup_leaves_the_session_open(standin: Standin, v1: stripe.V1Services) -> None:
    customer = a_customer(v1)
    session = a_session(v1, customer.id)
    done = standin.act("complete_checkout", session=session.id, card=DECLINED_AT_ONCE)
    assert done["error"]["decline_code"] == "insufficient_funds"
    assert v1.checkout.sessions.retrieve(session.id).status == "open"
    assert v1.customers.payment_methods.list(customer.id).data == []
    assert v1.events.list({"type": "setup_intent.setup_failed"}).data


def test_a_session_ends_by_itself(standin: Standin, v1: stripe.V1Services) -> None:
    now = standin.control("clock")["now"]
    session = a_session(v1, a_customer(v1).id, expires_at=now + 1900)
    standin.advance(2000)
    assert v1.checkout.sessions.retrieve(session.id).status == "expired"
    with pytest.raises(RuntimeError, match="expired"):
        standin.act("complete_checkout", session=session.id)


# ---- (b) close a period


def test_an_invoice_is_made_line_by_line_and_paid(standin: Standin, v1: stripe.V1Services) -> None:
    customer = a_paying_customer(v1, standin)
    draft = a_draft(v1, customer.id, 4900, 123, 7)
    lines = v1.invoices.line_items.list(draft.id, {"limit": 100}).data
    assert [(line.metadata["am_line_id"], line.amount) for line in lines] == [("l1", 4900), ("l2", 123), ("l3", 7)]
    assert (draft.status, draft.total, draft.number) == ("draft", 5030, None)

    final = v1.invoices.finalize_invoice(draft.id, {"auto_advance": False})
    assert (final.status, final.amount_due, final.number) == ("open", 5030, f"{customer.invoice_prefix}-0001")
    assert final.hosted_invoice_url is not None

    paid = v1.invoices.pay(draft.id, {"expand": ["payments"]})
    assert (paid.status, paid.amount_paid, paid.amount_remaining, paid.attempt_count) == ("paid", 5030, 0, 1)
    assert paid.payments is not None
    assert paid.payments.data[0].payment.payment_intent == intent_of(v1, paid.id)


def test_an_invoice_is_found_again_by_its_metadata(standin: Standin, v1: stripe.V1Services) -> None:
    customer = a_paying_customer(v1, standin)
    made = [a_draft(v1, customer.id, metadata={"am_invoice_id": f"i{number}"}).id for number in range(5)]
    listing = v1.invoices.list({"customer": customer.id, "created": {"gte": 0}, "limit": 2})
    assert listing.has_more
    assert [each.id for each in listing.auto_paging_iter()] == made[::-1]


# ---- (c) what goes wrong with a payment


def test_a_declined_card_leaves_the_invoice_open(standin: Standin, v1: stripe.V1Services) -> None:
    customer = a_paying_customer(v1, standin, DECLINED_WHEN_CHARGED)
    draft = a_draft(v1, customer.id, 4900)
    with pytest.raises(stripe.CardError) as caught:
        v1.invoices.pay(draft.id)
    error = caught.value.error
    assert error is not None
    assert (caught.value.http_status, error.code, error.decline_code) == (402, "card_declined", "generic_decline")
    assert error.payment_intent is not None
    assert error.payment_intent.id == intent_of(v1, draft.id)
    invoice = v1.invoices.retrieve(draft.id)
    assert (invoice.status, invoice.attempt_count, invoice.attempted) == ("open", 1, True)


def test_a_new_card_pays_what_the_old_one_did_not(standin: Standin, v1: stripe.V1Services) -> None:
    customer = a_paying_customer(v1, standin, DECLINED_WHEN_CHARGED)
    draft = a_draft(v1, customer.id, 4900)
    with pytest.raises(stripe.CardError):
        v1.invoices.pay(draft.id)
    session = v1.billing_portal.sessions.create(
        {"customer": customer.id, "return_url": "http://127.0.0.1:1/", "flow_data": {"type": "payment_method_update"}}
    )
    assert standin.act("update_card", session=session.id)["error"] is None
    assert default_method(v1.customers.retrieve(customer.id)) != default_method(customer)
    paid = v1.invoices.pay(draft.id)
    assert (paid.status, paid.attempt_count) == ("paid", 2)


def test_a_card_that_asks_is_confirmed_on_the_hosted_page(standin: Standin, v1: stripe.V1Services) -> None:
    customer = a_paying_customer(v1, standin, ASKS)
    draft = a_draft(v1, customer.id, 4900)
    with pytest.raises(stripe.CardError) as caught:
        v1.invoices.pay(draft.id)
    error = caught.value.error
    assert error is not None
    assert error.code == "invoice_payment_intent_requires_action"
    assert error.payment_intent is not None
    assert error.payment_intent.status == "requires_action"
    told = {event.type for event in v1.events.list({"limit": 100}).data}
    assert {"invoice.payment_action_required", "invoice.payment_failed"} <= told

    failed = standin.act("pay_invoice", invoice=draft.id, card=ASKS, authenticated=False)
    assert failed["error"]["code"] == "payment_intent_authentication_failure"
    paid = standin.act("pay_invoice", invoice=draft.id, card=ASKS, authenticated=True)
    assert (paid["error"], paid["invoice"]["status"]) == (None, "paid")


def test_without_a_card_there_is_nothing_to_try(v1: stripe.V1Services) -> None:
    draft = a_draft(v1, a_customer(v1).id, 4900)
    with pytest.raises(stripe.InvalidRequestError, match="no `default_payment_method`"):
        v1.invoices.pay(draft.id)
    assert v1.invoices.retrieve(draft.id).attempt_count == 0


def test_a_refund_and_a_dispute_lead_back_to_the_invoice_and_leave_it_paid(
    standin: Standin, v1: stripe.V1Services
) -> None:
    paid = a_paid_invoice(v1, a_paying_customer(v1, standin).id, 4900)
    v1.refunds.create({"payment_intent": intent_of(v1, paid.id), "amount": 900})
    standin.act("dispute", invoice=paid.id)
    dispute = v1.disputes.list().data[0]
    assert isinstance(dispute.payment_intent, str)
    found = v1.invoice_payments.list(
        {"payment": {"type": "payment_intent", "payment_intent": dispute.payment_intent}}
    ).data
    assert [each.invoice for each in found] == [paid.id]
    assert v1.invoices.retrieve(paid.id).status == "paid"
    with pytest.raises(stripe.InvalidRequestError, match="charged back"):
        v1.refunds.create({"payment_intent": dispute.payment_intent})


def test_an_inquiry_takes_nothing_yet(standin: Standin, v1: stripe.V1Services) -> None:
    paid = a_paid_invoice(v1, a_paying_customer(v1, standin).id, 4900)
    dispute = standin.act("dispute", invoice=paid.id, inquiry=True)
    assert (dispute["status"], dispute["is_charge_refundable"]) == ("warning_needs_response", True)
    assert v1.refunds.create({"payment_intent": intent_of(v1, paid.id)}).amount == 4900


def test_a_deleted_customer_is_still_answered_and_no_longer_billed(standin: Standin, v1: stripe.V1Services) -> None:
    customer = a_paying_customer(v1, standin)
    standin.act("delete_customer", customer=customer.id)
    gone = v1.customers.retrieve(customer.id)
    assert gone.to_dict() == {"id": customer.id, "object": "customer", "deleted": True}
    with pytest.raises(stripe.InvalidRequestError) as caught:
        v1.invoices.create({"customer": customer.id})
    assert (caught.value.http_status, caught.value.code) == (400, "resource_missing")
    assert v1.customers.list({"email": "dev@example.com"}).data == []


def test_an_invoice_is_given_up_and_paid_late(standin: Standin, v1: stripe.V1Services) -> None:
    customer = a_paying_customer(v1, standin)
    draft = a_draft(v1, customer.id, 4900)
    v1.invoices.finalize_invoice(draft.id)
    assert v1.invoices.mark_uncollectible(draft.id).status == "uncollectible"
    assert v1.invoices.pay(draft.id).status == "paid"
    with pytest.raises(stripe.InvalidRequestError, match="not paid"):
        v1.invoices.void_invoice(draft.id)


# ---- (d) customer portal


def test_the_portal_needs_a_place_to_return_to_and_a_configuration(standin: Standin, v1: stripe.V1Services) -> None:
    customer = a_customer(v1)
    with pytest.raises(stripe.InvalidRequestError, match="return_url"):
        v1.billing_portal.sessions.create({"customer": customer.id})
    standin.control("account", {"portal": False})
    with pytest.raises(stripe.InvalidRequestError, match="default configuration has not been created"):
        v1.billing_portal.sessions.create({"customer": customer.id, "return_url": "http://127.0.0.1:1/"})
    made = v1.billing_portal.configurations.create({"features": {"invoice_history": {"enabled": True}}})
    session = v1.billing_portal.sessions.create(
        {"customer": customer.id, "return_url": "http://127.0.0.1:1/", "configuration": made.id}
    )
    assert session.url.startswith(standin.url)


# ---- (e) webhooks


def test_a_receiver_verifies_what_it_is_sent_with_stripes_own_code(standin: Standin, v1: stripe.V1Services) -> None:
    with Receiver() as receiver:
        endpoint = v1.webhook_endpoints.create(
            {"url": receiver.url, "enabled_events": EVENTS, "api_version": "2026-10-28.endive"}
        )
        secret = endpoint.secret
        assert secret is not None
        a_paid_invoice(v1, a_paying_customer(v1, standin).id, 4900)
        standin.control("webhooks/settle", {})
        client = stripe_client(standin.url)
        events = [client.construct_event(body, signature, secret) for signature, body in receiver.got]
        assert [event.type for event in events] == [
            "setup_intent.succeeded", "customer.updated", "checkout.session.completed", "customer.updated",
            "invoice.finalized", "invoice.paid",
        ]  # fmt: skip
        assert {event.api_version for event in events} == {stripe.api_version}
        header, body = receiver.got[0]
        with pytest.raises(stripe.SignatureVerificationError):
            client.construct_event(body.replace(b"4242", b"4243") + b" ", header, secret)
    assert "secret" not in v1.webhook_endpoints.retrieve(endpoint.id)


# ---- (f) tax


def test_tax_needs_an_address_and_failing_leaves_a_draft_that_can_go_without(v1: stripe.V1Services) -> None:
    customer = a_customer(v1)
    draft = a_draft(v1, customer.id, 1000, automatic_tax={"enabled": True})
    with pytest.raises(stripe.InvalidRequestError) as caught:
        v1.invoices.finalize_invoice(draft.id)
    assert caught.value.code == "customer_tax_location_invalid"
    invoice = v1.invoices.retrieve(draft.id)
    assert (invoice.status, invoice.automatic_tax.status) == ("draft", "requires_location_inputs")
    assert v1.events.list({"type": "invoice.finalization_failed"}).data
    v1.invoices.update(draft.id, {"automatic_tax": {"enabled": False}})
    assert v1.invoices.finalize_invoice(draft.id).total == 1000


def test_tax_is_previewed_as_it_will_be_charged(standin: Standin, v1: stripe.V1Services) -> None:
    customer = a_paying_customer(v1, standin)
    preview = v1.tax.calculations.create(
        {"currency": "usd", "customer": customer.id, "line_items": [{"amount": 4900, "tax_behavior": "exclusive"}]}
    )
    invoice = a_paid_invoice(v1, customer.id, 4900, automatic_tax={"enabled": True})
    assert (preview.amount_total, preview.tax_amount_exclusive) == (5831, 931)
    assert (invoice.total, invoice.total_excluding_tax, invoice.automatic_tax.status) == (5831, 4900, "complete")


# ---- (g) the key's check


@pytest.mark.parametrize("key", ["sk_live_0123456789abcdef", "rk_live_0123456789abcdef"])
def test_a_live_key_is_refused(standin: Standin, contract: Contract, key: str) -> None:
    with pytest.raises(stripe.AuthenticationError, match=r"no money moves.*refuses live keys"):
        stripe_client(standin.url, contract, key=key).v1.accounts.retrieve_current()


@pytest.mark.parametrize("key", ["pk_test_0123456789", "whsec_0123456789", "sk_org_test_0123456789", "sk_test_"])
def test_what_is_no_test_key_is_refused(standin: Standin, contract: Contract, key: str) -> None:
    with pytest.raises(stripe.AuthenticationError, match="Invalid API Key"):
        stripe_client(standin.url, contract, key=key).v1.accounts.retrieve_current()


def test_a_restricted_key_is_told_which_permission_it_lacks(standin: Standin, contract: Contract) -> None:
    key = "rk_test_0123456789abcdef"
    standin.control("keys", {"key": key, "permissions": ["rak_customer_write", "rak_invoice_read"]})
    v1 = stripe_client(standin.url, contract, key=key).v1
    v1.customers.retrieve(v1.customers.create({}).id)  # to write is to be allowed to read
    v1.invoices.list()
    with pytest.raises(stripe.PermissionError, match="'rak_invoice_write'") as caught:
        v1.invoices.finalize_invoice("in_am_probe")
    assert key not in str(caught.value)
    with pytest.raises(stripe.PermissionError, match="rak_accounts_kyc_basic_read"):
        v1.accounts.retrieve_current()


def test_a_probe_with_an_impossible_request_says_that_the_permission_is_there(v1: stripe.V1Services) -> None:
    for probe in (lambda: v1.invoices.finalize_invoice("in_am_probe"), lambda: v1.customers.update("cus_am_probe")):
        with pytest.raises(stripe.InvalidRequestError, match="am_probe"):
            probe()


def test_a_key_that_was_revoked_is_known_by_401(standin: Standin, v1: stripe.V1Services) -> None:
    v1.accounts.retrieve_current()
    standin.control("keys", {"key": KEY, "revoked": True})
    with pytest.raises(stripe.AuthenticationError):
        v1.accounts.retrieve_current()


def test_an_expansion_needs_the_permission_for_what_it_shows(standin: Standin, contract: Contract) -> None:
    key = "rk_test_0123456789abcdef"
    standin.control("keys", {"key": key, "permissions": ["rak_customer_write", "rak_checkout_session_write"]})
    v1 = stripe_client(standin.url, contract, key=key).v1
    session = a_session(v1, a_customer(v1).id)
    shown = v1.checkout.sessions.retrieve(session.id, {"expand": ["customer"]}).customer
    assert isinstance(shown, stripe.Customer)
    with pytest.raises(stripe.PermissionError, match="rak_setup_intent_read"):
        v1.checkout.sessions.retrieve(session.id, {"expand": ["setup_intent"]})


# ---- everything else, once


def test_every_operation_answers_as_stripe_would(standin: Standin, v1: stripe.V1Services) -> None:
    """A tour: each operation of the stand-in succeeds at least once under the contract."""
    customer = a_paying_customer(v1, standin, tax_exempt="none", preferred_locales=["de"])
    visit_checkout_and_portal(v1, customer.id)
    visit_invoices(v1, customer.id)
    visit_what_comes_back(v1, standin, customer.id)
    visit_the_rest(v1)
    v1.payment_methods.detach(default_method(customer))
    v1.customers.delete(customer.id)

    seen = {
        (found[0].method, found[0].path)
        for entry in standin.log()
        if entry["status"] == 200 and (found := match(OPERATIONS, entry["method"], entry["path"]))
    }
    assert {(each.method, each.path) for each in OPERATIONS} - seen == set()


def visit_checkout_and_portal(v1: stripe.V1Services, customer: str) -> None:
    session = v1.checkout.sessions.retrieve(a_session(v1, customer, allowed_payment_method_types=["card"]).id)
    assert isinstance(session.setup_intent, str)
    v1.setup_intents.retrieve(session.setup_intent)
    v1.checkout.sessions.list({"customer": customer, "status": "open"})
    v1.checkout.sessions.expire(session.id)
    made = v1.billing_portal.configurations.create(
        {
            "features": {"payment_method_update": {"enabled": True}, "subscription_cancel": {"enabled": False}},
            "default_return_url": "http://127.0.0.1:1/",
            "business_profile": {"headline": "Acme"},
        }
    )
    v1.billing_portal.configurations.update(made.id, {"active": True, "metadata": {"a": "b"}})
    v1.billing_portal.configurations.retrieve(made.id)
    v1.billing_portal.configurations.list({"is_default": False})
    done: Any = {"type": "redirect", "redirect": {"return_url": "http://127.0.0.1:1/done"}}
    v1.billing_portal.sessions.create(
        {
            "customer": customer,
            "configuration": made.id,
            "flow_data": {"type": "payment_method_update", "after_completion": done},
        }
    )
    method = v1.customers.payment_methods.list(customer, {"type": "card"}).data[0]
    v1.customers.payment_methods.retrieve(customer, method.id)
    v1.payment_methods.retrieve(method.id)


def visit_invoices(v1: stripe.V1Services, customer: str) -> None:
    draft = a_draft(v1, customer, 100)
    v1.invoices.add_lines(draft.id, {"lines": [{"amount": 5, "description": "x", "metadata": {"am_line_id": "l9"}}]})
    lines = v1.invoices.line_items.list(draft.id).data
    v1.invoices.remove_lines(draft.id, {"lines": [{"id": lines[0].id, "behavior": "unassign"}]})
    pending = v1.invoice_items.list({"customer": customer, "pending": True}).data[0]
    v1.invoice_items.retrieve(pending.id)
    v1.invoice_items.delete(pending.id)
    v1.invoices.update(draft.id, {"description": "d", "footer": "f", "custom_fields": [{"name": "PO", "value": "1"}]})
    v1.invoices.delete(draft.id)
    sent = a_draft(v1, customer, 500, collection_method="send_invoice", days_until_due=30)
    v1.invoices.send_invoice(sent.id)
    v1.invoices.mark_uncollectible(sent.id)
    v1.invoices.void_invoice(sent.id)
    small = a_draft(v1, customer, 20)
    v1.invoices.finalize_invoice(small.id)
    v1.customers.balance_transactions.list(customer)
    v1.invoices.list({"customer": customer, "status": "paid", "due_date": {"gte": 1}})
    v1.invoices.list({"collection_method": "send_invoice", "created": {"lt": 4_000_000_000}})
    v1.customers.retrieve(customer)
    v1.customers.list({"email": "dev@example.com", "created": {"gte": 0}})


def visit_what_comes_back(v1: stripe.V1Services, standin: Standin, customer: str) -> None:
    paid = a_paid_invoice(v1, customer, 4900, automatic_tax={"enabled": True})
    payment = v1.invoice_payments.list({"invoice": paid.id, "status": "paid"}).data[0]
    v1.invoice_payments.retrieve(payment.id)
    intent = v1.payment_intents.retrieve(intent_of(v1, paid.id), {"expand": ["latest_charge"]})
    v1.charges.retrieve(v1.charges.list({"payment_intent": intent.id}).data[0].id)
    refund = v1.refunds.create({"payment_intent": intent.id, "amount": 1, "reason": "requested_by_customer"})
    v1.refunds.retrieve(refund.id)
    v1.refunds.list({"payment_intent": intent.id})
    line = v1.invoices.line_items.list(paid.id).data[0]
    lines: Any = [{"type": "invoice_line_item", "invoice_line_item": line.id, "amount": 100}]
    v1.credit_notes.preview({"invoice": paid.id, "lines": lines, "credit_amount": 119})
    note = v1.credit_notes.create({"invoice": paid.id, "lines": lines, "credit_amount": 19, "refund_amount": 100})
    v1.credit_notes.retrieve(note.id)
    v1.credit_notes.line_items.list(note.id)
    v1.credit_notes.list({"invoice": paid.id})
    draft = a_draft(v1, customer, 1000)
    v1.invoices.finalize_invoice(draft.id)
    v1.credit_notes.void_credit_note(v1.credit_notes.create({"invoice": draft.id, "amount": 300}).id)
    dispute = standin.act("dispute", invoice=paid.id)
    v1.disputes.retrieve(dispute["id"])
    v1.disputes.list({"payment_intent": intent.id})
    standin.act("close_dispute", dispute=dispute["id"], outcome="lost")


def visit_the_rest(v1: stripe.V1Services) -> None:
    v1.accounts.retrieve_current()
    v1.balance.retrieve()
    v1.tax.settings.retrieve()
    v1.tax.settings.update({"defaults": {"tax_behavior": "exclusive"}, "head_office": {"address": {"country": "DE"}}})
    made = v1.tax.calculations.create(
        {
            "currency": "eur",
            "customer_details": {"address": {"country": "FR"}, "address_source": "billing"},
            "line_items": [{"amount": 1000, "reference": "L1"}, {"amount": 50, "tax_behavior": "inclusive"}],
        }
    )
    assert made.id is not None
    v1.tax.calculations.retrieve(made.id)
    v1.tax.calculations.line_items.list(made.id)
    endpoint = v1.webhook_endpoints.create(
        {"url": "http://127.0.0.1:1/", "enabled_events": ["invoice.paid"], "metadata": {"am_instance": "x"}}
    )
    v1.webhook_endpoints.update(endpoint.id, {"enabled_events": EVENTS, "disabled": True})
    v1.webhook_endpoints.retrieve(endpoint.id)
    v1.webhook_endpoints.list({"limit": 16})
    v1.webhook_endpoints.delete(endpoint.id)
    v1.events.retrieve(v1.events.list({"types": ["customer.created"], "created": {"gte": 0}}).data[0].id)


def test_what_is_not_modelled_is_refused_by_name(standin: Standin) -> None:
    client = stripe_client(standin.url)
    with pytest.raises(stripe.InvalidRequestError, match=re.escape("Unrecognized request URL (GET: /v1/products)")):
        client.v1.products.list()

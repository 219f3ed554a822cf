"""What an API biller does at Stripe, in the order of reference: subscribe with a card, close a period, pay."""

from typing import Any

import stripe

from rig.standin import Standin

PAYS = "4242424242424242"
ASKS = "4000000000003220"
DECLINED_WHEN_CHARGED = "4000000000000341"
DECLINED_AT_ONCE = "4000000000009995"

SETUP: dict[str, Any] = {
    "mode": "setup",
    "currency": "usd",
    "success_url": "http://127.0.0.1:1/done?cs={CHECKOUT_SESSION_ID}",
    "cancel_url": "http://127.0.0.1:1/back",
    "billing_address_collection": "required",
    "customer_update": {"address": "auto", "name": "auto"},
    "custom_text": {"submit": {"message": "You will be charged $49.00 now, then monthly"}},
}


def a_customer(v1: stripe.V1Services, **fields: Any) -> stripe.Customer:
    given: Any = {"email": "dev@example.com", "name": "Acme", "metadata": {"am_customer_id": "c1"}} | fields
    return v1.customers.create(given)


def a_session(v1: stripe.V1Services, customer: str, **fields: Any) -> stripe.checkout.Session:
    given: Any = SETUP | {"customer": customer, "client_reference_id": "sub_1"} | fields
    return v1.checkout.sessions.create(given)


def a_paying_customer(v1: stripe.V1Services, standin: Standin, card: str = PAYS, **fields: Any) -> stripe.Customer:
    """With this card as the default, and an address in Germany."""
    customer = a_customer(v1, **fields)
    session = a_session(v1, customer.id)
    done = standin.act("complete_checkout", session=session.id, card=card, authenticated=True)
    assert done["error"] is None, done
    method = v1.customers.payment_methods.list(customer.id).data[0]
    return v1.customers.update(customer.id, {"invoice_settings": {"default_payment_method": method.id}})


def a_draft(
    v1: stripe.V1Services, customer: str, *amounts: int, currency: str = "usd", **fields: Any
) -> stripe.Invoice:
    """A draft with one line for each amount, in minor units."""
    given: Any = {
        "customer": customer, "currency": currency, "auto_advance": False, "collection_method": "charge_automatically",
        "pending_invoice_items_behavior": "exclude", "metadata": {"am_invoice_id": "i1"},
    }  # fmt: skip
    invoice = v1.invoices.create(given | fields)
    for number, amount in enumerate(amounts, start=1):
        v1.invoice_items.create(
            {
                "customer": customer,
                "invoice": invoice.id,
                "currency": currency,
                "amount": amount,
                "description": f"Line {number}",
                "period": {"start": 1_790_000_000, "end": 1_792_000_000},
                "tax_behavior": "exclusive",
                "metadata": {"am_line_id": f"l{number}"},
            }
        )
    return v1.invoices.retrieve(invoice.id)


def a_paid_invoice(v1: stripe.V1Services, customer: str, *amounts: int, **fields: Any) -> stripe.Invoice:
    draft = a_draft(v1, customer, *amounts, **fields)
    v1.invoices.finalize_invoice(draft.id, {"auto_advance": False})
    return v1.invoices.pay(draft.id)


def default_method(customer: stripe.Customer) -> str:
    assert customer.invoice_settings is not None
    found = customer.invoice_settings.default_payment_method
    assert isinstance(found, str)
    return found


def intent_of(v1: stripe.V1Services, invoice: str) -> str:
    """The payment intent of an invoice: no field of either says it."""
    found = v1.invoice_payments.list({"invoice": invoice}).data[0].payment.payment_intent
    assert isinstance(found, str)
    return found

"""Payment intents, charges, and what ties them to an invoice: one attempt with one card at a time.

Since 2025 neither an intent nor a charge names its invoice; `invoice_payments` do.
"""

from farebox_portal.standin.books import Books, new_id
from farebox_portal.standin.cards import CARDS, decline
from farebox_portal.standin.events import emit
from farebox_portal.standin.operation import Operation
from farebox_portal.standin.shapes import PAGE, Choice, Needed, Range, Shape, Text
from farebox_portal.standin.wire import Document, Given, Refused, page


def open_payment(books: Books, invoice: Document) -> None:
    """The intent to be paid for what is due on a finalized invoice."""
    intent = books.add(
        "payment_intent",
        "pi",
        amount=invoice["amount_due"],
        currency=invoice["currency"],
        customer=invoice["customer"],
        description=invoice["description"] or f"Invoice {invoice['number']}",
    )
    intent["client_secret"] = f"{intent['id']}_secret_{new_id('', 12)[1:]}"
    books.add(
        "invoice_payment",
        "inpay",
        invoice=invoice["id"],
        amount_requested=invoice["amount_due"],
        currency=invoice["currency"],
        payment={"type": "payment_intent", "payment_intent": intent["id"]},
    )
    emit(books, "payment_intent.created", intent)


def payment_of(books: Books, invoice: Document) -> tuple[Document, Document]:
    """The invoice payment and its intent."""
    paying = next(books.all("invoice_payment", invoice=invoice["id"], is_default=True))
    return paying, books.get("payment_intent", paying["payment"]["payment_intent"])


def attempt(books: Books, intent: Document, method: Document, authenticated: bool | None) -> Refused | None:
    """Try to take the money; why not, if not. `authenticated`: what 3-D Secure said, None while nobody was asked."""
    intent |= {"payment_method": method["id"], "next_action": None, "last_payment_error": None}
    wanted = _next_failure(books, intent["customer"]) or CARDS[method["_number"]].at_charge
    if wanted == "authenticate" and authenticated is None:
        return _ask(books, intent)
    if wanted == "authenticate" and authenticated is False:
        return _unauthenticated(books, intent, method)
    if wanted is None or wanted == "authenticate":
        _succeed(books, intent, method)
        return None
    return _fail(books, intent, method, wanted)


def fail_next(books: Books, decline_code: str, customer: str | None) -> None:
    """Decline the next attempt of this customer (None: of anybody), whatever the card."""
    kept = books.settings("next_failures", queue=[])
    kept["queue"].append({"customer": customer, "decline_code": decline_code})
    books.save(kept)


def cancel(books: Books, invoice: Document) -> None:
    """Nobody will pay this any more."""
    for paying in books.all("invoice_payment", invoice=invoice["id"], status="open"):
        paying |= {"status": "canceled", "status_transitions": {"canceled_at": books.now(), "paid_at": None}}
        intent = books.get("payment_intent", paying["payment"]["payment_intent"])
        intent |= {"status": "canceled", "canceled_at": books.now(), "cancellation_reason": "void_invoice"}
        books.save(paying)
        books.save(intent)
        emit(books, "payment_intent.canceled", intent)


def _next_failure(books: Books, customer: str) -> str | None:
    kept = books.settings("next_failures", queue=[])
    for place, each in enumerate(kept["queue"]):
        if each["customer"] in (None, customer):
            del kept["queue"][place]
            books.save(kept)
            return str(each["decline_code"])
    return None


def _ask(books: Books, intent: Document) -> Refused:
    secure = {"type": "three_d_secure_redirect", "stripe_js": ""}
    intent |= {"status": "requires_action", "next_action": {"type": "use_stripe_sdk", "use_stripe_sdk": secure}}
    books.save(intent)
    emit(books, "payment_intent.requires_action", intent)
    return Refused(
        402,
        "This payment requires additional user action before it can be completed successfully. Payment can be "
        "completed using the PaymentIntent associated with the invoice.",
        code="invoice_payment_intent_requires_action",
        error_type="card_error",
        payment_intent=books.show(intent),
    )


def _unauthenticated(books: Books, intent: Document, method: Document) -> Refused:
    refused = Refused(
        402,
        "We are unable to authenticate your payment method. Please choose a different payment method and try again.",
        code="payment_intent_authentication_failure",
        error_type="card_error",
        payment_method=books.show(method),
    )
    return _refuse(books, intent, refused)


def _succeed(books: Books, intent: Document, method: Document) -> None:
    charge = _charge(books, intent, method, paid=True, captured=True, amount_captured=intent["amount"])
    intent |= {"status": "succeeded", "amount_received": intent["amount"], "latest_charge": charge["id"]}
    books.save(intent)
    emit(books, "payment_intent.succeeded", intent)
    emit(books, "charge.succeeded", charge)


def _fail(books: Books, intent: Document, method: Document, decline_code: str) -> Refused:
    refused = decline(decline_code)
    charge = _charge(books, intent, method, status="failed", failure_code=refused.code, failure_message=refused.message)
    intent["latest_charge"] = charge["id"]
    emit(books, "charge.failed", charge)
    said = decline(decline_code, charge=charge["id"], payment_method=books.show(method))
    return _refuse(books, intent, said)


def _refuse(books: Books, intent: Document, refused: Refused) -> Refused:
    intent |= {"status": "requires_payment_method", "payment_method": None}
    intent["last_payment_error"] = dict(refused.body["error"])
    books.save(intent)
    emit(books, "payment_intent.payment_failed", intent)
    refused.body["error"]["payment_intent"] = books.show(intent)
    return refused


def _charge(books: Books, intent: Document, method: Document, **fields: object) -> Document:
    card = {name: method["card"][name] for name in ("brand", "country", "exp_month", "exp_year", "funding", "last4")}
    return books.add(
        "charge",
        "ch",
        amount=intent["amount"],
        currency=intent["currency"],
        customer=intent["customer"],
        billing_details=method["billing_details"],
        description=intent["description"],
        payment_intent=intent["id"],
        payment_method=method["id"],
        payment_method_details={"type": "card", "card": card},
        **fields,
    )


# ---- operations


def _intent(books: Books, given: Given) -> Document:
    return books.get("payment_intent", given["id"])


def _show_charge(books: Books, given: Given) -> Document:
    return books.get("charge", given["id"])


def _charges(books: Books, given: Given) -> Document:
    rows = books.newest(
        "charge", given.get("created"), customer=given.get("customer"), payment_intent=given.get("payment_intent")
    )
    return page(rows, given, "/v1/charges")


def _payment(books: Books, given: Given) -> Document:
    return books.get("invoice_payment", given["id"])


def _payments(books: Books, given: Given) -> Document:
    rows = books.newest("invoice_payment", invoice=given.get("invoice"), status=given.get("status"))
    intent = given.get("payment", {}).get("payment_intent")
    if intent is not None:
        rows = [each for each in rows if each["payment"].get("payment_intent") == intent]
    return page(rows, given, "/v1/invoice_payments")


_PAYMENT: dict[str, Shape] = {"type": Needed(Choice("payment_intent")), "payment_intent": Text()}
_FILTER: dict[str, Shape] = {"invoice": Text(), "payment": _PAYMENT, "status": Choice("canceled", "open", "paid")}
_CHARGES: dict[str, Shape] = {"created": Range(), "customer": Text(), "payment_intent": Text()}

OPERATIONS = (
    Operation("GET", "/v1/invoice_payments", "invoice_read", _payments, PAGE | _FILTER),
    Operation("GET", "/v1/invoice_payments/{id}", "invoice_read", _payment),
    Operation("GET", "/v1/payment_intents/{id}", "payment_intent_read", _intent),
    Operation("GET", "/v1/charges", "charge_read", _charges, PAGE | _CHARGES),
    Operation("GET", "/v1/charges/{id}", "charge_read", _show_charge),
)

"""Customers, their payment methods and their credit balance.

A deleted customer can still be retrieved, with 200 and `deleted: true`; nothing else can be done with it.
"""

from typing import Any

from farebox_portal.standin.blanks import ADDRESS as NO_ADDRESS
from farebox_portal.standin.books import Books, new_id
from farebox_portal.standin.cards import LENT, Card, card_of
from farebox_portal.standin.events import emit
from farebox_portal.standin.operation import Operation
from farebox_portal.standin.shapes import ADDRESS, PAGE, Choice, Each, Metadata, Range, Shape, Text
from farebox_portal.standin.wire import Document, Given, Refused, missing, page

_PLAIN = ("email", "name", "phone", "description", "tax_exempt")

SET: dict[str, Shape] = {
    "address": ADDRESS,
    "description": Text(),
    "email": Text(512),
    "invoice_settings": {"default_payment_method": Text(), "footer": Text()},
    "metadata": Metadata(),
    "name": Text(256),
    "phone": Text(20),
    "preferred_locales": Each(Text()),
    "tax": {"validate_location": Choice("deferred", "immediately")},
    "tax_exempt": Choice("exempt", "none", "reverse"),
}


def living(books: Books, id_: str, *, param: str = "customer") -> Document:
    """The customer that a parameter names. Raises Refused (400) for a deleted one too."""
    found = books.get("customer", id_, param=param, status=400)
    if found.get("deleted"):
        raise missing("customer", id_, param=param, status=400)
    return found


def merge_metadata(document: Document, given: Given) -> None:
    if "metadata" in given:
        merged = document["metadata"] | given["metadata"] if given["metadata"] else {}
        document["metadata"] = {name: value for name, value in merged.items() if value != ""}


def create(books: Books, given: Given) -> Document:
    if "default_payment_method" in given.get("invoice_settings", {}):
        raise Refused(400, "A new customer has no payment methods", param="invoice_settings[default_payment_method]")
    if given.get("payment_method", "pm_card_visa") not in LENT:
        raise missing("PaymentMethod", given["payment_method"], param="payment_method", status=400)
    _check(given, None)
    customer = books.add("customer", "cus", invoice_prefix=new_id("", 8)[1:].upper(), _balances={})
    _set(books, customer, given)
    emit(books, "customer.created", customer)
    if method := given.get("payment_method"):
        attach(books, customer, card_of(LENT[method]), {})
    return customer


def update(books: Books, given: Given) -> Document:
    customer = living(books, given["id"], param="id")
    _check(given, customer["address"])
    if method := given.get("invoice_settings", {}).get("default_payment_method"):
        payment_method_of(books, customer, method, param="invoice_settings[default_payment_method]")
    before = books.show(customer)
    _set(books, customer, given)
    changed(books, customer, before)
    return customer


def changed(books: Books, customer: Document, before: Document) -> None:
    """Save, and tell what is different now."""
    books.save(customer)
    after = books.show(customer)
    previous = {name: value for name, value in before.items() if after.get(name) != value}
    if previous:
        emit(books, "customer.updated", customer, previous)


def _set(books: Books, customer: Document, given: Given) -> None:
    customer |= {name: given[name] or None for name in _PLAIN if name in given}
    customer["preferred_locales"] = given.get("preferred_locales", customer["preferred_locales"])
    if "address" in given:
        customer["address"] = NO_ADDRESS | {name: value or None for name, value in given["address"].items()}
    settings = given.get("invoice_settings", {})
    customer["invoice_settings"] = customer["invoice_settings"] | {k: v or None for k, v in settings.items()}
    merge_metadata(customer, given)
    books.save(customer)


def _check(given: Given, address: Document | None) -> None:
    immediately = given.get("tax", {}).get("validate_location") == "immediately"
    if immediately and not (given.get("address") or address or {}).get("country"):
        raise location_invalid()


def location_invalid() -> Refused:
    return Refused(
        400,
        "The customer's location isn't recognized. Set a valid customer address in order to automatically calculate "
        "tax.",
        code="customer_tax_location_invalid",
    )


def retrieve(books: Books, given: Given) -> Document:
    return books.get("customer", given["id"])


def delete(books: Books, given: Given) -> Document:
    customer = books.get("customer", given["id"])
    if customer.get("deleted"):
        raise missing("customer", given["id"])
    emit(books, "customer.deleted", customer)
    for method in books.all("payment_method", customer=customer["id"]):
        detach(books, method)
    gone = {"id": customer["id"], "object": "customer", "deleted": True, "_created": customer["created"]}
    books.save(gone)
    return gone


def _list(books: Books, given: Given) -> Document:
    rows = books.newest("customer", given.get("created"), email=given.get("email"))
    return page([each for each in rows if not each.get("deleted")], given, "/v1/customers")


# ---- payment methods


def attach(books: Books, customer: Document, card: Card, billing: dict[str, Any]) -> Document:
    """A card of this customer's. It does not become the default: that is a decision of its own."""
    method = books.add("payment_method", "pm", customer=customer["id"], card=card.shown, _number=card.number)
    method["billing_details"] = method["billing_details"] | billing
    books.save(method)
    emit(books, "payment_method.attached", method)
    return method


def detach(books: Books, method: Document) -> Document:
    before = method["customer"]
    customer = books.find("customer", before)
    if customer and customer["invoice_settings"]["default_payment_method"] == method["id"]:
        customer["invoice_settings"]["default_payment_method"] = None
        books.save(customer)
    method["customer"] = None
    books.save(method)
    emit(books, "payment_method.detached", method, {"customer": before})
    return method


def payment_method_of(books: Books, customer: Document, id_: str, *, param: str, status: int = 400) -> Document:
    found = books.find("payment_method", id_)
    if found is None or found["customer"] != customer["id"]:
        raise missing("PaymentMethod", id_, param=param, status=status)
    return found


def _methods(books: Books, given: Given) -> Document:
    customer = books.get("customer", given["id"])
    rows = books.newest("payment_method", customer=customer["id"], type=given.get("type"))
    return page(rows, given, f"/v1/customers/{customer['id']}/payment_methods")


def _method_of_customer(books: Books, given: Given) -> Document:
    customer = books.get("customer", given["id"])
    return payment_method_of(books, customer, given["method"], param="payment_method", status=404)


def _method(books: Books, given: Given) -> Document:
    return books.get("payment_method", given["id"])


def _detach(books: Books, given: Given) -> Document:
    method = books.get("payment_method", given["id"])
    if method["customer"] is None:
        raise Refused(400, "The payment method you provided is not attached to a customer so detachment is impossible.")
    return detach(books, method)


# ---- credit balance: positive is owed by the customer


def balance(customer: Document, currency: str) -> int:
    return int(customer["_balances"].get(currency, 0))


def change_balance(books: Books, customer: Document, currency: str, by: int, type_: str, **said: Any) -> Document:
    """Book `by` (minor units; positive is owed by the customer), and tell."""
    before = books.show(customer)
    ending = balance(customer, currency) + by
    customer["_balances"] = customer["_balances"] | {currency: ending}
    customer["currency"] = customer["currency"] or currency
    customer["balance"] = balance(customer, customer["currency"])
    booked = books.add(
        "customer_balance_transaction", "cbtxn", customer=customer["id"], currency=currency, amount=by, type=type_,
        ending_balance=ending, **said,
    )  # fmt: skip
    changed(books, customer, before)
    return booked


def _balance_transactions(books: Books, given: Given) -> Document:
    customer = books.get("customer", given["id"])
    rows = books.newest("customer_balance_transaction", customer=customer["id"])
    return page(rows, given, f"/v1/customers/{customer['id']}/balance_transactions")


OPERATIONS = (
    Operation("POST", "/v1/customers", "customer_write", create, SET | {"payment_method": Text()}),
    Operation("GET", "/v1/customers", "customer_read", _list, PAGE | {"created": Range(), "email": Text(512)}),
    Operation("GET", "/v1/customers/{id}", "customer_read", retrieve),
    Operation("POST", "/v1/customers/{id}", "customer_write", update, SET),
    Operation("DELETE", "/v1/customers/{id}", "customer_write", delete),
    Operation("GET", "/v1/customers/{id}/balance_transactions", "customer_read", _balance_transactions, PAGE),
    Operation(
        "GET", "/v1/customers/{id}/payment_methods", "payment_method_read", _methods, PAGE | {"type": Choice("card")}
    ),
    Operation("GET", "/v1/customers/{id}/payment_methods/{method}", "payment_method_read", _method_of_customer),
    Operation("GET", "/v1/payment_methods/{id}", "payment_method_read", _method),
    Operation("POST", "/v1/payment_methods/{id}/detach", "payment_method_write", _detach),
)

"""The operations on invoices. What they mean is in `invoice_life`, the lines in `invoice_lines`."""

from farebox_portal.standin.amounts import check_currency
from farebox_portal.standin.books import Books
from farebox_portal.standin.customers import living, merge_metadata, payment_method_of
from farebox_portal.standin.events import emit
from farebox_portal.standin.invoice_life import HOUR_S, finalize, give_up, pay, settle, void
from farebox_portal.standin.invoice_lines import (
    LINES_SHOWN,
    check_editable,
    check_taxable,
    lines_of,
    put_on,
    total_up,
)
from farebox_portal.standin.operation import Operation
from farebox_portal.standin.shapes import MOMENT, PAGE, Choice, Each, Flag, Metadata, Needed, Range, Shape, Text, Whole
from farebox_portal.standin.wire import Document, Given, Refused, page, public

_PLAIN = ("default_payment_method", "description", "footer", "due_date", "custom_fields", "collection_method")
_EDITABLE_WHEN_FINAL = ("auto_advance", "default_payment_method", "due_date")


def show_invoice(books: Books, invoice: Document) -> Document:
    """With its first lines, and its page once it has one."""
    url = f"/v1/invoices/{invoice['id']}/lines"
    lines = page(lines_of(books, invoice), {"limit": LINES_SHOWN}, url)
    hosted = f"{books.base_url}/pay/invoice/{invoice['_token']}" if "_token" in invoice else None
    return invoice | {"lines": lines, "hosted_invoice_url": hosted, "invoice_pdf": hosted and f"{hosted}/pdf"}


def show_payments(books: Books, invoice: Document) -> Document:
    """What `expand[]=payments` adds."""
    rows = [public(each) for each in books.newest("invoice_payment", invoice=invoice["id"])]
    return page(rows, {}, f"/v1/invoice_payments?invoice={invoice['id']}")


def _create(books: Books, given: Given) -> Document:
    _check_terms(given)
    customer = living(books, given["customer"])
    currency = check_currency(given.get("currency") or customer["currency"] or "usd")
    _check_method(books, customer, given)
    pending = _pending(books, customer, currency) if given.get("pending_invoice_items_behavior") == "include" else []
    if given.get("automatic_tax", {}).get("enabled"):
        check_taxable(books, pending)
    invoice = books.add(
        "invoice",
        "in",
        customer=customer["id"],
        currency=currency,
        account_country="DE",
        account_name="Demo payments",
        auto_advance=given.get("auto_advance", False),
        period_start=books.now(),
        period_end=books.now(),
        _days_until_due=given.get("days_until_due", 0),
    )
    _set(books, invoice, customer, given)
    if invoice["auto_advance"]:
        invoice["automatically_finalizes_at"] = books.now() + HOUR_S
    for item in pending:
        put_on(books, item, invoice)
    total_up(books, invoice)
    emit(books, "invoice.created", invoice)
    return invoice


def _pending(books: Books, customer: Document, currency: str) -> list[Document]:
    items = books.all("invoiceitem", customer=customer["id"], currency=currency)
    return [each for each in items if each["invoice"] is None]


def _check_method(books: Books, customer: Document, given: Given) -> None:
    if given.get("default_payment_method"):
        payment_method_of(books, customer, given["default_payment_method"], param="default_payment_method")


def _check_terms(given: Given) -> None:
    sent = given.get("collection_method") == "send_invoice"
    if sent and "days_until_due" not in given and "due_date" not in given:
        raise Refused(
            400, "If you want to send the invoice, specify days_until_due or due_date.", param="days_until_due"
        )
    if not sent and ("days_until_due" in given or "due_date" in given):
        raise Refused(
            400, "days_until_due and due_date are for collection_method=send_invoice.", param="days_until_due"
        )


def _set(books: Books, invoice: Document, customer: Document, given: Given) -> None:
    invoice |= {name: given[name] or None for name in _PLAIN if name in given}
    invoice["auto_advance"] = given.get("auto_advance", invoice["auto_advance"])
    invoice["_days_until_due"] = given.get("days_until_due", invoice["_days_until_due"])
    if "automatic_tax" in given:
        invoice["automatic_tax"] = invoice["automatic_tax"] | {"enabled": given["automatic_tax"]["enabled"]}
    for name in ("address", "email", "name", "phone", "tax_exempt"):
        invoice[f"customer_{name}"] = customer[name]
    merge_metadata(invoice, given)
    books.save(invoice)


def _update(books: Books, given: Given) -> Document:
    invoice = books.get("invoice", given["id"])
    if set(given) - {"id", "metadata", *_EDITABLE_WHEN_FINAL}:
        check_editable(invoice)
    customer = books.get("customer", invoice["customer"])
    _check_method(books, customer, given)
    if invoice["status"] == "draft":
        if given.get("automatic_tax", {}).get("enabled"):
            check_taxable(books, lines_of(books, invoice))
        _set(books, invoice, living(books, invoice["customer"]), given)
        total_up(books, invoice)
        if invoice["auto_advance"]:
            invoice["automatically_finalizes_at"] = invoice["automatically_finalizes_at"] or books.now() + HOUR_S
    else:
        merge_metadata(invoice, given)
        invoice |= {name: given[name] for name in _EDITABLE_WHEN_FINAL if name in given}
        if given.get("auto_advance") and invoice["status"] == "open" and invoice["next_payment_attempt"] is None:
            invoice["next_payment_attempt"] = books.now() + HOUR_S
    books.save(invoice)
    emit(books, "invoice.updated", invoice)
    return invoice


def _retrieve(books: Books, given: Given) -> Document:
    return books.get("invoice", given["id"])


def _list(books: Books, given: Given) -> Document:
    equal = {name: given.get(name) for name in ("customer", "status", "collection_method")}
    rows = books.newest("invoice", given.get("created"), **equal)
    due = given.get("due_date", {})
    if due:
        rows = [each for each in rows if each["due_date"] and _is_within(each["due_date"], due)]
    return page(rows, given, "/v1/invoices")


def _is_within(at: int, bounds: Document) -> bool:
    tests = {"gt": at.__gt__, "gte": at.__ge__, "lt": at.__lt__, "lte": at.__le__}
    return all(tests[name](value) for name, value in bounds.items())


def _delete(books: Books, given: Given) -> Document:
    invoice = books.get("invoice", given["id"])
    if invoice["status"] != "draft":
        raise Refused(400, "You can only delete draft invoices", code="invoice_not_editable")
    emit(books, "invoice.deleted", invoice)
    for line in lines_of(books, invoice):
        books.remove(line)
        books.remove(books.get("invoiceitem", line["_item"]))
    books.remove(invoice)
    return {"id": invoice["id"], "object": "invoice", "deleted": True}


def _finalize(books: Books, given: Given) -> Document:
    invoice = books.get("invoice", given["id"])
    finalize(books, invoice, given.get("auto_advance"))
    return invoice


def _pay(books: Books, given: Given) -> Document:
    invoice = books.get("invoice", given["id"])
    if given.get("paid_out_of_band"):
        return _pay_out_of_band(books, invoice)
    # `off_session` changes nothing here: a card that asks for authentication asks each time.
    refused = pay(books, invoice, given.get("payment_method"))
    if refused is not None:
        raise refused
    return invoice


def _pay_out_of_band(books: Books, invoice: Document) -> Document:
    if invoice["status"] == "draft":
        finalize(books, invoice)
    if invoice["status"] not in ("open", "uncollectible"):
        raise Refused(400, f"Invoice is already {invoice['status']}")
    settle(books, invoice, out_of_band=True)
    return invoice


def _void(books: Books, given: Given) -> Document:
    invoice = books.get("invoice", given["id"])
    void(books, invoice)
    return invoice


def _mark_uncollectible(books: Books, given: Given) -> Document:
    invoice = books.get("invoice", given["id"])
    give_up(books, invoice)
    return invoice


def _send(books: Books, given: Given) -> Document:
    invoice = books.get("invoice", given["id"])
    if invoice["collection_method"] != "send_invoice":
        raise Refused(400, "You can only manually send an invoice if its collection method is 'send_invoice'.")
    if invoice["status"] == "draft":
        finalize(books, invoice)
    emit(books, "invoice.sent", invoice)
    return invoice


_SET: dict[str, Shape] = {
    "auto_advance": Flag(),
    "automatic_tax": {"enabled": Needed(Flag())},
    "collection_method": Choice("charge_automatically", "send_invoice"),
    "custom_fields": Each({"name": Needed(Text(40)), "value": Needed(Text(140))}, 4),
    "days_until_due": Whole(0),
    "default_payment_method": Text(),
    "description": Text(1500),
    "due_date": MOMENT,
    "footer": Text(5000),
    "metadata": Metadata(),
}
_NEW: dict[str, Shape] = _SET | {
    "currency": Text(),
    "customer": Needed(Text()),
    "pending_invoice_items_behavior": Choice("exclude", "include"),
}
_FILTER: dict[str, Shape] = {
    "collection_method": Choice("charge_automatically", "send_invoice"),
    "created": Range(),
    "customer": Text(),
    "due_date": Range(),
    "status": Choice("draft", "open", "paid", "uncollectible", "void"),
}
_PAY: dict[str, Shape] = {"off_session": Flag(), "paid_out_of_band": Flag(), "payment_method": Text()}

OPERATIONS = (
    Operation("POST", "/v1/invoices", "invoice_write", _create, _NEW),
    Operation("GET", "/v1/invoices", "invoice_read", _list, PAGE | _FILTER),
    Operation("GET", "/v1/invoices/{id}", "invoice_read", _retrieve),
    Operation("POST", "/v1/invoices/{id}", "invoice_write", _update, _SET),
    Operation("DELETE", "/v1/invoices/{id}", "invoice_write", _delete),
    Operation("POST", "/v1/invoices/{id}/finalize", "invoice_write", _finalize, {"auto_advance": Flag()}),
    Operation("POST", "/v1/invoices/{id}/pay", "invoice_write", _pay, _PAY),
    Operation("POST", "/v1/invoices/{id}/void", "invoice_write", _void),
    Operation("POST", "/v1/invoices/{id}/mark_uncollectible", "invoice_write", _mark_uncollectible),
    Operation("POST", "/v1/invoices/{id}/send", "invoice_write", _send),
)

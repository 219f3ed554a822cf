"""The operations on invoice items and lines. What they mean is in `invoice_lines`."""

from farebox_portal.standin.books import Books
from farebox_portal.standin.customers import living, merge_metadata
from farebox_portal.standin.events import emit
from farebox_portal.standin.invoice_lines import ITEMS_MAX, add_item, check_editable, check_fit, lines_of, total_up
from farebox_portal.standin.operation import Operation
from farebox_portal.standin.shapes import (
    MOMENT,
    PAGE,
    Choice,
    Each,
    Exact,
    Flag,
    Metadata,
    Needed,
    Range,
    Shape,
    Text,
    Whole,
)
from farebox_portal.standin.wire import Document, Given, page


def _create(books: Books, given: Given) -> Document:
    invoice = books.get("invoice", given["invoice"], param="invoice", status=400) if given.get("invoice") else None
    customer = living(books, given["customer"])
    item = add_item(books, given, customer, invoice)
    if invoice is not None:
        total_up(books, invoice)
    return item


def _retrieve(books: Books, given: Given) -> Document:
    return books.get("invoiceitem", given["id"])


def _list(books: Books, given: Given) -> Document:
    rows = books.newest(
        "invoiceitem", given.get("created"), customer=given.get("customer"), invoice=given.get("invoice")
    )
    if "pending" in given:
        rows = [each for each in rows if (each["invoice"] is None) == given["pending"]]
    return page(rows, given, "/v1/invoiceitems")


def _delete(books: Books, given: Given) -> Document:
    item = books.get("invoiceitem", given["id"])
    invoice = books.find("invoice", item["invoice"])
    if invoice is not None:
        check_editable(invoice)
        for line in books.all("line_item", _item=item["id"]):
            books.remove(line)
        total_up(books, invoice)
    books.remove(item)
    emit(books, "invoiceitem.deleted", item)
    return {"id": item["id"], "object": "invoiceitem", "deleted": True}


def _lines(books: Books, given: Given) -> Document:
    invoice = books.get("invoice", given["id"])
    return page(lines_of(books, invoice), given, f"/v1/invoices/{invoice['id']}/lines")


def _add_lines(books: Books, given: Given) -> Document:
    invoice = books.get("invoice", given["id"])
    check_editable(invoice)
    customer = living(books, invoice["customer"])
    check_fit(books, invoice, customer, invoice["currency"], given["lines"])  # all, before the first is added
    for line in given["lines"]:
        add_item(books, line, customer, invoice)
    merge_metadata(invoice, {"metadata": given["invoice_metadata"]} if "invoice_metadata" in given else {})
    total_up(books, invoice)
    emit(books, "invoice.updated", invoice)
    return invoice


def _remove_lines(books: Books, given: Given) -> Document:
    invoice = books.get("invoice", given["id"])
    check_editable(invoice)
    for named in given["lines"]:
        line = books.get("line_item", named["id"], param="lines", status=400)
        item = books.get("invoiceitem", line["_item"])
        books.remove(line)
        if named["behavior"] == "delete":
            books.remove(item)
        else:
            item["invoice"] = None
            books.save(item)
    total_up(books, invoice)
    emit(books, "invoice.updated", invoice)
    return invoice


_PERIOD: dict[str, Shape] = {"start": Needed(MOMENT), "end": Needed(MOMENT)}
_LINE: dict[str, Shape] = {
    "amount": Whole(), "description": Text(5000), "discountable": Flag(), "metadata": Metadata(), "period": _PERIOD,
    "quantity": Whole(1),
}  # fmt: skip
_ITEM: dict[str, Shape] = _LINE | {
    "currency": Text(), "customer": Needed(Text()), "invoice": Text(), "unit_amount_decimal": Exact(),
    "tax_behavior": Choice("exclusive", "inclusive", "unspecified"), "tax_code": Text(),
}  # fmt: skip
_REMOVED: dict[str, Shape] = {"behavior": Needed(Choice("delete", "unassign")), "id": Needed(Text())}
_FILTER: dict[str, Shape] = {"created": Range(), "customer": Text(), "invoice": Text(), "pending": Flag()}

_ADDED: dict[str, Shape] = {"lines": Needed(Each(_LINE, ITEMS_MAX)), "invoice_metadata": Metadata()}
_GONE: dict[str, Shape] = {"lines": Needed(Each(_REMOVED, ITEMS_MAX))}

OPERATIONS = (
    Operation("POST", "/v1/invoiceitems", "invoice_write", _create, _ITEM),
    Operation("GET", "/v1/invoiceitems", "invoice_read", _list, PAGE | _FILTER),
    Operation("GET", "/v1/invoiceitems/{id}", "invoice_read", _retrieve),
    Operation("DELETE", "/v1/invoiceitems/{id}", "invoice_write", _delete),
    Operation("GET", "/v1/invoices/{id}/lines", "invoice_read", _lines, PAGE),
    Operation("POST", "/v1/invoices/{id}/add_lines", "invoice_write", _add_lines, _ADDED),
    Operation("POST", "/v1/invoices/{id}/remove_lines", "invoice_write", _remove_lines, _GONE),
)

"""Credit notes: an invoice becomes smaller after it is final.

On an open invoice it lowers what is left to pay. On a paid one the amount has to go somewhere: back to the card, to the
customer's balance, or out of band; the three add up to it.
"""

from typing import Any

from farebox_portal.standin.books import Books
from farebox_portal.standin.customers import change_balance, merge_metadata
from farebox_portal.standin.events import emit
from farebox_portal.standin.invoice_life import settle
from farebox_portal.standin.invoice_lines import lines_of
from farebox_portal.standin.operation import Operation
from farebox_portal.standin.payments import payment_of
from farebox_portal.standin.refunds import check_refundable, refund
from farebox_portal.standin.shapes import PAGE, Choice, Each, Metadata, Needed, Range, Shape, Text, Whole
from farebox_portal.standin.wire import Document, Given, Refused, page


def show_note(books: Books, note: Document) -> Document:
    url = f"/v1/credit_notes/{note['id']}/lines"
    return note | {"lines": page(note["_lines"], {}, url), "pdf": f"{books.base_url}/pay/credit_note/{note['id']}"}


def _preview(books: Books, given: Given) -> Document:
    note = _made(books, given)
    books.remove(note)
    return note


def _create(books: Books, given: Given) -> Document:
    note = _made(books, given)
    invoice = books.get("invoice", note["invoice"])
    if note["type"] == "pre_payment":
        _lower(books, invoice, note)
    else:
        _give_back(books, invoice, note, given)
    emit(books, "credit_note.created", note)
    return note


def _made(books: Books, given: Given) -> Document:
    """The note, and nothing else changed yet. Raises Refused."""
    invoice = books.get("invoice", given["invoice"], param="invoice", status=400)
    if invoice["status"] not in ("open", "paid", "uncollectible"):
        raise Refused(400, "You can only create credit notes for invoices that are finalized.", param="invoice")
    lines = [_line(books, invoice, line) for line in given.get("lines", [])]
    tax = sum(each["amount"] for line in lines for each in line["taxes"] if each["tax_behavior"] == "exclusive")
    amount = sum(line["amount"] for line in lines) + tax if lines else given.get("amount", _parts(given))
    if lines and "amount" in given and given["amount"] != amount:
        raise Refused(400, f"The lines add up to {amount}, not {given['amount']}.", param="amount")
    if amount <= 0:
        raise Refused(
            400, "Specify lines, amount, or refund_amount, credit_amount and out_of_band_amount.", param="amount"
        )
    paid = invoice["status"] == "paid"
    number = len(list(books.all("credit_note", customer=invoice["customer"]))) + 1
    left = invoice["amount_paid"] - invoice["post_payment_credit_notes_amount"] if paid else invoice["amount_remaining"]
    if amount > left:
        raise Refused(400, f"The sum of credit notes cannot be more than the invoice has left: {left}", param="amount")
    if paid and _parts(given) != amount:
        raise Refused(
            400, f"refund_amount, credit_amount and out_of_band_amount must add up to {amount} on a paid invoice.",
            param="amount",
        )  # fmt: skip
    if given.get("refund_amount"):
        check_refundable(books.get("charge", payment_of(books, invoice)[1]["latest_charge"]), given["refund_amount"])
    kind = "post_payment" if paid else "pre_payment"
    note = books.add(
        "credit_note", "cn", amount=amount, currency=invoice["currency"], customer=invoice["customer"],
        invoice=invoice["id"], memo=given.get("memo"), number=f"{invoice['number']}-CN-{number:02d}",
        out_of_band_amount=given.get("out_of_band_amount"), reason=given.get("reason"), subtotal=amount - tax,
        subtotal_excluding_tax=amount - tax, total=amount, total_excluding_tax=amount - tax, type=kind,
        effective_at=books.now(), _lines=lines, **{f"{kind}_amount": amount},
    )  # fmt: skip
    merge_metadata(note, given)
    return note


def _parts(given: Given) -> int:
    return sum(given.get(name, 0) for name in ("refund_amount", "credit_amount", "out_of_band_amount"))


def _line(books: Books, invoice: Document, given: Given) -> Document:
    said: dict[str, Any] = {"description": given.get("description"), "quantity": given.get("quantity")}
    if given["type"] == "custom_line_item":
        if "unit_amount" not in given:
            raise Refused(400, "A custom_line_item has a unit_amount.", param="lines")
        said |= {"amount": given["unit_amount"] * given.get("quantity", 1), "unit_amount": given["unit_amount"]}
    else:
        line = next((each for each in lines_of(books, invoice) if each["id"] == given.get("invoice_line_item")), None)
        if line is None:
            raise Refused(400, "No such invoice line item on this invoice.", code="resource_missing", param="lines")
        amount = given.get("amount", line["amount"])
        share = [
            tax | {name: tax[name] * amount // line["amount"] for name in ("amount", "taxable_amount")}
            for tax in line["taxes"]
        ]
        said |= {"amount": amount, "description": line["description"], "invoice_line_item": line["id"], "taxes": share}
    made = books.add("credit_note_line_item", "cnli", type=given["type"], **said)
    books.remove(made)  # it is kept in its note
    return made


def _lower(books: Books, invoice: Document, note: Document) -> None:
    """Less is left to pay; if nothing is, the invoice is paid."""
    invoice["pre_payment_credit_notes_amount"] += note["amount"]
    invoice["amount_due"] -= note["amount"]
    invoice["amount_remaining"] -= note["amount"]
    paying, intent = payment_of(books, invoice)
    paying["amount_requested"] = intent["amount"] = invoice["amount_remaining"]
    for each in (invoice, paying, intent):
        books.save(each)
    if invoice["amount_remaining"] == 0:
        settle(books, invoice)
    else:
        emit(books, "invoice.updated", invoice)


def _give_back(books: Books, invoice: Document, note: Document, given: Given) -> None:
    invoice["post_payment_credit_notes_amount"] += note["amount"]
    books.save(invoice)
    if given.get("refund_amount"):
        _, intent = payment_of(books, invoice)
        made = refund(books, books.get("charge", intent["latest_charge"]), given["refund_amount"])
        note["refunds"] = [
            {"amount_refunded": made["amount"], "refund": made["id"], "payment_record_refund": None, "type": "refund"}
        ]
    if given.get("credit_amount"):
        customer = books.get("customer", invoice["customer"])
        booked = change_balance(
            books, customer, invoice["currency"], -given["credit_amount"], "credit_note", credit_note=note["id"]
        )
        note["customer_balance_transaction"] = booked["id"]
    books.save(note)


def _void(books: Books, given: Given) -> Document:
    note = books.get("credit_note", given["id"])
    invoice = books.get("invoice", note["invoice"])
    if note["status"] == "void" or note["type"] != "pre_payment" or invoice["status"] != "open":
        raise Refused(400, "You can only void an issued credit note on an open invoice.")
    note |= {"status": "void", "voided_at": books.now()}
    books.save(note)
    _lower(books, invoice, note | {"amount": -note["amount"]})
    emit(books, "credit_note.voided", note)
    return note


def _retrieve(books: Books, given: Given) -> Document:
    return books.get("credit_note", given["id"])


def _list(books: Books, given: Given) -> Document:
    equal = {name: given.get(name) for name in ("customer", "invoice")}
    return page(books.newest("credit_note", given.get("created"), **equal), given, "/v1/credit_notes")


def _lines(books: Books, given: Given) -> Document:
    note = books.get("credit_note", given["id"])
    return page(note["_lines"], given, f"/v1/credit_notes/{note['id']}/lines")


_LINE: dict[str, Shape] = {
    "amount": Whole(1), "description": Text(), "invoice_line_item": Text(), "quantity": Whole(1),
    "type": Needed(Choice("custom_line_item", "invoice_line_item")), "unit_amount": Whole(1),
}  # fmt: skip
_NEW: dict[str, Shape] = {
    "amount": Whole(1), "credit_amount": Whole(0), "invoice": Needed(Text()), "lines": Each(_LINE, 250),
    "memo": Text(), "metadata": Metadata(), "out_of_band_amount": Whole(0), "refund_amount": Whole(0),
    "reason": Choice("duplicate", "fraudulent", "order_change", "product_unsatisfactory"),
}  # fmt: skip
_FILTER: dict[str, Shape] = {"created": Range(), "customer": Text(), "invoice": Text()}

OPERATIONS = (
    Operation("GET", "/v1/credit_notes/preview", "credit_note_read", _preview, _NEW),
    Operation("POST", "/v1/credit_notes", "credit_note_write", _create, _NEW),
    Operation("GET", "/v1/credit_notes", "credit_note_read", _list, PAGE | _FILTER),
    Operation("GET", "/v1/credit_notes/{id}", "credit_note_read", _retrieve),
    Operation("GET", "/v1/credit_notes/{id}/lines", "credit_note_read", _lines, PAGE),
    Operation("POST", "/v1/credit_notes/{id}/void", "credit_note_write", _void),
)

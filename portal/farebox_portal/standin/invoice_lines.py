"""Invoice items and the lines they become; an invoice's totals.

Every line comes from an item, also those of `add_lines`. An item without an invoice waits on the customer, for the next
invoice that includes what is pending.
"""

from collections import defaultdict
from collections.abc import Sequence
from decimal import ROUND_HALF_UP

from farebox_portal.standin.amounts import check_currency
from farebox_portal.standin.books import Books
from farebox_portal.standin.customers import balance, merge_metadata
from farebox_portal.standin.events import emit
from farebox_portal.standin.tax import assess, behavior_of
from farebox_portal.standin.wire import Document, Given, Refused

ITEMS_MAX = 250
LINES_SHOWN = 10


def lines_of(books: Books, invoice: Document) -> list[Document]:
    return list(books.all("line_item", invoice=invoice["id"]))


def check_editable(invoice: Document) -> None:
    if invoice["status"] != "draft":
        raise Refused(
            400,
            f"This invoice is no longer editable, it is {invoice['status']}.",
            code="invoice_not_editable",
        )


def add_item(books: Books, given: Given, customer: Document, invoice: Document | None) -> Document:
    """One item, and its line if it is on an invoice. Raises Refused."""
    currency = check_currency(given.get("currency") or (invoice or customer)["currency"] or "usd")
    if invoice is not None:
        check_fit(books, invoice, customer, currency, [given])
    amount, quantity = _amount(given)
    item = books.add(
        "invoiceitem",
        "ii",
        amount=amount,
        currency=currency,
        customer=customer["id"],
        date=books.now(),
        description=given.get("description"),
        discountable=given.get("discountable", amount >= 0),
        invoice=invoice and invoice["id"],
        period=given.get("period") or {"start": books.now(), "end": books.now()},
        pricing=_pricing(given),
        quantity=quantity,
        quantity_decimal=str(quantity),
        _tax_behavior=given.get("tax_behavior"),
    )
    merge_metadata(item, given)
    if invoice is not None:
        put_on(books, item, invoice)
    emit(books, "invoiceitem.created", item)
    return item


def put_on(books: Books, item: Document, invoice: Document) -> None:
    """Make the item a line of the invoice."""
    item["invoice"] = invoice["id"]
    books.save(item)
    same = ("amount", "currency", "description", "discountable", "metadata", "period", "pricing", "quantity")
    books.add(
        "line_item",
        "il",
        invoice=invoice["id"],
        subtotal=item["amount"],
        quantity_decimal=item["quantity_decimal"],
        parent={
            "type": "invoice_item_details",
            "invoice_item_details": {
                "invoice_item": item["id"], "proration": False, "proration_details": {"credited_items": None},
                "subscription": None,
            },
            "subscription_item_details": None,
        },
        _item=item["id"],
        _tax_behavior=item["_tax_behavior"],
        **{name: item[name] for name in same},
    )  # fmt: skip


def check_fit(books: Books, invoice: Document, customer: Document, currency: str, added: Sequence[Given]) -> None:
    """Raises Refused unless all of them can be added to the invoice."""
    check_editable(invoice)
    if invoice["customer"] != customer["id"]:
        raise Refused(400, f"Invoice {invoice['id']} does not belong to customer {customer['id']}", param="invoice")
    if currency != invoice["currency"]:
        raise Refused(400, f"The invoice's currency is {invoice['currency']}, not {currency}.", param="currency")
    if len(lines_of(books, invoice)) + len(added) > ITEMS_MAX:
        raise Refused(400, f"An invoice can have at most {ITEMS_MAX} invoice items.")
    rows = [{"amount": _amount(each)[0], "_tax_behavior": each.get("tax_behavior")} for each in added]
    if invoice["automatic_tax"]["enabled"]:
        check_taxable(books, rows)


def check_taxable(books: Books, rows: Sequence[Document]) -> None:
    """Raises Refused where an item or line cannot be on an invoice with automatic tax."""
    for row in rows:
        behavior_of(books, row["_tax_behavior"])
        if row["amount"] < 0:
            raise Refused(400, "Negative amounts are not compatible with automatic tax.", param="amount")


def _amount(given: Given) -> tuple[int, int]:
    """(amount in minor units, quantity). Either the amount is said, or a unit price that may have decimals."""
    quantity = given.get("quantity", 1)
    if "amount" in given and ("unit_amount_decimal" in given or "quantity" in given):
        raise Refused(400, "You may only specify one of these parameters: amount, unit_amount_decimal.", param="amount")
    if "amount" in given:
        return given["amount"], 1
    if "unit_amount_decimal" not in given:
        raise Refused(400, "Missing required param: amount.", code="parameter_missing", param="amount")
    return int((given["unit_amount_decimal"] * quantity).to_integral_value(ROUND_HALF_UP)), quantity


def _pricing(given: Given) -> Document | None:
    if "unit_amount_decimal" not in given:
        return None
    # No price object lies behind such an item; its unit price is all there is to say.
    return {
        "type": "price_details",
        "price_details": None,
        "unit_amount_decimal": format(given["unit_amount_decimal"], "f"),
    }


def total_up(books: Books, invoice: Document) -> None:
    """Work out a draft's taxes and totals anew. Says in `automatic_tax.status` when the address does not do."""
    lines = lines_of(books, invoice)
    _tax_lines(books, invoice, lines)
    taxes = [tax for line in lines for tax in line["taxes"]]
    subtotal = sum(line["amount"] for line in lines)
    exclusive = sum(tax["amount"] for tax in taxes if tax["tax_behavior"] == "exclusive")
    inclusive = sum(tax["amount"] for tax in taxes if tax["tax_behavior"] == "inclusive")
    total = subtotal + exclusive
    owed = balance(books.get("customer", invoice["customer"]), invoice["currency"])
    due = max(0, total + owed)
    invoice |= {
        "subtotal": subtotal, "subtotal_excluding_tax": subtotal - inclusive, "total": total,
        "total_excluding_tax": total - exclusive - inclusive, "total_taxes": _merged(taxes),
        "starting_balance": owed, "amount_due": due, "amount_remaining": due,
    }  # fmt: skip
    books.save(invoice)


def _tax_lines(books: Books, invoice: Document, lines: list[Document]) -> None:
    automatic = invoice["automatic_tax"]
    for line in lines:
        line["taxes"] = []
        books.save(line)
    if not automatic["enabled"]:
        invoice["automatic_tax"] = automatic | {"status": None, "provider": None, "liability": None}
        return
    customer = books.get("customer", invoice["customer"])
    said = {"provider": "stripe", "liability": {"type": "self"}}
    try:
        found = assess(customer["address"], customer["tax_exempt"])
    except Refused:
        invoice["automatic_tax"] = automatic | said | {"status": "requires_location_inputs"}
        return
    for line in lines:
        line["taxes"] = [found.on_line(line["amount"], behavior_of(books, line["_tax_behavior"]), invoice["currency"])]
    invoice["automatic_tax"] = automatic | said | {"status": "complete"}


def _merged(taxes: list[Document]) -> list[Document]:
    by_rate = defaultdict(list)
    for tax in taxes:
        by_rate[tax["tax_rate_details"]["tax_rate"]].append(tax)
    summed = ("amount", "taxable_amount")
    return [same[0] | {name: sum(tax[name] for tax in same) for name in summed} for same in by_rate.values()]

"""An invoice's life: draft → open → paid, uncollectible or void.

    draft          may be changed and deleted; with `auto_advance` it is finalized an hour later by itself
    open           has its number, its amounts stand; may be paid, voided or given up
    uncollectible  may still be paid or voided
    paid, void     for good

Less than the currency's least charge is not charged: the invoice is paid, and the customer's balance owes it.
"""

from farebox_portal.standin.amounts import check_chargeable, minimum_charge
from farebox_portal.standin.books import Books, new_id
from farebox_portal.standin.cards import card_of
from farebox_portal.standin.customers import attach, balance, change_balance, living, payment_method_of
from farebox_portal.standin.events import emit
from farebox_portal.standin.invoice_lines import lines_of, total_up
from farebox_portal.standin.payments import attempt, cancel, open_payment, payment_of
from farebox_portal.standin.tax import assess, check_active
from farebox_portal.standin.wire import Document, Refused

HOUR_S = 3600
DAY_S = 24 * HOUR_S
RETRIES_AFTER_S = (3 * DAY_S, 5 * DAY_S, 7 * DAY_S)
"""When an invoice with `auto_advance` is tried again, after each failure; then it is left open."""


def finalize(books: Books, invoice: Document, auto_advance: bool | None = None) -> None:
    """Make a draft final. Raises Refused, and the draft stays one."""
    if invoice["status"] != "draft":
        raise Refused(
            400,
            "This invoice is already finalized, you can't re-finalize a non-draft invoice.",
            code="invoice_not_editable",
        )
    customer = living(books, invoice["customer"])
    total_up(books, invoice)
    try:
        due, ending = _check_final(books, invoice, customer)
    except Refused as refused:
        _note_failure(books, invoice, refused)
        raise
    if auto_advance is not None:
        invoice["auto_advance"] = auto_advance
    _freeze(books, invoice, customer)
    invoice |= {"status": "open", "amount_due": due, "amount_remaining": due, "ending_balance": ending}
    invoice["status_transitions"] = invoice["status_transitions"] | {"finalized_at": books.now()}
    if ending != invoice["starting_balance"]:
        type_ = "invoice_too_small" if invoice["total"] > 0 and due == 0 < ending else "applied_to_invoice"
        by = ending - invoice["starting_balance"]
        change_balance(books, customer, invoice["currency"], by, type_, invoice=invoice["id"])
    if due > 0:
        open_payment(books, invoice)
    books.save(invoice)
    emit(books, "invoice.finalized", invoice)
    if due == 0:
        settle(books, invoice)


def _check_final(books: Books, invoice: Document, customer: Document) -> tuple[int, int]:
    """(what is due now, the customer's balance afterwards). Raises Refused for what cannot become final."""
    if not lines_of(books, invoice):
        raise Refused(400, "Nothing to invoice for customer", code="invoice_no_customer_line_items")
    if invoice["collection_method"] == "send_invoice" and not customer["email"]:
        raise Refused(400, "Missing email: an invoice is sent to the customer's address.", code="missing")
    if invoice["automatic_tax"]["enabled"]:
        check_active(books)
        assess(customer["address"], customer["tax_exempt"])
    owed = invoice["total"] + balance(customer, invoice["currency"])
    if owed <= 0 or owed < minimum_charge(invoice["currency"]):
        return 0, owed
    check_chargeable(owed, invoice["currency"])
    return owed, 0


def _note_failure(books: Books, invoice: Document, refused: Refused) -> None:
    invoice["last_finalization_error"] = dict(refused.body["error"])
    books.save(invoice)
    emit(books, "invoice.finalization_failed", invoice)


def _freeze(books: Books, invoice: Document, customer: Document) -> None:
    """The number, and the customer as it is now: later changes do not reach a final invoice."""
    number = customer["next_invoice_sequence"]
    customer |= {"next_invoice_sequence": number + 1, "currency": customer["currency"] or invoice["currency"]}
    books.save(customer)
    frozen = {f"customer_{name}": customer[name] for name in ("address", "email", "name", "phone", "tax_exempt")}
    invoice |= frozen | {
        "number": f"{customer['invoice_prefix']}-{number:04d}",
        "effective_at": books.now(),
        "automatically_finalizes_at": None,
        "last_finalization_error": None,
        "_token": new_id("", 24)[1:],
    }
    if invoice["collection_method"] == "send_invoice":
        invoice["due_date"] = invoice["due_date"] or books.now() + invoice["_days_until_due"] * DAY_S
    elif invoice["auto_advance"]:
        invoice["next_payment_attempt"] = books.now()


def pay(
    books: Books, invoice: Document, method_id: str | None = None, authenticated: bool | None = None
) -> Refused | None:
    """Charge what is due; why it was declined, if it was. Raises Refused where there is nothing to try."""
    if invoice["status"] == "draft":
        finalize(books, invoice)
        if invoice["status"] == "paid":
            return None
    _check_payable(invoice)
    method = _method_for(books, invoice, method_id)
    paying, intent = payment_of(books, invoice)
    invoice |= {"attempted": True, "attempt_count": invoice["attempt_count"] + 1}
    refused = attempt(books, intent, method, authenticated)
    if refused is None:
        paying |= {"status": "paid", "amount_paid": paying["amount_requested"]}
        paying["status_transitions"] = {"canceled_at": None, "paid_at": books.now()}
        books.save(paying)
        emit(books, "invoice_payment.paid", paying)
        settle(books, invoice)
        return None
    _schedule_retry(books, invoice)
    books.save(invoice)
    if refused.code == "invoice_payment_intent_requires_action":
        emit(books, "invoice.payment_action_required", invoice)
    emit(books, "invoice.payment_failed", invoice)
    return refused


def pay_by_hand(books: Books, invoice: Document, number: str, authenticated: bool | None = None) -> Refused | None:
    """What a person does on the hosted page: pay with a card, which the customer keeps. Raises Refused as `pay`."""
    _check_payable(invoice)
    customer = living(books, invoice["customer"])
    known = (each for each in books.newest("payment_method", customer=customer["id"]) if each["_number"] == number)
    billing = {"name": customer["name"], "address": customer["address"]}
    method = next(known, None) or attach(books, customer, card_of(number), billing)
    return pay(books, invoice, method["id"], authenticated)


def _check_payable(invoice: Document) -> None:
    if invoice["status"] == "paid":
        raise Refused(400, "Invoice is already paid")
    if invoice["status"] == "void":
        raise Refused(400, "Invoices can't be paid when they are void.")


def _method_for(books: Books, invoice: Document, method_id: str | None) -> Document:
    customer = living(books, invoice["customer"])
    default = customer["invoice_settings"]["default_payment_method"]
    wanted = method_id or invoice["default_payment_method"] or default
    if wanted is None:
        raise Refused(
            400,
            "There is no `default_payment_method` set on this Customer or Invoice. Please set either "
            "`default_payment_method` or pass `payment_method`.",
        )
    return payment_method_of(books, customer, wanted, param="payment_method")


def _schedule_retry(books: Books, invoice: Document) -> None:
    invoice["next_payment_attempt"] = None
    if invoice["auto_advance"] and invoice["attempt_count"] <= len(RETRIES_AFTER_S):
        invoice["next_payment_attempt"] = books.now() + RETRIES_AFTER_S[invoice["attempt_count"] - 1]


def settle(books: Books, invoice: Document, *, out_of_band: bool = False) -> None:
    """It is paid: by a charge, by the balance, or on a way that we do not see."""
    if out_of_band:
        cancel(books, invoice)
    invoice |= {
        "status": "paid", "amount_paid": invoice["amount_due"], "amount_remaining": 0, "attempted": True,
        "auto_advance": False, "next_payment_attempt": None,
    }  # fmt: skip
    invoice["status_transitions"] = invoice["status_transitions"] | {"paid_at": books.now()}
    books.save(invoice)
    emit(books, "invoice.paid", invoice)
    if not out_of_band:
        emit(books, "invoice.payment_succeeded", invoice)


def void(books: Books, invoice: Document) -> None:
    _leave(books, invoice, "void", "voided_at", ("open", "uncollectible"))
    customer = books.get("customer", invoice["customer"])
    taken = invoice["starting_balance"] - invoice["ending_balance"]
    if taken and not customer.get("deleted"):
        change_balance(books, customer, invoice["currency"], taken, "unapplied_from_invoice", invoice=invoice["id"])
    cancel(books, invoice)
    emit(books, "invoice.voided", invoice)


def give_up(books: Books, invoice: Document) -> None:
    _leave(books, invoice, "uncollectible", "marked_uncollectible_at", ("open",))
    emit(books, "invoice.marked_uncollectible", invoice)


def _leave(books: Books, invoice: Document, status: str, moment: str, allowed: tuple[str, ...]) -> None:
    if invoice["status"] not in allowed:
        raise Refused(
            400, f"You can only do this to invoices that are {' or '.join(allowed)}, not {invoice['status']}."
        )
    invoice |= {"status": status, "auto_advance": False, "next_payment_attempt": None}
    invoice["status_transitions"] = invoice["status_transitions"] | {moment: books.now()}
    books.save(invoice)


def advance(books: Books) -> None:
    """Do what is due by itself now: finalize drafts and try payments, where `auto_advance` says so."""
    for invoice in books.all("invoice", auto_advance=True):
        at = invoice["automatically_finalizes_at"]
        if invoice["status"] == "draft" and at is not None and at <= books.now():
            _finalize_unattended(books, invoice)
        due_at = invoice["next_payment_attempt"]
        if invoice["status"] == "open" and due_at is not None and due_at <= books.now():
            _pay_unattended(books, invoice)


def _finalize_unattended(books: Books, invoice: Document) -> None:
    try:
        finalize(books, invoice)
    except Refused:
        invoice["automatically_finalizes_at"] = None  # told as an event; it waits for somebody to mend it
        books.save(invoice)


def _pay_unattended(books: Books, invoice: Document) -> None:
    try:
        pay(books, invoice)
    except Refused:  # no card: an attempt all the same, when nobody asked for it
        invoice |= {"attempted": True, "attempt_count": invoice["attempt_count"] + 1}
        _schedule_retry(books, invoice)
        books.save(invoice)
        emit(books, "invoice.payment_failed", invoice)

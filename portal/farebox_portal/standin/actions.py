"""What people and banks do, for tests and the demo's buttons: fill in a page, dispute a charge, press something in the
dashboard."""

from collections.abc import Callable, Mapping
from typing import Any

from farebox_portal.standin import billing_portal, checkout, customers, events, invoice_life, payments, refunds
from farebox_portal.standin.books import Books
from farebox_portal.standin.cards import DECLINES
from farebox_portal.standin.wire import Document, Refused

Said = Mapping[str, Any]


def _complete_checkout(books: Books, said: Said) -> Document:
    """session, card?, name?, address?, authenticated?"""
    session = books.get("checkout.session", said["session"])
    billing = {"name": said.get("name"), "address": said.get("address", {"country": "DE"})}
    refused = checkout.complete(books, session, _card(said), billing, said.get("authenticated"))
    return _outcome(refused) | {"redirect": None if refused else checkout.return_url(session)}


def _expire_session(books: Books, said: Said) -> Document:
    """session"""
    session = books.get("checkout.session", said["session"])
    checkout.check_open(books, session)
    checkout.expire(books, session)
    return books.show(session)


def _update_card(books: Books, said: Said) -> Document:
    """session (of the customer portal), card?, authenticated?"""
    session = books.get("billing_portal.session", said["session"])
    refused = billing_portal.update_card(books, session, _card(said), said.get("authenticated"))
    return _outcome(refused) | {"redirect": None if refused else billing_portal.after_update(session)}


def _pay_invoice(books: Books, said: Said) -> Document:
    """invoice, card?, authenticated?"""
    invoice = books.get("invoice", said["invoice"])
    refused = invoice_life.pay_by_hand(books, invoice, _card(said), said.get("authenticated"))
    return _outcome(refused) | {"invoice": books.show(invoice)}


def _fail_next(books: Books, said: Said) -> Document:
    """decline_code, customer?"""
    if said["decline_code"] not in DECLINES:
        raise ValueError(f"decline_code is one of {', '.join(DECLINES)}")
    payments.fail_next(books, said["decline_code"], said.get("customer"))
    return {}


def _refund(books: Books, said: Said) -> Document:
    """invoice, payment_intent or charge; amount?"""
    return books.show(refunds.refund(books, _charge(books, said), said.get("amount")))


def _dispute(books: Books, said: Said) -> Document:
    """invoice, payment_intent or charge; inquiry?"""
    return books.show(refunds.dispute(books, _charge(books, said), inquiry=bool(said.get("inquiry"))))


def _close_dispute(books: Books, said: Said) -> Document:
    """dispute, outcome (won or lost)"""
    if said["outcome"] not in ("won", "lost"):
        raise ValueError("outcome is won or lost")
    return books.show(refunds.close_dispute(books, books.get("dispute", said["dispute"]), said["outcome"]))


def _delete_customer(books: Books, said: Said) -> Document:
    """customer"""
    return books.show(customers.delete(books, {"id": said["customer"]}))


def _detach_card(books: Books, said: Said) -> Document:
    """payment_method"""
    return books.show(customers.detach(books, books.get("payment_method", said["payment_method"])))


def _send_again(books: Books, said: Said) -> Document:
    """event: to every endpoint that wants it, as the dashboard's "resend" does"""
    event = books.get("event", said["event"])
    return {"deliveries": events.deliver(books, event)}


def _card(said: Said) -> str:
    return str(said.get("card", "4242424242424242"))


def _charge(books: Books, said: Said) -> Document:
    if "invoice" not in said:
        return refunds.charge_of(books, dict(said))
    invoice = books.get("invoice", said["invoice"])
    _, intent = payments.payment_of(books, invoice)
    return refunds.charge_of(books, {"payment_intent": intent["id"]})


def _outcome(refused: Refused | None) -> Document:
    return {"error": refused.body["error"] if refused else None}


ACTIONS: dict[str, Callable[[Books, Said], Document]] = {
    "close_dispute": _close_dispute,
    "complete_checkout": _complete_checkout,
    "delete_customer": _delete_customer,
    "detach_card": _detach_card,
    "dispute": _dispute,
    "expire_session": _expire_session,
    "fail_next": _fail_next,
    "pay_invoice": _pay_invoice,
    "refund": _refund,
    "send_again": _send_again,
    "update_card": _update_card,
}

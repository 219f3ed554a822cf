"""Checkout in `setup` mode: a person leaves a card to be charged later.

It attaches the card and tells so; it does not make it the customer's default. A session ends by being completed, by
being expired, or by its time. Other modes need prices and products, which an API biller does not have: refused.
"""

from typing import Any
from urllib.parse import urlsplit

from farebox_portal.standin.amounts import check_currency
from farebox_portal.standin.blanks import ADDRESS as NO_ADDRESS
from farebox_portal.standin.books import Books, new_id
from farebox_portal.standin.cards import card_of, decline
from farebox_portal.standin.customers import attach, changed, living, merge_metadata
from farebox_portal.standin.events import emit
from farebox_portal.standin.operation import Operation
from farebox_portal.standin.shapes import MOMENT, PAGE, Choice, Each, Metadata, Needed, Range, Shape, Text
from farebox_portal.standin.wire import Document, Given, Refused, page

OPEN_MIN_S, OPEN_MAX_S = 30 * 60, 24 * 3600
_SLACK_S = 60  # the asker's clock is not ours


def show_session(books: Books, session: Document) -> Document:
    """With its page's address while somebody can use it."""
    is_open = session["status"] == "open"
    return session | {"url": f"{books.base_url}/pay/checkout/{session['id']}" if is_open else None}


def check_url(url: str, param: str) -> str:
    """An address that a page may lead to. Raises Refused."""
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
        raise Refused(400, "Not a valid URL", code="url_invalid", param=param)
    return url


def _create(books: Books, given: Given) -> Document:
    if given["mode"] != "setup":
        raise Refused(400, f"The payment stand-in models mode=setup alone, not {given['mode']}.", param="mode")
    if "currency" not in given and "allowed_payment_method_types" not in given:
        raise Refused(400, "Missing required param: currency.", code="parameter_missing", param="currency")
    customer = living(books, given["customer"])
    expires_at = given.get("expires_at", books.now() + OPEN_MAX_S)
    if not OPEN_MIN_S - _SLACK_S <= expires_at - books.now() <= OPEN_MAX_S + _SLACK_S:
        raise Refused(
            400,
            "The `expires_at` timestamp must be at least 30 minutes and less than 24 hours from Checkout Session "
            "creation.",
            param="expires_at",
        )
    urls = {name: check_url(given[name], name) for name in ("success_url", "cancel_url") if given.get(name)}
    currency = check_currency(given["currency"]) if "currency" in given else None
    intent = books.add("setup_intent", "seti", customer=customer["id"])
    merge_metadata(intent, given.get("setup_intent_data", {}))
    intent["description"] = given.get("setup_intent_data", {}).get("description")
    intent["client_secret"] = f"{intent['id']}_secret_{new_id('', 12)[1:]}"
    session = books.add(
        "checkout.session",
        "cs_test",
        billing_address_collection=given.get("billing_address_collection", "auto"),
        client_reference_id=given.get("client_reference_id"),
        currency=currency,
        customer=customer["id"],
        expires_at=expires_at,
        locale=given.get("locale"),
        setup_intent=intent["id"],
        _customer_update=given.get("customer_update", {}),
        **urls,
    )
    session["custom_text"] = session["custom_text"] | given.get("custom_text", {})
    session["customer_details"] = _details(customer, {})
    merge_metadata(session, given)
    emit(books, "setup_intent.created", intent)
    return session


def _details(customer: Document, billing: dict[str, Any]) -> Document:
    said = {name: billing.get(name) or customer[name] for name in ("address", "email", "name")}
    same = {name: customer[name] for name in ("phone", "tax_exempt", "business_name", "individual_name")}
    return said | same | {"tax_ids": []}


def complete(
    books: Books, session: Document, number: str, billing: dict[str, Any], authenticated: bool | None = None
) -> Refused | None:
    """What a person does on the page: enter a card. Why it was declined, if it was; the session is open then.

    `billing`: name and address. `authenticated`: what 3-D Secure said; without it, a card that asks is declined.
    Raises Refused for a session that is over.
    """
    check_open(books, session)
    card = card_of(number)
    intent = books.get("setup_intent", session["setup_intent"])
    if card.at_setup == "authenticate" and not authenticated:
        return _failed(books, intent, "setup_intent_authentication_failure", "We are unable to authenticate your card.")
    if card.at_setup not in (None, "authenticate"):
        refused = decline(card.at_setup)
        return _failed(books, intent, str(refused.code), refused.message, card.at_setup)
    customer = living(books, session["customer"])
    billing = {"name": billing.get("name"), "address": NO_ADDRESS | billing.get("address", {})}
    method = attach(books, customer, card, billing)
    intent |= {"payment_method": method["id"], "status": "succeeded", "last_setup_error": None}
    books.save(intent)
    emit(books, "setup_intent.succeeded", intent)
    _update_customer(books, session, customer, billing)
    session |= {"status": "complete", "customer_details": _details(customer, billing)}
    books.save(session)
    emit(books, "checkout.session.completed", session)
    return None


def _failed(books: Books, intent: Document, code: str, message: str, decline_code: str | None = None) -> Refused:
    refused = Refused(402, message, code=code, error_type="card_error", decline_code=decline_code)
    intent |= {"last_setup_error": dict(refused.body["error"])}
    books.save(intent)
    emit(books, "setup_intent.setup_failed", intent)
    return refused


def _update_customer(books: Books, session: Document, customer: Document, billing: dict[str, Any]) -> None:
    wanted = [name for name, rule in session["_customer_update"].items() if rule == "auto" and billing.get(name)]
    before = books.show(customer)
    customer |= {name: billing[name] for name in wanted}
    changed(books, customer, before)


def check_open(books: Books, session: Document) -> None:
    _expire_if_due(books, session)
    if session["status"] != "open":
        raise Refused(400, f"This Checkout Session is {session['status']}.")


def _expire_if_due(books: Books, session: Document) -> None:
    if session["status"] == "open" and session["expires_at"] <= books.now():
        expire(books, session)


def expire(books: Books, session: Document) -> None:
    session["status"] = "expired"
    books.save(session)
    emit(books, "checkout.session.expired", session)


def advance(books: Books) -> None:
    """End the sessions whose time is over."""
    for session in books.all("checkout.session", status="open"):
        _expire_if_due(books, session)


def return_url(session: Document) -> str:
    """Where the person goes after it was completed."""
    return str(session["success_url"]).replace("{CHECKOUT_SESSION_ID}", session["id"])


def _retrieve(books: Books, given: Given) -> Document:
    return books.get("checkout.session", given["id"])


def _list(books: Books, given: Given) -> Document:
    equal = {name: given.get(name) for name in ("customer", "status")}
    return page(books.newest("checkout.session", given.get("created"), **equal), given, "/v1/checkout/sessions")


def _expire(books: Books, given: Given) -> Document:
    session = books.get("checkout.session", given["id"])
    if session["status"] != "open":
        raise Refused(
            400, f'Only Checkout Sessions with a status in ["open"] can be expired. This one is {session["status"]}.'
        )
    expire(books, session)
    return session


def _setup_intent(books: Books, given: Given) -> Document:
    return books.get("setup_intent", given["id"])


_MESSAGE: dict[str, Shape] = {"message": Needed(Text(1200))}
_UPDATE = Choice("auto", "never")
_NEW: dict[str, Shape] = {
    "allowed_payment_method_types": Each(Choice("card")),
    "billing_address_collection": Choice("auto", "required"),
    "cancel_url": Text(),
    "client_reference_id": Text(200),
    "currency": Text(),
    "custom_text": {"submit": _MESSAGE, "after_submit": _MESSAGE},
    "customer": Needed(Text()),
    "customer_update": {"address": _UPDATE, "name": _UPDATE},
    "expires_at": MOMENT,
    "locale": Choice("auto", "de", "en", "es", "fr"),
    "metadata": Metadata(),
    "mode": Needed(Choice("payment", "setup", "subscription")),
    "setup_intent_data": {"description": Text(1000), "metadata": Metadata()},
    "success_url": Needed(Text()),
    "ui_mode": Choice("hosted_page"),
}
_FILTER: dict[str, Shape] = {"created": Range(), "customer": Text(), "status": Choice("complete", "expired", "open")}

OPERATIONS = (
    Operation("POST", "/v1/checkout/sessions", "checkout_session_write", _create, _NEW),
    Operation("GET", "/v1/checkout/sessions", "checkout_session_read", _list, PAGE | _FILTER),
    Operation("GET", "/v1/checkout/sessions/{id}", "checkout_session_read", _retrieve),
    Operation("POST", "/v1/checkout/sessions/{id}/expire", "checkout_session_write", _expire),
    Operation("GET", "/v1/setup_intents/{id}", "setup_intent_read", _setup_intent),
)

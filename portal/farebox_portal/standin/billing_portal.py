"""The customer portal: where a customer changes the card and sees the invoices, by a short-lived link."""

from farebox_portal.standin.books import Books
from farebox_portal.standin.cards import card_of, decline
from farebox_portal.standin.checkout import check_url
from farebox_portal.standin.customers import attach, changed, living, merge_metadata
from farebox_portal.standin.operation import Operation
from farebox_portal.standin.shapes import PAGE, Choice, Each, Flag, Metadata, Needed, Shape, Text
from farebox_portal.standin.wire import Document, Given, Refused, page

OPEN_S = 3600  # since its making; Stripe's is shorter while nobody has opened it


def show_portal(books: Books, session: Document) -> Document:
    return session | {"url": f"{books.base_url}/pay/portal/{session['id']}"}


def ensure_default(books: Books) -> None:
    """The configuration that an operator saves in the dashboard once."""
    if not list(books.all("billing_portal.configuration")):
        books.add("billing_portal.configuration", "bpc", is_default=True, updated=books.now())


def update_card(books: Books, session: Document, number: str, authenticated: bool | None = None) -> Refused | None:
    """What a person does on the page: a new card, which becomes the default. Why it was declined, if it was.

    Raises Refused for a session that is over.
    """
    customer = check_usable(books, session)
    card = card_of(number)
    if card.at_setup == "authenticate" and not authenticated:
        return Refused(402, "We are unable to authenticate your card.", error_type="card_error")
    if card.at_setup not in (None, "authenticate"):
        return decline(card.at_setup)
    before = books.show(customer)
    method = attach(books, customer, card, {"name": customer["name"], "address": customer["address"]})
    customer["invoice_settings"] = customer["invoice_settings"] | {"default_payment_method": method["id"]}
    changed(books, customer, before)
    return None


def check_usable(books: Books, session: Document) -> Document:
    """The customer of a session that is still good. Raises Refused."""
    if session["created"] + OPEN_S <= books.now():
        raise Refused(400, "This link to the customer portal has expired.")
    return living(books, session["customer"])


def after_update(session: Document) -> str | None:
    """Where the person goes after the card was changed."""
    flow = session["flow"] or {}
    redirect = flow.get("after_completion", {}).get("redirect") or {}
    target: str | None = redirect.get("return_url") or session["return_url"]
    return target


def _create(books: Books, given: Given) -> Document:
    customer = living(books, given["customer"])
    configuration = _configuration(books, given)
    return_url = given.get("return_url") or configuration["default_return_url"]
    if not return_url:
        raise Refused(
            400,
            "You must provide a `return_url` when creating a session, or set a default one in the configuration.",
            param="return_url",
        )
    return books.add(
        "billing_portal.session",
        "bps",
        customer=customer["id"],
        configuration=configuration["id"],
        flow=_flow(given["flow_data"]) if "flow_data" in given else None,
        locale=given.get("locale"),
        return_url=check_url(return_url, "return_url"),
    )


def _flow(given: Given) -> Document:
    after = given.get("after_completion", {"type": "portal_homepage"})
    if "redirect" in after:
        check_url(after["redirect"]["return_url"], "flow_data[after_completion][redirect][return_url]")
    blank = {"hosted_confirmation": None, "redirect": None}
    unused = dict.fromkeys(("subscription_cancel", "subscription_update", "subscription_update_confirm"))
    return {"after_completion": blank | after, "type": given["type"]} | unused


def _configuration(books: Books, given: Given) -> Document:
    if "configuration" in given:
        return books.get("billing_portal.configuration", given["configuration"], param="configuration", status=400)
    for each in books.all("billing_portal.configuration", is_default=True):
        return each
    raise Refused(
        400,
        "No configuration provided and your test mode default configuration has not been created. Provide a "
        "configuration or create your default by saving your customer portal settings in test mode.",
    )


def _new_configuration(books: Books, given: Given) -> Document:
    return _set(books, books.add("billing_portal.configuration", "bpc"), given)


def _update_configuration(books: Books, given: Given) -> Document:
    return _set(books, books.get("billing_portal.configuration", given["id"]), given)


def _set(books: Books, document: Document, given: Given) -> Document:
    merged = {name: document[name] | given.get(name, {}) for name in ("business_profile", "features")}
    merged["features"] = {
        name: document["features"][name] | (given.get("features", {}).get(name) or {}) for name in document["features"]
    }
    document |= merged | {"updated": books.now()}
    document |= {name: given[name] for name in ("active", "default_return_url", "name") if name in given}
    merge_metadata(document, given)
    books.save(document)
    return document


def _retrieve(books: Books, given: Given) -> Document:
    return books.get("billing_portal.configuration", given["id"])


def _list(books: Books, given: Given) -> Document:
    rows = books.newest("billing_portal.configuration", is_default=given.get("is_default"), active=given.get("active"))
    return page(rows, given, _CONFIGURATIONS)


_SWITCH: dict[str, Shape] = {"enabled": Needed(Flag())}
_FEATURES: dict[str, Shape] = {
    "customer_update": _SWITCH
    | {"allowed_updates": Each(Choice("address", "email", "name", "phone", "shipping", "tax_id"))},
    "invoice_history": _SWITCH,
    "payment_method_update": _SWITCH,
    "subscription_cancel": _SWITCH,
    "subscription_update": {"enabled": Needed(Flag()), "default_allowed_updates": Each(Choice("price", "quantity"))},
}
_CONFIGURATION: dict[str, Shape] = {
    "business_profile": {"headline": Text(60), "privacy_policy_url": Text(), "terms_of_service_url": Text()},
    "default_return_url": Text(),
    "features": _FEATURES,
    "metadata": Metadata(),
    "name": Text(),
}
_AFTER: dict[str, Shape] = {
    "redirect": {"return_url": Needed(Text())},
    "type": Needed(Choice("hosted_confirmation", "portal_homepage", "redirect")),
}
_NEW: dict[str, Shape] = {
    "configuration": Text(),
    "customer": Needed(Text()),
    "flow_data": {"after_completion": _AFTER, "type": Needed(Choice("payment_method_update"))},
    "locale": Choice("auto", "de", "en", "es", "fr"),
    "return_url": Text(),
}

_REPLACED: dict[str, Shape] = _CONFIGURATION | {"active": Flag()}
_ADDED: dict[str, Shape] = _CONFIGURATION | {"features": Needed(_FEATURES)}
_FILTER: dict[str, Shape] = {"active": Flag(), "is_default": Flag()}
_CONFIGURATIONS = "/v1/billing_portal/configurations"

OPERATIONS = (
    Operation("POST", "/v1/billing_portal/sessions", "customer_portal_write", _create, _NEW),
    Operation("POST", _CONFIGURATIONS, "customer_portal_write", _new_configuration, _ADDED),
    Operation("GET", _CONFIGURATIONS, "customer_portal_read", _list, PAGE | _FILTER),
    Operation("GET", f"{_CONFIGURATIONS}/{{id}}", "customer_portal_read", _retrieve),
    Operation("POST", f"{_CONFIGURATIONS}/{{id}}", "customer_portal_write", _update_configuration, _REPLACED),
)

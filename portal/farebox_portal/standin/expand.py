"""`expand[]`: an id becomes the object that it names, if the key may read that too; or a part is added that is only
sent on request."""

from typing import Any

from farebox_portal.standin.books import Books
from farebox_portal.standin.invoices import show_payments
from farebox_portal.standin.keys import authorize
from farebox_portal.standin.tax import calculation_lines, customer_tax
from farebox_portal.standin.wire import Document, Refused

DEPTH_MAX = 4

# field → (kind of the object, permission to read it)
_NAMED = {
    "charge": ("charge", "charge_read"),
    "configuration": ("billing_portal.configuration", "customer_portal_read"),
    "customer": ("customer", "customer_read"),
    "default_payment_method": ("payment_method", "payment_method_read"),
    "invoice": ("invoice", "invoice_read"),
    "latest_charge": ("charge", "charge_read"),
    "payment_intent": ("payment_intent", "payment_intent_read"),
    "payment_method": ("payment_method", "payment_method_read"),
    "setup_intent": ("setup_intent", "setup_intent_read"),
}


def expand(books: Books, shown: Document, paths: list[str], key: str) -> Document:
    """Raises Refused for a path that leads nowhere, and for an object that the key may not read."""
    for path in paths:
        parts = path.split(".")
        if len(parts) > DEPTH_MAX:
            raise Refused(400, f"You cannot expand more than {DEPTH_MAX} levels of a property. Property: {path}")
        _expand(books, shown, parts, path, key)
    return shown


def _add(books: Books, place: Document, name: str, rest: list[str]) -> None:
    """What is only sent on request."""
    match place.get("object"), name:
        case "invoice", "payments":
            place["payments"] = show_payments(books, place)
        case "customer", "tax" if not place.get("deleted"):
            place["tax"] = customer_tax(place)
        case "tax.calculation", "line_items":
            place["line_items"] = calculation_lines(
                books, place["id"], with_breakdown=rest == ["data", "tax_breakdown"]
            )


def _expand(books: Books, place: Any, parts: list[str], path: str, key: str) -> None:
    if isinstance(place, list):
        for each in place:
            _expand(books, each, parts, path, key)
        return
    name, *rest = parts
    if isinstance(place, dict):
        _add(books, place, name, rest)
    if not isinstance(place, dict) or name not in place:
        raise Refused(400, f"This property cannot be expanded ({path}).", param="expand")
    if name in _NAMED and isinstance(place[name], str):
        kind, permission = _NAMED[name]
        authorize(books, key, permission)
        place[name] = books.show(books.get(kind, place[name]))
    elif not rest and not isinstance(place[name], dict | list | type(None)):
        raise Refused(400, f"This property cannot be expanded ({path}).", param="expand")
    if rest and place[name] is not None:
        _expand(books, place[name], rest, path, key)

"""The pages that people see: Checkout, the customer portal, the hosted invoice, and what this is.

Plain forms, no script, and nothing of Stripe's looks. The addresses are secrets of the session or the invoice; nothing
else protects them, as with Stripe's.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from farebox_portal.standin import billing_portal, checkout, invoice_life, payments
from farebox_portal.standin.actions import ACTIONS
from farebox_portal.standin.amounts import exponent
from farebox_portal.standin.blanks import ADDRESS as NO_ADDRESS
from farebox_portal.standin.books import Books
from farebox_portal.standin.cards import CARDS
from farebox_portal.standin.deliveries import SWITCHES, Deliveries
from farebox_portal.standin.faults import MODES
from farebox_portal.standin.forms import parse_form, read_form
from farebox_portal.standin.invoice_lines import lines_of
from farebox_portal.standin.passing import pass_time
from farebox_portal.standin.wire import API_VERSION, LABEL, Document, Refused

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
Form = Mapping[str, Any]

# What the three pages ask again when a card wants 3-D Secure: confirmed, failed, or not asked yet.
_STEPS = {"confirm": True, "fail": False}


class Pages:
    def __init__(self, books: Books, deliveries: Deliveries) -> None:
        self._books = books
        self._deliveries = deliveries
        self._templates = Environment(
            loader=PackageLoader("farebox_portal.standin"), autoescape=True, undefined=StrictUndefined
        )
        self._templates.filters["money"] = money

    def routes(self) -> list[Route]:
        return [
            Route("/", self._about, methods=["GET"]),
            Route("/pay/checkout/{id}", self._checkout, methods=["GET", "POST"]),
            Route("/pay/portal/{id}", self._portal, methods=["GET", "POST"]),
            Route("/pay/invoice/{token}", self._invoice, methods=["GET", "POST"]),
        ]

    async def _about(self, request: Request) -> Response:
        actions = {name: action.__doc__ for name, action in ACTIONS.items()}
        return self._page("about.html", actions=actions, modes=MODES, switches=SWITCHES, version=API_VERSION)

    async def _checkout(self, request: Request) -> Response:
        session = self._books.find("checkout.session", request.path_params["id"])
        return await self._show(request, session, self._do_checkout)

    async def _portal(self, request: Request) -> Response:
        session = self._books.find("billing_portal.session", request.path_params["id"])
        return await self._show(request, session, self._do_portal)

    async def _invoice(self, request: Request) -> Response:
        invoice = next(self._books.all("invoice", _token=request.path_params["token"]), None)
        return await self._show(request, invoice, self._do_invoice)

    async def _show(self, request: Request, document: Document | None, show: Any) -> Response:
        """Run `show`; what it refuses becomes a page too."""
        if document is None:
            return self._message("This link leads nowhere.", 404)
        try:
            form = parse_form(await read_form(request))
        except Refused as refused:
            return self._message(refused.message, refused.status)
        self._books.cause = {"id": None, "idempotency_key": None}
        pass_time(self._books)
        try:
            shown: Response = show(document, form if request.method == "POST" else None)
        except Refused as refused:
            return self._message(refused.message, 400)
        finally:
            self._books.commit()
            self._deliveries.wake()
        return shown

    def _do_checkout(self, session: Document, form: Form | None) -> Response:
        checkout.check_open(self._books, session)
        error = None
        if form is not None:
            if _must_ask(form):
                return self._page("secure.html", fields=_fields(form), what="Save this card")
            address = {"country": _said(form, "country") or None, "postal_code": _said(form, "postal_code") or None}
            billing = {"name": _said(form, "name") or None, "address": address}
            refused = checkout.complete(self._books, session, _said(form, "card"), billing, _authenticated(form))
            if refused is None:
                return RedirectResponse(checkout.return_url(session), 303, HEADERS)
            error = refused.message
        customer = self._books.get("customer", session["customer"])
        address = customer["address"] or NO_ADDRESS
        return self._page("checkout.html", session=session, customer=customer, address=address, error=error)

    def _do_portal(self, session: Document, form: Form | None) -> Response:
        customer = billing_portal.check_usable(self._books, session)
        error = None
        if form is not None:
            if _must_ask(form):
                return self._page("secure.html", fields=_fields(form), what="Save this card")
            refused = billing_portal.update_card(self._books, session, _said(form, "card"), _authenticated(form))
            target = billing_portal.after_update(session)
            if refused is None and session["flow"] is not None and target:
                return RedirectResponse(target, 303, HEADERS)
            error = refused.message if refused else None
        invoices = [
            self._books.show(each)
            for each in self._books.newest("invoice", customer=customer["id"])
            if each["status"] != "draft"
        ]
        methods = self._books.newest("payment_method", customer=customer["id"])
        return self._page(
            "portal.html", session=session, customer=customer, methods=methods, invoices=invoices, error=error
        )

    def _do_invoice(self, invoice: Document, form: Form | None) -> Response:
        error = None
        if form is not None:
            if _must_ask(form):
                return self._page("secure.html", fields=_fields(form), what="Pay this invoice")
            refused = invoice_life.pay_by_hand(self._books, invoice, _said(form, "card"), _authenticated(form))
            error = refused.message if refused else None
        awaiting = invoice["status"] == "open" and self._awaiting(invoice)
        lines = lines_of(self._books, invoice)
        return self._page("invoice.html", invoice=invoice, lines=lines, error=error, awaiting=awaiting)

    def _awaiting(self, invoice: Document) -> str | None:
        """The card whose payment the bank still asks about."""
        _, intent = payments.payment_of(self._books, invoice)
        if intent["status"] != "requires_action":
            return None
        return str(self._books.get("payment_method", intent["payment_method"])["_number"])

    def _message(self, text: str, status: int) -> Response:
        return self._page("message.html", status, text=text)

    def _page(self, name: str, status: int = 200, **shown: Any) -> HTMLResponse:
        text = self._templates.get_template(name).render(label=LABEL, cards=CARDS, **shown)
        return HTMLResponse(text, status, HEADERS)


def money(amount: int, currency: str) -> str:
    """`1234, usd` → `USD 12.34`; by the wire's minor units."""
    places = exponent(currency)
    return f"{currency.upper()} {Decimal(amount).scaleb(-places):,.{places}f}"


def _must_ask(form: Form) -> bool:
    card = CARDS.get(_said(form, "card"))
    return card is not None and "authenticate" in (card.at_setup, card.at_charge) and _authenticated(form) is None


def _authenticated(form: Form) -> bool | None:
    return _STEPS.get(_said(form, "step"))


def _fields(form: Form) -> dict[str, str]:
    return {name: _said(form, name) for name in form if name != "step"}


def _said(form: Form, name: str) -> str:
    value = form.get(name, "")
    return value if isinstance(value, str) else ""

"""Invoices over HTTP: find them, see what is behind them, and what an operator may do to them."""

from collections.abc import Callable
from decimal import Decimal
from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from farebox_portal.auth import AdminOnly, PartsDep, ReadSessionDep
from farebox_portal.customers import accounts
from farebox_portal.documents import Input, JsonRoute
from farebox_portal.errors import Invalid, NotFound
from farebox_portal.idempotency import Once, OnceDep
from farebox_portal.invoicing import actions, credit_notes, replay
from farebox_portal.invoicing.line_usage import LineUsage, line_usage
from farebox_portal.invoicing.page import page
from farebox_portal.invoicing.show import InvoiceDocument, InvoiceWithLines, every, show, with_lines
from farebox_portal.invoicing.status import Status
from farebox_portal.invoicing.tables import Invoice
from farebox_portal.invoicing.terms import terms_of
from farebox_portal.pages import Listing, PageDep, listing_together
from farebox_portal.pricing.money import currency, decimal_text, to_minor
from farebox_portal.problems import RESPONSES

router = APIRouter(
    prefix="/v1/invoices", tags=["invoices"], route_class=JsonRoute, dependencies=[AdminOnly], responses=RESPONSES
)


class PayInput(Input):
    """`reference`: what the bank statement says, for the audit log. `amount`: what came, if it was not all."""

    amount: Annotated[str, Field(pattern=r"^\d{1,15}(\.\d{1,3})?$", examples=["8.70"])] | None = None
    reference: Annotated[str, Field(max_length=256)] | None = None


class VoidInput(Input):
    """`rebill`: make another invoice of the same charges at once. Without it, they are waived."""

    rebill: bool = False


@router.get("", response_model_exclude_none=True)
def list_invoices(
    session: ReadSessionDep,
    page: PageDep,
    customer_id: Annotated[str | None, Query(alias="customerId", description="Id or key")] = None,
    subscription_id: Annotated[str | None, Query(alias="subscriptionId")] = None,
    status: Status | None = None,
) -> Listing[InvoiceWithLines]:
    """The latest first. What is still being used up to the next one: `GET …/subscriptions/{id}/invoices/upcoming`."""
    owner = None if customer_id is None else accounts.get(session, customer_id).id
    rows = every(customer_id=owner, subscription_id=subscription_id, status=status)
    return listing_together(session, rows, page, lambda found: with_lines(session, found))


@router.get("/{id_or_number}/document", response_class=Response)
def get_document(id_or_number: str, session: ReadSessionDep) -> Response:
    """What was issued, as canonical JSON. `ETag` is its SHA-256."""
    invoice = actions.get(session, id_or_number)
    if invoice.document is None:
        raise NotFound("The invoice was not issued, so it has no document.", code="invoice_not_issued")
    return Response(invoice.document, media_type="application/json", headers={"ETag": f'"{invoice.sha256}"'})


@router.get("/{id_or_number}/replay")
def replay_invoice(id_or_number: str, session: ReadSessionDep) -> replay.ReplayDocument:
    """Makes the invoice once more, from the ledger and the plan versions it names, and compares. Changes nothing."""
    return replay.show(session, actions.get(session, id_or_number))


@router.get("/{id_or_number}.html", response_class=Response)
def get_page(id_or_number: str, session: ReadSessionDep, parts: PartsDep) -> Response:
    """For people: in the browser, on paper."""
    text = page(session, actions.get(session, id_or_number), terms_of(parts.settings))
    return Response(text, media_type="text/html; charset=utf-8", headers=_PRIVATE)


@router.get("/{id_or_number}.pdf", response_class=Response)
def get_pdf(id_or_number: str, session: ReadSessionDep, parts: PartsDep) -> Response:
    invoice = actions.get(session, id_or_number)
    name = invoice.number or invoice.id
    from farebox_portal.invoicing.pdf import pdf  # its library takes as long to import as everything else here

    headers = {**_PRIVATE, "Content-Disposition": f'inline; filename="{name}.pdf"'}
    return Response(pdf(session, invoice, terms_of(parts.settings)), media_type="application/pdf", headers=headers)


@router.get("/{id_or_number}", response_model_exclude_none=True)
def get_invoice(id_or_number: str, session: ReadSessionDep) -> InvoiceDocument:
    return show(session, actions.get(session, id_or_number))


@router.get("/{id_or_number}/lines/{line_id}/usage")
def get_line_usage(id_or_number: str, line_id: str, session: ReadSessionDep) -> LineUsage:
    """The usage that a line charges, by day, by API key and by each dimension of its meter."""
    return line_usage(session, actions.get(session, id_or_number), line_id)


@router.post("/{id_or_number}/finalize", response_model=InvoiceDocument)
def finalize_invoice(id_or_number: str, once: OnceDep, parts: PartsDep) -> JSONResponse:
    """Issue a draft without waiting any longer, or release one that is held."""
    terms = terms_of(parts.settings)
    return _step(once, id_or_number, lambda row: actions.finalize(once.session, row, terms, once.now))


@router.post("/{id_or_number}/pay", response_model=InvoiceDocument)
def pay_invoice(id_or_number: str, once: OnceDep, parts: PartsDep, body: PayInput | None = None) -> JSONResponse:
    """It was paid outside: everything that is outstanding was received, or a part of it."""
    said, terms = body or PayInput(), terms_of(parts.settings)
    return _step(
        once,
        id_or_number,
        lambda row: actions.pay(once.session, row, terms, once.now, said.reference, _received(row, said.amount)),
    )


def _received(invoice: Invoice, amount: str | None) -> int | None:
    """Raises Invalid for an amount that cannot be of this invoice."""
    if amount is None:
        return None
    of = currency(invoice.currency)
    minor = to_minor(Decimal(amount), of)
    if Decimal(amount) != Decimal(decimal_text(minor, of)) or not minor:
        raise Invalid([{"pointer": "/amount", "detail": f"is no amount that can be paid in {of.code}"}])
    return minor


@router.post("/{id_or_number}/void", response_model=InvoiceDocument)
def void_invoice(id_or_number: str, once: OnceDep, parts: PartsDep, body: VoidInput | None = None) -> JSONResponse:
    """As if it had never been issued: credits it used are there again."""
    rebill, terms = (body or VoidInput()).rebill, terms_of(parts.settings)
    return _step(once, id_or_number, lambda row: actions.void(once.session, row, terms, once.now, rebill=rebill))


@router.post("/{id_or_number}/mark-uncollectible", response_model=InvoiceDocument)
def mark_invoice_uncollectible(id_or_number: str, once: OnceDep) -> JSONResponse:
    """Give it up. The subscription has no access until it is paid or voided."""
    return _step(once, id_or_number, lambda row: actions.mark_uncollectible(once.session, row, once.now))


@router.post("/{id_or_number}/credit-notes", status_code=201, response_model=credit_notes.CreditNoteDocument)
def give_credit_note(id_or_number: str, body: credit_notes.CreditNoteInput, once: OnceDep) -> JSONResponse:
    """Take back lines, or an amount. First of what is still owed; beyond that it is refunded."""

    def produce() -> credit_notes.CreditNoteDocument:
        invoice = actions.get(once.session, id_or_number)
        return credit_notes.show(invoice, credit_notes.give(once.session, invoice, body, once.now))

    return once.answer(201, produce)


_PRIVATE = {
    "Cache-Control": "private, no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
}


def _step(once: Once, id_or_number: str, take: Callable[[Invoice], Invoice]) -> JSONResponse:
    def produce() -> InvoiceDocument:
        return show(once.session, take(actions.get(once.session, id_or_number)))

    return once.answer(200, produce)

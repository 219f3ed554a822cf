"""Tax before there is an invoice: what it would be, and whether it can be worked out for a customer at all."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import structlog
from sqlalchemy import Engine
from sqlmodel import Session, col, select

from farebox_portal.customers.tables import Customer
from farebox_portal.db import transaction
from farebox_portal.errors import Conflict
from farebox_portal.invoicing import profiles
from farebox_portal.invoicing.actions import lines_of
from farebox_portal.invoicing.tables import Invoice, InvoiceLine
from farebox_portal.invoicing.tax import CardPlace, terms_of_cards
from farebox_portal.payments.gateway import (
    Gateway,
    GatewayFailure,
    Line,
    RemoteInvoice,
    RemoteTax,
    TaxQuestion,
)
from farebox_portal.payments.tables import Payer
from farebox_portal.payments.tax_items import Item, tax_items
from farebox_portal.pricing.money import currency, to_stripe
from farebox_portal.subscriptions.tax_document import AppliedTax, TaxDocument, TaxedItem

log = structlog.get_logger(__name__)


class TaxNotSupported(Conflict):
    """Raised instead of selling what would be sold without tax."""

    def __init__(self, status: str) -> None:
        super().__init__(_WHY[status], code=f"tax_{status}")


_WHY = {
    "not_collecting": "No tax is collected where the customer is, and nothing is sold without. "
    "Ask whoever runs this API.",
    "unrecognized_location": "The tax cannot be worked out, as the customer's billing address is missing or not known. "
    "Correct it and try again.",
    "failed": "The tax cannot be worked out at the moment, and nothing is sold without. Try again later.",
}


def require_tax(session: Session, customer: Customer, code: str) -> None:
    """Raises TaxNotSupported where tax is enforced and the provider cannot work it out. Asks what it said last."""
    if profiles.tax_mode_of(session, customer, code) != "strict":
        return
    payer = session.get(Payer, customer.id)
    status = "unrecognized_location" if payer is None else payer.tax_status or "failed"
    if status != "supported":
        raise TaxNotSupported(status)


def items_of(session: Session, invoice: Invoice) -> tuple[Item, ...]:
    """What is sent of an invoice whose tax the provider works out."""
    return items_of_lines(session, lines_of(session, invoice))


def items_of_lines(session: Session, rows: Sequence[InvoiceLine]) -> tuple[Item, ...]:
    terms = terms_of_cards(session, [_card(row) for row in rows])
    return tax_items(
        [
            Line(
                row.id, row.amount_minor, row.description or row.card_key, row.period_start, row.period_end,
                of.behavior, of.code,
            )
            for row, of in zip(rows, terms, strict=True)
        ]
    )  # fmt: skip


def _card(row: InvoiceLine) -> CardPlace:
    return CardPlace(row.plan_id, row.phase_key, row.card_key, row.addon_id)


def ask_names(gateway: Gateway, remote: RemoteInvoice, items: Sequence[Item]) -> Mapping[str, Sequence[RemoteTax]]:
    """An invoice's lines do not say what their taxes are called; the same worked out once more does. Nothing hangs on
    it: where it fails they are called "Tax".
    """
    lines = tuple(item.line for item in items)
    try:
        return gateway.assess(TaxQuestion(remote.currency, lines, remote.customer))
    except GatewayFailure as failure:
        log.warning("tax_names_unknown", code=failure.code)
        return {}


def assess(gateway: Gateway, question: TaxQuestion) -> TaxDocument:
    """What there would be to pay. Never raises: where the provider does not know, the document says so."""
    of = currency(question.currency)
    subtotal = sum(to_stripe(line.amount_minor, of) for line in question.lines)
    if not subtotal:
        return _untaxed(question, subtotal, None)
    if question.customer is None and question.country is None:
        return _untaxed(question, subtotal, "location_unknown")
    try:
        found = gateway.assess(question)
    except GatewayFailure as failure:
        log.warning("tax_unknown", code=failure.code)
        return _untaxed(question, subtotal, failure.code or "failed")
    taxes = [one for line in question.lines for one in found.get(line.id, ())]
    on_top = sum(to_stripe(one.amount_minor, of) for one in taxes if not one.is_inclusive)
    return TaxDocument(
        currency=of.code,
        subtotal=subtotal,
        total=subtotal + on_top,
        tax_amount=sum(to_stripe(one.amount_minor, of) for one in taxes),
        tax_inclusive=bool(taxes) and all(one.is_inclusive for one in taxes),
        taxes=_merged(question, found),
        items=[
            TaxedItem(
                description=line.description,
                amount=to_stripe(line.amount_minor, of),
                tax_amount=sum(to_stripe(one.amount_minor, of) for one in found.get(line.id, ())),
            )
            for line in question.lines
        ],
    )


def _untaxed(question: TaxQuestion, subtotal: int, fault: str | None) -> TaxDocument:
    of = currency(question.currency)
    return TaxDocument(
        status="complete" if fault is None else "failed",
        fault=fault,
        currency=of.code,
        subtotal=subtotal,
        total=subtotal,
        tax_amount=0,
        tax_inclusive=False,
        items=[
            TaxedItem(description=line.description, amount=to_stripe(line.amount_minor, of), tax_amount=0)
            for line in question.lines
        ],
    )


def _merged(question: TaxQuestion, found: Mapping[str, Sequence[RemoteTax]]) -> list[AppliedTax]:
    """One of each kind, over all lines."""
    of = currency(question.currency)
    sums: dict[tuple[str, bool, str | None, str | None, str | None, str | None], int] = {}
    for line in question.lines:
        for one in found.get(line.id, ()):
            kind = one.name, one.is_inclusive, one.tax_type, one.percentage, one.jurisdiction, line.tax_code
            sums[kind] = sums.get(kind, 0) + to_stripe(one.amount_minor, of)
    return [
        AppliedTax(
            name=name,
            type="inclusive" if is_inclusive else "exclusive",
            amount=amount,
            tax_type=tax_type,
            percentage=percentage,
            jurisdiction=jurisdiction,
            code=code,
        )
        for (name, is_inclusive, tax_type, percentage, jurisdiction, code), amount in sums.items()
    ]


def unsupported(engine: Engine, before: datetime, limit: int = 20) -> list[str]:
    """Customers for whom tax could not be worked out when they were last looked at, before that instant."""
    with transaction(engine, read_only=True) as session:
        if profiles.tax_mode(profiles.default(session)) != "strict":
            return []
        rows = (
            select(Payer.customer_id)
            .where(col(Payer.provider_id).is_not(None), col(Payer.method_id).is_not(None))
            .where(col(Payer.tax_status).is_distinct_from("supported"), col(Payer.updated_at) < before)
            .order_by(col(Payer.updated_at))
            .limit(limit)
        )
        return list(session.exec(rows))

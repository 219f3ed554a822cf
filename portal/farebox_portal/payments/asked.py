"""What the provider is asked to charge for an invoice, line by line, and the last look before it is."""

from collections.abc import Sequence

from sqlmodel import Session

from farebox_portal.invoicing import actions, ledger, tax
from farebox_portal.invoicing.checks import check_sums, require
from farebox_portal.invoicing.minimum import minimum_minor
from farebox_portal.invoicing.status import OPEN
from farebox_portal.invoicing.tables import Invoice
from farebox_portal.payments.gateway import Line
from farebox_portal.payments.steps import CREDITED, folded
from farebox_portal.payments.tax import items_of
from farebox_portal.pricing.money import currency

UNPAID = (*OPEN, "uncollectible")


def taxed_lines(session: Session, invoice: Invoice) -> tuple[Line, ...]:
    return tuple(item.line for item in items_of(session, invoice))


def last_look(session: Session, invoice: Invoice, wanted: Sequence[Line]) -> None:
    """The last look before money is asked for. Raises MoneyFault."""
    check_sums(invoice.model_dump(), [line.model_dump() for line in actions.lines_of(session, invoice)])
    ledger.check_owed(session, invoice)
    if tax.is_awaited(invoice):  # nothing is owed before that is known
        return
    asked = sum(line.amount_minor for line in wanted)
    require(asked == invoice.outstanding_minor, "M2: what is asked for is what is owed")
    require(asked >= minimum_minor(currency(invoice.currency)), "M13: what is too little to be charged is carried")


def lines(session: Session, invoice: Invoice) -> tuple[Line, ...]:
    """What is asked for: the invoice's lines that cost something; tax on top and what was credited since as lines."""
    rows = [line for line in actions.lines_of(session, invoice) if line.amount_minor]
    found = [
        Line(row.id, row.amount_minor, row.description or row.card_key, row.period_start, row.period_end)
        for row in rows
    ]
    on_top = invoice.total_minor - sum(line.amount_minor for line in found)
    gone = invoice.outstanding_minor - invoice.total_minor if invoice.status in UNPAID else 0
    for name, amount_minor, words in (("-tax", on_top, "Tax"), (CREDITED, gone, "Credited")):
        if amount_minor:
            found.append(Line(f"{invoice.id}{name}", amount_minor, words, invoice.period_start, invoice.period_end))
    return folded(found)

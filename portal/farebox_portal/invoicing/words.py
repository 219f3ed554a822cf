"""An invoice as people read it: the same words for the page and for the PDF."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from babel.dates import format_date
from babel.numbers import format_currency, format_decimal
from sqlmodel import Session

from farebox_portal.customers.tables import Customer
from farebox_portal.invoicing.actions import lines_of
from farebox_portal.invoicing.credit_notes import notes_of
from farebox_portal.invoicing.tables import Invoice, InvoiceLine
from farebox_portal.invoicing.terms import Terms
from farebox_portal.pricing.money import currency, to_units

LOCALE = "en_US"
STATUS = {
    "draft": "Draft: usage is still coming in",
    "held": "Held for review",
    "issued": "Open",
    "paid": "Paid",
    "overdue": "Overdue",
    "uncollectible": "Not collected",
    "void": "Void",
}


@dataclass(frozen=True)
class LineInWords:
    """`notes`: what made it cheaper, and what part of a period it is for."""

    description: str
    period: str
    quantity: str
    unit_amount: str
    amount: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class InvoiceInWords:
    """`sums`: the rows under the lines, in order; `facts`: what stands at the top."""

    title: str
    status: str
    status_text: str
    seller: tuple[str, ...]
    customer: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    lines: tuple[LineInWords, ...]
    sums: tuple[tuple[str, str], ...]
    due: tuple[str, str]
    notes: tuple[str, ...]


def in_words(session: Session, invoice: Invoice, terms: Terms) -> InvoiceInWords:
    customer = session.get_one(Customer, invoice.customer_id)
    seller, buyer = _parties(invoice, customer, terms)
    title = f"Invoice {invoice.number}" if invoice.number else "Draft invoice"
    lines = lines_of(session, invoice)
    facts = [("Period", period(invoice.period_start, invoice.period_end))]
    if invoice.issued_at is not None and invoice.due_at is not None:
        facts += [("Issued", day(invoice.issued_at)), ("Due", day(invoice.due_at))]
    return InvoiceInWords(
        title=title,
        status=invoice.status,
        status_text=STATUS[invoice.status],
        seller=seller,
        customer=buyer,
        facts=tuple(facts),
        lines=tuple(_line(line, invoice.currency) for line in lines),
        sums=tuple(_sums(invoice, lines)),
        due=("Amount due", money(_due_minor(invoice), invoice.currency)),
        notes=tuple(
            f"{note.number}: {money(note.total_minor, invoice.currency)} taken back. {note.reason}"
            for note in notes_of(session, invoice)
        ),
    )


def money(amount_minor: int, code: str) -> str:
    """As the currency is written: $8.70, ¥500."""
    return str(format_currency(to_units(amount_minor, currency(code)), code, locale=LOCALE, currency_digits=True))


def price(amount: Decimal, code: str) -> str:
    """A unit price has as many digits as it was given."""
    digits = max(2 if currency(code).exponent else 0, -int(amount.as_tuple().exponent))
    pattern = f"¤#,##0.{'0' * digits}" if digits else "¤#,##0"
    return str(format_currency(amount, code, pattern, locale=LOCALE, currency_digits=False))


def day(instant: datetime) -> str:
    return str(format_date(instant.date(), "d MMM y", locale=LOCALE))


def period(start: datetime, end: datetime) -> str:
    """The last day that belongs to it, as people say it: 1 Apr 2026 – 30 Apr 2026."""
    last = end - timedelta(microseconds=1)
    return day(start) if start.date() >= last.date() else f"{day(start)} – {day(last)}"


def _parties(invoice: Invoice, customer: Customer, terms: Terms) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Who they were when it was issued; of a draft, who they are."""
    seller: Mapping[str, Any] = {"name": terms.seller_name, "address": terms.seller_address}
    buyer: Mapping[str, Any] = {"name": customer.name, "email": customer.primary_email}
    if invoice.document is not None:
        issued = json.loads(invoice.document)
        seller, buyer = issued["seller"], issued["customer"]
    address = seller["address"].replace("\\n", "\n").splitlines()
    return (seller["name"], *address), tuple(part for part in (buyer["name"], buyer.get("email")) if part)


def _line(line: InvoiceLine, code: str) -> LineInWords:
    notes = [f"{one['description']}: −{money(one['amountMinor'], code)}" for one in line.reductions]
    if line.revision:
        notes.append("Difference to what was invoiced before")
    is_part = line.kind == "fee" and (line.period_start, line.period_end) != (line.rated_start, line.rated_end)
    if is_part and not line.revision:
        notes.append(f"Part of {period(line.rated_start, line.rated_end)}")
    return LineInWords(
        description=line.description,
        period=period(line.period_start, line.period_end),
        quantity=str(format_decimal(line.quantity, "#,##0.###############", locale=LOCALE)),
        unit_amount=price(line.unit_amount, code),
        amount=money(line.amount_minor, code),
        notes=tuple(notes),
    )


def _taxes(lines: Sequence[InvoiceLine], *, is_inclusive: bool) -> list[tuple[str, int]]:
    """What each comes to over all lines: VAT 20%. One of 0 is told where it says why, as for a reverse charge."""
    sums: dict[str, int] = {}
    for one in (one for line in lines for one in line.taxes if one["isInclusive"] == is_inclusive):
        rate = f" {one['percentage']}%" if one.get("percentage") else ""
        why = _WHY_NONE.get(one.get("reason", "")) if not one["amountMinor"] else None
        name = why or one["name"] + rate
        sums[name] = sums.get(name, 0) + one["amountMinor"]
    return list(sums.items())


_WHY_NONE = {"reverse_charge": "Tax to be paid by the recipient (reverse charge)", "customer_exempt": "Exempt from tax"}


def _sums(invoice: Invoice, lines: Sequence[InvoiceLine]) -> list[tuple[str, str]]:
    code = invoice.currency
    found = [("Subtotal", money(invoice.subtotal_minor, code))]
    found += [(name, money(amount, code)) for name, amount in _taxes(lines, is_inclusive=False)]
    found.append(("Total", money(invoice.total_minor, code)))
    found += [(f"of which {name}", money(amount, code)) for name, amount in _taxes(lines, is_inclusive=True)]
    if invoice.credited_minor:
        found.append(("Taken back", money(-invoice.credited_minor, code)))
    if invoice.paid_minor:
        found.append(("Paid", money(-invoice.paid_minor, code)))
    if invoice.refunded_minor:
        found.append(("Refunded", money(invoice.refunded_minor, code)))
    return found


def _due_minor(invoice: Invoice) -> int:
    return invoice.outstanding_minor if invoice.status in ("issued", "overdue", "uncollectible") else 0

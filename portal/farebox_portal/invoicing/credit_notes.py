"""Credit notes: a part of an issued invoice is taken back. What is still owed becomes less; what was paid is refunded.

Each note says of which lines, so that no line gives back more than it took, and a later change of plan knows what is
left of a fee. Of a line's tax it takes the share that belongs to it; as with all shares, it is the share of everything
that was taken back so far, less what earlier notes took.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Annotated

from pydantic import Field, model_validator
from sqlmodel import Session, col, select

from farebox_portal import audit
from farebox_portal.documents import Input, Instant, Output
from farebox_portal.errors import Conflict, Fault, Invalid
from farebox_portal.ids import new_id
from farebox_portal.invoicing import ledger
from farebox_portal.invoicing.actions import lines_of, lock
from farebox_portal.invoicing.status import after
from farebox_portal.invoicing.tables import TOP_UP, CreditNote, Invoice, InvoiceLine
from farebox_portal.pricing.money import Currency, allocate, currency, decimal_text, share_of, to_minor
from farebox_portal.wallet import purchases

Amount = Annotated[str, Field(pattern=r"^\d{1,15}(\.\d{1,3})?$", examples=["8.70"])]


class CreditedLine(Input):
    """`amount`: before tax; left out, all that is left of the line."""

    line_id: Annotated[str, Field(max_length=64)]
    amount: Amount | None = None


class CreditNoteInput(Input):
    """Either lines, or an amount before tax that is taken from all lines by their size."""

    lines: Annotated[list[CreditedLine], Field(min_length=1, max_length=500)] | None = None
    amount: Amount | None = None
    reason: Annotated[str, Field(min_length=1, max_length=512)]

    @model_validator(mode="after")
    def _one_of_both(self) -> "CreditNoteInput":
        if (self.lines is None) == (self.amount is None):
            raise ValueError("give either lines or amount")
        return self


class CreditNoteLine(Output):
    line_id: str
    amount: str
    tax: str


class CreditNoteDocument(Output):
    """`total`: with tax. `refunded`: of what had been paid; the rest was still owed."""

    id: str
    number: str
    invoice_id: str
    currency: str
    reason: str
    amount: str
    tax: str
    total: str
    refunded: str
    lines: list[CreditNoteLine]
    created_at: Instant


@dataclass(frozen=True, slots=True)
class _Taken:
    line: InvoiceLine
    amount_minor: int
    tax_minor: int


def give(
    session: Session, invoice: Invoice, wanted: CreditNoteInput, now: datetime, *, is_by_lot: bool = False
) -> CreditNote:
    """Raises Conflict when the invoice was not issued or has nothing left, Invalid for more than a line has left.

    `is_by_lot`: the credit that it bought was voided before, so that nobody uses it and has the money too.
    """
    if invoice.kind == TOP_UP and not is_by_lot:
        raise Conflict("The credit that it bought is in use; void that with `refund`.", code="invoice_is_top_up")
    lock(session, invoice)
    after(invoice.status, "credit")
    of = currency(invoice.currency)
    taken = [_taken(line, amount, of) for line, amount in _amounts(session, invoice, wanted, of) if amount]
    amount_minor = sum(one.amount_minor for one in taken)
    on_top = sum(one.tax_minor for one in taken if _has_tax_on_top(one.line))
    total_minor = amount_minor + on_top
    if total_minor <= 0:
        raise Conflict("Nothing is left of the invoice to take back.", code="nothing_to_credit")
    refunded = max(0, total_minor - max(0, invoice.outstanding_minor))
    if refunded > invoice.paid_minor - invoice.refunded_minor:
        raise Conflict("That is more than was paid and is still owed.", code="nothing_to_credit")
    return _write(session, invoice, taken, total_minor, refunded, wanted.reason, now)


def _write(
    session: Session,
    invoice: Invoice,
    taken: Sequence[_Taken],
    total_minor: int,
    refunded: int,
    reason: str,
    now: datetime,
) -> CreditNote:
    before = invoice.status
    of = currency(invoice.currency)
    amount_minor, tax_minor = sum(one.amount_minor for one in taken), sum(one.tax_minor for one in taken)
    number = len(notes_of(session, invoice)) + 1
    note = CreditNote(
        id=new_id(now),
        invoice_id=invoice.id,
        position=number,
        number=f"{invoice.number}-CN{number}",
        reason=reason,
        amount_minor=amount_minor,
        tax_minor=tax_minor,
        total_minor=total_minor,
        refunded_minor=refunded,
        lines=[{"lineId": one.line.id, "amountMinor": one.amount_minor, "taxMinor": one.tax_minor} for one in taken],
        created_at=now,
    )
    session.add(note)
    for one in taken:
        one.line.credited_minor += one.amount_minor
        session.add(one.line)
    _move(session, invoice, note, total_minor, tax_minor, now)
    invoice.credited_minor += total_minor
    invoice.refunded_minor += refunded
    if not invoice.outstanding_minor and invoice.status != "paid":
        invoice.status, invoice.paid_at = after(invoice.status, "settle"), now
    invoice.updated_at = now
    session.add(invoice)
    said = {"number": note.number, "total": decimal_text(total_minor, of), "refunded": decimal_text(refunded, of)}
    audit.record(session, "invoice.credit", "invoice", invoice.id, now, before={"status": before}, after=said)
    session.flush()
    ledger.check_owed(session, invoice)
    return note


def adopt(session: Session, invoice: Invoice, total_minor: int, reason: str, now: datetime) -> CreditNote | None:
    """What was given back outside becomes a note of ours: `total_minor` with all tax, spread over what is left of the
    lines. None where nothing is left that could be given back.
    """
    lock(session, invoice)
    lines = lines_of(session, invoice)
    of = currency(invoice.currency)
    left = [max(0, line.amount_minor - line.credited_minor) for line in lines]
    whole = [_taken(line, amount, of) for line, amount in zip(lines, left, strict=True)]
    on_top = [one.tax_minor if _has_tax_on_top(one.line) else 0 for one in whole]
    total_minor = min(total_minor, sum(left) + sum(on_top), invoice.paid_minor - invoice.refunded_minor)
    if total_minor <= 0:
        return None
    step = of.step_minor if total_minor % of.step_minor == 0 else 1
    amount_minor, tax_minor = allocate(total_minor, [sum(left), sum(on_top)], step)
    amounts = allocate(amount_minor, left, step) if amount_minor else [0] * len(lines)
    taxes = allocate(tax_minor, on_top, step) if tax_minor else [0] * len(lines)
    taken = [
        _Taken(line, amount, tax if _has_tax_on_top(line) else _taken(line, amount, of).tax_minor)
        for line, amount, tax in zip(lines, amounts, taxes, strict=True)
        if amount or tax
    ]
    return _write(session, invoice, taken, total_minor, total_minor, reason, now)


def notes_of(session: Session, invoice: Invoice) -> Sequence[CreditNote]:
    """In order."""
    found = select(CreditNote).where(CreditNote.invoice_id == invoice.id).order_by(col(CreditNote.position))
    return session.exec(found).all()


def show(invoice: Invoice, note: CreditNote) -> CreditNoteDocument:
    of = currency(invoice.currency)
    return CreditNoteDocument(
        id=note.id,
        number=note.number,
        invoice_id=note.invoice_id,
        currency=of.code,
        reason=note.reason,
        amount=decimal_text(note.amount_minor, of),
        tax=decimal_text(note.tax_minor, of),
        total=decimal_text(note.total_minor, of),
        refunded=decimal_text(note.refunded_minor, of),
        lines=[
            CreditNoteLine(
                line_id=line["lineId"],
                amount=decimal_text(line["amountMinor"], of),
                tax=decimal_text(line["taxMinor"], of),
            )
            for line in note.lines
        ],
        created_at=note.created_at,
    )


def _amounts(
    session: Session, invoice: Invoice, wanted: CreditNoteInput, of: Currency
) -> list[tuple[InvoiceLine, int]]:
    """How much of which line."""
    lines = {line.id: line for line in lines_of(session, invoice)}
    left = {id_: max(0, line.amount_minor - line.credited_minor) for id_, line in lines.items()}
    if wanted.lines is None:
        assert wanted.amount is not None
        asked = minor_of(wanted.amount, of, "/amount")
        if asked > sum(left.values()):
            raise Invalid([{"pointer": "/amount", "detail": f"only {decimal_text(sum(left.values()), of)} is left"}])
        if not asked:
            return []
        shares = allocate(asked, list(left.values()), of.step_minor)
        return list(zip(lines.values(), shares, strict=True))
    faults: list[Fault] = []
    found: Counter[str] = Counter()
    for place, one in enumerate(wanted.lines):
        if one.line_id not in lines:
            faults.append({"pointer": f"/lines/{place}/lineId", "detail": "the invoice has no such line"})
            continue
        rest = left[one.line_id] - found[one.line_id]
        amount = rest if one.amount is None else minor_of(one.amount, of, f"/lines/{place}/amount")
        if amount > rest:
            detail = f"only {decimal_text(rest, of)} of the line is left"
            faults.append({"pointer": f"/lines/{place}/amount", "detail": detail})
        found[one.line_id] += amount
    if faults:
        raise Invalid(faults)
    return [(lines[id_], amount) for id_, amount in found.items()]


def minor_of(amount: str, of: Currency, pointer: str) -> int:
    """Raises Invalid for an amount finer than the currency is."""
    minor = to_minor(Decimal(amount), of)
    if Decimal(amount) != Decimal(decimal_text(minor, of)):
        raise Invalid([{"pointer": pointer, "detail": f"is finer than {of.code} can be charged"}])
    return minor


def _taken(line: InvoiceLine, amount_minor: int, of: Currency) -> _Taken:
    """With the line's tax: the share of all that was taken back by now, less the share of what was before."""
    tax = sum(tax["amountMinor"] for tax in line.taxes)
    if not tax or not line.amount_minor:
        return _Taken(line, amount_minor, 0)
    before, now = (
        share_of(tax, Fraction(credited, line.amount_minor), of)
        for credited in (line.credited_minor, line.credited_minor + amount_minor)
    )
    return _Taken(line, amount_minor, now - before)


def _has_tax_on_top(line: InvoiceLine) -> bool:
    return any(not tax["isInclusive"] for tax in line.taxes)


def _move(
    session: Session, invoice: Invoice, note: CreditNote, total_minor: int, tax_minor: int, now: datetime
) -> None:
    occasion = ledger.Occasion(
        f"{note.id}:credit-note", invoice.currency, invoice.customer_id, invoice.subscription_id, invoice.id, now
    )
    owed = ledger.receivable(invoice.customer_id)
    net_minor, of_credit = total_minor - tax_minor, 0
    rows: list[ledger.Row] = []
    if invoice.kind == TOP_UP:  # what of the credit is used already was earned
        of_credit = purchases.take_back(session, invoice.id, net_minor, now)
        rows += occasion.move(of_credit, to=ledger.credit_account(purchases.lot_of(session, invoice.id)), from_=owed)
    rows += occasion.move(net_minor - of_credit, to="revenue", from_=owed)
    rows += occasion.move(tax_minor, to="tax", from_=owed)
    rows += occasion.move(note.refunded_minor, to=owed, from_="cash")
    if invoice.status == "uncollectible":
        rows += occasion.move(total_minor - note.refunded_minor, to=owed, from_="loss")
    ledger.put(session, rows)

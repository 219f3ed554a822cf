"""Invoices as documents: decimal strings in units of the currency, and links to what stands behind them."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from farebox_portal.catalog.tables import Plan
from farebox_portal.documents import Instant, Output
from farebox_portal.invoicing.actions import lines_of
from farebox_portal.invoicing.credit_notes import CreditNoteDocument, notes_of
from farebox_portal.invoicing.credit_notes import show as show_note
from farebox_portal.invoicing.sanity import REASONS
from farebox_portal.invoicing.status import Status
from farebox_portal.invoicing.steps import Kind
from farebox_portal.invoicing.tables import Invoice, InvoiceLine
from farebox_portal.pricing.money import Currency, currency, decimal_text
from farebox_portal.subscriptions.document import PeriodDocument, PlanReference, refer


class HeldReason(Output):
    code: str
    detail: str


class ProviderReference(Output):
    """Who collects it. `manual`: nobody but the operator, see `POST …/pay`."""

    name: str
    id: str | None = None
    url: str | None = None


class LineReduction(Output):
    """`source`: the credit or the coupon, where it is one."""

    kind: str
    description: str
    amount: str
    source: str | None = None


class LineTax(Output):
    """`reason`: why it is what it is, in the provider's words, such as standard_rated or reverse_charge."""

    name: str
    amount: str
    is_inclusive: bool
    percentage: str | None = None
    jurisdiction: str | None = None
    reason: str | None = None


class PaymentTry(Output):
    """The last try to collect it failed. `action_required`: the payer confirms it at `url`, such as by 3-D Secure."""

    status: Literal["failed", "action_required"]
    fault: str
    failed_at: Instant
    url: str | None = None


class DisputeReference(Output):
    """The payer's bank asks for what was paid. `isRefused`: no access because of it."""

    status: Literal["inquiry", "open", "won", "lost"]
    is_refused: bool


class AutomaticTax(Output):
    """What came of having the provider work out the tax. `left_out`: it could not, `fault` says why."""

    status: Literal["pending", "complete", "failed", "left_out"]
    fault: str | None = None


class InvoiceLineDocument(Output):
    """`amount` is quantity × unitAmount × share, once rounded, less the reductions. `revision` above 0: a difference to
    what earlier invoices charged for the same.
    """

    id: str
    kind: str
    description: str
    quantity: str
    unit_amount: str
    share: str | None = None
    amount: str
    credited: str | None = None
    tier: int | None = None
    reductions: list[LineReduction] | None = None
    taxes: list[LineTax] | None = None
    period: PeriodDocument
    plan: PlanReference
    phase_key: str
    rate_card_key: str
    addon_id: str | None = None
    feature_key: str | None = None
    meter: str | None = None
    revision: int
    usage_url: str | None = None


class InvoiceWithLines(Output):
    """`total` = `subtotal` + `tax` on top = `amountPaid` − `amountRefunded` + `amountCredited` + `amountDue`."""

    id: str
    number: str | None = None
    kind: Kind | Literal["top_up"]
    status: Status
    reasons: list[HeldReason] | None = None
    subscription_id: str
    customer_id: str
    currency: str
    period: PeriodDocument
    subtotal: str
    tax: str
    total: str
    amount_paid: str
    amount_credited: str
    amount_refunded: str
    amount_due: str
    automatic_tax: AutomaticTax | None = None
    payment: PaymentTry | None = None
    dispute: DisputeReference | None = None
    provider: ProviderReference
    created_at: Instant
    issued_at: Instant | None = None
    due_at: Instant | None = None
    paid_at: Instant | None = None
    voided_at: Instant | None = None
    sha256: Annotated[str | None, Field(description="Of the document")] = None
    lines: list[InvoiceLineDocument]


class InvoiceDocument(InvoiceWithLines):
    """`documentUrl`: what was issued, to the byte. The others show it to people."""

    credit_notes: list[CreditNoteDocument] | None = None
    document_url: str | None = None
    page_url: str
    pdf_url: str


def every(
    *, customer_id: str | None = None, subscription_id: str | None = None, status: Status | None = None
) -> SelectOfScalar[Invoice]:
    """The latest first."""
    found = select(Invoice).order_by(
        col(Invoice.created_at).desc(), col(Invoice.sequence).desc(), col(Invoice.id).desc()
    )
    if customer_id is not None:
        found = found.where(Invoice.customer_id == customer_id)
    if subscription_id is not None:
        found = found.where(Invoice.subscription_id == subscription_id)
    return found if status is None else found.where(Invoice.status == status)


def with_lines(session: Session, invoices: Sequence[Invoice]) -> list[InvoiceWithLines]:
    """In the same order; all lines are read at once."""
    rows = select(InvoiceLine).where(col(InvoiceLine.invoice_id).in_([invoice.id for invoice in invoices]))
    lines = session.exec(rows.order_by(col(InvoiceLine.invoice_id), col(InvoiceLine.position))).all()
    plans = _plans(session, lines)
    of_invoice: dict[str, list[InvoiceLine]] = {}
    for line in lines:
        of_invoice.setdefault(line.invoice_id, []).append(line)
    return [InvoiceWithLines(**_summary(one), lines=_lines(of_invoice.get(one.id, []), plans, one)) for one in invoices]


def show(session: Session, invoice: Invoice) -> InvoiceDocument:
    lines = lines_of(session, invoice)
    plans = _plans(session, lines)
    at = f"/v1/invoices/{invoice.id}"
    notes = [show_note(invoice, note) for note in notes_of(session, invoice)]
    return InvoiceDocument(
        **_summary(invoice),
        lines=_lines(lines, plans, invoice),
        credit_notes=notes or None,
        document_url=None if invoice.document is None else f"{at}/document",
        page_url=f"{at}.html",
        pdf_url=f"{at}.pdf",
    )


def show_line(line: InvoiceLine, plan: Plan, of: Currency) -> InvoiceLineDocument:
    return InvoiceLineDocument(
        id=line.id,
        kind=line.kind,
        description=line.description,
        quantity=format(line.quantity, "f"),
        unit_amount=format(line.unit_amount, "f"),
        share=None if line.share == "1" else line.share,
        amount=decimal_text(line.amount_minor, of),
        credited=decimal_text(line.credited_minor, of) if line.credited_minor else None,
        tier=line.tier,
        reductions=[_reduction(one, of) for one in line.reductions] or None,
        taxes=[_tax(one, of) for one in line.taxes] or None,
        period=_period(line.period_start, line.period_end),
        plan=refer(plan),
        phase_key=line.phase_key,
        rate_card_key=line.card_key,
        addon_id=line.addon_id,
        feature_key=line.feature_key,
        meter=line.meter,
        revision=line.revision,
        usage_url=None if line.meter is None else f"/v1/invoices/{line.invoice_id}/lines/{line.id}/usage",
    )


def _summary(invoice: Invoice) -> dict[str, Any]:
    of = currency(invoice.currency)
    due_minor = invoice.outstanding_minor if invoice.status in ("issued", "overdue", "uncollectible") else 0
    return {
        "id": invoice.id,
        "number": invoice.number,
        "kind": invoice.kind,
        "status": invoice.status,
        "reasons": [HeldReason(code=code, detail=REASONS[code]) for code in invoice.reasons] or None,
        "subscription_id": invoice.subscription_id,
        "customer_id": invoice.customer_id,
        "currency": of.code,
        "period": _period(invoice.period_start, invoice.period_end),
        "subtotal": decimal_text(invoice.subtotal_minor, of),
        "tax": decimal_text(invoice.tax_minor, of),
        "total": decimal_text(invoice.total_minor, of),
        "amount_paid": decimal_text(invoice.paid_minor, of),
        "amount_credited": decimal_text(invoice.credited_minor, of),
        "amount_refunded": decimal_text(invoice.refunded_minor, of),
        "amount_due": decimal_text(due_minor, of),
        "automatic_tax": None if invoice.tax_status is None else _automatic_tax(invoice),
        "payment": _payment(invoice),
        "dispute": None if invoice.dispute_status is None else _dispute(invoice),
        "provider": ProviderReference(name=invoice.provider, id=invoice.provider_id, url=invoice.provider_url),
        "created_at": invoice.created_at,
        "issued_at": invoice.issued_at,
        "due_at": invoice.due_at,
        "paid_at": invoice.paid_at,
        "voided_at": invoice.voided_at,
        "sha256": invoice.sha256,
    }


def _lines(lines: Sequence[InvoiceLine], plans: Mapping[str, Plan], invoice: Invoice) -> list[InvoiceLineDocument]:
    of = currency(invoice.currency)
    return [show_line(line, plans[line.plan_id], of) for line in lines]


def _plans(session: Session, lines: Sequence[InvoiceLine]) -> Mapping[str, Plan]:
    ids = {line.plan_id for line in lines}
    return {plan.id: plan for plan in session.exec(select(Plan).where(col(Plan.id).in_(ids)))}


def _period(start: datetime, end: datetime) -> PeriodDocument:
    return PeriodDocument(from_=start, to=end)


def _reduction(one: Mapping[str, Any], of: Currency) -> LineReduction:
    return LineReduction(
        kind=one["kind"],
        description=one["description"],
        amount=decimal_text(one["amountMinor"], of),
        source=one["source"] or None,
    )


def _tax(one: Mapping[str, Any], of: Currency) -> LineTax:
    return LineTax(
        name=one["name"],
        amount=decimal_text(one["amountMinor"], of),
        is_inclusive=one["isInclusive"],
        percentage=one.get("percentage"),
        jurisdiction=one.get("jurisdiction"),
        reason=one.get("reason"),
    )


def _payment(invoice: Invoice) -> PaymentTry | None:
    if invoice.failed_at is None or invoice.payment_fault is None:
        return None
    return PaymentTry(
        status="action_required" if invoice.needs_action else "failed",
        fault=invoice.payment_fault,
        failed_at=invoice.failed_at,
        url=invoice.provider_url if invoice.status in ("issued", "overdue", "uncollectible") else None,
    )


def _dispute(invoice: Invoice) -> DisputeReference:
    return DisputeReference(status=invoice.dispute_status, is_refused=invoice.is_dispute_refused)  # type: ignore[arg-type]


def _automatic_tax(invoice: Invoice) -> AutomaticTax:
    return AutomaticTax(status=invoice.tax_status, fault=invoice.tax_fault)  # type: ignore[arg-type]  # one of them

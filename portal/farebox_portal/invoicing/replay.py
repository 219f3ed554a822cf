"""An invoice made once more, from the plan versions that it names: its document is the same to the byte.

What the replay takes from the invoice is what it decided on: which charges, how much of a fee was served, how much
was used, and which credits and coupons it took. Everything else is rated anew. Where the ledger has other usage by
now, that is told beside it, and a later line has it or will have it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from itertools import groupby

from sqlalchemy import tuple_
from sqlmodel import Session, col, select

from farebox_portal.catalog.tables import Addon, Feature, Plan
from farebox_portal.documents import Output
from farebox_portal.errors import Conflict
from farebox_portal.invoicing.actions import lines_of
from farebox_portal.invoicing.charges import cards
from farebox_portal.invoicing.compose import line_key
from farebox_portal.invoicing.document import canonical, rebuilt, sha256
from farebox_portal.invoicing.paper import Columns, put_line, rated_line
from farebox_portal.invoicing.tables import CreditRow, Invoice, InvoiceLine
from farebox_portal.pricing.card import RateCard
from farebox_portal.pricing.line import Line, Reduction
from farebox_portal.pricing.money import Currency, currency
from farebox_portal.pricing.part import ONE, ZERO
from farebox_portal.pricing.period import Period
from farebox_portal.pricing.progressive import difference
from farebox_portal.pricing.rate import Charge, rate
from farebox_portal.testclock import read_timeline
from farebox_portal.usage.totals import meter_total


class LateUsage(Output):
    """Usage of a charge that the ledger did not have when the invoice was issued."""

    charge: str
    meter: str
    invoiced: str
    now: str


class ReplayDocument(Output):
    """`isIdentical`: the replay's document has the hash of the one that was issued."""

    invoice_id: str
    is_identical: bool
    issued: str
    replayed: str
    late_usage: list[LateUsage]


@dataclass(frozen=True)
class Replay:
    text: str
    late: tuple[LateUsage, ...]


def replay(session: Session, invoice: Invoice) -> Replay:
    """Raises Conflict for one that was not issued."""
    if invoice.document is None or invoice.issued_at is None:
        raise Conflict("The invoice was not issued, so it has no document.", code="invoice_not_issued")
    issued = _parsed(invoice.document)
    of = currency(invoice.currency)
    rows: list[Columns] = []
    late: list[LateUsage] = []
    lines = lines_of(session, invoice)
    last = {line.charge_key: line.position for line in lines}
    for _, group in groupby(lines, key=_made_together):
        made = list(group)
        if last[made[-1].charge_key] == made[-1].position:
            late += _late_usage(session, made[-1])
        rows += _again(session, invoice, made, of)
    columns = invoice.model_dump()
    columns["subtotal_minor"] = sum(row["amount_minor"] for row in rows)
    on_top = sum(tax["amountMinor"] for row in rows for tax in row["taxes"] if not tax["isInclusive"])
    columns["tax_minor"] = sum(tax["amountMinor"] for row in rows for tax in row["taxes"])
    columns["total_minor"] = columns["subtotal_minor"] + on_top
    return Replay(canonical(rebuilt(columns, rows, issued["customer"], issued["seller"])), tuple(late))


def show(session: Session, invoice: Invoice) -> ReplayDocument:
    found = replay(session, invoice)
    digest = sha256(found.text)
    return ReplayDocument(
        invoice_id=invoice.id,
        is_identical=digest == invoice.sha256,
        issued=invoice.sha256 or "",
        replayed=digest,
        late_usage=list(found.late),
    )


def _parsed(text: str) -> Columns:
    found: Columns = json.loads(text)
    return found


def _made_together(line: InvoiceLine) -> tuple[str, object]:
    """Lines of a charge that one step made. A draft that is carried takes the same charge up again: the difference."""
    return line.charge_key, (line.share, line.revision) if line.metered is None else line.metered


def _again(session: Session, invoice: Invoice, lines: Sequence[InvoiceLine], of: Currency) -> list[Columns]:
    """The lines of one charge that were made together, rated anew. Bought credit costs what was said."""
    if lines[0].kind == "credits":
        return [line.model_dump() for line in lines]
    card = _card(session, lines[0])
    before = _before(session, invoice, lines[0])
    if lines[0].metered is None:
        rated = _fee(session, invoice, lines[-1], card, before, of)
    else:
        period = Period(lines[0].rated_start, lines[0].rated_end)
        all_lines = rate(Charge(card, of, period), lines[0].metered)
        rated = difference(all_lines, before) if before else all_lines
    made = {line_key(line): line for line in rated}
    rows = []
    for stored in lines:
        row = stored.model_dump()
        line = made.pop(stored.line_key, None)
        if line is not None:
            _put(row, stored, line)
        rows.append(row if line is not None else row | {"amount_minor": 0, "gross_minor": 0})
    return rows


def _put(row: Columns, stored: InvoiceLine, line: Line) -> None:
    """What was rated, with what credits and coupons took off it and the taxes on the rest."""
    for one in stored.reductions:
        if one["source"]:
            line = line.less(Reduction(one["kind"], one["source"], one["description"], one["amountMinor"]))
    row |= {
        "kind": line.kind,
        "description": line.description,
        "quantity": line.quantity,
        "unit_amount": line.unit_amount,
        "tier": line.tier,
        "share": str(line.share),
    }
    put_line(row, line)
    row["taxes"] = stored.taxes


def _card(session: Session, line: InvoiceLine) -> RateCard:
    if line.addon_id is not None:
        addon = session.get_one(Addon, line.addon_id)
        return next(card for card in cards({"rateCards": addon.rate_cards}) if card.key == line.card_key)
    plan = session.get_one(Plan, line.plan_id)
    phase = next(phase for phase in plan.phases if phase["key"] == line.phase_key)
    return next(card for card in cards(phase) if card.key == line.card_key)


def _before(session: Session, invoice: Invoice, line: InvoiceLine) -> list[Line]:
    """What was charged before: by earlier invoices, and by this one as long as it was a draft."""
    found = session.exec(
        select(InvoiceLine)
        .join(Invoice, col(Invoice.id) == col(InvoiceLine.invoice_id))
        .where(
            InvoiceLine.subscription_id == line.subscription_id,
            InvoiceLine.charge_key == line.charge_key,
            tuple_(col(Invoice.sequence), col(InvoiceLine.position)) < (invoice.sequence, line.position),
            col(Invoice.is_rebilled).is_(False),
        )
        .order_by(col(Invoice.sequence), col(InvoiceLine.position))
    )
    return [rated_line(one.model_dump()) for one in found]


def _fee(
    session: Session, invoice: Invoice, line: InvoiceLine, card: RateCard, before: list[Line], of: Currency
) -> tuple[Line, ...]:
    period = Period(line.rated_start, line.rated_end)
    lines = rate(Charge(card, of, period, True, Fraction(line.share), line.count, Fraction(line.earlier)), ZERO)
    if not before:
        return lines
    released = session.exec(
        select(CreditRow.released_minor).where(
            CreditRow.subscription_id == line.subscription_id,
            CreditRow.charge_key == line.charge_key,
            tuple_(col(CreditRow.from_sequence), col(CreditRow.from_position)) <= (invoice.sequence, line.position),
        )
    )
    more = sum(one.amount_minor for one in lines) - sum(one.rated_minor for one in before) + sum(released)
    last = lines[-1]
    return (Line(last.key, last.kind, last.description, ONE, last.unit_amount, more, period, None, last.share),)


def _late_usage(session: Session, line: InvoiceLine) -> list[LateUsage]:
    """What the ledger has by now of the line's charge, if that is not what was invoiced."""
    if line.metered is None:
        return []
    assert line.meter is not None
    feature = session.exec(select(Feature).where(Feature.key == line.feature_key)).first()
    timeline = read_timeline(session)
    now = meter_total(
        session,
        line.subscription_id,
        line.meter,
        timeline.wall(line.rated_start),
        timeline.wall(line.rated_end),
        None if feature is None else feature.filters,
    )
    if Decimal(now) == line.metered:
        return []
    return [LateUsage(charge=line.charge_key, meter=line.meter, invoiced=format(line.metered, "f"), now=str(now))]

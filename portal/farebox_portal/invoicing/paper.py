"""An invoice in the making: the columns of its row and of its lines, before they are written or after they were read.

Ten thousand of them are made in one go, so they are plain dictionaries on their way to one INSERT and not objects that
a session watches.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction
from typing import Any

from farebox_portal.invoicing.compose import NewLine, line_key
from farebox_portal.invoicing.tables import Invoice, InvoiceLine
from farebox_portal.pricing.line import Line, Reduction, Tax
from farebox_portal.pricing.period import Period

Columns = dict[str, Any]


@dataclass
class Entry:
    """A line as its row has it. `line` is what was rated: without what credits and coupons take off."""

    columns: Columns
    line: Line
    is_new: bool


@dataclass
class Paper:
    """An invoice and its lines. What is in `columns` is what will be in the row."""

    columns: Columns
    entries: list[Entry] = field(default_factory=list)
    is_new: bool = True

    def add(self, new: Sequence[NewLine]) -> None:
        for one in new:
            self.entries.append(_entry(self.columns, len(self.entries), one))


def read_paper(invoice: Invoice, lines: Iterable[InvoiceLine]) -> Paper:
    entries = [Entry(line.model_dump(), rated_line(line.model_dump()), False) for line in lines]
    return Paper(invoice.model_dump(), entries, is_new=False)


def rated_line(columns: Mapping[str, Any]) -> Line:
    """A stored line as its rate card made it; what came off the whole invoice names its source."""
    return Line(
        columns["line_key"].rpartition("@")[0],
        columns["kind"],
        columns["description"],
        columns["quantity"],
        columns["unit_amount"],
        columns["gross_minor"],
        Period(columns["rated_start"], columns["rated_end"]),
        columns["tier"],
        Fraction(columns["share"]),
        tuple(
            Reduction(one["kind"], "", one["description"], one["amountMinor"])
            for one in columns["reductions"]
            if not one["source"]
        ),
    )


def put_line(columns: Columns, line: Line) -> None:
    """What the line comes to, with everything that was taken off, into the row."""
    columns["gross_minor"] = line.gross_minor
    columns["amount_minor"] = line.amount_minor
    columns["reductions"] = [_reduction(one) for one in line.reductions]
    columns["taxes"] = [_tax(one) for one in line.taxes]


def new_paper(
    *, id_: str, subscription_id: str, customer_id: str, sequence: int, currency: str, now: datetime
) -> Paper:
    """A draft without lines; the step that adds some says which period they are for."""
    columns = dict.fromkeys(Invoice.model_fields)
    columns |= {
        "id": id_,
        "subscription_id": subscription_id,
        "customer_id": customer_id,
        "sequence": sequence,
        "status": "draft",
        "currency": currency,
        "reasons": [],
        "is_rebilled": False,
        "is_dispute_refused": False,
        "needs_action": False,
        "provider": "manual",
        "created_at": now,
    }
    columns |= dict.fromkeys(
        ("subtotal_minor", "tax_minor", "total_minor", "paid_minor", "credited_minor", "refunded_minor"), 0
    )
    return Paper(columns)


def _entry(invoice: Columns, position: int, new: NewLine) -> Entry:
    line, due = new.line, new.due
    columns = {
        "charge_key": due.key,
        "revision": new.revision,
        "share": str(new.share),
        "count": due.count,
        "earlier": str(due.earlier),
        "metered": new.metered,
        "plan_id": due.plan.id,
        "phase_key": due.phase_key,
        "card_key": due.card.key,
        "addon_id": None if due.addon is None else due.addon.id,
        "feature_key": due.card.feature_key,
        "meter": new.meter,
        "period_start": new.period.start,
        "period_end": new.period.end,
        "ends_at": due.ends_at,
    }
    return new_entry(invoice, position, line, columns)


def new_entry(invoice: Columns, position: int, line: Line, charge: Columns) -> Entry:
    """`charge`: the columns that say what it is charged for. The others come from the line itself, and its place."""
    columns = {
        "id": f"{invoice['id']}-{position + 1}",
        "invoice_id": invoice["id"],
        "subscription_id": invoice["subscription_id"],
        "position": position,
        "line_key": line_key(line),
        "kind": line.kind,
        "description": line.description,
        "quantity": line.quantity,
        "unit_amount": line.unit_amount,
        "credited_minor": 0,
        "tier": line.tier,
        "rated_start": line.period.start,
        "rated_end": line.period.end,
    } | charge
    put_line(columns, line)
    return Entry(columns, line, True)


def _reduction(one: Reduction) -> Columns:
    return {"kind": one.kind, "source": one.source, "description": one.description, "amountMinor": one.amount_minor}


def _tax(one: Tax) -> Columns:
    return {"name": one.name, "amountMinor": one.amount_minor, "isInclusive": one.inclusive}

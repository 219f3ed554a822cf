"""Money that moves, in double entry: each entry takes an amount from one account and gives it to another.

    receivable:CUSTOMER   what a customer owes us
    credit:ID             what was given back, paid ahead or granted, and not used yet
    revenue, tax, cash, loss
    promotion             credit that was granted for nothing      breakage   credit that was paid for and lapsed

    issued          receivable ← revenue, receivable ← tax; credit:ID ← revenue for what a credit paid
    given back      revenue ← credit:ID
    paid            cash ← receivable                 refunded   receivable ← cash
    credit note     revenue ← receivable, tax ← receivable
    disputed        disputed ← cash; won: back again; lost: loss ← disputed
    granted         promotion ← credit:ID             bought     receivable ← credit:ID
    lapsed          credit:ID ← promotion, breakage   used up    credit:ID ← revenue, for units
    given up        loss ← receivable                 voided     everything about the invoice the other way round

An entry's `source` names its occasion, and it is unique: nothing moves twice.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import case
from sqlmodel import Session, col, func, select

from farebox_portal.invoicing.checks import require
from farebox_portal.invoicing.status import OPEN
from farebox_portal.invoicing.tables import Invoice, LedgerEntry

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Occasion:
    """Why money moves, whose it is, and when."""

    source: str
    currency: str
    customer_id: str
    subscription_id: str
    invoice_id: str | None
    at: datetime

    def move(self, amount_minor: int, *, to: str, from_: str) -> list[Row]:
        """One entry; the other way round for an amount below 0, none for 0."""
        if not amount_minor:
            return []
        debit, credit = (to, from_) if amount_minor > 0 else (from_, to)
        row = {
            "source": self.source,
            "debit": debit,
            "credit": credit,
            "amount_minor": abs(amount_minor),
            "currency": self.currency,
            "customer_id": self.customer_id,
            "subscription_id": self.subscription_id,
            "invoice_id": self.invoice_id,
            "at": self.at,
        }
        return [row]


def receivable(customer_id: str) -> str:
    return f"receivable:{customer_id}"


def credit_account(credit_id: str) -> str:
    return f"credit:{credit_id}"


def issued(
    occasion: Occasion,
    total_minor: int,
    tax_minor: int,
    used: Iterable[tuple[str, int]],
    sold_as: str = "revenue",
) -> list[Row]:
    """`used`: (credit, amount) for each credit that paid a part. `sold_as`: the account of what was sold."""
    owed = receivable(occasion.customer_id)
    rows = occasion.move(total_minor - tax_minor, to=owed, from_=sold_as)
    rows += occasion.move(tax_minor, to=owed, from_="tax")
    for credit_id, amount_minor in used:
        rows += occasion.move(amount_minor, to=credit_account(credit_id), from_="revenue")
    return rows


def given_back(occasion: Occasion, credit_id: str, amount_minor: int) -> list[Row]:
    return occasion.move(amount_minor, to="revenue", from_=credit_account(credit_id))


def put(session: Session, rows: Sequence[Row]) -> None:
    session.add_all([LedgerEntry(**row) for row in rows])


def reversed_entries(session: Session, invoice: Invoice, occasion: Occasion) -> list[Row]:
    """What takes back everything that moved because of an invoice."""
    found = session.exec(
        select(LedgerEntry).where(LedgerEntry.invoice_id == invoice.id).order_by(col(LedgerEntry.number))
    )
    sums: Counter[tuple[str, str]] = Counter()
    for entry in found:
        sums[entry.debit, entry.credit] += entry.amount_minor
    return [row for (debit, credit), total in sums.items() for row in occasion.move(total, to=credit, from_=debit)]


def check_owed(session: Session, invoice: Invoice) -> None:
    """M3, M8 and M11 of one invoice, whose changes are flushed. Raises MoneyFault."""
    owed = moved_of(receivable(invoice.customer_id))
    moved = session.exec(select(owed).where(LedgerEntry.invoice_id == invoice.id)).one()
    require(int(moved or 0) == still_owed(invoice), "M3: what is owed by the ledger is what is owed by the invoice")
    require(0 <= invoice.refunded_minor <= max(0, invoice.paid_minor), "M8: refunds are at most what was paid")


def still_owed(invoice: Invoice) -> int:
    """What the ledger is to say of an invoice."""
    return invoice.outstanding_minor if invoice.status in OPEN else 0


def moved_of(account: Any) -> Any:
    """The sum of what an account got, less what it gave: a column over entries."""
    got = case((col(LedgerEntry.debit) == account, col(LedgerEntry.amount_minor)), else_=0)
    gave = case((col(LedgerEntry.credit) == account, col(LedgerEntry.amount_minor)), else_=0)
    return func.sum(got) - func.sum(gave)


def balances(entries: Iterable[LedgerEntry]) -> Counter[tuple[str, str]]:
    """(account, currency) -> what was put in less what was taken out. All of a currency sum to 0."""
    found: Counter[tuple[str, str]] = Counter()
    for entry in entries:
        found[entry.debit, entry.currency] += entry.amount_minor
        found[entry.credit, entry.currency] -= entry.amount_minor
    return found

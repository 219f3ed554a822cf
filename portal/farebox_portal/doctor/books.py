"""The ledger of money against the invoices: what customers owe by the one is what they owe by the other."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sqlmodel import Session, col, func, select

from farebox_portal.doctor.report import Check, Finding, check, fail
from farebox_portal.invoicing.ledger import receivable
from farebox_portal.invoicing.status import OPEN
from farebox_portal.invoicing.tables import CreditRow, Invoice, LedgerEntry

Balances = Mapping[tuple[str, str], int]
"""(account of the ledger, currency) -> minor units."""


@dataclass(frozen=True, slots=True)
class Facts:
    """`sums`: of all entries, by currency. `owed`: what is open by the invoices, under the ledger's account names."""

    entries: int
    sums: Mapping[str, int]
    ledger: Balances
    owed: Balances
    negative_credits: tuple[str, ...]


def read(session: Session) -> Facts:
    ledger: Counter[tuple[str, str]] = Counter()
    amount = func.sum(LedgerEntry.amount_minor)
    for leg, sign in ((col(LedgerEntry.debit), 1), (col(LedgerEntry.credit), -1)):
        rows = select(leg, LedgerEntry.currency, amount).group_by(leg, col(LedgerEntry.currency))
        for account, currency, total in session.exec(rows):
            ledger[account, currency] += sign * int(total)
    owed: Counter[tuple[str, str]] = Counter()
    for invoice in session.exec(select(Invoice).where(col(Invoice.status).in_(OPEN))):
        owed[receivable(invoice.customer_id), invoice.currency] += invoice.outstanding_minor
    negative = select(CreditRow.id).where(col(CreditRow.left_minor) < 0)
    sums: Counter[str] = Counter()
    for (_, currency), total in ledger.items():
        sums[currency] += total
    return Facts(
        entries=session.exec(select(func.count()).select_from(LedgerEntry)).one(),
        sums=dict(sums),
        ledger={key: total for key, total in ledger.items() if key[0].startswith(receivable(""))},
        owed=dict(owed),
        negative_credits=tuple(session.exec(negative)),
    )


def examine(facts: Facts) -> Check:
    return check("books", "Books", f"{facts.entries} ledger entries against the open invoices", _findings(facts))


def _findings(facts: Facts) -> Iterator[Finding]:
    remedy = "keep a copy of the database, and report it: no remedy may guess at money"
    for currency, total in sorted(facts.sums.items()):
        if total:
            yield fail(f"the ledger's accounts in {currency} sum to {total} and not to 0", remedy)
    for key in sorted(facts.ledger.keys() | facts.owed.keys()):
        by_ledger, by_invoices = facts.ledger.get(key, 0), facts.owed.get(key, 0)
        if by_ledger != by_invoices:
            account, currency = key
            yield fail(
                f"{account} owes {by_ledger} minor units of {currency} by the ledger, {by_invoices} by its invoices",
                remedy,
            )
    if facts.negative_credits:
        yield fail(f"credits are below 0: {', '.join(facts.negative_credits[:5])}", remedy)

"""All books at once: every rule of `checks` that can be seen in what is stored. For operators and for tests.

Changes nothing, and reads everything: a minute for a million lines, and several more with replays.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

from sqlalchemy import literal
from sqlalchemy import select as sql_select
from sqlmodel import Session, col, func, select

from farebox_portal.catalog.tables import Plan
from farebox_portal.invoicing import replay
from farebox_portal.invoicing.checks import MoneyFault, check_sums
from farebox_portal.invoicing.document import sha256
from farebox_portal.invoicing.ledger import moved_of, receivable, still_owed
from farebox_portal.invoicing.minimum import minimum_minor
from farebox_portal.invoicing.tables import CreditNote, CreditRow, Invoice, InvoiceLine, InvoiceNumber, LedgerEntry
from farebox_portal.pricing.money import currency


@dataclass(frozen=True, slots=True)
class Fault:
    """`subject`: the id of the invoice, credit, charge or account that it is about."""

    rule: str
    subject: str

    def __str__(self) -> str:
        return f"{self.rule} ({self.subject})"


def verify(session: Session, *, replays: bool = True) -> list[Fault]:
    """Everything that does not hold. `replays`: make each invoice once more, too, which takes the most of the time."""
    found = [
        *_sums(session), *_states(session), *_ledger(session), *_fees(session), *_credits(session),
        *_periods(session), *_plans(session), *_numbers(session),
    ]  # fmt: skip
    return found + (list(_replays(session)) if replays else [])


def _sums(session: Session) -> Iterator[Fault]:
    invoices = {one.id: one.model_dump() for one in session.exec(select(Invoice).where(Invoice.status != "draft"))}
    table = InvoiceLine.__table__  # type: ignore[attr-defined]
    rows = session.connection().execute(sql_select(table).order_by(table.c.invoice_id)).mappings()
    seen = set()
    for id_, lines in groupby(rows, key=lambda row: row["invoice_id"]):
        seen.add(id_)
        if id_ in invoices:
            try:
                check_sums(invoices[id_], [dict(line) for line in lines])
            except MoneyFault as fault:
                yield Fault(str(fault), id_)
    for id_ in invoices.keys() - seen:
        yield Fault("M12: there is something to ask for", id_)


def _states(session: Session) -> Iterator[Fault]:
    notes: dict[str, list[CreditNote]] = defaultdict(list)
    for note in session.exec(select(CreditNote)):
        notes[note.invoice_id].append(note)
    owed = moved_of(literal(receivable("")) + col(LedgerEntry.customer_id))
    rows: Any = select(LedgerEntry.invoice_id, owed).group_by(col(LedgerEntry.invoice_id))
    moved: dict[str | None, Any] = dict(session.exec(rows).all())
    for one in session.exec(select(Invoice)):
        yield from (Fault(rule, one.id) for rule in _rules_broken(one, notes[one.id], int(moved.get(one.id) or 0)))


def _rules_broken(one: Invoice, notes: list[CreditNote], owed_minor: int) -> Iterator[str]:
    if owed_minor != still_owed(one):
        yield "M3: what is owed by the ledger is what is owed by the invoice"
    if one.status == "paid" and one.outstanding_minor:
        yield "M2: what is paid owes nothing"
    if one.credited_minor != sum(note.total_minor for note in notes):
        yield "M11: what was credited is what credit notes say"
    if one.refunded_minor != sum(note.refunded_minor for note in notes):
        yield "M11: what was refunded is what credit notes say"
    if not 0 <= one.refunded_minor <= max(0, one.paid_minor):
        yield "M8: refunds are at most what was paid"
    if one.document is not None and sha256(one.document) != one.sha256:
        yield "M6: a document is what was issued"
    if one.provider_id is not None and 0 < one.total_minor < minimum_minor(currency(one.currency)):
        yield "M13: what is too little to be charged is carried and not sent"


def _ledger(session: Session) -> Iterator[Fault]:
    sums: Counter[str] = Counter()
    accounts: Counter[tuple[str, str]] = Counter()
    amount = func.sum(LedgerEntry.amount_minor)
    for leg, sign in ((col(LedgerEntry.debit), 1), (col(LedgerEntry.credit), -1)):
        for account, code, total in session.exec(
            select(leg, LedgerEntry.currency, amount).group_by(leg, col(LedgerEntry.currency))
        ):
            sums[code] += sign * int(total)
            accounts[account, code] += sign * int(total)
    for code, total in sums.items():
        if total:
            yield Fault("M3: the accounts of a currency sum to 0", code)
    entries = select(LedgerEntry.number).where(col(LedgerEntry.amount_minor) <= 0)
    for number in session.exec(entries):
        yield Fault("M3: what moves is more than nothing", str(number))
    held = Counter(
        source
        for invoice_id, reductions in session.exec(_reductions_of_held())
        for source in _sources(reductions)
        if invoice_id
    )
    for one in session.exec(select(CreditRow)):
        if -accounts[f"credit:{one.id}", one.currency] != one.left_minor + held[one.id]:
            yield Fault("M8: a credit in the ledger is what is left of it", one.id)
    yield from _cash(session)


def _cash(session: Session) -> Iterator[Fault]:
    """What was paid less what was refunded; what is disputed left it without a change of any invoice."""
    undisputed = col(LedgerEntry.debit) != "disputed", col(LedgerEntry.credit) != "disputed"
    moved = select(LedgerEntry.currency, moved_of("cash")).where(*undisputed).group_by(col(LedgerEntry.currency))
    cash = dict(session.exec(moved).all())
    paid = select(Invoice.currency, func.sum(Invoice.paid_minor - Invoice.refunded_minor))
    for code, minor in session.exec(paid.where(Invoice.total_minor > 0).group_by(col(Invoice.currency))):
        if int(cash.get(code) or 0) != int(minor):
            yield Fault("M3: the cash is what was paid less what was refunded", code)


def _reductions_of_held() -> Any:
    """A held invoice has taken its part of a credit already, and the ledger hears of it when it is issued."""
    held = select(InvoiceLine.invoice_id, InvoiceLine.reductions).join(
        Invoice, col(Invoice.id) == col(InvoiceLine.invoice_id)
    )
    return held.where(Invoice.status == "held")


def _sources(reductions: list[dict[str, Any]]) -> Iterator[str]:
    """A credit's id as often as it has minor units in these."""
    for one in reductions:
        if one["kind"] == "credit" and one["source"]:
            yield from [one["source"]] * one["amountMinor"]


def _fees(session: Session) -> Iterator[Fault]:
    charged = (
        select(InvoiceLine.subscription_id, InvoiceLine.charge_key, func.sum(InvoiceLine.gross_minor))
        .join(Invoice, col(Invoice.id) == col(InvoiceLine.invoice_id))
        .where(InvoiceLine.kind == "fee")
        .group_by(col(InvoiceLine.subscription_id), col(InvoiceLine.charge_key))
    )
    gross = {(subscription, key): int(total) for subscription, key, total in session.exec(charged)}
    released = (
        select(CreditRow.subscription_id, CreditRow.charge_key, func.sum(CreditRow.released_minor))
        .where(col(CreditRow.charge_key).is_not(None))
        .group_by(col(CreditRow.subscription_id), col(CreditRow.charge_key))
    )
    for subscription, key, total in session.exec(released):
        if int(total) > gross.get((subscription, key or ""), 0):
            yield Fault("M4: no more of a fee is given back than was charged", f"{subscription}/{key}")


def _credits(session: Session) -> Iterator[Fault]:
    for one in session.exec(select(CreditRow)):
        if not 0 <= one.left_minor <= one.granted_minor:
            yield Fault("M8: credits are between 0 and what was granted", one.id)
    for line in session.exec(select(InvoiceLine).where(InvoiceLine.credited_minor != 0)):
        if not 0 <= line.credited_minor <= line.amount_minor:
            yield Fault("M11: no more of a line is taken back than it took", line.id)


def _periods(session: Session) -> Iterator[Fault]:
    rows = session.exec(
        select(Invoice.subscription_id, Invoice.period_start, Invoice.period_end, Invoice.id)
        .where(col(Invoice.kind).in_(("period", "final")), Invoice.status != "void")
        .order_by(col(Invoice.subscription_id), col(Invoice.period_start))
    )
    for before, after in pairwise(rows):
        if before[0] == after[0] and before[2] > after[1]:
            yield Fault("M9: periods do not overlap", after[3])


def _plans(session: Session) -> Iterator[Fault]:
    drafts = (
        select(InvoiceLine.invoice_id)
        .join(Plan, col(Plan.id) == col(InvoiceLine.plan_id))
        .where(col(Plan.published_at).is_(None))
    )
    for id_ in session.exec(drafts.distinct()):
        yield Fault("M7: what an invoice names was published", id_)


def _numbers(session: Session) -> Iterator[Fault]:
    given = session.exec(select(func.count()).where(col(Invoice.number).is_not(None))).one()
    last = session.get(InvoiceNumber, "invoice")
    if given != (0 if last is None else last.last):
        yield Fault("numbers have no gaps", str(given))


def _replays(session: Session) -> Iterator[Fault]:
    for invoice in session.exec(select(Invoice).where(col(Invoice.document).is_not(None))):
        try:
            is_identical = replay.show(session, invoice).is_identical
        except Exception as error:  # whatever it is, it is no invoice that can be made once more
            yield Fault(f"M7: what an invoice names can still be read: {type(error).__name__}", invoice.id)
            continue
        if not is_identical:
            yield Fault("M6: an invoice made once more is the same to the byte", invoice.id)

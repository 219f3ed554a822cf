"""The books of money: what is owed, given back, granted and paid adds up, in every invoice and over all of them."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from sqlmodel import Session, func, select

from farebox_portal.doctor.report import Check, Finding, check, fail
from farebox_portal.invoicing.tables import Invoice, LedgerEntry
from farebox_portal.invoicing.verify import Fault, verify

REMEDY = "keep a copy of the database, and report it: no remedy may guess at money"
_NAMED = 3


@dataclass(frozen=True, slots=True)
class Facts:
    """`faults`: of every rule that can be seen without making each invoice once more, which takes minutes."""

    invoices: int
    entries: int
    faults: tuple[Fault, ...]


def read(session: Session) -> Facts:
    return Facts(
        invoices=session.exec(select(func.count()).select_from(Invoice)).one(),
        entries=session.exec(select(func.count()).select_from(LedgerEntry)).one(),
        faults=tuple(verify(session, replays=False)),
    )


def examine(facts: Facts) -> Check:
    what = f"{facts.invoices} invoices and {facts.entries} ledger entries"
    return check("books", "Books", what, _findings(facts))


def _findings(facts: Facts) -> Iterator[Finding]:
    """One for each rule, with some of what breaks it."""
    for rule, count in sorted(Counter(fault.rule for fault in facts.faults).items()):
        named = [fault.subject for fault in facts.faults if fault.rule == rule][:_NAMED]
        more = "" if count <= _NAMED else f" and {count - _NAMED} more"
        yield fail(f"not so: {rule} ({', '.join(named)}{more})", REMEDY)

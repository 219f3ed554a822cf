"""What must hold of money, and goes on being checked in production.

    M1   amounts are whole minor units, in the steps of their currency            each paper, all books
    M2   lines sum to the subtotal, and with tax on top to the total              each paper, all books
    M3   both legs of what moves are the same; what is owed by the ledger
         is what is owed by the invoice                                           each paper, each step, all books
    M4   no more of a fee is given back than was charged                          all books
    M5   usage is charged by difference: what came late changes nothing else      all books (with M6)
    M6   an invoice made once more is the same to the byte                        all books
    M7   what an invoice names can still be read as it was when it was issued     all books (with M6)
    M8   credits are between 0 and what was granted, refunds at most what was paid     each paper, all books
    M9   periods do not overlap                                                   all books, a unique constraint
    M10  tiers are continuous, and more never costs less                          tests/portal/pricing
    M11  what was voided or credited is taken back exactly                        each step, all books
    M12  nobody is asked for nothing                                              each paper, all books
    M13  what is too little to be charged is carried and not sent                 all books, payments.collect

`each paper`: before an invoice is issued; one that fails is held, with the reason `arithmetic`, and no number is given
to it. `each step`: before an invoice is paid, voided, credited or given up, which then fails and writes nothing; and
before it is collected, which then stops. `all books`: see `verify`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from farebox_portal.invoicing.paper import Columns, Paper
from farebox_portal.pricing.money import currency


class MoneyFault(Exception):
    """A sum that does not add up. A fault of ours, never of the customer. Begins with its number above."""


def check_paper(paper: Paper) -> None:
    """Raises MoneyFault."""
    check_sums(paper.columns, [entry.columns for entry in paper.entries])


def check_sums(invoice: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> None:
    """Of an invoice and its lines by the names of their columns. Raises MoneyFault."""
    step = currency(invoice["currency"]).step_minor
    for line in lines:
        off = sum(one["amountMinor"] for one in line["reductions"])
        require(type(line["gross_minor"]) is int and type(line["amount_minor"]) is int, "M1: whole minor units")
        require(line["amount_minor"] % step == 0, "M1: steps of the currency")
        require(line["amount_minor"] == line["gross_minor"] - off, "M2: a line is its gross less what comes off")
    on_top = sum(tax["amountMinor"] for line in lines for tax in line["taxes"] if not tax["isInclusive"])
    require(invoice["subtotal_minor"] == sum(line["amount_minor"] for line in lines), "M2: lines sum to the subtotal")
    require(invoice["total_minor"] == invoice["subtotal_minor"] + on_top, "M2: subtotal and tax sum to the total")
    require(len({_identity(line) for line in lines}) == len(lines), "I3: a line is billed once")
    require(any(line["amount_minor"] or line["reductions"] for line in lines), "M12: there is something to ask for")


def check_credits(left_minor: Iterable[int]) -> None:
    """Raises MoneyFault."""
    require(all(amount >= 0 for amount in left_minor), "M8: a credit is never below 0")


def check_moves(rows: Iterable[Mapping[str, Any]], account: str, owed_minor: int) -> None:
    """Entries of the ledger, and what they are to make of an account. Raises MoneyFault."""
    moved = 0
    for row in rows:
        require(type(row["amount_minor"]) is int and row["amount_minor"] > 0, "M3: what moves is more than nothing")
        require(row["debit"] != row["credit"], "M3: money moves between two accounts")
        moved += row["amount_minor"] * ((row["debit"] == account) - (row["credit"] == account))
    require(moved == owed_minor, "M3: what is owed by the ledger is what is owed by the invoice")


def require(holds: bool, rule: str) -> None:
    if not holds:
        raise MoneyFault(rule)


def _identity(line: Mapping[str, Any] | Columns) -> tuple[str, str, int]:
    return line["charge_key"], line["line_key"], line["revision"]

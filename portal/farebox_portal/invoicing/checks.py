"""What must hold of every invoice, checked each time one is made or changed, in production too.

The numbers are those of the list of money invariants in the tests (M1, M2, …). What fails is held for an operator and
never issued.
"""

from collections.abc import Iterable

from farebox_portal.invoicing.paper import Columns, Paper
from farebox_portal.pricing.money import currency


class MoneyFault(Exception):
    """A sum that does not add up. A fault of ours, never of the customer."""


def check_paper(paper: Paper) -> None:
    """Raises MoneyFault."""
    invoice, lines = paper.columns, [entry.columns for entry in paper.entries]
    step = currency(invoice["currency"]).step_minor
    for line in lines:
        off = sum(one["amountMinor"] for one in line["reductions"])
        _require(type(line["gross_minor"]) is int and type(line["amount_minor"]) is int, "M1: whole minor units")
        _require(line["amount_minor"] % step == 0, "M1: steps of the currency")
        _require(line["amount_minor"] == line["gross_minor"] - off, "M2: a line is its gross less what comes off")
    on_top = sum(tax["amountMinor"] for line in lines for tax in line["taxes"] if not tax["isInclusive"])
    _require(invoice["subtotal_minor"] == sum(line["amount_minor"] for line in lines), "M2: lines sum to the subtotal")
    _require(invoice["total_minor"] == invoice["subtotal_minor"] + on_top, "M2: subtotal and tax sum to the total")
    _require(len({_identity(line) for line in lines}) == len(lines), "a line is billed once")


def check_credits(left_minor: Iterable[int]) -> None:
    """Raises MoneyFault."""
    _require(all(amount >= 0 for amount in left_minor), "M8: a credit is never below 0")


def _identity(line: Columns) -> tuple[str, str, int]:
    return line["charge_key"], line["line_key"], line["revision"]


def _require(holds: bool, rule: str) -> None:
    if not holds:
        raise MoneyFault(rule)

"""Our lines as the provider can tax them, and its taxes back on our lines. Pure.

What has tax worked out on it may not be below 0 there, and there are no more than 250 items on an invoice. So what a
line gives back is taken off others, of the same terms of tax first; and what is too much becomes one item for each
terms. The items come to the same sum as the lines, and so do their taxes, to the last unit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from farebox_portal.invoicing.tax import TaxTerms
from farebox_portal.payments.gateway import Line, RemoteTax
from farebox_portal.payments.steps import LINES_MAX, joined
from farebox_portal.pricing.money import Currency, allocate


@dataclass(frozen=True, slots=True)
class Item:
    """What is sent as one; `parts` are our lines in it with what is left of each."""

    line: Line
    parts: tuple[tuple[str, int], ...]


def tax_items(lines: Sequence[Line]) -> tuple[Item, ...]:
    """Raises ValueError when they come to less than 0."""
    kept = [line for line in netted(lines) if line.amount_minor]
    if len(kept) <= LINES_MAX:
        return tuple(_one(line) for line in kept)
    room = LINES_MAX - len({_terms(line) for line in kept})
    by_terms: dict[TaxTerms, list[Line]] = {}
    for line in kept[room:]:
        by_terms.setdefault(_terms(line), []).append(line)
    return (*(_one(line) for line in kept[:room]), *(_folded(group) for group in by_terms.values()))


def netted(lines: Sequence[Line]) -> list[Line]:
    """None below 0, the sum as it was."""
    left = [line.amount_minor for line in lines]
    if sum(left) < 0:
        raise ValueError("what comes to less than 0 has no tax")
    for place, line in enumerate(lines):
        if left[place] >= 0:
            continue
        same = [other for other, one in enumerate(lines) if _terms(one) == _terms(line)]
        for other in (*same, *range(len(lines))):
            if left[place] >= 0:
                break
            taken = min(-left[place], max(0, left[other]))
            left[place], left[other] = left[place] + taken, left[other] - taken
    return [replace(line, amount_minor=amount) for line, amount in zip(lines, left, strict=True)]


def on_lines(
    items: Sequence[Item],
    taxes: Mapping[str, Sequence[RemoteTax]],
    named: Mapping[str, Sequence[RemoteTax]],
    of: Currency,
) -> dict[str, list[dict[str, Any]]]:
    """By our line, as its row has them. `named`: the same worked out once more, with names, where it is the same."""
    found: dict[str, list[dict[str, Any]]] = {}
    for item in items:
        charged = taxes.get(item.line.id, ())
        same = named.get(item.line.id, ())
        is_same = [one.amount_minor for one in same] == [one.amount_minor for one in charged]
        for tax in same if is_same else charged:
            if not tax.amount_minor and tax.reason not in _SAID_WHERE_NOTHING_IS_OWED:
                continue
            step = 1 if tax.amount_minor % of.step_minor else of.step_minor
            shares = allocate(tax.amount_minor, [amount for _, amount in item.parts], step)
            for (line_id, _), amount in zip(item.parts, shares, strict=True):
                found.setdefault(line_id, []).append(_stored(tax, amount))
    return found


_SAID_WHERE_NOTHING_IS_OWED = ("reverse_charge", "customer_exempt")


def _stored(tax: RemoteTax, amount_minor: int) -> dict[str, Any]:
    said = {"percentage": tax.percentage, "jurisdiction": tax.jurisdiction, "reason": tax.reason or None}
    told = {name: value for name, value in said.items() if value is not None}
    return {"name": tax.name, "amountMinor": amount_minor, "isInclusive": tax.is_inclusive} | told


def _terms(line: Line) -> TaxTerms:
    return TaxTerms(line.behavior, line.tax_code)


def _one(line: Line) -> Item:
    return Item(line, ((line.id, line.amount_minor),))


def _folded(lines: Sequence[Line]) -> Item:
    return Item(joined(lines), tuple((line.id, line.amount_minor) for line in lines))

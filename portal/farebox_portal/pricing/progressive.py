"""Billing in several goes: before the period ends, and once more when usage came late.

The period's whole quantity is rated anew, and what was billed under the same names is taken off. So the goes always add
up to what one invoice over everything would say, to the cent; a difference may be negative, and says which tier it
gives back: 15 units at 10, then a 16th that makes all of them cost 5, are -150 and +80.
"""

from collections.abc import Iterable
from decimal import Decimal

from farebox_portal.pricing.card import RateCard
from farebox_portal.pricing.line import AFTERWARDS, Line, Reduction
from farebox_portal.pricing.money import EXACT
from farebox_portal.pricing.part import ZERO
from farebox_portal.pricing.period import Period
from farebox_portal.pricing.volume import Volume

_Name = tuple[str, Period, Decimal]
_Off = dict[tuple[str, str], int]


def progressive(card: RateCard) -> bool:
    """Whether billing a part of the period can only be too little, never too much."""
    return not isinstance(card.price, Volume)


def difference(rated: Iterable[Line], billed: Iterable[Line]) -> tuple[Line, ...]:
    """What is still to bill, line by line; nothing where nothing changed. Coupons, credits and taxes of `billed` do
    not count.

    The sum of its `rated_minor` is that of `rated` less that of `billed`.
    """
    now, before = _by_name(rated), _by_name(billed)
    # What is given back comes first: it reads as "not that, but this".
    gone = [_less(None, lines) for name, lines in before.items() if name not in now]
    found = gone + [_less(lines, before.get(name, [])) for name, lines in now.items()]
    return tuple(line for line in found if line is not None)


def _by_name(lines: Iterable[Line]) -> dict[_Name, list[Line]]:
    found: dict[_Name, list[Line]] = {}
    for line in lines:
        found.setdefault((line.key, line.period, line.unit_amount), []).append(line)
    return found


def _less(now: list[Line] | None, before: list[Line]) -> Line | None:
    if now and _is_same(now, before):
        return None
    if now and not before and len(now) == 1:
        return now[0]
    model = (now or before)[-1]
    gross_minor, quantity, off = _summed(now or [])
    gross_before, quantity_before, off_before = _summed(before)
    gross_minor -= gross_before
    for place, amount in off_before.items():
        off[place] = off.get(place, 0) - amount
    quantity = EXACT.subtract(quantity, quantity_before)
    if not (gross_minor or quantity or any(off.values())):
        return None
    reductions = tuple(
        Reduction(kind, "", description, amount)  # type: ignore[arg-type]  # the kind came out of a Reduction
        for (kind, description), amount in off.items()
        if amount
    )
    return Line(
        model.key,
        model.kind,
        model.description,
        quantity,
        model.unit_amount,
        gross_minor,
        model.period,
        model.tier,
        model.share,
        reductions,
    )


def _is_same(now: list[Line], before: list[Line]) -> bool:
    """Whether the one line that was billed is the one there is, as for a tier that was full before. Not exhaustive."""
    if len(now) != 1 or len(before) != 1 or now[0].reductions or before[0].reductions:
        return False
    return now[0].gross_minor == before[0].gross_minor and now[0].quantity == before[0].quantity


def _summed(lines: list[Line]) -> tuple[int, Decimal, _Off]:
    gross_minor, quantity, off = 0, ZERO, dict[tuple[str, str], int]()
    for line in lines:
        gross_minor += line.gross_minor
        quantity = EXACT.add(quantity, line.quantity)
        for one in line.reductions:
            if one.kind not in AFTERWARDS:
                place = (one.kind, one.description)
                off[place] = off.get(place, 0) + one.amount_minor
    return gross_minor, quantity, off

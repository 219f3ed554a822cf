"""One rate card and a quantity, without a catalog, a customer or a calendar."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from farebox_portal.errors import Fault, Invalid
from farebox_portal.pricing.card import RateCard
from farebox_portal.pricing.documents import read_rate_card
from farebox_portal.pricing.line import Line
from farebox_portal.pricing.money import Currency
from farebox_portal.pricing.period import Period
from farebox_portal.pricing.rate import Charge, rate

_SOME_PERIOD = Period(datetime(2000, 1, 1, tzinfo=UTC), datetime(2000, 2, 1, tzinfo=UTC))


def read_card(document: Any, place: str = "") -> RateCard:
    """Raises Invalid with every fault; `place` is where the document stands."""
    card, found = read_rate_card(document, place)
    if card is None:
        raise Invalid([Fault(pointer=where, detail=detail) for where, detail in found])
    return card


def rate_whole(card: RateCard, quantity: Decimal, of: Currency, count: int = 1) -> tuple[Line, ...]:
    """The lines of one full period of the card that is over. Which one makes no difference to any amount. `count`: how
    many of a flat fee.
    """
    return rate(Charge(card, of, _SOME_PERIOD, count=count), quantity)

"""What a life is charged, for which period, and when that is due. Pure: no quantities, no amounts.

A fee is charged for the time in which it is served: a pause, a change of plan and the end cut it. Usage is charged for
the period in which it was made: a pause does not cut that, or each half would begin at the first tier. So stretches of
one phase that follow each other count as one for usage, and each for itself, unless paused, for fees.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from farebox_portal.catalog.tables import Plan
from farebox_portal.pricing.card import RateCard
from farebox_portal.pricing.documents import read_rate_card
from farebox_portal.pricing.flat import Flat
from farebox_portal.pricing.schedule import Service, Span, invoice_at, one_time, service_periods
from farebox_portal.subscriptions.stretches import Stretch


@dataclass(frozen=True)
class Due:
    """One rate card of a plan version, for one period. `at`: when it goes onto an invoice."""

    plan: Plan
    phase_key: str
    card: RateCard
    service: Service
    at: datetime

    @property
    def is_by_usage(self) -> bool:
        return by_usage(self.card)


def by_usage(card: RateCard) -> bool:
    return card.price is not None and not isinstance(card.price, Flat)


def charges(life: tuple[Stretch, ...], anchor: datetime, until: datetime) -> Iterator[Due]:
    """Everything whose period begins at `until` or before: what is charged in advance is due with its beginning."""
    for stretches in in_phases(life):
        whole = span_of(stretches)
        for card in cards(stretches[0].phase):
            spans = [whole]
            if not by_usage(card):
                spans = [Span(one.start, one.end) for one in stretches if not one.is_paused]
                if card.billing_cadence is None:  # once per phase, however often that is interrupted
                    spans = spans[:1] if stretches[0].start == stretches[0].phase_start else []
            for span in spans:
                yield from _of_span(stretches[0], card, span, anchor, until)


def in_phases(life: tuple[Stretch, ...]) -> list[list[Stretch]]:
    """The stretches of one phase of one plan version together: what is between them are pauses."""
    return [list(group) for _, group in groupby(life, key=_phase_of)]


def span_of(stretches: Sequence[Stretch]) -> Span:
    return Span(stretches[0].start, stretches[-1].end)


def cards(phase: Any) -> list[RateCard]:
    """The priced ones of a phase as plans have it, whose documents were accepted and so have no faults."""
    read = (read_rate_card(document)[0] for document in phase["rateCards"])
    return [card for card in read if card is not None and card.price is not None]


def _phase_of(stretch: Stretch) -> tuple[str, str, datetime]:
    return stretch.plan.id, stretch.phase["key"], stretch.phase_start


def _of_span(stretch: Stretch, card: RateCard, span: Span, anchor: datetime, until: datetime) -> Iterator[Due]:
    if span.end is not None and span.end <= span.start:
        return
    cadence = stretch.plan.billing_cadence
    services: Iterable[Service] = [one_time(anchor, cadence, span)]
    if card.billing_cadence is not None:
        services = service_periods(anchor, card.billing_cadence, span, _just_after(until))
    for service in services:
        if service.served.start <= until:
            at = invoice_at(card, service.served, anchor, cadence, span)
            yield Due(stretch.plan, stretch.phase["key"], card, service, at)


def _just_after(instant: datetime) -> datetime:
    return instant + datetime.resolution

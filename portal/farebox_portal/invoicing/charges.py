"""What a life is charged, for which period, and when that is due. Pure: no quantities, no amounts.

A fee is charged for the time in which it is served: a pause, a change of plan and the end cut it. Usage is charged for
the period in which it was made: a pause does not cut that, or each half would begin at the first tier. So stretches of
one phase that follow each other count as one for usage, and each for itself, unless paused, for fees.

What add-ons are charged beside the plan, `subscriptions.addon_charges` says.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from fractions import Fraction
from functools import cached_property
from itertools import groupby
from typing import Any

from farebox_portal.catalog.tables import Addon, Plan
from farebox_portal.pricing.card import RateCard
from farebox_portal.pricing.documents import read_rate_card
from farebox_portal.pricing.flat import Flat
from farebox_portal.pricing.period import boundary, index_at
from farebox_portal.pricing.schedule import Service, Span, invoice_at, one_time, service_periods
from farebox_portal.subscriptions.addon_charges import addon_charges
from farebox_portal.subscriptions.stretches import Stretch


@dataclass(frozen=True)
class Due:
    """One rate card of a plan version, for one period. `at`: when it goes onto an invoice.

    The phase is [phase_start, phase_end), end None: it is the last. `addon`: whose rate card it is, if not the plan's;
    no phase ends it. `count` and `earlier` are of a fee, see `pricing.rate.Charge`.
    """

    plan: Plan
    phase_key: str
    card: RateCard
    service: Service
    at: datetime
    phase_start: datetime
    phase_end: datetime | None
    addon: Addon | None = None
    count: int = 1
    earlier: Fraction = Fraction(0)

    @property
    def is_by_usage(self) -> bool:
        return by_usage(self.card)

    @property
    def is_in_advance(self) -> bool:
        return isinstance(self.card.price, Flat) and self.card.price.payment_term == "in_advance"

    @cached_property
    def key(self) -> str:
        """Names the charge for good within its subscription. What a pause cuts a fee into belongs to one charge."""
        if self.addon is not None:  # a unit of it is paid from when it is there, so each piece is a charge
            start = self.service.served.start
            return f"~{self.addon.key}.{self.addon.version}/{self.card.key}@{_instant(start)}"
        start = self.service.served.start if self.is_by_usage else self.service.full.start
        phase = f"{self.plan.key}.{self.plan.version}/{self.phase_key}@{_instant(self.phase_start)}"
        return f"{phase}/{self.card.key}@{_instant(start)}"

    @property
    def ends_at(self) -> datetime:
        """When both its period is over and it is due: from then on only what comes late can change it."""
        if self.is_by_usage:
            return max(self.at, self.service.served.end)
        return max(self.at, self.service.full.start if self.card.billing_cadence is None else self.service.full.end)


def by_usage(card: RateCard) -> bool:
    return card.price is not None and not isinstance(card.price, Flat)


def charges(
    life: tuple[Stretch, ...],
    anchor: datetime,
    until: datetime,
    *,
    since: datetime | None = None,
    cards_of: Callable[[Stretch], Sequence[RateCard]] | None = None,
) -> Iterator[Due]:
    """Everything whose period begins at `until` or before: what is charged in advance is due with its beginning.

    `since`: without what had ended by then, see `Due.ends_at`. `cards_of`: where cards that were read once are kept.
    """
    for stretches in in_phases(life):
        whole = span_of(stretches)
        for card in (cards_of or _cards)(stretches[0]):
            spans = [whole]
            if not by_usage(card):
                spans = [Span(one.start, one.end) for one in stretches if not one.is_paused]
                if card.billing_cadence is None:  # once per phase, however often that is interrupted
                    spans = spans[:1] if stretches[0].start == stretches[0].phase_start else []
            for span in spans:
                for due in _of_span(stretches[0], card, span, anchor, until, since):
                    if since is None or due.ends_at > since:
                        yield due
    for due in _of_addons(life, anchor, until, since):
        if since is None or due.ends_at > since:
            yield due


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


def _cards(stretch: Stretch) -> list[RateCard]:
    return cards(stretch.phase)


def _of_span(
    stretch: Stretch, card: RateCard, span: Span, anchor: datetime, until: datetime, since: datetime | None
) -> Iterator[Due]:
    if span.end is not None and span.end <= span.start:
        return
    cadence = stretch.plan.billing_cadence
    services: Iterable[Service] = [one_time(anchor, cadence, span)]
    if card.billing_cadence is not None:
        recent = span if since is None else _from(span, since, anchor, (card.billing_cadence, cadence))
        services = service_periods(anchor, card.billing_cadence, recent, _just_after(until))
    for service in services:
        if not (stretch.plan.is_prorated or by_usage(card)):
            service = replace(service, is_prorated=False)
        if service.served.start <= until:
            at = invoice_at(card, service.served, anchor, cadence, span)
            phase = stretch.phase["key"], stretch.phase_start, stretch.phase_end
            yield Due(stretch.plan, phase[0], card, service, at, *phase[1:])


def _of_addons(life: tuple[Stretch, ...], anchor: datetime, until: datetime, since: datetime | None) -> Iterator[Due]:
    for one in addon_charges(life, anchor, until, since):
        plan, phase, begun = one.stretch.plan, one.stretch.phase["key"], one.stretch.phase_start
        yield Due(plan, phase, one.card, one.service, one.at, begun, None, one.addon, one.count, one.earlier)


def _from(span: Span, since: datetime, anchor: datetime, cadences: Iterable[str]) -> Span:
    """The span without years that are long invoiced, cut where a period both of the card and of the plan begins."""
    at = since
    for cadence in cadences:
        at = boundary(anchor, cadence, index_at(anchor, cadence, at))
    return Span(max(span.start, at), span.end)


def _instant(instant: datetime) -> str:
    return instant.strftime("%Y%m%dT%H%M%S.%f")


def _just_after(instant: datetime) -> datetime:
    return instant + datetime.resolution

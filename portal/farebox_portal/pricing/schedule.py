"""Which stretch of time a rate card is charged for, and when.

Three times that are easily mixed up:

    the full period    from boundary to boundary of the card's cadence, counted from the subscription's billing anchor
    the served period  the part of it in which the card was in force: phases, the start and the end of the subscription
                       cut it; a fee is owed for the share served
    the invoice time   when it goes onto an invoice: a fee in advance when service starts, all else when both the
                       service and the plan's billing period are over

Served periods tile the time in which the card is in force, without gap or overlap, whatever the anchor: it may lie
before or after the start, and the first period is then a stub.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from itertools import count, pairwise

from farebox_portal.pricing.card import RateCard
from farebox_portal.pricing.flat import Flat
from farebox_portal.pricing.line import WHOLE
from farebox_portal.pricing.period import Period, boundary, index_at
from farebox_portal.pricing.proration import length_share


@dataclass(frozen=True, slots=True)
class Span:
    """From `start` up to but not including `end`; None: it goes on."""

    start: datetime
    end: datetime | None = None


@dataclass(frozen=True, slots=True)
class Service:
    """What of a full period was served. `is_prorated` false: what is begun is charged in full."""

    served: Period
    full: Period
    is_prorated: bool = True

    @property
    def share(self) -> Fraction:
        """Of the full period's fee."""
        return length_share(self.served, self.full) if self.is_prorated else WHOLE


def cut(span: Span, cuts: Iterable[datetime]) -> list[Span]:
    """The span in pieces: a subscription's life by its phases. Cuts outside it are passed over."""
    inside = {at for at in cuts if span.start < at and (span.end is None or at < span.end)}
    edges = [span.start, *sorted(inside)]
    return [Span(start, end) for start, end in pairwise(edges)] + [Span(edges[-1], span.end)]


def service_periods(anchor: datetime, cadence: str, span: Span, until: datetime) -> Iterator[Service]:
    """In order, those that begin before `until`. A span without length has none."""
    for n in count(index_at(anchor, cadence, span.start)):
        full = Period(boundary(anchor, cadence, n), boundary(anchor, cadence, n + 1))
        start = max(full.start, span.start)
        end = full.end if span.end is None else min(full.end, span.end)
        if start >= min(end, until):
            return
        yield Service(Period(start, end), full)


def one_time(anchor: datetime, plan_cadence: str, span: Span) -> Service:
    """A card without a cadence is charged once per phase, whole, with the phase's first billing period.

    Raises ValueError for a span without length.
    """
    first = next(service_periods(anchor, plan_cadence, span, datetime.max.replace(tzinfo=span.start.tzinfo)), None)
    if first is None:
        raise ValueError("a phase ends after it starts")
    return Service(first.served, first.served)


def invoice_at(card: RateCard, served: Period, anchor: datetime, plan_cadence: str, span: Span) -> datetime:
    """When it is due for invoicing. `span` is the phase, for billing periods do not reach beyond it."""
    if isinstance(card.price, Flat) and card.price.payment_term == "in_advance":
        return served.start
    n = index_at(anchor, plan_cadence, served.end)
    billing_end = boundary(anchor, plan_cadence, n)
    if billing_end < served.end:  # it ends inside a billing period
        billing_end = boundary(anchor, plan_cadence, n + 1)
    return billing_end if span.end is None else min(billing_end, span.end)

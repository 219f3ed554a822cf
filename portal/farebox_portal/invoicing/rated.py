"""Charges and the ledger's quantities become lines. Usage counts up to now; each line says what it is for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from sqlmodel import Session

from farebox_portal.catalog.tables import Feature
from farebox_portal.clock import Timeline, to_ms
from farebox_portal.invoicing.charges import Due
from farebox_portal.pricing.line import Line
from farebox_portal.pricing.money import currency
from farebox_portal.pricing.part import ZERO
from farebox_portal.pricing.rate import Charge, rate
from farebox_portal.usage.totals import Span, meter_total, totals


@dataclass(frozen=True)
class Rated:
    """A charge and its lines; `meter` and its `quantity` where it is charged by usage."""

    due: Due
    lines: tuple[Line, ...]
    meter: str | None
    quantity: int = 0

    @property
    def amount_minor(self) -> int:
        return sum(line.amount_minor for line in self.lines)


def rate_all(
    session: Session,
    dues: Sequence[tuple[str, Due]],
    features: Mapping[str, Feature],
    timeline: Timeline,
) -> list[Rated]:
    """`dues`: (subscription id, charge). As if all their periods were over: minimum commitments are due in full.

    All sums of whole meters are read in a few statements, whatever the number of charges.
    """
    meters = [_meter(due, features) for _, due in dues]
    wanted = [
        (place, Span(subscription_id, feature.meter_slug, *_wall_ms(due, timeline)))
        for place, ((subscription_id, due), feature) in enumerate(zip(dues, meters, strict=True))
        if feature is not None and feature.meter_slug is not None
    ]
    found: dict[int, int] = {}
    whole = [(place, span) for place, span in wanted if not _filters(meters[place])]
    found |= zip((place for place, _ in whole), totals(session, [span for _, span in whole]), strict=True)
    for place, span in wanted:
        if filters := _filters(meters[place]):
            served = dues[place][1].service.served
            start, end = timeline.wall(served.start), timeline.wall(served.end)
            found[place] = meter_total(session, span.subscription_id, span.meter, start, end, filters)
    return [
        Rated(due, lines_of(due, quantity), None if feature is None else feature.meter_slug, quantity)
        for (_, due), feature, quantity in zip(dues, meters, (found.get(at, 0) for at in range(len(dues))), strict=True)
    ]


def lines_of(due: Due, quantity: Decimal | int) -> tuple[Line, ...]:
    """Of the whole charge: as if its period were over."""
    service = due.service
    if due.is_by_usage:
        return rate(Charge(due.card, currency(due.plan.currency), service.served), Decimal(quantity))
    fee = Charge(due.card, currency(due.plan.currency), service.served, True, service.share, due.count, due.earlier)
    return rate(fee, ZERO)


def _meter(due: Due, features: Mapping[str, Feature]) -> Feature | None:
    return features.get(due.card.feature_key or "") if due.is_by_usage else None


def _filters(feature: Feature | None) -> Mapping[str, object]:
    return {} if feature is None else feature.filters or {}


def _wall_ms(due: Due, timeline: Timeline) -> tuple[int, int]:
    """Usage is dated by the gateway, which lives by the wall's clock."""
    served = due.service.served
    return to_ms(timeline.wall(served.start)), to_ms(timeline.wall(served.end))

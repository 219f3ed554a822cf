"""What add-ons in a life are charged, for which period, and when that is due. Pure: no usage, no amounts.

    fee in advance     each unit is paid for once in a period, from when it is first there to the period's end: at every
                       instant at which there are more than ever before in it, the difference is charged for what is
                       left. Less of it gives nothing back, and raising it again to what was paid costs nothing.
    fee in arrears     each quantity for the time in which it was there
    fee once           each unit that is more than there ever were, in the subscription's whole life
    usage              what was used while there was any; the quantity makes no difference to a price by usage

The end of the life, a pause and a change to a plan without the add-on cut fees, as they cut a plan's own. A change to a
plan that offers it too does not, and neither does the next phase.

Each fee of a period says what of that period's fee was charged before it; so however it is split, the pieces add up to
the whole, to the cent (see `rate.Charge`).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction

from farebox_portal.catalog.tables import Addon
from farebox_portal.pricing.card import RateCard
from farebox_portal.pricing.documents import read_rate_card
from farebox_portal.pricing.flat import Flat
from farebox_portal.pricing.period import Period, boundary, index_at
from farebox_portal.pricing.schedule import Service, Span, invoice_at, one_time, service_periods
from farebox_portal.subscriptions.addon_holds import Piece
from farebox_portal.subscriptions.stretches import Stretch

_NOTHING = Fraction(0)


@dataclass(frozen=True)
class AddonCharge:
    """One rate card of an add-on version, for one period and `count` of it. `at`: when it goes onto an invoice.

    `earlier`: how many whole fees of this period were charged before it. `stretch`: the one in which it begins.
    """

    addon: Addon
    stretch: Stretch
    card: RateCard
    service: Service
    at: datetime
    count: int = 1
    earlier: Fraction = _NOTHING

    @property
    def is_in_advance(self) -> bool:
        """Whether it is a fee of a period that was charged when the period began, or when there were more of it."""
        price = self.card.price
        is_in_advance = isinstance(price, Flat) and price.payment_term == "in_advance"
        return is_in_advance and self.card.billing_cadence is not None


@dataclass(frozen=True)
class _Part:
    """A piece and the stretch that it lies in."""

    piece: Piece
    stretch: Stretch

    @property
    def start(self) -> datetime:
        return self.piece.start

    @property
    def end(self) -> datetime | None:
        return self.piece.end

    @property
    def quantity(self) -> int:
        return self.piece.quantity

    @property
    def is_ended_by_order(self) -> bool:
        """And not by what ends the stretch."""
        return self.end is not None and self.end != self.stretch.end


_Run = list[_Part]
"""Parts that touch."""


def _open_span(run: _Run) -> Span:
    """What ends by an order is invoiced with all else: it ends no billing period, as the end of a plan does."""
    return Span(run[0].start, None if run[-1].is_ended_by_order else run[-1].end)


def addon_charges(
    life: Sequence[Stretch], anchor: datetime, until: datetime, since: datetime | None = None
) -> Iterator[AddonCharge]:
    """Everything whose period begins at `until` or before. `since`: without periods that had ended by then."""
    for addon, parts in _by_addon(life):
        in_use = _runs(parts)
        paid = _runs(part for part in parts if not part.stretch.is_paused)
        for card in _cards(addon):
            if not isinstance(card.price, Flat):
                found = _usage(card, in_use, anchor, until, since)
            elif card.billing_cadence is None:
                found = _once(card, parts, anchor)
            elif card.price.payment_term == "in_advance":
                found = _in_advance(card, paid, anchor, until, since)
            else:
                found = _in_arrears(card, paid, anchor, until, since)
            yield from (charge for charge in found if charge.service.served.start <= until)


def _by_addon(life: Sequence[Stretch]) -> list[tuple[Addon, list[_Part]]]:
    """Every part of one version together, in order, also of several holds."""
    found: dict[str, tuple[Addon, list[_Part]]] = {}
    for stretch in life:
        for piece in stretch.addons:
            addon = piece.hold.addon
            found.setdefault(addon.id, (addon, []))[1].append(_Part(piece, stretch))
    return [(addon, sorted(parts, key=lambda part: part.start)) for addon, parts in found.values()]


def _cards(addon: Addon) -> list[RateCard]:
    read = (read_rate_card(document)[0] for document in addon.rate_cards)
    return [card for card in read if card is not None and card.price is not None]


def _runs(parts: Iterable[_Part]) -> list[_Run]:
    runs: list[_Run] = []
    for part in parts:
        if runs and runs[-1][-1].end == part.start:
            runs[-1].append(part)
        else:
            runs.append([part])
    return runs


def _usage(
    card: RateCard, runs: list[_Run], anchor: datetime, until: datetime, since: datetime | None
) -> Iterator[AddonCharge]:
    for run in runs:
        span = Span(run[0].start, run[-1].end)
        services: Iterable[Service] = [one_time(anchor, run[0].stretch.plan.billing_cadence, span)]
        if card.billing_cadence is not None:
            services = service_periods(anchor, card.billing_cadence, _recent(card, run, anchor, since), _after(until))
        for service in services:
            yield _charge(card, _at(run, service.served.start), service, anchor, _open_span(run))


def _in_advance(
    card: RateCard, runs: list[_Run], anchor: datetime, until: datetime, since: datetime | None
) -> Iterator[AddonCharge]:
    assert card.billing_cadence is not None
    for run in runs:
        recent = _recent(card, run, anchor, since)
        if run[-1].is_ended_by_order:
            recent = Span(recent.start)  # the period that was begun is paid for
        for service in service_periods(anchor, card.billing_cadence, recent, _after(until)):
            most, charged = 0, _NOTHING
            for part in _inside(run, service.served):
                if part.quantity <= most:
                    continue
                start = max(part.start, service.served.start)
                rest = Service(Period(start, service.served.end), service.full)
                count = part.quantity - most
                yield AddonCharge(part.piece.hold.addon, part.stretch, card, rest, start, count, charged)
                most, charged = part.quantity, charged + count * rest.share
            if most == 0:
                break  # nothing of it is left when this period begins


def _in_arrears(
    card: RateCard, runs: list[_Run], anchor: datetime, until: datetime, since: datetime | None
) -> Iterator[AddonCharge]:
    assert card.billing_cadence is not None
    for run in runs:
        recent = _recent(card, run, anchor, since)
        for service in service_periods(anchor, card.billing_cadence, recent, _after(until)):
            charged = _NOTHING
            for part in _inside(run, service.served):
                end = service.served.end if part.end is None else min(part.end, service.served.end)
                served = Service(Period(max(part.start, service.served.start), end), service.full)
                yield _charge(card, part, served, anchor, _open_span(run), part.quantity, charged)
                charged += part.quantity * served.share


def _once(card: RateCard, parts: list[_Part], anchor: datetime) -> Iterator[AddonCharge]:
    most = 0
    for part in parts:
        if part.quantity > most:
            service = one_time(anchor, part.stretch.plan.billing_cadence, Span(part.start))
            yield _charge(card, part, service, anchor, Span(part.start), part.quantity - most)
            most = part.quantity


def _charge(
    card: RateCard,
    part: _Part,
    service: Service,
    anchor: datetime,
    span: Span,
    count: int = 1,
    earlier: Fraction = _NOTHING,
) -> AddonCharge:
    at = invoice_at(card, service.served, anchor, part.stretch.plan.billing_cadence, span)
    return AddonCharge(part.piece.hold.addon, part.stretch, card, service, at, count, earlier)


def _at(run: _Run, at: datetime) -> _Part:
    return [part for part in run if part.start <= at][-1]


def _inside(run: _Run, period: Period) -> _Run:
    return [part for part in run if part.start < period.end and (part.end is None or period.start < part.end)]


def _recent(card: RateCard, run: _Run, anchor: datetime, since: datetime | None) -> Span:
    """The run, without years that are long invoiced: cut where both a period of the card and of the plan begins."""
    at = run[0].start
    if since is not None and card.billing_cadence is not None:
        recent = since
        for cadence in (card.billing_cadence, run[0].stretch.plan.billing_cadence):
            recent = boundary(anchor, cadence, index_at(anchor, cadence, recent))
        at = max(at, recent)
    end = run[-1].end
    return Span(at, end if end is None else max(at, end))


def _after(instant: datetime) -> datetime:
    return instant + datetime.resolution

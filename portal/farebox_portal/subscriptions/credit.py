"""What a change of plan gives back of the fees that were paid in advance and are running. Pure.

Fees in arrears have not been paid, so nothing of them is given back: the invoice charges the share that was served. How
much of a fee is gone is told by the calendar or by the most used allowance, whichever is more; see pricing.proration.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from fractions import Fraction

from farebox_portal.catalog.tables import Plan
from farebox_portal.pricing.documents import read_rate_card
from farebox_portal.pricing.flat import Flat
from farebox_portal.pricing.money import currency
from farebox_portal.pricing.period import Period
from farebox_portal.pricing.proration import QuotaUse, consumed_share, fee_minor, kept_of, length_share
from farebox_portal.pricing.rate import Charge
from farebox_portal.pricing.schedule import Span, service_periods
from farebox_portal.subscriptions.addon_charges import AddonCharge, addon_charges
from farebox_portal.subscriptions.stretches import Stretch


@dataclass(frozen=True, slots=True)
class Fee:
    """One that was charged in advance, with all the share that was charged of its period; `piece`: the last of that.

    `plan`: the one that it was charged with.
    """

    plan: Plan
    charge: Charge
    piece: Period

    def kept_minor(self, at: datetime, used_share: Fraction) -> int:
        """What stays of it for who leaves at `at`."""
        use = Fraction(0) if self.plan.is_credited_by_time_alone else used_share
        consumed = consumed_share(self.piece, at, [QuotaUse(use.numerator, use.denominator)])
        return fee_minor(kept_of(self.charge, length_share(self.piece, self.charge.period), consumed))


def credit(life: Sequence[Stretch], anchor: datetime, at: datetime, used_share: Fraction) -> int:
    """In minor units, for leaving the plan at `at`, as if all fees had been paid. `life`: see `running_fees`."""
    return sum(fee_minor(fee.charge) - fee.kept_minor(at, used_share) for fee in running_fees(life, anchor, at))


def addon_credit(
    before: Sequence[Stretch], after: Sequence[Stretch], anchor: datetime, at: datetime, used_share: Fraction
) -> int:
    """The same for add-ons that a change of plan at `at` ends: `after` is the life with the change."""
    charged = {
        _name(one): fee_minor(_addon_charge(one)) for one in addon_charges(before, anchor, at) if one.is_in_advance
    }
    return sum(charged[name] - fee.kept_minor(at, used_share) for name, fee in _ended_addon_fees(after, anchor, at))


def running_fees(life: Sequence[Stretch], anchor: datetime, at: datetime) -> Iterator[Fee]:
    """The plan's in advance whose period lies around `at`. `life`: as if nothing were planned for then or later."""
    run = _of_one_phase([stretch for stretch in life if stretch.start < at])
    if not run or run[-1].is_paused or not run[-1].plan.is_prorated:
        return
    of = currency(run[-1].plan.currency)
    for document in run[-1].phase["rateCards"]:
        card, _ = read_rate_card(document)
        if card is None or card.billing_cadence is None or not isinstance(card.price, Flat):
            continue
        if card.price.payment_term != "in_advance":
            continue
        pieces = [
            service
            for stretch in run
            if not stretch.is_paused
            for service in service_periods(anchor, card.billing_cadence, Span(stretch.start, stretch.end), at)
        ]
        last = pieces[-1]
        if at < last.served.end:
            charged = sum((piece.share for piece in pieces if piece.full == last.full), Fraction(0))
            yield Fee(run[-1].plan, Charge(card, of, last.full, share=charged), last.served)


def _of_one_phase(life: Sequence[Stretch]) -> list[Stretch]:
    """The last stretches, as far as they are of one phase: a pause does not end a charge."""
    run: list[Stretch] = []
    for stretch in life:
        if run and (run[-1].plan.id, run[-1].phase_start) != (stretch.plan.id, stretch.phase_start):
            run = []
        run.append(stretch)
    return run


_Name = tuple[str, str, datetime]


def _ended_addon_fees(life: Sequence[Stretch], anchor: datetime, at: datetime) -> Iterator[tuple[_Name, Fee]]:
    """Those in advance that the life ends at `at`, in the midst of their period."""
    for one in addon_charges(life, anchor, at):
        served, full = one.service.served, one.service.full
        if one.is_in_advance and served.end == at < full.end:
            whole = Period(served.start, full.end)
            charge = replace(_addon_charge(one), share=length_share(whole, full))
            yield _name(one), Fee(one.stretch.plan, charge, whole)


def _name(one: AddonCharge) -> _Name:
    return one.addon.id, one.card.key, one.service.served.start


def _addon_charge(one: AddonCharge) -> Charge:
    of = currency(one.addon.currency)
    return Charge(one.card, of, one.service.full, True, one.service.share, one.count, one.earlier)

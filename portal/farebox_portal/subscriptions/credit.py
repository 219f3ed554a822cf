"""What a change of plan gives back of the fees that were paid in advance and are running. Pure.

Fees in arrears have not been paid, so nothing of them is given back: the invoice charges the share that was served. How
much of a fee is gone is told by the calendar or by the most used allowance, whichever is more; see pricing.proration.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from fractions import Fraction

from farebox_portal.pricing.documents import read_rate_card
from farebox_portal.pricing.flat import Flat
from farebox_portal.pricing.money import Currency, currency
from farebox_portal.pricing.part import ZERO
from farebox_portal.pricing.period import Period
from farebox_portal.pricing.proration import QuotaUse, change_credit, consumed_share
from farebox_portal.pricing.rate import Charge, rate
from farebox_portal.pricing.schedule import Service, Span, service_periods
from farebox_portal.subscriptions.addon_charges import addon_charges
from farebox_portal.subscriptions.stretches import Stretch


@dataclass(frozen=True, slots=True)
class Fee:
    """One that was charged in advance for `served`."""

    card_key: str
    served: Period
    amount_minor: int


def running_fees(stretch: Stretch, anchor: datetime, at: datetime) -> Iterator[Fee]:
    """Those in advance whose period lies around `at`. `stretch`: as if nothing were planned."""
    if stretch.is_paused or not stretch.start < at:
        return
    of = currency(stretch.plan.currency)
    for document in stretch.phase["rateCards"]:
        card, _ = read_rate_card(document)
        if card is None or card.billing_cadence is None or not isinstance(card.price, Flat):
            continue
        if card.price.payment_term != "in_advance":
            continue
        for service in service_periods(anchor, card.billing_cadence, Span(stretch.start, stretch.end), at):
            if service.served.start < at < service.served.end:
                lines = rate(Charge(card, of, service.full, share=service.share), ZERO)
                yield Fee(card.key, service.served, sum(line.amount_minor for line in lines))


def addon_fees(life: Sequence[Stretch], anchor: datetime, at: datetime) -> Iterator[Fee]:
    """Those of add-ons that the life ends at `at`, in the midst of the period that was charged in advance."""
    for charge in addon_charges(life, anchor, at):
        served, full = charge.service.served, charge.service.full
        if charge.is_in_advance and served.end == at < full.end:
            whole = replace(charge, service=Service(Period(served.start, full.end), full))
            yield Fee(charge.card.key, whole.service.served, sum(line.amount_minor for line in whole.lines()))


def addon_credit(life: Sequence[Stretch], anchor: datetime, at: datetime, used_share: Fraction, of: Currency) -> int:
    """In minor units, for add-ons that a change of plan at `at` ends: `life` is the one with the change."""
    return sum(_credit_of(fee, at, used_share, of) for fee in addon_fees(life, anchor, at))


def credit(stretch: Stretch, anchor: datetime, at: datetime, used_share: Fraction) -> int:
    """In minor units of the plan's currency, for leaving the stretch at `at`, as if all fees had been paid."""
    of = currency(stretch.plan.currency)
    return sum(_credit_of(fee, at, used_share, of) for fee in running_fees(stretch, anchor, at))


def _credit_of(fee: Fee, at: datetime, used_share: Fraction, of: Currency) -> int:
    use = QuotaUse(used_share.numerator, used_share.denominator)
    consumed = consumed_share(fee.served, at, [use])
    return change_credit(fee.amount_minor, consumed, of, settled_minor=fee.amount_minor)

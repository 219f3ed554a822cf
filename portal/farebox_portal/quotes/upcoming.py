"""A subscription's next invoice as it stands now: fees of the next period, and what was used in this one.

It closes where the running billing period ends, or before, where the phase, the plan or the subscription does. It is
what the invoice would say if nothing more were used until then; so a minimum commitment is in it in full, and a coupon
that is in force then takes off what it will. Tax, credit balances and what a change of plan gave back are not in it:
they are settled when the invoice is made.
"""

from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from itertools import islice
from typing import Annotated, Literal

from pydantic import Field
from sqlmodel import Session

from farebox_portal.customers.tables import Customer
from farebox_portal.documents import Instant, Output
from farebox_portal.errors import NotFound
from farebox_portal.invoicing.charges import charges, in_phases, span_of
from farebox_portal.invoicing.rated import Rated, rate_all
from farebox_portal.invoicing.tax import CardPlace, terms_of_cards
from farebox_portal.payments.gateway import Line, TaxQuestion
from farebox_portal.payments.purchase import question_of
from farebox_portal.payments.tax_items import tax_items
from farebox_portal.pricing.coupons import Coupon, take_off
from farebox_portal.pricing.money import Currency, currency, to_minor
from farebox_portal.pricing.part import Kind
from farebox_portal.pricing.period import Period, period_at
from farebox_portal.quotes.quote import LineDocument, show_line, total
from farebox_portal.subscriptions import lifecycle
from farebox_portal.subscriptions.coupons import in_force
from farebox_portal.subscriptions.document import AddonReference, PeriodDocument, PlanReference, refer, refer_addon
from farebox_portal.subscriptions.life import Life
from farebox_portal.subscriptions.rows import read_life, read_plans
from farebox_portal.subscriptions.stretches import Stretch, stretch_at, stretches
from farebox_portal.subscriptions.tax_document import TaxDocument
from farebox_portal.testclock import read_timeline
from farebox_portal.usage.access import read_features


class UpcomingLine(LineDocument):
    """`kind`: a fee, usage, or what is missing to a minimum. `period`: what it is charged for, to its end.

    `addon`: whose rate card it is, if not the plan's.
    """

    kind: Kind
    period: PeriodDocument
    rate_card_key: str
    phase_key: str
    plan: PlanReference
    addon: AddonReference | None = None
    feature_key: str | None = None
    meter: str | None = None


class UpcomingInvoice(Output):
    """`period`: the running one, that the invoice closes; `invoiceAt` is its end."""

    subscription_id: str
    customer_id: str
    currency: str
    total: str
    period: PeriodDocument
    invoice_at: Instant
    computed_at: Instant
    is_estimate: Annotated[Literal[True], Field(description="Usage until invoiceAt is still to come.")] = True
    lines: list[UpcomingLine]
    tax: TaxDocument | None = None


def upcoming(session: Session, subscription_id: str, now: datetime) -> UpcomingInvoice:
    """Raises NotFound, also when no invoice will follow."""
    subscription = lifecycle.get(session, subscription_id)
    life = read_life(session, subscription)
    if life.state(now) == "inactive":
        raise NotFound("The subscription is over; no invoice is upcoming.", code="no_upcoming_invoice")
    cut = stretches(life, read_plans(session, [life]))
    period = running_period(life, cut, now)
    after = now if life.start <= now else period.start
    dues = [
        (subscription.id, due)
        for due in charges(cut, life.anchor, period.end)
        if after < due.at <= period.end or (due.at == life.start > now)
    ]
    rated = rate_all(session, dues, read_features(session), read_timeline(session))
    of = currency(cut[stretch_at(cut, now)].plan.currency)
    coupon = in_force(session, [subscription.id], period.end).get(subscription.id)
    if coupon is not None:
        rated = _reduced(rated, coupon, of)
    return UpcomingInvoice(
        subscription_id=subscription.id,
        customer_id=subscription.customer_id,
        currency=of.code,
        total=total([line for one in rated for line in one.lines], of),
        period=PeriodDocument(from_=period.start, to=period.end),
        invoice_at=period.end,
        computed_at=now,
        lines=[line for one in rated for line in _show(one)],
    )


def tax_question(session: Session, shown: UpcomingInvoice) -> TaxQuestion | None:
    """What to ask the provider for its tax; None where it is nobody's business but the operator's."""
    of = currency(shown.currency)
    places = [
        CardPlace(line.plan.id, line.phase_key, line.rate_card_key, None if line.addon is None else line.addon.id)
        for line in shown.lines
    ]
    lines = [
        Line(
            str(place), to_minor(Decimal(line.amount), of), line.description, line.period.from_, line.period.to,
            terms.behavior, terms.code,
        )
        for place, (line, terms) in enumerate(zip(shown.lines, terms_of_cards(session, places), strict=True))
    ]  # fmt: skip
    items = tax_items(lines)
    customer = session.get_one(Customer, shown.customer_id)
    return question_of(session, customer, of.code, tuple(item.line for item in items))


def _reduced(rated: list[Rated], coupon: Coupon, of: Currency) -> list[Rated]:
    lines = [line for one in rated for line in one.lines]
    applies = [coupon.applies_to(one.due.plan.key, one.due.card.feature_key) for one in rated for _ in one.lines]
    reduced = iter(take_off(lines, coupon, of, applies))
    return [replace(one, lines=tuple(islice(reduced, len(one.lines)))) for one in rated]


def running_period(life: Life, cut: tuple[Stretch, ...], now: datetime) -> Period:
    """The billing period around `now`, cut by what the life does. Before the start it is empty, at the start."""
    if now < life.start:
        return Period(life.start, life.start)
    current = cut[stretch_at(cut, now)]
    span = next(span_of(phase) for phase in in_phases(cut) if current in phase)
    period = period_at(life.anchor, current.plan.billing_cadence, now)
    return Period(max(period.start, span.start), period.end if span.end is None else min(period.end, span.end))


def _show(rated: Rated) -> list[UpcomingLine]:
    due, of = rated.due, currency(rated.due.plan.currency)
    return [
        UpcomingLine(
            **show_line(line, of).model_dump(),
            kind=line.kind,
            period=PeriodDocument(from_=line.period.start, to=line.period.end),
            rate_card_key=due.card.key,
            phase_key=due.phase_key,
            plan=refer(due.plan),
            addon=None if due.addon is None else refer_addon(due.addon),
            feature_key=due.card.feature_key,
            meter=rated.meter,
        )
        for line in rated.lines
    ]

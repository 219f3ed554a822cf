"""Credit is bought by itself when little of it is left.

    look at the rule ── little left? ── one open? given up? above the cap? ── order a top-up ── collected as any other

A payment that fails is tried again as every invoice is, and meanwhile nothing else is ordered. When it was given up
nothing is ordered any more until somebody says so again: a card that declines is not asked for ever.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import Field, model_validator
from sqlalchemy import Engine
from sqlmodel import Session, col, select

from farebox_portal import audit
from farebox_portal.catalog.plan_document import Units
from farebox_portal.customers.tables import Customer
from farebox_portal.db import transaction
from farebox_portal.documents import Instant, Output
from farebox_portal.errors import Invalid, NotFound
from farebox_portal.ids import new_id
from farebox_portal.invoicing.credit_notes import Amount, minor_of
from farebox_portal.invoicing.profiles import tax_mode_of
from farebox_portal.invoicing.tables import Invoice
from farebox_portal.prepaid.credits import currency_of
from farebox_portal.prepaid.top_ups import AFTER_GRANTED, Purchase, Status, checked, issue, status_of
from farebox_portal.pricing.money import currency, decimal_text
from farebox_portal.settings import Settings
from farebox_portal.subscriptions.rows import read_life
from farebox_portal.subscriptions.tables import Subscription
from farebox_portal.usage.access import entitlement_value
from farebox_portal.wallet.purse import hold, read_purses
from farebox_portal.wallet.tables import AutoRecharge, TopUp

SLICE = 20
SOONEST, LATEST = timedelta(seconds=1), timedelta(seconds=30)
_NAME = "Auto-recharge"
State = Literal["disabled", "idle", "pending", "failing", "cap_reached", "payment_failed"]


class AutoRechargeInput(Purchase):
    """`threshold` of money, `thresholdUnits` of units: below it as much as is said is bought. `monthlyCap`: no more
    than that in a calendar month (UTC).
    """

    threshold: Amount | None = None
    threshold_units: Annotated[Units, Field(ge=1)] | None = None
    monthly_cap: Amount | None = None
    enabled: bool = True

    @model_validator(mode="after")
    def _fitting_threshold(self) -> "AutoRechargeInput":
        if (self.units is None) == (self.threshold is None) or (self.units is None) != (self.threshold_units is None):
            raise ValueError("give threshold for money, and thresholdUnits for units")
        return self


class AutoRechargeDocument(Output):
    """`status`: disabled; idle: enough is left; pending: one is being paid; failing: a payment failed and is tried
    again; cap_reached: no more this month; payment_failed: it was given up, and nothing is tried before the next PUT.
    """

    status: State
    enabled: bool
    subscription_id: str
    currency: str
    amount: str
    units: int | None = None
    feature_key: str | None = None
    threshold: str | None = None
    threshold_units: int | None = None
    monthly_cap: str | None = None
    spent_this_month: str
    updated_at: Instant


@dataclass(frozen=True, slots=True)
class Bought:
    """A recharge of before."""

    status: Status
    is_given_up: bool
    amount_minor: int
    at: datetime


def state(rule: AutoRecharge, before: Sequence[Bought], balance: int | None, now: datetime) -> State | Literal["due"]:
    """What is to be done: "due" means a top-up. Pure. `before`: the recharges, in any order. `balance`: in the units
    of the threshold; None: nobody knows it now.
    """
    if not rule.enabled:
        return "disabled"
    if any(one.is_given_up and one.at >= rule.armed_at for one in before):
        return "payment_failed"
    unpaid = [one for one in before if one.status in ("pending", "failed") and not one.is_given_up]
    if unpaid:
        return "failing" if any(one.status == "failed" for one in unpaid) else "pending"
    if balance is None or balance >= rule.threshold:
        return "idle"
    cap = rule.monthly_cap_minor
    return "cap_reached" if cap is not None and spent_minor(before, now) + rule.amount_minor > cap else "due"


def spent_minor(before: Sequence[Bought], now: datetime) -> int:
    """What recharges of this calendar month cost, and may still cost."""
    month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return sum(one.amount_minor for one in before if one.at >= month and not one.is_given_up)


def put(session: Session, customer: Customer, wanted: AutoRechargeInput, now: datetime) -> AutoRecharge:
    """Raises Invalid, NotFound, Conflict."""
    hold(session, customer.id)
    subscription, amount_minor, of = checked(session, customer, wanted, now)
    cap = None if wanted.monthly_cap is None else minor_of(wanted.monthly_cap, of, "/monthlyCap")
    if cap is not None and cap < amount_minor:
        raise Invalid([{"pointer": "/monthlyCap", "detail": "must be at least the amount, or nothing is ever bought"}])
    threshold = minor_of(wanted.threshold, of, "/threshold") if wanted.threshold else wanted.threshold_units or 0
    if threshold < 1:
        raise Invalid([{"pointer": "/threshold", "detail": "must be more than 0, as nothing is ever below that"}])
    before = session.get(AutoRecharge, customer.id)
    rule = AutoRecharge(
        customer_id=customer.id,
        subscription_id=subscription.id,
        feature_key=wanted.feature_key,
        threshold=threshold,
        amount_minor=amount_minor,
        units=wanted.units,
        monthly_cap_minor=cap,
        expires_every=None if wanted.expiration is None else wanted.expiration.duration,
        expires_count=None if wanted.expiration is None else wanted.expiration.count,
        enabled=wanted.enabled,
        armed_at=now,
        look_at=now if wanted.enabled else None,
        updated_at=now,
    )
    rule = session.merge(rule)
    session.flush()
    said = wanted.model_dump(mode="json", by_alias=True, exclude_none=True)
    verb = "auto_recharge.create" if before is None else "auto_recharge.change"
    audit.record(session, verb, "customer", customer.id, now, after=said)
    return rule


def remove(session: Session, customer: Customer, now: datetime) -> None:
    """Raises NotFound. What it has ordered is still paid."""
    hold(session, customer.id)
    session.delete(get(session, customer))
    audit.record(session, "auto_recharge.delete", "customer", customer.id, now)


def get(session: Session, customer: Customer) -> AutoRecharge:
    """Raises NotFound."""
    rule = session.get(AutoRecharge, customer.id)
    if rule is None:
        raise NotFound("The customer has no auto-recharge.", code="auto_recharge_not_found")
    return rule


def show(session: Session, rule: AutoRecharge, now: datetime) -> AutoRechargeDocument:
    of = currency(_currency(session, rule, now))
    before = _before(session, rule)
    found = state(rule, before, _balance(session, rule, now), now)
    return AutoRechargeDocument(
        status="pending" if found == "due" else found,
        enabled=rule.enabled,
        subscription_id=rule.subscription_id,
        currency=of.code,
        amount=decimal_text(rule.amount_minor, of),
        units=rule.units,
        feature_key=rule.feature_key,
        threshold=decimal_text(rule.threshold, of) if rule.units is None else None,
        threshold_units=None if rule.units is None else rule.threshold,
        monthly_cap=None if rule.monthly_cap_minor is None else decimal_text(rule.monthly_cap_minor, of),
        spent_this_month=decimal_text(spent_minor(before, now), of),
        updated_at=rule.updated_at,
    )


# --- the job ---------------------------------------------------------------------------------------------------------


def recharge_slice(engine: Engine, settings: Settings, now: datetime) -> bool:
    """Some of the rules that are due, each in a transaction of its own; whether there may be more."""
    due = select(AutoRecharge.customer_id, AutoRecharge.look_at).where(col(AutoRecharge.look_at) <= now)
    with transaction(engine, read_only=True) as session:
        found = session.exec(due.order_by(col(AutoRecharge.look_at)).limit(SLICE)).all()
        looks = {id_: _look(session, id_, now) for id_, _ in found}
    if not found:
        return False
    with transaction(engine) as session:
        for customer_id, seen in found:
            rule = session.get(AutoRecharge, customer_id)
            if rule is not None and rule.look_at == seen:  # else something was paid meanwhile, or it was changed
                rule.look_at = now + looks[customer_id][1]
                session.add(rule)
    for customer_id in (id_ for id_, (is_wanted, _) in looks.items() if is_wanted):
        with transaction(engine) as session:
            recharge(session, settings, customer_id, now)
    return len(found) == SLICE


def recharge(session: Session, settings: Settings, customer_id: str, now: datetime) -> bool:
    """Order what is due; whether something was. Of two who do so at the same time the second finds the first's."""
    hold(session, customer_id)
    if not _look(session, customer_id, now)[0]:
        return False
    rule = session.get_one(AutoRecharge, customer_id)
    number = len(_before(session, rule)) + 1
    bought = TopUp(
        id=new_id(now),
        trigger=f"auto:{customer_id}:{number}",
        invoice_id=new_id(now),
        lot_id=new_id(now),
        customer_id=customer_id,
        subscription_id=rule.subscription_id,
        is_auto=True,
        currency=_currency(session, rule, now),
        amount_minor=rule.amount_minor,
        units=rule.units,
        feature_key=rule.feature_key,
        name=_NAME,
        priority=AFTER_GRANTED,
        expires_every=rule.expires_every,
        expires_count=rule.expires_count,
        created_at=now,
    )
    issue(session, settings, session.get_one(Customer, customer_id), bought, now)
    return True


def _look(session: Session, customer_id: str, now: datetime) -> tuple[bool, timedelta]:
    """(whether something is to be bought, when to look again)."""
    rule = session.get(AutoRecharge, customer_id, populate_existing=True)
    if rule is None or not rule.enabled:
        return False, LATEST
    balance = _balance(session, rule, now)
    found = state(rule, _before(session, rule), balance, now)
    return found == "due", pause(rule.threshold, balance) if found == "idle" and balance is not None else LATEST


def pause(threshold: int, balance: int) -> timedelta:
    """Until the next look: whoever uses no more than the threshold in a second is not missed, and a wallet that is full
    is looked at seldom. Pure. What is paid meanwhile has it looked at at once.
    """
    return min(max(SOONEST, SOONEST * ((balance - threshold) / threshold)), LATEST)


def _currency(session: Session, rule: AutoRecharge, now: datetime) -> str:
    return currency_of(session, session.get_one(Subscription, rule.subscription_id), now)


def _before(session: Session, rule: AutoRecharge) -> list[Bought]:
    rows = (
        select(TopUp, Invoice)
        .join(Invoice, col(Invoice.id) == col(TopUp.invoice_id))
        .where(TopUp.customer_id == rule.customer_id, col(TopUp.is_auto))
    )
    return [
        Bought(status_of(invoice), invoice.status in ("uncollectible", "void"), bought.amount_minor, bought.created_at)
        for bought, invoice in session.exec(rows)
    ]


def _balance(session: Session, rule: AutoRecharge, now: datetime) -> int | None:
    """None where nothing is bought: the subscription is paused, or about to end, or has not the feature; or it would be
    money, on which there is tax.
    """
    if read_life(session, session.get_one(Subscription, rule.subscription_id)).state(now) != "active":
        return None
    if rule.feature_key is None:
        customer, code = session.get_one(Customer, rule.customer_id), _currency(session, rule, now)
        if tax_mode_of(session, customer, code) != "off":
            return None
        purse = read_purses(session, [rule.customer_id], now).get((rule.customer_id, code))
        return 0 if purse is None else sum(credit.amount_minor for credit in purse.credits)
    try:
        return entitlement_value(session, rule.subscription_id, rule.feature_key, now).balance
    except NotFound:
        return None

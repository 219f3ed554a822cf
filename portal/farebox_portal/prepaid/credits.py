"""Credit is granted to a customer for nothing, and voided."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from farebox_portal import audit
from farebox_portal.catalog.plan_document import Units
from farebox_portal.customers.accounts import Currency as CurrencyCode
from farebox_portal.customers.tables import Customer
from farebox_portal.documents import Input, Instant, Key, Metadata, Name, Output, Whole
from farebox_portal.errors import Conflict, Fault, Invalid, NotFound
from farebox_portal.ids import new_id
from farebox_portal.invoicing import ledger
from farebox_portal.invoicing.credit_notes import Amount, minor_of
from farebox_portal.pricing.grants import expiry
from farebox_portal.pricing.money import currency, decimal_text
from farebox_portal.subscriptions import lifecycle
from farebox_portal.subscriptions.rows import read_life, read_plans
from farebox_portal.subscriptions.stretches import Stretch, stretch_at, stretches
from farebox_portal.subscriptions.tables import Subscription
from farebox_portal.usage import granting
from farebox_portal.usage.grant_rows import GrantRow
from farebox_portal.usage.granting import ExpirationInput
from farebox_portal.wallet.purse import hold
from farebox_portal.wallet.tables import CreditLot

AHEAD_MAX = timedelta(days=5 * 366)
Status = Literal["scheduled", "active", "used_up", "expired", "voided"]


class CreditInput(Input):
    """Either money, by `amount`: it pays invoices in its currency. Or `units` of a metered feature of a subscription.

    `priority`: 1 burns first; of the same priority what expires earlier, then what is older. `subscriptionId`: whose
    units; left out where the customer has one subscription.
    """

    amount: Amount | None = None
    currency: CurrencyCode | None = None
    units: Annotated[Units, Field(ge=1)] | None = None
    feature_key: Key | None = None
    subscription_id: Annotated[str, Field(max_length=64)] | None = None
    name: Name = "Credit"
    priority: Annotated[Whole, Field(ge=1, le=255)] = 1
    effective_at: Instant | None = None
    expires_at: Instant | None = None
    expiration: ExpirationInput | None = None
    metadata: Metadata | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> "CreditInput":
        if (self.amount is None) == (self.units is None):
            raise ValueError("give either amount or units")
        if (self.units is None) != (self.feature_key is None):
            raise ValueError("units and featureKey belong together")
        if self.units is not None and self.currency is not None:
            raise ValueError("units have no currency")
        if self.units is None and self.subscription_id is not None:
            raise ValueError("money belongs to the customer, not to a subscription")
        if self.expires_at is not None and self.expiration is not None:
            raise ValueError("give either expiresAt or expiration")
        return self


class VoidCreditInput(Input):
    """`refund`: what is left of the money goes back to whoever paid it, as a credit note of the top-up's invoice."""

    refund: bool = False


class CreditDocument(Output):
    """Money has `amount` = `spent` + `lapsed` + `left`. Of units, what is left stands in the wallet."""

    id: str
    customer_id: str
    name: str
    source: Annotated[str, Field(description="grant or top_up")]
    status: Status
    currency: str | None = None
    amount: str | None = None
    spent: str | None = None
    lapsed: str | None = None
    left: str | None = None
    units: int | None = None
    feature_key: str | None = None
    subscription_id: str | None = None
    priority: int
    effective_at: Instant
    expires_at: Instant | None = None
    voided_at: Instant | None = None
    metadata: dict[str, Any]
    created_at: Instant


def every(customer: Customer) -> SelectOfScalar[CreditLot]:
    """All there ever was, the oldest first."""
    return select(CreditLot).where(CreditLot.customer_id == customer.id).order_by(col(CreditLot.id))


def get(session: Session, customer: Customer, credit_id: str) -> CreditLot:
    """Raises NotFound."""
    found = session.exec(every(customer).where(CreditLot.id == credit_id)).first()
    if found is None:
        raise NotFound("There is no such credit.", code="credit_not_found")
    return found


def show(lot: CreditLot, now: datetime) -> CreditDocument:
    of = currency(lot.currency)
    shown: Mapping[str, Any] = {"units": lot.units, "feature_key": lot.feature_key}
    if lot.units is None:
        sums = {"amount": lot.value_minor, "spent": lot.spent_minor, "lapsed": lot.lapsed_minor, "left": lot.left_minor}
        shown = {"currency": of.code} | {name: decimal_text(minor, of) for name, minor in sums.items()}
    return CreditDocument(
        id=lot.id,
        customer_id=lot.customer_id,
        name=lot.name,
        source=lot.source,
        status=_status(lot, now),
        **shown,
        subscription_id=lot.subscription_id,
        priority=lot.priority,
        effective_at=lot.effective_at,
        expires_at=lot.expires_at,
        voided_at=lot.voided_at,
        metadata=lot.metadata_,
        created_at=lot.created_at,
    )


def _status(lot: CreditLot, now: datetime) -> Status:
    if lot.voided_at is not None:
        return "voided"
    if lot.units is None and not lot.left_minor and not lot.lapsed_minor:
        return "used_up"
    if lot.expires_at is not None and lot.expires_at <= now:
        return "expired"
    return "active" if lot.effective_at <= now else "scheduled"


# --- the steps -------------------------------------------------------------------------------------------------------


def grant(session: Session, customer: Customer, wanted: CreditInput, now: datetime) -> CreditLot:
    """Raises Invalid, and for units NotFound and Conflict as `usage.granting` does."""
    hold(session, customer.id)
    lot = _units(session, customer, wanted, now) if wanted.units else _money(session, customer, wanted, now)
    session.add(lot)
    session.flush()
    occasion = occasion_of(lot, "grant", now)
    ledger.put(session, occasion.move(lot.value_minor, to="promotion", from_=ledger.credit_account(lot.id)))
    audit.record(session, "credit.grant", "credit", lot.id, now, after=show(lot, now).wire())
    return lot


def void(session: Session, customer: Customer, lot: CreditLot, now: datetime, *, refund: bool = False) -> CreditLot:
    """Nothing more is taken of it; what was taken stays so. Does nothing to one that was voided. What becomes of the
    money in it, `booking` sees to when it is known what was used. Raises Conflict for a refund of what nobody paid.
    """
    hold(session, customer.id)
    session.refresh(lot)
    if lot.voided_at is not None:
        return lot
    if refund and lot.source != "top_up":
        raise Conflict("Nobody paid for this credit, so nothing of it can be refunded.", code="credit_not_paid")
    if lot.units is not None:
        assert lot.subscription_id is not None
        subscription = lifecycle.get(session, lot.subscription_id)
        granting.void(session, subscription, session.get_one(GrantRow, lot.id), now)
    lot.voided_at, lot.refunds, lot.book_at = now, refund, now
    session.add(lot)
    session.flush()
    audit.record(session, "credit.void", "credit", lot.id, now, after={"refund": refund})
    return lot


def occasion_of(lot: CreditLot, what: str, now: datetime) -> ledger.Occasion:
    return ledger.Occasion(f"{lot.id}:{what}", lot.currency, lot.customer_id, lot.subscription_id or "", None, now)


# --- what they need --------------------------------------------------------------------------------------------------


def subscription_of(session: Session, customer: Customer, subscription_id: str | None, now: datetime) -> Subscription:
    """The one that is named, or the only one. Raises NotFound and Conflict."""
    found = lifecycle.open_subscriptions(session, customer.id, now)
    if subscription_id is not None:
        found = [row for row in found if row.id == subscription_id]
        if not found:
            raise NotFound("The customer has no such subscription.", code="subscription_not_found")
    if not found:
        raise Conflict("The customer has no subscription that goes on.", code="no_active_subscription")
    if len(found) > 1:
        detail = "The customer has several subscriptions; say which by subscriptionId."
        raise Conflict(detail, code="several_subscriptions")
    return found[0]


def sold(session: Session, subscription: Subscription, now: datetime) -> Stretch:
    """What it is on now, or begins with."""
    life = read_life(session, subscription)
    cut = stretches(life, read_plans(session, [life]))
    return cut[stretch_at(cut, max(now, life.start))]


def currency_of(session: Session, subscription: Subscription, now: datetime) -> str:
    return sold(session, subscription, now).plan.currency


def _money(session: Session, customer: Customer, wanted: CreditInput, now: datetime) -> CreditLot:
    assert wanted.amount is not None
    code = wanted.currency or customer.currency or _only_currency(session, customer, now)
    amount_minor = minor_of(wanted.amount, currency(code), "/amount")
    effective_at = wanted.effective_at or now
    expires_at = wanted.expires_at
    if wanted.expiration is not None:
        expires_at = expiry(min(effective_at, now + AHEAD_MAX), wanted.expiration.duration, wanted.expiration.count)
    if faults := _faults(amount_minor, effective_at, expires_at, now):
        raise Invalid(faults)
    return CreditLot(
        id=new_id(now),
        customer_id=customer.id,
        currency=code,
        value_minor=amount_minor,
        source="grant",
        name=wanted.name,
        priority=wanted.priority,
        effective_at=effective_at,
        expires_at=expires_at,
        book_at=expires_at,
        metadata_=wanted.metadata or {},
        created_at=now,
    )


def _only_currency(session: Session, customer: Customer, now: datetime) -> str:
    """What all of the customer's subscriptions cost. Raises Invalid when there is no such one."""
    found = {currency_of(session, row, now) for row in lifecycle.open_subscriptions(session, customer.id, now)}
    if len(found) != 1:
        raise Invalid([{"pointer": "/currency", "detail": "is required: neither customer nor subscription has one"}])
    return found.pop()


def _faults(amount_minor: int, effective_at: datetime, expires_at: datetime | None, now: datetime) -> list[Fault]:
    found: list[Fault] = []
    if amount_minor <= 0:
        found.append({"pointer": "/amount", "detail": "must be more than 0"})
    if effective_at > now + AHEAD_MAX:
        found.append({"pointer": "/effectiveAt", "detail": "must not lie more than 5 years ahead"})
    if expires_at is not None and expires_at <= max(effective_at, now):
        found.append({"pointer": "/expiresAt", "detail": "must lie ahead, after it takes effect"})
    return found


def _units(session: Session, customer: Customer, wanted: CreditInput, now: datetime) -> CreditLot:
    """No reset of the usage period takes any of them."""
    assert wanted.units is not None
    assert wanted.feature_key is not None
    subscription = subscription_of(session, customer, wanted.subscription_id, now)
    asked = {
        "amount": wanted.units,
        "priority": wanted.priority,
        "effectiveAt": wanted.effective_at,
        "expiresAt": wanted.expires_at,
        "expiration": wanted.expiration,
        "maxRolloverAmount": wanted.units,
        "metadata": {"name": wanted.name},
    }
    row = granting.create(session, subscription, wanted.feature_key, granting.GrantInput.model_validate(asked), now)
    return CreditLot(
        id=row.id,
        customer_id=customer.id,
        subscription_id=subscription.id,
        feature_key=row.feature_key,
        units=row.amount,
        currency=currency_of(session, subscription, now),
        value_minor=0,
        source="grant",
        name=wanted.name,
        priority=row.priority,
        effective_at=row.effective_at,
        expires_at=row.expires_at,
        metadata_=wanted.metadata or {},
        created_at=now,
    )

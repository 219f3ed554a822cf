"""Credit is bought: by an invoice of its own, collected like any other. There is nothing to use before that is paid."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, model_validator
from sqlmodel import Session, col, func, select
from sqlmodel.sql.expression import SelectOfScalar

from farebox_portal.catalog.plan_document import Units
from farebox_portal.customers.accounts import is_by_hand
from farebox_portal.customers.tables import Customer
from farebox_portal.documents import Input, Instant, Key, Name, Output, Whole
from farebox_portal.errors import Conflict, Invalid
from farebox_portal.ids import new_id
from farebox_portal.invoicing.credit_notes import Amount, minor_of
from farebox_portal.invoicing.minimum import minimum_minor
from farebox_portal.invoicing.paper import Columns, Entry, Paper, new_entry, new_paper
from farebox_portal.invoicing.profiles import tax_mode_of
from farebox_portal.invoicing.status import after
from farebox_portal.invoicing.tables import TOP_UP, Invoice
from farebox_portal.invoicing.tax import PENDING
from farebox_portal.invoicing.terms import terms_of
from farebox_portal.invoicing.write import Work, write
from farebox_portal.payments.account import connected
from farebox_portal.payments.checkout import OPEN_FOR, Order, link
from farebox_portal.payments.orders import PaymentMethodRequired
from farebox_portal.payments.tables import Payer
from farebox_portal.payments.tax import require_tax
from farebox_portal.prepaid.credits import currency_of, sold, subscription_of
from farebox_portal.pricing.line import Line
from farebox_portal.pricing.money import Currency, currency, decimal_text, to_units
from farebox_portal.pricing.part import ONE
from farebox_portal.pricing.period import Period
from farebox_portal.settings import Settings
from farebox_portal.subscriptions.stretches import Stretch
from farebox_portal.subscriptions.tables import Subscription
from farebox_portal.usage import granting
from farebox_portal.usage.granting import ExpirationInput
from farebox_portal.wallet.purse import hold
from farebox_portal.wallet.tables import TopUp

AFTER_GRANTED = 100
"""The priority of what was bought: what was granted for nothing burns before."""
Status = Literal["pending", "failed", "paid", "canceled"]


class Purchase(Input):
    """`amount` is what is paid. It buys as much money, which pays invoices; or `units` of a metered feature of a
    subscription. `expiration`: from when it is paid.
    """

    amount: Amount
    units: Annotated[Units, Field(ge=1)] | None = None
    feature_key: Key | None = None
    subscription_id: Annotated[str, Field(max_length=64)] | None = None
    expiration: ExpirationInput | None = None

    @model_validator(mode="after")
    def _both_or_none(self) -> "Purchase":
        if (self.units is None) != (self.feature_key is None):
            raise ValueError("units and featureKey belong together")
        return self


class TopUpInput(Purchase):
    name: Name = "Prepaid credit"
    priority: Annotated[Whole, Field(ge=1, le=255)] = AFTER_GRANTED


class TopUpDocument(Output):
    """`status`: as its invoice stands. pending; failed: it will be tried again, or was given up; paid: `creditId` is
    there; canceled: the invoice was voided.
    """

    id: str
    status: Status
    is_auto: bool
    customer_id: str
    subscription_id: str
    currency: str
    amount: str
    units: int | None = None
    feature_key: str | None = None
    invoice_id: str
    invoice_url: str | None = None
    credit_id: str | None = None
    created_at: Instant


def every(customer: Customer) -> SelectOfScalar[TopUp]:
    """The latest first."""
    return select(TopUp).where(TopUp.customer_id == customer.id).order_by(col(TopUp.id).desc())


def show(session: Session, bought: TopUp) -> TopUpDocument:
    invoice = session.get_one(Invoice, bought.invoice_id)
    status = status_of(invoice)
    return TopUpDocument(
        id=bought.id,
        status=status,
        is_auto=bought.is_auto,
        customer_id=bought.customer_id,
        subscription_id=bought.subscription_id,
        currency=bought.currency,
        amount=decimal_text(bought.amount_minor, currency(bought.currency)),
        units=bought.units,
        feature_key=bought.feature_key,
        invoice_id=bought.invoice_id,
        invoice_url=invoice.provider_url,
        credit_id=bought.lot_id if status == "paid" else None,
        created_at=bought.created_at,
    )


def status_of(invoice: Invoice) -> Status:
    if invoice.status == "paid":
        return "paid"
    if invoice.status == "void":
        return "canceled"
    return "failed" if invoice.status == "uncollectible" or invoice.failed_at is not None else "pending"


def order(session: Session, settings: Settings, customer: Customer, wanted: TopUpInput, now: datetime) -> TopUp:
    """Raises Invalid, NotFound, Conflict; PaymentMethodRequired where there is nothing to pay with."""
    hold(session, customer.id)
    subscription, amount_minor, of = checked(session, customer, wanted, now)
    _require_method(session, settings, customer, amount_minor, of, now)
    require_tax(session, customer, of.code)
    bought = TopUp(
        id=(id_ := new_id(now)),
        trigger=f"order:{id_}",
        invoice_id=new_id(now),
        lot_id=new_id(now),
        customer_id=customer.id,
        subscription_id=subscription.id,
        is_auto=False,
        currency=of.code,
        amount_minor=amount_minor,
        units=wanted.units,
        feature_key=wanted.feature_key,
        name=wanted.name,
        priority=wanted.priority,
        expires_every=None if wanted.expiration is None else wanted.expiration.duration,
        expires_count=None if wanted.expiration is None else wanted.expiration.count,
        created_at=now,
    )
    issue(session, settings, customer, bought, now)
    return bought


def checked(
    session: Session, customer: Customer, wanted: Purchase, now: datetime
) -> tuple[Subscription, int, Currency]:
    """For which subscription, for how much. Raises Invalid, NotFound, Conflict."""
    subscription = subscription_of(session, customer, wanted.subscription_id, now)
    if now < subscription.active_from:
        raise Conflict("The subscription has not begun yet.", code="subscription_not_started")
    of = currency(currency_of(session, subscription, now))
    amount_minor = minor_of(wanted.amount, of, "/amount")
    least = max(1, minimum_minor(of))
    if amount_minor < least:
        raise Invalid([{"pointer": "/amount", "detail": f"must be at least {decimal_text(least, of)} {of.code}"}])
    if wanted.feature_key is None and tax_mode_of(session, customer, of.code) != "off":
        detail = "Where tax is charged no money is sold ahead, as its tax hangs on what it will pay for. Buy units."
        raise Conflict(detail, code="money_not_taxable")
    if wanted.feature_key is not None:
        granting.grantable(session, subscription, wanted.feature_key, now)
    return subscription, amount_minor, of


def issue(session: Session, settings: Settings, customer: Customer, bought: TopUp, now: datetime) -> None:
    """Write it, and its invoice. With the customer held."""
    subscription = session.get_one(Subscription, bought.subscription_id)
    paper = new_paper(
        id_=bought.invoice_id,
        subscription_id=subscription.id,
        customer_id=customer.id,
        sequence=_next_sequence(session, subscription),
        currency=bought.currency,
        now=now,
    )
    paper.columns |= {"kind": TOP_UP, "period_start": now, "period_end": now, "closes_at": now}
    paper.columns |= {"subtotal_minor": bought.amount_minor, "total_minor": bought.amount_minor}
    if has_provider(session, customer, currency(bought.currency)):
        paper.columns["provider"] = "stripe"
    paper.entries.append(_entry(paper, bought, sold(session, subscription, now), now))
    session.add(bought)
    work = Work(now, terms_of(settings))
    if tax_mode_of(session, customer, bought.currency) == "off":
        paper.columns["status"] = after("draft", "issue")
        work.issue(paper, customer)
    else:  # see invoicing.tax
        paper.columns |= {"status": after("draft", "hold"), "tax_status": PENDING, "reasons": ["tax_pending"]}
    work.put(paper)
    write(session, work)


def has_provider(session: Session, customer: Customer, of: Currency) -> bool:
    return connected(session) is not None and not is_by_hand(customer) and of.stripe_exponent is not None


def _require_method(
    session: Session, settings: Settings, customer: Customer, amount_minor: int, of: Currency, now: datetime
) -> None:
    payer = session.get(Payer, customer.id)
    if not has_provider(session, customer, of) or (payer is not None and payer.method_id is not None):
        return
    message = f"Prepaid credit: you will be charged {decimal_text(amount_minor, of)} {of.code} when you order it."
    raise PaymentMethodRequired(link(settings, Order(customer.id, of.code, message, int((now + OPEN_FOR).timestamp()))))


def _next_sequence(session: Session, subscription: Subscription) -> int:
    mine = select(func.min(Invoice.sequence)).where(Invoice.subscription_id == subscription.id)
    return min(session.exec(mine).one() or 0, 0) - 1


def _entry(paper: Paper, bought: TopUp, of: Stretch, now: datetime) -> Entry:
    said = bought.name if bought.units is None else f"{bought.name}: {bought.units} {bought.feature_key}"
    amount = to_units(bought.amount_minor, currency(bought.currency))
    line = Line(TOP_UP, "credits", said, ONE, amount, bought.amount_minor, Period(now, now))
    charge: Columns = {
        "charge_key": f"~top-up/{bought.id}",
        "revision": 0,
        "share": "1",
        "count": 1,
        "earlier": "0",
        "metered": None,
        "plan_id": of.plan.id,
        "phase_key": of.phase["key"],
        "card_key": bought.feature_key or TOP_UP,  # units are taxed as what they are units of
        "addon_id": None,
        "feature_key": bought.feature_key,
        "meter": None,
        "period_start": now,
        "period_end": now,
        "ends_at": now,
    }
    return new_entry(paper.columns, 0, line, charge)

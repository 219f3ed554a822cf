"""A paid plan is not had without a way to pay, and its first fee is collected before the first request.

Called in the transaction in which it was begun or changed to, and asks the provider nothing: what is refused is undone
with it, and what is to be collected is collected by the jobs a moment later.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlmodel import Session, and_, col, or_, select

from farebox_portal.catalog.tables import Plan
from farebox_portal.customers.accounts import is_by_hand
from farebox_portal.customers.tables import Customer
from farebox_portal.errors import Conflict
from farebox_portal.invoicing import actions, standing
from farebox_portal.invoicing.status import OPEN
from farebox_portal.invoicing.tables import Invoice
from farebox_portal.invoicing.tax import is_awaited
from farebox_portal.invoicing.terms import terms_of
from farebox_portal.payments.account import connected
from farebox_portal.payments.checkout import OPEN_FOR, Order, link
from farebox_portal.payments.tables import Payer
from farebox_portal.payments.tax import require_tax
from farebox_portal.pricing.money import currency, decimal_text
from farebox_portal.settings import Settings
from farebox_portal.subscriptions.rows import read_life
from farebox_portal.subscriptions.tables import Subscription


class PaymentMethodRequired(Conflict):
    """`checkoutUrl`: where the customer leaves one; then the same order succeeds."""

    def __init__(self, checkout_url: str) -> None:
        super().__init__(
            "The plan costs something, and the customer has no payment method on file. Open checkoutUrl in a browser, "
            "leave one there, and order again.",
            code="payment_method_required",
        )
        self.more = {"checkoutUrl": checkout_url}


def require_payment(session: Session, settings: Settings, subscription: Subscription, now: datetime) -> None:
    """Raises PaymentMethodRequired. Does nothing where the customer pays by hand."""
    customer = session.get_one(Customer, subscription.customer_id)
    if connected(session) is None or is_by_hand(customer):
        return
    plan = session.get_one(Plan, read_life(session, subscription).segments[-1].plan_id)
    if not is_paid(plan) or currency(plan.currency).stripe_exponent is None:
        return
    actions.bill(session, subscription, terms_of(settings), now)
    invoices = _issued_now(session, subscription, now)
    payer = session.get(Payer, customer.id)
    if payer is None or payer.method_id is None:
        due_minor = sum(invoice.outstanding_minor for invoice in invoices)
        message = _message(plan, due_minor, may_be_taxed=any(is_awaited(invoice) for invoice in invoices))
        expires_s = int((now + OPEN_FOR).timestamp())
        raise PaymentMethodRequired(link(settings, Order(customer.id, plan.currency, message, expires_s)))
    require_tax(session, customer, plan.currency)
    for invoice in invoices:
        invoice.provider = "stripe"
        session.add(invoice)
    session.flush()
    standing.tell(session, subscription.id)


def _issued_now(session: Session, subscription: Subscription, now: datetime) -> list[Invoice]:
    """What is to be paid now, also where only its tax is not known yet."""
    is_new = or_(col(Invoice.issued_at) == now, and_(col(Invoice.status) == "held", col(Invoice.updated_at) == now))
    rows = select(Invoice).where(Invoice.subscription_id == subscription.id, is_new)
    return [row for row in session.exec(rows) if row.status in OPEN or is_awaited(row)]


def _message(plan: Plan, due_minor: int, *, may_be_taxed: bool) -> str:
    of = currency(plan.currency)
    if due_minor:
        due = f"{decimal_text(due_minor, of)} {of.code}{', and tax where it applies,' if may_be_taxed else ''}"
        return f"{plan.name}: you will be charged {due} now, then as you go on."
    return f"{plan.name}: nothing is charged now; you will be charged for what you use."


def is_paid(plan: Plan) -> bool:
    """Whether anything in it can ever cost something."""
    return any(_costs(price) for price in _prices(plan))


def _prices(plan: Plan) -> Iterator[Mapping[str, Any]]:
    for phase in plan.phases:
        for card in phase["rateCards"]:
            if card.get("price") is not None:
                yield card["price"]


def _costs(price: Mapping[str, Any]) -> bool:
    return price["type"] != "flat" or Decimal(price["amount"]) != 0

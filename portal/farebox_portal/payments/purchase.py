"""What somebody is going to be charged, to the cent, before they say yes: the order is carried out as it would be,
invoiced by the invoice engine, and undone. Then the provider is asked for the tax on that invoice's lines.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from sqlmodel import Session, col, select

from farebox_portal.auth import AdminOnly, ClockDep, Parts, PartsDep
from farebox_portal.catalog import plans
from farebox_portal.catalog.plan_document import PlanDocument
from farebox_portal.customers import accounts
from farebox_portal.customers.tables import Customer
from farebox_portal.db import transaction
from farebox_portal.documents import JsonRoute
from farebox_portal.ids import new_id
from farebox_portal.invoicing import actions, profiles
from farebox_portal.invoicing.profile_document import Country
from farebox_portal.invoicing.tables import Invoice
from farebox_portal.invoicing.terms import terms_of
from farebox_portal.payments.account import usable
from farebox_portal.payments.gateway import Gateway, Line, TaxQuestion
from farebox_portal.payments.open import RETRIES_OF_REQUESTS, open_gateway
from farebox_portal.payments.tables import Payer
from farebox_portal.payments.tax import assess, items_of
from farebox_portal.problems import RESPONSES
from farebox_portal.subscriptions import lifecycle, plan_change
from farebox_portal.subscriptions.lifecycle import PlanChoice, SubscriptionInput
from farebox_portal.subscriptions.plan_change import ChangeInput
from farebox_portal.subscriptions.rows import read_life, read_plans
from farebox_portal.subscriptions.tables import Subscription
from farebox_portal.subscriptions.tax_document import TaxDocument
from farebox_portal.usage.access import used_share

router = APIRouter(prefix="/v1", tags=["plans"], route_class=JsonRoute, dependencies=[AdminOnly], responses=RESPONSES)


class PurchaseDetails(PlanDocument):
    """A plan, and what is charged when it is ordered. `tax`: where the provider works it out."""

    tax: TaxDocument | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a buyer is, if not where the provider knows."""

    country: str
    postal_code: str | None = None


@router.get("/plans/{plan_id}/purchase-details", response_model_exclude_none=True)
def get_purchase_details(
    plan_id: str,
    parts: PartsDep,
    clock: ClockDep,
    customer_id: Annotated[str | None, Query(alias="customerId", description="Id or key")] = None,
    country: Annotated[
        Country | None, Query(description="Where the buyer is, if not where the card's bill goes")
    ] = None,
    postal_code: Annotated[str | None, Query(alias="postalCode", max_length=20)] = None,
) -> PurchaseDetails:
    """What ordering the plan now would charge. Changes nothing. Without a customer: anybody new, in that country."""
    with transaction(parts.engine, read_only=True) as session:
        plan = plans.get_by_id(session, plan_id)
        shown = plans.show(plan)
        choice = PlanChoice(key=plan.key, version=plan.version)
    place = None if country is None else Place(country, postal_code)

    def order(session: Session, now: datetime) -> Subscription:
        buyer = _anybody(session, now) if customer_id is None else accounts.get(session, customer_id)
        return lifecycle.create(
            session, SubscriptionInput.model_validate({"plan": choice, "customerId": buyer.id}), now
        )

    return PurchaseDetails(**shown.model_dump(), tax=_preview(parts, order, clock.now(), place))


def preview_change(parts: Parts, subscription_id: str, wanted: ChangeInput) -> TaxDocument | None:
    def change(session: Session, now: datetime) -> Subscription:
        row = lifecycle.get(session, subscription_id)
        plan_change.lock(session, row)
        plan_change.carry_out(session, plan_change.plan_change(session, row, wanted, used_share, now), now)
        return row

    return _preview(parts, change, parts.clock.now(), None)


def tax_gateway(parts: Parts) -> Gateway | None:
    """Whom to ask for tax; None where none is worked out."""
    gateway = open_gateway(parts.settings, RETRIES_OF_REQUESTS)
    if gateway is None:
        return None
    with transaction(parts.engine, read_only=True) as session:
        is_taxed = profiles.tax_mode(profiles.default(session)) != "off"
        return gateway if is_taxed and usable(session, gateway) is not None else None


def question_of(
    session: Session, customer: Customer, code: str, lines: tuple[Line, ...], place: Place | None = None
) -> TaxQuestion | None:
    """None: this customer's tax is nobody's business but the operator's."""
    if profiles.tax_mode_of(session, customer, code) == "off":
        return None
    payer = session.get(Payer, customer.id)
    if place is not None:
        return TaxQuestion(code, lines, country=place.country, postal_code=place.postal_code)
    return TaxQuestion(code, lines, customer=None if payer is None else payer.provider_id)


class _Undone(Exception):
    def __init__(self, question: TaxQuestion | None) -> None:
        self.question = question


def _preview(
    parts: Parts, order: Callable[[Session, datetime], Subscription], now: datetime, place: Place | None
) -> TaxDocument | None:
    gateway = tax_gateway(parts)
    if gateway is None:
        return None
    question: TaxQuestion | None = None
    try:
        with transaction(parts.engine) as session:
            row = order(session, now)
            actions.bill(session, row, terms_of(parts.settings), now)
            raise _Undone(_asked(session, row, now, place))
    except _Undone as undone:
        question = undone.question
    return None if question is None else assess(gateway, question)


def _asked(session: Session, row: Subscription, now: datetime, place: Place | None) -> TaxQuestion | None:
    """About the lines of what was just invoiced."""
    of_now = Invoice.subscription_id == row.id, Invoice.updated_at == now, Invoice.status != "draft"
    rows = select(Invoice).where(*of_now, col(Invoice.total_minor) > 0).order_by(col(Invoice.sequence))
    invoices = session.exec(rows).all()
    lines = tuple(item.line for invoice in invoices for item in items_of(session, invoice))
    code = invoices[0].currency if invoices else _currency(session, row)
    return question_of(session, session.get_one(Customer, row.customer_id), code, lines, place)


def _currency(session: Session, row: Subscription) -> str:
    life = read_life(session, row)
    return read_plans(session, [life])[life.segments[-1].plan_id].currency


def _anybody(session: Session, now: datetime) -> Customer:
    """Is never stored."""
    return accounts.create(session, accounts.CustomerInput(key=f"preview-{new_id(now)}x", name="Preview"), now)

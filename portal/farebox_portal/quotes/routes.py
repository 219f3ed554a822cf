"""Prices before anybody pays, over HTTP. Nothing is written, so the POSTs need no Idempotency-Key."""

from fastapi import APIRouter

from farebox_portal.auth import AdminOnly, ClockDep, PartsDep, ReadSessionDep
from farebox_portal.db import transaction
from farebox_portal.documents import JsonRoute
from farebox_portal.payments.purchase import tax_gateway
from farebox_portal.payments.tax import assess
from farebox_portal.problems import RESPONSES
from farebox_portal.quotes.preview import PreviewInput, preview
from farebox_portal.quotes.quote import QuoteDocument
from farebox_portal.quotes.simulate import SimulationDocument, SimulationInput, simulate
from farebox_portal.quotes.upcoming import UpcomingInvoice, tax_question, upcoming

router = APIRouter(prefix="/v1", tags=["pricing"], route_class=JsonRoute, dependencies=[AdminOnly], responses=RESPONSES)


@router.post("/pricing/preview", response_model_exclude_none=True)
def preview_price(body: PreviewInput, session: ReadSessionDep, clock: ClockDep) -> QuoteDocument:
    """What usage would cost by a rate card, or by a plan in one of its billing periods; rated as invoices are."""
    return preview(session, body, clock.now())


@router.post("/pricing/simulations", response_model_exclude_none=True)
def simulate_plan(body: SimulationInput, session: ReadSessionDep) -> SimulationDocument:
    """What past usage would have cost under another plan."""
    return simulate(session, body)


@router.get("/subscriptions/{subscription_id}/invoices/upcoming", response_model_exclude_none=True)
def get_upcoming_invoice(subscription_id: str, parts: PartsDep, clock: ClockDep) -> UpcomingInvoice:
    """The next invoice as it stands now: fees of the next period, and what was used in this one. `tax`: where the
    provider works it out.
    """
    gateway = tax_gateway(parts)
    with transaction(parts.engine, read_only=True) as session:
        found = upcoming(session, subscription_id, clock.now())
        question = None if gateway is None else tax_question(session, found)
    if gateway is None or question is None:
        return found
    return found.model_copy(update={"tax": assess(gateway, question)})

"""Granted units and the balances that come of them, over HTTP. Included by `routes`, which checks who calls."""

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from farebox_portal import audit
from farebox_portal.auth import ClockDep, ReadSessionDep, SessionDep
from farebox_portal.documents import JsonRoute
from farebox_portal.idempotency import OnceDep
from farebox_portal.pages import Listing, PageDep, listing
from farebox_portal.subscriptions import lifecycle
from farebox_portal.usage import granting
from farebox_portal.usage.access import EntitlementHistory, EntitlementValue, entitlement_history, entitlement_value

router = APIRouter(
    prefix="/subscriptions/{subscription_id}/entitlements/{feature_key}",
    tags=["entitlements"],
    route_class=JsonRoute,
    dependencies=[audit.NotesCaller],
)


@router.get("/value", response_model_exclude_none=True)
def get_value(subscription_id: str, feature_key: str, session: ReadSessionDep, clock: ClockDep) -> EntitlementValue:
    """What may still be used of one feature, and what is left of each grant."""
    return entitlement_value(session, subscription_id, feature_key, clock.now())


@router.get("/history", response_model_exclude_none=True)
def get_history(subscription_id: str, feature_key: str, session: ReadSessionDep, clock: ClockDep) -> EntitlementHistory:
    """How the balance of the current usage period came about."""
    return entitlement_history(session, subscription_id, feature_key, clock.now())


@router.get("/grants", response_model_exclude_none=True)
def list_grants(
    subscription_id: str, feature_key: str, session: ReadSessionDep, clock: ClockDep, page: PageDep
) -> Listing[granting.GrantDocument]:
    """All that were ever made, the oldest first."""
    subscription, now = lifecycle.get(session, subscription_id), clock.now()
    return listing(session, granting.every(subscription, feature_key), page, lambda row: granting.show(row, now))


@router.post("/grants", status_code=201, response_model=granting.GrantDocument)
def create_grant(subscription_id: str, feature_key: str, body: granting.GrantInput, once: OnceDep) -> JSONResponse:
    """Units beside the plan's."""

    def produce() -> granting.GrantDocument:
        subscription = lifecycle.get(once.session, subscription_id)
        row = granting.create(once.session, subscription, feature_key, body, once.now)
        return granting.show(row, once.now)

    return once.answer(201, produce)


@router.delete("/grants/{grant_id}", status_code=204)
def void_grant(subscription_id: str, feature_key: str, grant_id: str, session: SessionDep, clock: ClockDep) -> Response:
    """What is left of it is gone; what was burnt stays burnt."""
    subscription = lifecycle.get(session, subscription_id)
    row = granting.get(session, subscription, feature_key, grant_id)
    granting.void(session, subscription, row, clock.now())
    return Response(status_code=204)

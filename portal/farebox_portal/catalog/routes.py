"""The catalog over HTTP. What each rule is stands in the files named after the nouns."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse

from farebox_portal.auth import AdminOnly, ClockDep, ReadSessionDep, SessionDep
from farebox_portal.catalog import features, meters, plans, policies
from farebox_portal.checking import DocumentedAs
from farebox_portal.documents import JsonRoute
from farebox_portal.idempotency import OnceDep
from farebox_portal.pages import Listing, PageDep, listing, slice_page
from farebox_portal.problems import RESPONSES

router = APIRouter(prefix="/v1", route_class=JsonRoute, dependencies=[AdminOnly], responses=RESPONSES)

PlanBody = Annotated[dict[str, Any], DocumentedAs(plans.PlanInput)]
PolicyBody = Annotated[dict[str, Any], DocumentedAs(policies.PolicyInput)]


@router.get("/meters", tags=["meters"], response_model_exclude_none=True)
def list_meters(session: ReadSessionDep, page: PageDep) -> Listing[meters.MeterDocument]:
    return listing(session, meters.every(), page, meters.show)


@router.post("/meters", tags=["meters"], status_code=201, response_model=meters.MeterDocument)
def create_meter(body: meters.MeterInput, once: OnceDep) -> JSONResponse:
    return once.answer(201, lambda: meters.show(meters.create(once.session, body, once.now)))


@router.get("/meters/{id_or_slug}", tags=["meters"], response_model_exclude_none=True)
def get_meter(id_or_slug: str, session: ReadSessionDep) -> meters.MeterDocument:
    return meters.show(meters.get(session, id_or_slug))


@router.put("/meters/{id_or_slug}", tags=["meters"], response_model_exclude_none=True)
def change_meter(
    id_or_slug: str, body: meters.MeterChange, session: SessionDep, clock: ClockDep
) -> meters.MeterDocument:
    return meters.show(meters.change(session, meters.get(session, id_or_slug), body, clock.now()))


@router.delete("/meters/{id_or_slug}", tags=["meters"], status_code=204)
def delete_meter(id_or_slug: str, session: SessionDep, clock: ClockDep) -> Response:
    meters.delete(session, meters.get(session, id_or_slug), clock.now())
    return Response(status_code=204)


@router.get("/features", tags=["features"], response_model_exclude_none=True)
def list_features(
    session: ReadSessionDep,
    page: PageDep,
    include_archived: Annotated[bool, Query(alias="includeArchived")] = False,
) -> Listing[features.FeatureDocument]:
    return listing(session, features.every(archived=include_archived), page, features.show)


@router.post("/features", tags=["features"], status_code=201, response_model=features.FeatureDocument)
def create_feature(body: features.FeatureInput, once: OnceDep) -> JSONResponse:
    return once.answer(201, lambda: features.show(features.create(once.session, body, once.now)))


@router.get("/features/{id_or_key}", tags=["features"], response_model_exclude_none=True)
def get_feature(id_or_key: str, session: ReadSessionDep) -> features.FeatureDocument:
    return features.show(features.get(session, id_or_key))


@router.delete("/features/{id_or_key}", tags=["features"], status_code=204, summary="Archive Feature")
def archive_feature(id_or_key: str, session: SessionDep, clock: ClockDep) -> Response:
    features.archive(session, features.get(session, id_or_key), clock.now())
    return Response(status_code=204)


@router.get("/plans", tags=["plans"], response_model_exclude_none=True)
def list_plans(
    session: ReadSessionDep,
    page: PageDep,
    key: str | None = None,
    status: Literal["draft", "active", "archived"] | None = None,
) -> Listing[plans.PlanDocument]:
    return listing(session, plans.every(key=key, status=status), page, plans.show)


@router.post("/plans", tags=["plans"], status_code=201, response_model=plans.PlanDocument)
def create_plan(body: PlanBody, once: OnceDep) -> JSONResponse:
    """A draft: the first version of a new key, or the next version of a known one."""
    return once.answer(201, lambda: plans.show(plans.create(once.session, body, once.now)))


@router.get("/plans/{plan_id}", tags=["plans"], response_model_exclude_none=True)
def get_plan(plan_id: str, session: ReadSessionDep) -> plans.PlanDocument:
    """One version by its id; by a plan's key, its newest active version."""
    return plans.show(plans.get(session, plan_id))


@router.put("/plans/{plan_id}", tags=["plans"], response_model_exclude_none=True)
def replace_plan(plan_id: str, body: PlanBody, session: SessionDep, clock: ClockDep) -> plans.PlanDocument:
    """Replace a draft."""
    return plans.show(plans.replace(session, plans.get_by_id(session, plan_id), body, clock.now()))


@router.delete("/plans/{plan_id}", tags=["plans"], status_code=204)
def delete_plan(plan_id: str, session: SessionDep) -> Response:
    """Delete a draft."""
    plans.delete(session, plans.get_by_id(session, plan_id))
    return Response(status_code=204)


@router.post("/plans/{plan_id}/publish", tags=["plans"], response_model=plans.PlanDocument)
def publish_plan(plan_id: str, once: OnceDep) -> JSONResponse:
    return once.answer(
        200, lambda: plans.show(plans.publish(once.session, plans.get_by_id(once.session, plan_id), once.now))
    )


@router.post("/plans/{plan_id}/archive", tags=["plans"], response_model=plans.PlanDocument)
def archive_plan(plan_id: str, once: OnceDep) -> JSONResponse:
    return once.answer(
        200, lambda: plans.show(plans.archive(once.session, plans.get_by_id(once.session, plan_id), once.now))
    )


@router.get("/policies", tags=["policies"], response_model_exclude_none=True)
def list_policies(session: ReadSessionDep, page: PageDep) -> Listing[policies.PolicyDocument]:
    return slice_page(policies.every(session), page)


@router.post("/policies", tags=["policies"], status_code=201, response_model=policies.PolicyDocument)
def create_policy(body: PolicyBody, once: OnceDep) -> JSONResponse:
    return once.answer(201, lambda: policies.show(policies.create(once.session, body, once.now)))


@router.get("/policies/{key}", tags=["policies"], response_model_exclude_none=True)
def get_policy(key: str, session: ReadSessionDep) -> policies.PolicyDocument:
    return policies.get(session, key)


@router.put(
    "/policies/{key}",
    tags=["policies"],
    response_model_exclude_none=True,
    responses={201: {"model": policies.PolicyDocument, "description": "Created"}},
)
def put_policy(
    key: str, body: PolicyBody, session: SessionDep, clock: ClockDep, response: Response
) -> policies.PolicyDocument:
    """Create or replace. Gateways take it over within a second."""
    policy, is_new = policies.put(session, key, body, clock.now())
    response.status_code = 201 if is_new else 200
    return policies.show(policy)


@router.delete("/policies/{key}", tags=["policies"], status_code=204)
def delete_policy(key: str, session: SessionDep) -> Response:
    policies.delete(session, key)
    return Response(status_code=204)

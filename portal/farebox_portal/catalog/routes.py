"""The catalog over HTTP. What each rule is stands in the files named after the nouns."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse

from farebox_portal.auth import AdminOnly, ClockDep, ReadSessionDep, SessionDep
from farebox_portal.catalog import (
    addon_document,
    addon_offers,
    addons,
    configuration,
    coupons,
    features,
    invites,
    meters,
    plans,
    policies,
)
from farebox_portal.catalog.addon_document import AddonDocument, AddonInput, OfferDocument, OfferInput
from farebox_portal.catalog.plan_document import PlanDocument, PlanInput
from farebox_portal.catalog.price_list import price_list
from farebox_portal.checking import DocumentedAs
from farebox_portal.documents import JsonRoute
from farebox_portal.idempotency import OnceDep
from farebox_portal.pages import Listing, PageDep, listing, slice_page
from farebox_portal.problems import RESPONSES

router = APIRouter(prefix="/v1", route_class=JsonRoute, dependencies=[AdminOnly], responses=RESPONSES)

MeterChangeBody = Annotated[dict[str, Any], DocumentedAs(meters.MeterChange)]
AddonBody = Annotated[dict[str, Any], DocumentedAs(AddonInput)]
PlanBody = Annotated[dict[str, Any], DocumentedAs(PlanInput)]
ConfigurationBody = Annotated[dict[str, Any], DocumentedAs(configuration.ConfigurationInput)]
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
def change_meter(id_or_slug: str, body: MeterChangeBody, session: SessionDep, clock: ClockDep) -> meters.MeterDocument:
    """Replace its name, description, metadata and groupBy; the rest never changes."""
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
    status: plans.PlanStatus | None = None,
    currency: str | None = None,
) -> Listing[PlanDocument]:
    """All versions, in the configured order of plans."""
    order = configuration.read(session).plan_order
    return listing(session, plans.every(key=key, status=status, currency=currency, order=order), page, plans.show)


@router.post("/plans", tags=["plans"], status_code=201, response_model=PlanDocument)
def create_plan(body: PlanBody, once: OnceDep) -> JSONResponse:
    """A draft: the first version of a new key, or the next version of a known one."""
    return once.answer(201, lambda: plans.show(plans.create(once.session, body, once.now)))


@router.get("/plans/{plan_id}", tags=["plans"], response_model_exclude_none=True)
def get_plan(
    plan_id: str, session: ReadSessionDep, version: Annotated[int | None, Query(ge=1, le=1_000_000)] = None
) -> PlanDocument:
    """One version by its id, or by the plan's key and `version`; by the key alone the one that is on sale."""
    return plans.show(plans.get(session, plan_id, version))


@router.put("/plans/{plan_id}", tags=["plans"], response_model_exclude_none=True)
def replace_plan(plan_id: str, body: PlanBody, session: SessionDep, clock: ClockDep) -> PlanDocument:
    """Replace a draft."""
    return plans.show(plans.replace(session, plans.get_by_id(session, plan_id), body, clock.now()))


@router.patch("/plans/{plan_id}", tags=["plans"], response_model_exclude_none=True)
def change_plan(plan_id: str, body: dict[str, Any], session: SessionDep, clock: ClockDep) -> PlanDocument:
    """Change fields of a draft: what is left out stays, null clears, lists and objects are replaced as a whole."""
    return plans.show(plans.change(session, plans.get_by_id(session, plan_id), body, clock.now()))


@router.delete("/plans/{plan_id}", tags=["plans"], status_code=204)
def delete_plan(plan_id: str, session: SessionDep) -> Response:
    """Delete a draft."""
    plans.delete(session, plans.get_by_id(session, plan_id))
    return Response(status_code=204)


@router.post("/plans/{plan_id}/publish", tags=["plans"], response_model=PlanDocument)
def publish_plan(plan_id: str, once: OnceDep) -> JSONResponse:
    return once.answer(
        200, lambda: plans.show(plans.publish(once.session, plans.get_by_id(once.session, plan_id), once.now))
    )


@router.post("/plans/{plan_id}/archive", tags=["plans"], response_model=PlanDocument)
def archive_plan(plan_id: str, once: OnceDep) -> JSONResponse:
    return once.answer(
        200, lambda: plans.show(plans.archive(once.session, plans.get_by_id(once.session, plan_id), once.now))
    )


@router.get("/plans/{plan_id}/addons", tags=["addons"], response_model_exclude_none=True)
def list_plan_addons(plan_id: str, session: ReadSessionDep, page: PageDep) -> Listing[OfferDocument]:
    """What subscribers of this version may have beside it. By its id, or by the plan's key that of the one on sale."""
    offers = addon_offers.every(session, plans.get(session, plan_id))
    return slice_page([addon_offers.show(one) for one in offers], page)


@router.post("/plans/{plan_id}/addons", tags=["addons"], status_code=201, response_model=OfferDocument)
def offer_addon(plan_id: str, body: OfferInput, once: OnceDep) -> JSONResponse:
    """From now on subscribers of this version may have the add-on. Replaces the offer of another version of it."""

    def produce() -> OfferDocument:
        plan, addon = plans.get_by_id(once.session, plan_id), addons.choose(once.session, body.addon)
        return addon_offers.show(addon_offers.create(once.session, plan, addon, body, once.now))

    return once.answer(201, produce)


@router.get("/plans/{plan_id}/addons/{id_or_key}", tags=["addons"], response_model_exclude_none=True)
def get_plan_addon(plan_id: str, id_or_key: str, session: ReadSessionDep) -> OfferDocument:
    return addon_offers.show(addon_offers.get(session, plans.get(session, plan_id), id_or_key))


@router.delete(
    "/plans/{plan_id}/addons/{id_or_key}", tags=["addons"], status_code=204, summary="Withdraw Addon From Plan"
)
def withdraw_addon(plan_id: str, id_or_key: str, session: SessionDep, clock: ClockDep) -> Response:
    """Who has the add-on keeps it; nobody can have more of it."""
    plan = plans.get_by_id(session, plan_id)
    addon_offers.withdraw(session, plan, addon_offers.get(session, plan, id_or_key)[0], clock.now())
    return Response(status_code=204)


@router.get("/addons", tags=["addons"], response_model_exclude_none=True)
def list_addons(
    session: ReadSessionDep,
    page: PageDep,
    key: str | None = None,
    status: addons.AddonStatus | None = None,
    currency: str | None = None,
) -> Listing[AddonDocument]:
    """All versions, by key."""
    return listing(session, addons.every(key=key, status=status, currency=currency), page, addon_document.show)


@router.post("/addons", tags=["addons"], status_code=201, response_model=AddonDocument)
def create_addon(body: AddonBody, once: OnceDep) -> JSONResponse:
    """A draft: the first version of a new key, or the next version of a known one."""
    return once.answer(201, lambda: addon_document.show(addons.create(once.session, body, once.now)))


@router.get("/addons/{addon_id}", tags=["addons"], response_model_exclude_none=True)
def get_addon(
    addon_id: str, session: ReadSessionDep, version: Annotated[int | None, Query(ge=1, le=1_000_000)] = None
) -> AddonDocument:
    """One version by its id, or by the add-on's key and `version`; by the key alone the one that is on sale."""
    return addon_document.show(addons.get(session, addon_id, version))


@router.put("/addons/{addon_id}", tags=["addons"], response_model_exclude_none=True)
def replace_addon(addon_id: str, body: AddonBody, session: SessionDep, clock: ClockDep) -> AddonDocument:
    """Replace a draft."""
    return addon_document.show(addons.replace(session, addons.get_by_id(session, addon_id), body, clock.now()))


@router.patch("/addons/{addon_id}", tags=["addons"], response_model_exclude_none=True)
def change_addon(addon_id: str, body: dict[str, Any], session: SessionDep, clock: ClockDep) -> AddonDocument:
    """Change fields of a draft: what is left out stays, null clears, lists and objects are replaced as a whole."""
    return addon_document.show(addons.change(session, addons.get_by_id(session, addon_id), body, clock.now()))


@router.delete("/addons/{addon_id}", tags=["addons"], status_code=204)
def delete_addon(addon_id: str, session: SessionDep) -> Response:
    """Delete a draft."""
    addons.delete(session, addons.get_by_id(session, addon_id))
    return Response(status_code=204)


@router.post("/addons/{addon_id}/publish", tags=["addons"], response_model=AddonDocument)
def publish_addon(addon_id: str, once: OnceDep) -> JSONResponse:
    return once.answer(
        200,
        lambda: addon_document.show(addons.publish(once.session, addons.get_by_id(once.session, addon_id), once.now)),
    )


@router.post("/addons/{addon_id}/archive", tags=["addons"], response_model=AddonDocument)
def archive_addon(addon_id: str, once: OnceDep) -> JSONResponse:
    return once.answer(
        200,
        lambda: addon_document.show(addons.archive(once.session, addons.get_by_id(once.session, addon_id), once.now)),
    )


@router.get("/coupons", tags=["coupons"], response_model_exclude_none=True)
def list_coupons(
    session: ReadSessionDep, page: PageDep, status: coupons.CouponStatus | None = None
) -> Listing[coupons.CouponDocument]:
    return listing(session, coupons.every(status=status), page, coupons.show)


@router.post("/coupons", tags=["coupons"], status_code=201, response_model=coupons.CouponDocument)
def create_coupon(body: coupons.CouponInput, once: OnceDep) -> JSONResponse:
    """What it says never changes."""
    return once.answer(201, lambda: coupons.show(coupons.create(once.session, body, once.now)))


@router.get("/coupons/{id_or_code}", tags=["coupons"], response_model_exclude_none=True)
def get_coupon(id_or_code: str, session: ReadSessionDep) -> coupons.CouponDocument:
    return coupons.show(coupons.get(session, id_or_code))


@router.post("/coupons/{id_or_code}/archive", tags=["coupons"], response_model=coupons.CouponDocument)
def archive_coupon(id_or_code: str, once: OnceDep) -> JSONResponse:
    """Nobody can redeem it any more; who has, keeps it."""
    return once.answer(
        200, lambda: coupons.show(coupons.archive(once.session, coupons.get(once.session, id_or_code), once.now))
    )


@router.get("/price-list", tags=["plans"], response_model_exclude_none=True)
def show_price_list(
    session: ReadSessionDep,
    page: PageDep,
    email: Annotated[str | None, Query(description="As somebody who signed in with this address sees it")] = None,
) -> Listing[PlanDocument]:
    """What is on sale, in order; without private plans, or with those that `email` is invited to."""
    return slice_page(price_list(session, email), page)


@router.get("/plan-invites", tags=["plan-invites"], response_model_exclude_none=True)
def list_invites(
    session: ReadSessionDep,
    page: PageDep,
    plan_id: Annotated[str | None, Query(alias="planId", description="A version's id, or a plan's key")] = None,
    email: str | None = None,
) -> Listing[invites.InviteDocument]:
    plan_key = None if plan_id is None else plans.get(session, plan_id).key
    return listing(session, invites.every(plan_key=plan_key, email=email), page, invites.show)


@router.post("/plan-invites", tags=["plan-invites"], status_code=201, response_model=invites.InviteDocument)
def create_invite(body: invites.InviteInput, once: OnceDep) -> JSONResponse:
    """Whoever signs in with this address sees the private plan, and may buy it."""
    return once.answer(201, lambda: invites.show(invites.create(once.session, body, once.now)))


@router.delete("/plan-invites/{invite_id}", tags=["plan-invites"], status_code=204, summary="Revoke Invite")
def revoke_invite(invite_id: str, session: SessionDep, clock: ClockDep) -> Response:
    invites.revoke(session, invites.get(session, invite_id), clock.now())
    return Response(status_code=204)


@router.get("/monetization-configuration", tags=["configuration"], response_model_exclude_none=True)
def get_configuration(session: ReadSessionDep) -> configuration.Configuration:
    return configuration.read(session)


@router.put("/monetization-configuration", tags=["configuration"], response_model_exclude_none=True)
def put_configuration(body: ConfigurationBody, session: SessionDep, clock: ClockDep) -> configuration.Configuration:
    """What is left out stays; null goes back to the default."""
    return configuration.change(session, body, clock.now())


@router.patch("/monetization-configuration", tags=["configuration"], response_model_exclude_none=True)
def change_configuration(body: ConfigurationBody, session: SessionDep, clock: ClockDep) -> configuration.Configuration:
    """The same as PUT."""
    return configuration.change(session, body, clock.now())


@router.delete("/monetization-configuration", tags=["configuration"], status_code=204, summary="Reset Configuration")
def reset_configuration(session: SessionDep) -> Response:
    configuration.reset(session)
    return Response(status_code=204)


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

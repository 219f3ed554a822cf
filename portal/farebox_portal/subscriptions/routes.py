"""Subscriptions and their API keys over HTTP."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse
from sqlmodel import Session

from farebox_portal.auth import AdminOnly, ClockDep, PartsDep, ReadSessionDep, SessionDep
from farebox_portal.customers import accounts
from farebox_portal.documents import JsonRoute, Output
from farebox_portal.idempotency import OnceDep
from farebox_portal.pages import Listing, PageDep, listing, slice_page
from farebox_portal.problems import RESPONSES
from farebox_portal.settings import Settings
from farebox_portal.subscriptions import addons, coupons, keys, lifecycle
from farebox_portal.subscriptions.document import SubscriptionDocument, show
from farebox_portal.subscriptions.tables import Subscription

router = APIRouter(prefix="/v1", route_class=JsonRoute, dependencies=[AdminOnly], responses=RESPONSES)


class FirstKey(Output):
    id: str
    key: str
    name: str
    start: str


class NewSubscription(SubscriptionDocument):
    """A subscription with its first API key, which is shown this once."""

    api_key: FirstKey


RequirePayment = Callable[[Session, Settings, Subscription, datetime], None]
"""Refuses a subscription that was just begun, if it has to be paid and cannot be; and has its first fee collected."""


def order_router(require_payment: RequirePayment) -> APIRouter:
    """Beginning a subscription, with what it takes to be paid."""
    router = APIRouter(prefix="/v1", route_class=JsonRoute, dependencies=[AdminOnly], responses=RESPONSES)

    @router.post("/subscriptions", tags=["subscriptions"], status_code=201, response_model=NewSubscription)
    def create_subscription(body: lifecycle.SubscriptionInput, once: OnceDep, parts: PartsDep) -> JSONResponse:
        """Begins a subscription and issues its first API key, which is shown in this answer only."""

        def produce() -> NewSubscription:
            subscription = lifecycle.create(once.session, body, once.now)
            require_payment(once.session, parts.settings, subscription, once.now)
            issued = keys.issue(once.session, subscription, keys.KeyInput(), parts.settings, once.now)
            row = issued.row
            shown = show(once.session, subscription, once.now)
            return NewSubscription(
                **shown.model_dump(), api_key=FirstKey(id=row.id, key=issued.key, name=row.name, start=row.start)
            )

        return once.answer(201, produce, secret=("apiKey", "key"))

    return router


@router.get("/subscriptions", tags=["subscriptions"], response_model_exclude_none=True)
def list_subscriptions(
    session: ReadSessionDep,
    clock: ClockDep,
    page: PageDep,
    customer_id: Annotated[str | None, Query(alias="customerId", description="Id or key")] = None,
    status: lifecycle.Status | None = None,
    plan_key: Annotated[str | None, Query(alias="planKey", description="The plan it is on now")] = None,
) -> Listing[SubscriptionDocument]:
    now = clock.now()
    owner = None if customer_id is None else accounts.get(session, customer_id).id
    rows = lifecycle.every(now, customer_id=owner, status=status, plan_key=plan_key)
    return listing(session, rows, page, lambda row: show(session, row, now))


@router.get("/subscriptions/{subscription_id}", tags=["subscriptions"], response_model_exclude_none=True)
def get_subscription(subscription_id: str, session: ReadSessionDep, clock: ClockDep) -> SubscriptionDocument:
    return show(session, lifecycle.get(session, subscription_id), clock.now())


@router.delete("/subscriptions/{subscription_id}", tags=["subscriptions"], status_code=204)
def delete_subscription(subscription_id: str, session: SessionDep, clock: ClockDep) -> Response:
    """One that has not begun, with its keys. What has begun is canceled."""
    lifecycle.delete(session, lifecycle.get(session, subscription_id), clock.now())
    return Response(status_code=204)


@router.post("/subscriptions/{subscription_id}/cancel", tags=["subscriptions"], response_model=SubscriptionDocument)
def cancel_subscription(subscription_id: str, once: OnceDep, body: lifecycle.CancelInput | None = None) -> JSONResponse:
    """At once unless `timing` says otherwise."""
    timing = (body or lifecycle.CancelInput()).timing
    return _step(once, subscription_id, lambda row: lifecycle.cancel(once.session, row, timing, once.now))


@router.post(
    "/subscriptions/{subscription_id}/unschedule-cancelation",
    tags=["subscriptions"],
    response_model=SubscriptionDocument,
)
def unschedule_cancelation(subscription_id: str, once: OnceDep) -> JSONResponse:
    return _step(once, subscription_id, lambda row: lifecycle.unschedule_cancelation(once.session, row, once.now))


@router.post(
    "/subscriptions/{subscription_id}/unschedule-change", tags=["subscriptions"], response_model=SubscriptionDocument
)
def unschedule_change(subscription_id: str, once: OnceDep) -> JSONResponse:
    """Takes back every planned change of plan, pause and resumption."""
    return _step(once, subscription_id, lambda row: lifecycle.unschedule_change(once.session, row, once.now))


@router.post("/subscriptions/{subscription_id}/restore", tags=["subscriptions"], response_model=SubscriptionDocument)
def restore_subscription(subscription_id: str, once: OnceDep) -> JSONResponse:
    """Takes back everything that is planned, also a subscription that was to follow this one."""
    return _step(once, subscription_id, lambda row: lifecycle.restore(once.session, row, once.now))


@router.post("/subscriptions/{subscription_id}/pause", tags=["subscriptions"], response_model=SubscriptionDocument)
def pause_subscription(subscription_id: str, once: OnceDep, body: lifecycle.PauseInput | None = None) -> JSONResponse:
    """No access and no new fees until it is resumed."""
    wanted = body or lifecycle.PauseInput()
    return _step(once, subscription_id, lambda row: lifecycle.pause(once.session, row, wanted, once.now))


@router.post("/subscriptions/{subscription_id}/resume", tags=["subscriptions"], response_model=SubscriptionDocument)
def resume_subscription(subscription_id: str, once: OnceDep, body: lifecycle.ResumeInput | None = None) -> JSONResponse:
    timing = (body or lifecycle.ResumeInput()).timing
    return _step(once, subscription_id, lambda row: lifecycle.resume(once.session, row, timing, once.now))


@router.get("/subscriptions/{subscription_id}/addons", tags=["addons"], response_model_exclude_none=True)
def list_subscription_addons(
    subscription_id: str, session: ReadSessionDep, clock: ClockDep, page: PageDep
) -> Listing[addons.SubscriptionAddonDocument]:
    """Each with its quantities: those that were, and those that are planned."""
    found = addons.show_all(session, lifecycle.get(session, subscription_id), clock.now())
    return slice_page(found, page)


@router.post(
    "/subscriptions/{subscription_id}/addons",
    tags=["addons"],
    status_code=201,
    response_model=addons.SubscriptionAddonDocument,
)
def add_addon(subscription_id: str, body: addons.AddonOrderInput, once: OnceDep) -> JSONResponse:
    """Have an add-on that the plan offers."""

    def produce() -> addons.SubscriptionAddonDocument:
        row = lifecycle.get(once.session, subscription_id)
        return addons.show(once.session, row, addons.add(once.session, row, body, once.now), once.now)

    return once.answer(201, produce)


@router.get("/subscriptions/{subscription_id}/addons/{addon_id}", tags=["addons"], response_model_exclude_none=True)
def get_subscription_addon(
    subscription_id: str, addon_id: str, session: ReadSessionDep, clock: ClockDep
) -> addons.SubscriptionAddonDocument:
    """`addon_id`: the id under which the subscription has it."""
    return addons.show(session, lifecycle.get(session, subscription_id), addon_id, clock.now())


@router.patch("/subscriptions/{subscription_id}/addons/{addon_id}", tags=["addons"], response_model_exclude_none=True)
def change_addon_quantity(
    subscription_id: str, addon_id: str, body: addons.QuantityInput, session: SessionDep, clock: ClockDep
) -> addons.SubscriptionAddonDocument:
    """More of it at once, fewer with the next billing cycle, unless `timing` says otherwise. 0 removes it."""
    row, now = lifecycle.get(session, subscription_id), clock.now()
    addons.change(session, row, addon_id, body, now)
    return addons.show(session, row, addon_id, now)


@router.delete("/subscriptions/{subscription_id}/addons/{addon_id}/scheduled", tags=["addons"], status_code=204)
def unschedule_addon(subscription_id: str, addon_id: str, session: SessionDep, clock: ClockDep) -> Response:
    """Take back what is planned for it. One that has not begun is gone then."""
    addons.unschedule(session, lifecycle.get(session, subscription_id), addon_id, clock.now())
    return Response(status_code=204)


@router.get("/subscriptions/{subscription_id}/coupon", tags=["coupons"], response_model_exclude_none=True)
def get_subscription_coupon(
    subscription_id: str, session: ReadSessionDep, clock: ClockDep
) -> coupons.RedemptionDocument:
    """The one that is in force, or will be."""
    return coupons.show(session, coupons.get(session, lifecycle.get(session, subscription_id), clock.now()))


@router.post(
    "/subscriptions/{subscription_id}/coupon",
    tags=["coupons"],
    status_code=201,
    response_model=coupons.RedemptionDocument,
)
def redeem_coupon(subscription_id: str, body: coupons.RedeemInput, once: OnceDep) -> JSONResponse:
    """One at a time; each coupon once."""

    def produce() -> coupons.RedemptionDocument:
        row = lifecycle.get(once.session, subscription_id)
        return coupons.show(once.session, coupons.redeem(once.session, row, body.coupon, once.now))

    return once.answer(201, produce)


@router.delete("/subscriptions/{subscription_id}/coupon", tags=["coupons"], status_code=204)
def remove_coupon(subscription_id: str, session: SessionDep, clock: ClockDep) -> Response:
    """Nothing more is taken off by it. It stays redeemed."""
    coupons.remove(session, lifecycle.get(session, subscription_id), clock.now())
    return Response(status_code=204)


@router.delete("/customers/{id_or_key}", tags=["customers"], status_code=204)
def delete_customer(id_or_key: str, session: SessionDep, clock: ClockDep) -> Response:
    lifecycle.delete_customer(session, accounts.get(session, id_or_key), clock.now())
    return Response(status_code=204)


@router.get("/subscriptions/{subscription_id}/keys", tags=["keys"], response_model_exclude_none=True)
def list_keys(
    subscription_id: str, session: ReadSessionDep, clock: ClockDep, page: PageDep
) -> Listing[keys.KeyDocument]:
    now = clock.now()
    subscription = lifecycle.get(session, subscription_id)
    return listing(session, keys.every(subscription.id), page, lambda row: keys.show(row, now))


@router.post(
    "/subscriptions/{subscription_id}/keys", tags=["keys"], status_code=201, response_model=keys.NewKeyDocument
)
def issue_key(subscription_id: str, once: OnceDep, parts: PartsDep, body: keys.KeyInput | None = None) -> JSONResponse:
    """The key itself is shown in this answer only."""

    def produce() -> keys.NewKeyDocument:
        subscription = lifecycle.get(once.session, subscription_id)
        issued = keys.issue(once.session, subscription, body or keys.KeyInput(), parts.settings, once.now)
        return keys.show_new(issued, once.now)

    return once.answer(201, produce, secret=("key",))


@router.post("/keys/{key_id}/rotate", tags=["keys"], status_code=201, response_model=keys.NewKeyDocument)
def rotate_key(key_id: str, once: OnceDep, parts: PartsDep, body: keys.RotateInput | None = None) -> JSONResponse:
    """A new key of the same name. The old one goes on for `gracePeriod`, by default not at all."""
    grace = (body or keys.RotateInput()).grace_period

    def produce() -> keys.NewKeyDocument:
        issued = keys.rotate(once.session, keys.get(once.session, key_id), grace, parts.settings, once.now)
        return keys.show_new(issued, once.now)

    return once.answer(201, produce, secret=("key",))


@router.get("/keys/{key_id}", tags=["keys"], response_model_exclude_none=True)
def get_key(key_id: str, session: ReadSessionDep, clock: ClockDep) -> keys.KeyDocument:
    return keys.show(keys.get(session, key_id), clock.now())


@router.delete("/keys/{key_id}", tags=["keys"], status_code=204)
def revoke_key(key_id: str, session: SessionDep, clock: ClockDep) -> Response:
    keys.revoke(session, keys.get(session, key_id), clock.now())
    return Response(status_code=204)


def _step(once: OnceDep, subscription_id: str, take: Callable[[Subscription], Subscription]) -> JSONResponse:
    def produce() -> SubscriptionDocument:
        row = take(lifecycle.get(once.session, subscription_id))
        return show(once.session, row, once.now)

    return once.answer(200, produce)

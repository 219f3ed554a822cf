"""Redeeming coupons. Of a subscription one is in force at a time, and no coupon is redeemed by it twice.

A redemption is taken by raising the coupon's count where that is still allowed, in the transaction that writes its row:
of two who want the last one, the second finds it gone. So the count is the number of rows, whatever happens.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from pydantic import Field
from sqlalchemy import CursorResult, or_, update
from sqlmodel import Session, col, select

from farebox_portal import audit
from farebox_portal.catalog import coupons
from farebox_portal.catalog.tables import Coupon, Plan
from farebox_portal.customers import accounts
from farebox_portal.documents import Input, Instant, Output
from farebox_portal.errors import Conflict, Invalid, NotFound
from farebox_portal.pricing.coupons import Coupon as Terms
from farebox_portal.pricing.period import boundary
from farebox_portal.subscriptions import rows
from farebox_portal.subscriptions.tables import Redemption, Subscription

CouponCode = Annotated[str, Field(max_length=64, description="A coupon's code, or its id")]


class RedeemInput(Input):
    coupon: CouponCode


class RedemptionDocument(Output):
    """`activeFrom`, `activeTo`: it takes off what is invoiced in this time. `usedOn`: the invoice that used it up."""

    subscription_id: str
    coupon: coupons.CouponDocument
    redeemed_at: Instant
    active_from: Instant
    active_to: Instant | None
    used_on: str | None


def show(session: Session, redemption: Redemption) -> RedemptionDocument:
    return RedemptionDocument(
        subscription_id=redemption.subscription_id,
        coupon=coupons.show(session.get_one(Coupon, redemption.coupon_id)),
        redeemed_at=redemption.redeemed_at,
        active_from=redemption.starts_at,
        active_to=redemption.ends_at,
        used_on=redemption.used_on,
    )


def get(session: Session, subscription: Subscription, now: datetime) -> Redemption:
    """The one that may still take something off. Raises NotFound."""
    found = _standing(session, subscription)
    if found is None or _is_over(found, now):
        raise NotFound("The subscription has no coupon.", code="subscription_coupon_not_found")
    return found


# --- the steps -------------------------------------------------------------------------------------------------------


def redeem(session: Session, subscription: Subscription, code: str, now: datetime) -> Redemption:
    """Raises Invalid for a code that there is not, Conflict for one that cannot be redeemed here, or not any more."""
    accounts.touch(session, subscription.customer_id)
    session.refresh(subscription)
    life = rows.read_life(session, subscription)
    if life.state(now) == "inactive":
        raise Conflict("The subscription has ended.", code="subscription_inactive")
    coupon = _find(session, code)
    plan = rows.read_plans(session, [life])[life.segment_at(max(now, life.start)).plan_id]
    _require_fit(coupon, plan, now)
    if session.get(Redemption, (subscription.id, coupon.id)) is not None:
        raise Conflict("The subscription has redeemed this coupon before.", code="coupon_already_redeemed")
    _make_room(session, subscription, now)
    if not _take_one(session, coupon):
        raise Conflict("The coupon cannot be redeemed any more: it is used up or archived.", code="coupon_used_up")
    starts_at, ends_at = max(now, life.start), None
    if coupon.duration_in_months is not None:
        ends_at = boundary(starts_at, "P1M", coupon.duration_in_months)
    redemption = Redemption(
        subscription_id=subscription.id, coupon_id=coupon.id, redeemed_at=now, starts_at=starts_at, ends_at=ends_at
    )
    session.add(redemption)
    session.flush()
    _note(session, "redeem_coupon", subscription, coupon, now)
    return redemption


def remove(session: Session, subscription: Subscription, now: datetime) -> None:
    """Nothing more is taken off by it, and it stays redeemed. Raises NotFound."""
    accounts.touch(session, subscription.customer_id)
    redemption = get(session, subscription, now)
    session.refresh(redemption)
    _close(session, redemption, now)
    _note(session, "remove_coupon", subscription, session.get_one(Coupon, redemption.coupon_id), now)


def forget(session: Session, subscription: Subscription) -> None:
    """Before the row of a subscription goes that never began: whatever it redeemed can be redeemed by another."""
    for redemption in session.exec(select(Redemption).where(Redemption.subscription_id == subscription.id)):
        one_less = update(Coupon).where(col(Coupon.id) == redemption.coupon_id)
        session.connection().execute(one_less.values(times_redeemed=col(Coupon.times_redeemed) - 1))
        session.delete(redemption)
    session.flush()


# --- for invoices ----------------------------------------------------------------------------------------------------


def in_force(session: Session, subscription_ids: Sequence[str], at: datetime) -> dict[str, Terms]:
    """What is taken off an invoice that closes at `at`, by subscription. A few hundred ids at a time."""
    found = (
        select(Redemption, Coupon)
        .join(Coupon)
        .where(
            col(Redemption.subscription_id).in_(subscription_ids),
            col(Redemption.used_on).is_(None),
            col(Redemption.starts_at) <= at,
            or_(col(Redemption.ends_at).is_(None), col(Redemption.ends_at) > at),
        )
    )
    return {redemption.subscription_id: coupons.terms(coupon) for redemption, coupon in session.exec(found)}


def note_use(session: Session, subscription_id: str, coupon_id: str, invoice_id: str) -> None:
    """An invoice was reduced by it (see `pricing.coupons.is_reduced`): one that is good for one invoice is used up."""
    redemption = session.get_one(Redemption, (subscription_id, coupon_id))
    if session.get_one(Coupon, coupon_id).duration == "once":
        redemption.used_on, redemption.is_standing = invoice_id, False
        session.add(redemption)


# --- the rules -------------------------------------------------------------------------------------------------------


def _find(session: Session, code: str) -> Coupon:
    try:
        return coupons.get(session, code)
    except NotFound:
        raise Invalid([{"pointer": "/coupon", "detail": "there is no such coupon"}]) from None


def _require_fit(coupon: Coupon, plan: Plan, now: datetime) -> None:
    """Raises Conflict."""
    if coupon.archived_at is not None:
        raise Conflict("The coupon was archived; it cannot be redeemed any more.", code="coupon_archived")
    if coupon.redeem_by is not None and coupon.redeem_by <= now:
        raise Conflict(f"The coupon could be redeemed until {coupon.redeem_by.isoformat()}.", code="coupon_expired")
    if coupon.currency not in (None, plan.currency):
        detail = f"The coupon takes off {coupon.currency}, and the plan costs {plan.currency}."
        raise Conflict(detail, code="currency_mismatch")
    plan_keys = coupons.terms(coupon).plan_keys
    if plan_keys is not None and plan.key not in plan_keys:
        detail = f"The coupon is for the plans {', '.join(sorted(plan_keys))}."
        raise Conflict(detail, code="coupon_not_applicable")


def _make_room(session: Session, subscription: Subscription, now: datetime) -> None:
    """Raises Conflict while another one is in force."""
    standing = _standing(session, subscription)
    if standing is None:
        return
    if not _is_over(standing, now):
        raise Conflict("The subscription has a coupon; remove that first.", code="coupon_in_force")
    standing.is_standing = False
    session.add(standing)
    session.flush()


def _take_one(session: Session, coupon: Coupon) -> bool:
    """Whether there was one left. Who comes at the same time waits here, and then sees what is left."""
    count = col(Coupon.times_redeemed)
    left = or_(col(Coupon.max_redemptions).is_(None), count < col(Coupon.max_redemptions))
    one_more = update(Coupon).where(col(Coupon.id) == coupon.id, col(Coupon.archived_at).is_(None), left)
    taken: CursorResult[tuple[()]] = session.connection().execute(one_more.values(times_redeemed=count + 1))
    session.refresh(coupon)
    return taken.rowcount == 1


def _standing(session: Session, subscription: Subscription) -> Redemption | None:
    ours = Redemption.subscription_id == subscription.id, col(Redemption.is_standing)
    return session.exec(select(Redemption).where(*ours)).first()


def _is_over(redemption: Redemption, now: datetime) -> bool:
    return redemption.used_on is not None or (redemption.ends_at is not None and redemption.ends_at <= now)


def _close(session: Session, redemption: Redemption, now: datetime) -> None:
    redemption.ends_at, redemption.is_standing = max(now, redemption.starts_at), False
    session.add(redemption)
    session.flush()


def _note(session: Session, verb: str, subscription: Subscription, coupon: Coupon, now: datetime) -> None:
    facts = {"couponId": coupon.id, "code": coupon.code}
    is_new = verb == "redeem_coupon"
    audit.record(
        session,
        f"subscription.{verb}",
        "subscription",
        subscription.id,
        now,
        before=None if is_new else facts,
        after=facts if is_new else None,
    )

"""Coupons: a percentage or an amount off what subscriptions are invoiced. Names and meanings are Stripe's.

    once        off the first invoice on which there is anything to take off from
    repeating   off what is invoiced within `durationInMonths` from when it is redeemed, or the subscription begins
    forever     off everything from then on

What a coupon says never changes: whoever has redeemed it goes on as promised. It can be archived, and another made.
"""

import re
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from farebox_portal.catalog.plan_document import Currency
from farebox_portal.catalog.tables import Coupon
from farebox_portal.documents import Input, Instant, Key, Metadata, Name, Output, Whole
from farebox_portal.errors import Conflict, Invalid, NotFound
from farebox_portal.ids import new_id
from farebox_portal.pricing import coupons, money

Duration = Literal["once", "repeating", "forever"]
CouponStatus = Literal["active", "archived"]

KEYS_MAX = 100
_NUMBER = re.compile(r"[0-9]{1,12}(\.[0-9]{1,4})?", re.ASCII)


def _decimal(said: Any) -> Decimal:
    """A text such as "12.5", or a number."""
    if isinstance(said, int | float) and not isinstance(said, bool):
        said = str(said)
    if not isinstance(said, str) or not _NUMBER.fullmatch(said):
        raise ValueError('must be a number above 0 such as "12.5", with at most 4 decimals')
    return Decimal(said)


def _above_zero(number: Decimal) -> Decimal:
    if number <= 0:
        raise ValueError("must be above 0")
    return number


Number = Annotated[Decimal, BeforeValidator(_decimal), AfterValidator(_above_zero)]
# Typed from a leaflet or heard over the telephone: large and small letters are the same.
Code = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$", max_length=64), AfterValidator(str.upper)]
Keys = Annotated[list[Key], Field(min_length=1, max_length=KEYS_MAX)]


class AppliesTo(Input):
    """Lines of these plans, in any version, and of these features. Left out: of all."""

    plan_keys: Keys | None = None
    feature_keys: Keys | None = None


class CouponInput(Input):
    """`amountOff`: in units of `currency`, off each invoice."""

    code: Code
    name: Name | None = None
    percent_off: Annotated[Number, Field(le=100)] | None = None
    amount_off: Number | None = None
    currency: Currency | None = None
    duration: Duration
    duration_in_months: Annotated[Whole, Field(ge=1, le=120)] | None = None
    max_redemptions: Annotated[Whole, Field(ge=1, le=1_000_000_000)] | None = None
    redeem_by: Instant | None = None
    applies_to: AppliesTo | None = None
    metadata: Metadata | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.percent_off is None) == (self.amount_off is None):
            raise ValueError("give either percentOff or amountOff")
        if (self.amount_off is None) != (self.currency is None):
            raise ValueError("give currency beside amountOff, and only there")
        if (self.duration == "repeating") != (self.duration_in_months is not None):
            raise ValueError("give durationInMonths for the duration repeating, and only there")
        return self


class CouponDocument(Output):
    id: str
    code: str
    name: str
    percent_off: str | None
    amount_off: str | None
    currency: str | None
    duration: str
    duration_in_months: int | None
    max_redemptions: int | None
    times_redeemed: int
    redeem_by: Instant | None
    applies_to: dict[str, Any] | None
    metadata: dict[str, Any]
    status: str
    created_at: Instant
    updated_at: Instant
    archived_at: Instant | None


def show(row: Coupon) -> CouponDocument:
    amount_off = None
    if row.amount_off_minor is not None and row.currency is not None:
        amount_off = money.decimal_text(row.amount_off_minor, money.currency(row.currency))
    return CouponDocument(
        **row.model_dump(exclude={"metadata_", "percent_off", "amount_off_minor"}),
        percent_off=None if row.percent_off is None else format(row.percent_off, "f"),
        amount_off=amount_off,
        metadata=row.metadata_,
        status=row.status,
    )


def terms(row: Coupon) -> coupons.Coupon:
    """What it takes off, for `pricing`."""
    said = row.applies_to or {}
    plan_keys, feature_keys = (
        None if said.get(name) is None else frozenset(said[name]) for name in ("planKeys", "featureKeys")
    )
    return coupons.Coupon(row.id, row.code, row.percent_off, row.amount_off_minor, plan_keys, feature_keys)


def create(session: Session, wanted: CouponInput, now: datetime) -> Coupon:
    """Raises Invalid, and Conflict when the code is taken, also by an archived one."""
    amount_off_minor = None
    if wanted.amount_off is not None and wanted.currency is not None:
        of = money.currency(wanted.currency)
        amount_off_minor = money.to_minor(wanted.amount_off, of)
        if money.to_units(amount_off_minor, of) != wanted.amount_off:
            step = money.decimal_text(of.step_minor, of)
            raise Invalid([{"pointer": "/amountOff", "detail": f"{of.code} is charged in steps of {step}"}])
    if wanted.redeem_by is not None and wanted.redeem_by <= now:
        raise Invalid([{"pointer": "/redeemBy", "detail": "must lie in the future"}])
    if session.exec(select(Coupon).where(Coupon.code == wanted.code)).first() is not None:
        raise Conflict("There is a coupon of this code already; choose another code.", code="coupon_exists")
    said = wanted.applies_to
    row = Coupon(
        id=new_id(now),
        code=wanted.code,
        name=wanted.name or wanted.code,
        percent_off=wanted.percent_off,
        amount_off_minor=amount_off_minor,
        currency=wanted.currency,
        duration=wanted.duration,
        duration_in_months=wanted.duration_in_months,
        max_redemptions=wanted.max_redemptions,
        redeem_by=wanted.redeem_by,
        applies_to=None if said is None else said.model_dump(by_alias=True, exclude_none=True) or None,
        metadata_=wanted.metadata or {},
        created_at=now,
        updated_at=now,
    )
    session.add(row)
    return row


def archive(session: Session, row: Coupon, now: datetime) -> Coupon:
    """Nobody can redeem it any more; who has, keeps it. Does nothing to an archived one."""
    if row.archived_at is None:
        row.archived_at = row.updated_at = now
        session.add(row)
    return row


def get(session: Session, id_or_code: str) -> Coupon:
    """Raises NotFound."""
    row = session.get(Coupon, id_or_code)
    row = row or session.exec(select(Coupon).where(Coupon.code == id_or_code.upper())).first()
    if row is None:
        raise NotFound("There is no such coupon.", code="coupon_not_found")
    return row


def every(*, status: CouponStatus | None = None) -> SelectOfScalar[Coupon]:
    """By code."""
    rows = select(Coupon).order_by(col(Coupon.code))
    if status == "active":
        rows = rows.where(col(Coupon.archived_at).is_(None))
    elif status == "archived":
        rows = rows.where(col(Coupon.archived_at).is_not(None))
    return rows

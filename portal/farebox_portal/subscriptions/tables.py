"""Who bought what, from when to when, and the API keys that came with it."""

from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import JSON, Column, Index, text
from sqlmodel import Field, SQLModel

from farebox_portal.db import UTCDateTime

AT_ONCE = datetime(1970, 1, 1, tzinfo=UTC)
"""In `invoice_due_at`: something changed, so look before any date comes."""


class Subscription(SQLModel, table=True):
    """A plan for one customer, over the half-open time [active_from, active_to).

    `plan_id` and `starting_phase` are what it begins with; what it changes to later are rows of `SegmentRow`. Its state
    is computed from these instants, never stored: see `life.py`.
    """

    __tablename__ = "subscriptions"

    id: str = Field(primary_key=True)
    customer_id: str = Field(foreign_key="customers.id", index=True)
    plan_id: str = Field(foreign_key="plans.id", index=True)
    starting_phase: str | None = None  # None: the plan's first
    active_from: datetime = Field(sa_type=UTCDateTime)
    active_to: datetime | None = Field(default=None, sa_type=UTCDateTime)
    billing_anchor: datetime = Field(sa_type=UTCDateTime)
    payment_status: str = "not_required"
    # From then on it is refused, as it is not paid; null: it is not. `uncollectible` is refused at any time.
    payment_refused_at: datetime | None = Field(default=None, sa_type=UTCDateTime)
    # Where the payer can pay what failed, or confirm what the bank asks for; null: nothing waits for that.
    payment_url: str | None = None
    # When the invoicing run looks at it next; null: there is nothing left to invoice. Whatever changes what is charged
    # sets AT_ONCE in its transaction. `invoiced_to`: up to when it has been looked at.
    invoice_due_at: datetime | None = Field(default=AT_ONCE, sa_type=UTCDateTime, index=True)
    invoiced_to: datetime | None = Field(default=None, sa_type=UTCDateTime)
    metadata_: dict[str, Any] = Field(default_factory=dict, sa_column=Column("metadata", JSON, nullable=False))
    created_at: datetime = Field(sa_type=UTCDateTime)
    updated_at: datetime = Field(sa_type=UTCDateTime)

    def status(self, now: datetime) -> Literal["scheduled", "active", "canceled", "inactive"]:
        """By its two instants alone: a pause does not show here."""
        if self.active_to is not None and self.active_to <= max(now, self.active_from):
            return "inactive"  # over, or called off before it began
        if now < self.active_from:
            return "scheduled"
        return "active" if self.active_to is None else "canceled"


class SegmentRow(SQLModel, table=True):
    """From `starts_at` on: another plan, a pause or its end. See `life.Segment`."""

    __tablename__ = "subscription_segments"

    subscription_id: str = Field(primary_key=True, foreign_key="subscriptions.id")
    starts_at: datetime = Field(primary_key=True, sa_type=UTCDateTime)
    plan_id: str = Field(foreign_key="plans.id", index=True)
    phase: str | None = None
    phase_start: datetime = Field(sa_type=UTCDateTime)
    is_paused: bool
    is_fresh: bool
    # As a fraction ("7/10"): how much of the most used allowance was gone. For a change at once it is computed when it
    # is ordered, so that late usage does not alter the credit that was promised; null: it is still to come.
    used_share: str | None = None


class SubscriptionAddon(SQLModel, table=True):
    """That a subscription has, had or will have an add-on version, from its order to its end; what is ordered again
    after that is another row. How many of it say the rows of `QuantityRow`.
    """

    __tablename__ = "subscription_addons"

    id: str = Field(primary_key=True)
    subscription_id: str = Field(foreign_key="subscriptions.id", index=True)
    addon_id: str = Field(foreign_key="addons.id")
    created_at: datetime = Field(sa_type=UTCDateTime)
    updated_at: datetime = Field(sa_type=UTCDateTime)


class QuantityRow(SQLModel, table=True):
    """From `starts_at` on so many of the add-on were ordered; 0: none."""

    __tablename__ = "subscription_addon_quantities"

    subscription_addon_id: str = Field(primary_key=True, foreign_key="subscription_addons.id")
    starts_at: datetime = Field(primary_key=True, sa_type=UTCDateTime)
    quantity: int


class Redemption(SQLModel, table=True):
    """A coupon that a subscription has redeemed. It reduces what is invoiced in [starts_at, ends_at).

    `is_standing`: it may still reduce something, as far as anybody has looked; of a subscription at most one does.
    `used_on`: the invoice on which a coupon of duration `once` was used up.
    """

    __tablename__ = "coupon_redemptions"
    __table_args__ = (
        Index(
            "coupon_redemptions_standing",
            "subscription_id",
            unique=True,
            sqlite_where=text("is_standing"),
            postgresql_where=text("is_standing"),
        ),
    )

    subscription_id: str = Field(primary_key=True, foreign_key="subscriptions.id")
    coupon_id: str = Field(primary_key=True, foreign_key="coupons.id", index=True)
    redeemed_at: datetime = Field(sa_type=UTCDateTime)
    starts_at: datetime = Field(sa_type=UTCDateTime)
    ends_at: datetime | None = Field(default=None, sa_type=UTCDateTime)
    used_on: str | None = None
    is_standing: bool = True


class ApiKey(SQLModel, table=True):
    """A credential. The key itself is shown once and never stored: `digest` finds it, `start` names it."""

    __tablename__ = "api_keys"

    id: str = Field(primary_key=True)
    subscription_id: str = Field(foreign_key="subscriptions.id", index=True)
    customer_id: str = Field(foreign_key="customers.id", index=True)
    name: str
    digest: str = Field(unique=True)
    start: str
    created_at: datetime = Field(sa_type=UTCDateTime)
    expires_at: datetime | None = Field(default=None, sa_type=UTCDateTime)
    revoked_at: datetime | None = Field(default=None, sa_type=UTCDateTime)

    def status(self, now: datetime) -> Literal["active", "expired", "revoked"]:
        if self.revoked_at is not None:
            return "revoked"
        return "active" if self.expires_at is None or now < self.expires_at else "expired"

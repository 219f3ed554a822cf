"""What is sold and how it is measured. JSON columns hold the parts of a document as it was accepted, in camelCase."""

from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Index, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from farebox_portal.db import DecimalText, UTCDateTime


class Meter(SQLModel, table=True):
    __tablename__ = "meters"

    id: str = Field(primary_key=True)
    slug: str = Field(unique=True)
    name: str
    description: str | None = None
    event_type: str
    aggregation: str
    value_property: str | None = None
    group_by: dict[str, str] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    event_from: datetime | None = Field(default=None, sa_type=UTCDateTime)
    # `metadata` is taken by SQLAlchemy; the API calls it by its name.
    metadata_: dict[str, Any] | None = Field(default=None, sa_column=Column("metadata", JSON))
    created_at: datetime = Field(sa_type=UTCDateTime)
    updated_at: datetime = Field(sa_type=UTCDateTime)
    deleted_at: datetime | None = Field(default=None, sa_type=UTCDateTime)


class Feature(SQLModel, table=True):
    """What a plan can grant: metered when it names a meter, else on/off or a value. Never changed, only archived."""

    __tablename__ = "features"

    id: str = Field(primary_key=True)
    key: str = Field(unique=True)
    name: str
    meter_slug: str | None = Field(default=None, foreign_key="meters.slug")
    filters: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON))
    unit_cost: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    metadata_: dict[str, Any] = Field(default_factory=dict, sa_column=Column("metadata", JSON, nullable=False))
    created_at: datetime = Field(sa_type=UTCDateTime)
    updated_at: datetime = Field(sa_type=UTCDateTime)
    archived_at: datetime | None = Field(default=None, sa_type=UTCDateTime)


class Plan(SQLModel, table=True):
    """One version of a plan. A draft may change; from `published_at` on nothing of it does, ever."""

    __tablename__ = "plans"
    __table_args__ = (UniqueConstraint("key", "version"),)

    id: str = Field(primary_key=True)
    key: str = Field(index=True)
    version: int
    name: str
    description: str | None = None
    currency: str
    billing_cadence: str
    phases: list[dict[str, Any]] = Field(sa_column=Column(JSON, nullable=False))
    pro_rating_config: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON))
    rate_limit: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON))
    concurrency_limit: int | None = None
    # What nothing here acts on but invoices will: tax, alignment, settlement; by their names in the document.
    terms: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON))
    metadata_: dict[str, Any] = Field(default_factory=dict, sa_column=Column("metadata", JSON, nullable=False))
    created_at: datetime = Field(sa_type=UTCDateTime)
    updated_at: datetime = Field(sa_type=UTCDateTime)
    published_at: datetime | None = Field(default=None, sa_type=UTCDateTime)
    archived_at: datetime | None = Field(default=None, sa_type=UTCDateTime)

    @property
    def status(self) -> str:
        if self.archived_at is not None:
            return "archived"
        return "draft" if self.published_at is None else "active"

    @property
    def is_prorated(self) -> bool:
        """Whether a fee is for the time that is served; otherwise it is charged in full, and nothing is given back."""
        return bool((self.pro_rating_config or {}).get("enabled", True))

    @property
    def is_credited_by_time_alone(self) -> bool:
        """Whether what a change gives back of a fee takes no notice of what was used of the allowances."""
        return (self.pro_rating_config or {}).get("mode") == "prorate_prices"


class Addon(SQLModel, table=True):
    """One version of an add-on. A draft may change; from `published_at` on nothing of it does, ever."""

    __tablename__ = "addons"
    __table_args__ = (UniqueConstraint("key", "version"),)

    id: str = Field(primary_key=True)
    key: str = Field(index=True)
    version: int
    name: str
    description: str | None = None
    instance_type: str  # single: one of it at most; multiple: so many
    currency: str
    rate_cards: list[dict[str, Any]] = Field(sa_column=Column(JSON, nullable=False))
    metadata_: dict[str, Any] = Field(default_factory=dict, sa_column=Column("metadata", JSON, nullable=False))
    created_at: datetime = Field(sa_type=UTCDateTime)
    updated_at: datetime = Field(sa_type=UTCDateTime)
    published_at: datetime | None = Field(default=None, sa_type=UTCDateTime)
    archived_at: datetime | None = Field(default=None, sa_type=UTCDateTime)

    @property
    def status(self) -> str:
        if self.archived_at is not None:
            return "archived"
        return "draft" if self.published_at is None else "active"


class PlanAddon(SQLModel, table=True):
    """An add-on version that subscribers of a plan version may have, while it is offered: [created_at, withdrawn_at).

    Rows are closed, never deleted, once the plan is published: whether a change of plan at some instant ended an add-on
    is read from them.
    """

    __tablename__ = "plan_addons"
    __table_args__ = (
        Index(
            "plan_addons_offered",
            "plan_id",
            "addon_id",
            unique=True,
            sqlite_where=text("withdrawn_at IS NULL"),
            postgresql_where=text("withdrawn_at IS NULL"),
        ),
    )

    id: str = Field(primary_key=True)
    plan_id: str = Field(foreign_key="plans.id", index=True)
    addon_id: str = Field(foreign_key="addons.id")
    from_plan_phase: str
    max_quantity: int | None = None
    metadata_: dict[str, Any] = Field(default_factory=dict, sa_column=Column("metadata", JSON, nullable=False))
    created_at: datetime = Field(sa_type=UTCDateTime)
    withdrawn_at: datetime | None = Field(default=None, sa_type=UTCDateTime)


class Coupon(SQLModel, table=True):
    """A reduction that can be redeemed. Its terms never change; `times_redeemed` is how many redemptions there are."""

    __tablename__ = "coupons"

    id: str = Field(primary_key=True)
    code: str = Field(unique=True)
    name: str
    percent_off: Decimal | None = Field(default=None, sa_type=DecimalText)
    amount_off_minor: int | None = Field(default=None, sa_type=BigInteger)
    currency: str | None = None
    duration: str
    duration_in_months: int | None = None
    max_redemptions: int | None = None
    times_redeemed: int = 0
    redeem_by: datetime | None = Field(default=None, sa_type=UTCDateTime)
    applies_to: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    metadata_: dict[str, Any] = Field(default_factory=dict, sa_column=Column("metadata", JSON, nullable=False))
    created_at: datetime = Field(sa_type=UTCDateTime)
    updated_at: datetime = Field(sa_type=UTCDateTime)
    archived_at: datetime | None = Field(default=None, sa_type=UTCDateTime)

    @property
    def status(self) -> str:
        return "active" if self.archived_at is None else "archived"


class PlanInvite(SQLModel, table=True):
    """Whoever proves this e-mail address (kept in lower case) may see and buy a private plan, in any version of it."""

    __tablename__ = "plan_invites"
    __table_args__ = (
        Index(
            "plan_invites_standing",
            "email",
            "plan_key",
            unique=True,
            sqlite_where=text("revoked_at IS NULL"),
            postgresql_where=text("revoked_at IS NULL"),
        ),
    )

    id: str = Field(primary_key=True)
    email: str
    plan_key: str
    plan_id: str = Field(foreign_key="plans.id")  # the version that was named
    created_at: datetime = Field(sa_type=UTCDateTime)
    revoked_at: datetime | None = Field(default=None, sa_type=UTCDateTime)


class MonetizationConfiguration(SQLModel, table=True):
    """One row at most. Null: the default, as without a row."""

    __tablename__ = "monetization_configuration"

    id: str = Field(primary_key=True)
    multiple_subscriptions_enabled: bool | None = None
    plan_order: list[str] | None = Field(default=None, sa_column=Column(JSON))
    plan_settings: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON))
    max_payment_overdue_days: int | None = None
    updated_at: datetime = Field(sa_type=UTCDateTime)


class Policy(SQLModel, table=True):
    """What a route costs (document as accepted)."""

    __tablename__ = "policies"

    key: str = Field(primary_key=True)
    document: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    created_at: datetime = Field(sa_type=UTCDateTime)
    updated_at: datetime = Field(sa_type=UTCDateTime)

"""Lots of credit, what was bought, and when more is bought by itself."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, CheckConstraint, Column, ForeignKey, Index, String
from sqlmodel import Field, SQLModel

from farebox_portal.db import UTCDateTime


class CreditLot(SQLModel, table=True):
    """Credit of a customer: money, or units of a metered feature.

    Money (`units` null) pays invoices. Units belong to a subscription and are a row of `entitlement_grants` with the
    same id, which is what the gateway goes by; here is what they cost. In both cases the money in it is

        value_minor = spent_minor + lapsed_minor + what is left

    spent: it paid an invoice, or the units that it bought were used. lapsed: it expired, was voided or given back.

    `book_at`: when the money in it has to be looked at next; null: never. `refunds`: what is left goes back to whoever
    paid for it.
    """

    __tablename__ = "credit_lots"
    __table_args__ = (
        CheckConstraint(
            "spent_minor >= 0 AND lapsed_minor >= 0 AND spent_minor + lapsed_minor <= value_minor",
            name="credit_lots_never_below_zero",
        ),
        Index("credit_lots_to_book", "book_at"),
    )

    id: str = Field(primary_key=True)
    customer_id: str = Field(foreign_key="customers.id", index=True)
    # A subscription that never began may be deleted, and what it was granted with it; nothing is sold to such a one.
    subscription_id: str | None = Field(
        default=None, sa_column=Column(String, ForeignKey("subscriptions.id", ondelete="CASCADE"), nullable=True)
    )
    feature_key: str | None = None
    units: int | None = Field(default=None, sa_type=BigInteger)
    currency: str
    value_minor: int = Field(sa_type=BigInteger)
    spent_minor: int = Field(default=0, sa_type=BigInteger)
    lapsed_minor: int = Field(default=0, sa_type=BigInteger)
    source: str  # "grant" or "top_up"
    name: str
    priority: int
    effective_at: datetime = Field(sa_type=UTCDateTime)
    expires_at: datetime | None = Field(default=None, sa_type=UTCDateTime)
    voided_at: datetime | None = Field(default=None, sa_type=UTCDateTime)
    refunds: bool = False
    book_at: datetime | None = Field(default=None, sa_type=UTCDateTime)
    metadata_: dict[str, Any] = Field(default_factory=dict, sa_column=Column("metadata", JSON, nullable=False))
    created_at: datetime = Field(sa_type=UTCDateTime)

    @property
    def left_minor(self) -> int:
        return self.value_minor - self.spent_minor - self.lapsed_minor

    @property
    def ends_at(self) -> datetime | None:
        return min((at for at in (self.expires_at, self.voided_at) if at is not None), default=None)


class TopUp(SQLModel, table=True):
    """Credit that is bought by an invoice of its own. How it stands says the invoice; once that is paid there is the
    lot, whose id is known before.

    `trigger` names what made it, so that nothing makes two.
    """

    __tablename__ = "top_ups"

    id: str = Field(primary_key=True)
    trigger: str = Field(unique=True)
    invoice_id: str = Field(unique=True)
    lot_id: str = Field(unique=True)
    customer_id: str = Field(foreign_key="customers.id", index=True)
    subscription_id: str = Field(foreign_key="subscriptions.id")
    is_auto: bool
    currency: str
    amount_minor: int = Field(sa_type=BigInteger)
    units: int | None = Field(default=None, sa_type=BigInteger)
    feature_key: str | None = None
    name: str
    priority: int
    expires_every: str | None = None  # so many of this cadence after it was paid
    expires_count: int | None = None
    created_at: datetime = Field(sa_type=UTCDateTime)


class AutoRecharge(SQLModel, table=True):
    """What a customer buys when less than `threshold` is left: minor units of money, or units of the feature.

    `armed_at`: when somebody last said so; a payment that was given up since then keeps it from trying again.
    """

    __tablename__ = "auto_recharges"
    __table_args__ = (Index("auto_recharges_due", "look_at"),)

    customer_id: str = Field(primary_key=True, foreign_key="customers.id")
    subscription_id: str = Field(foreign_key="subscriptions.id")
    feature_key: str | None = None
    threshold: int = Field(sa_type=BigInteger)
    amount_minor: int = Field(sa_type=BigInteger)
    units: int | None = Field(default=None, sa_type=BigInteger)
    monthly_cap_minor: int | None = Field(default=None, sa_type=BigInteger)
    expires_every: str | None = None
    expires_count: int | None = None
    enabled: bool
    armed_at: datetime = Field(sa_type=UTCDateTime)
    look_at: datetime | None = Field(default=None, sa_type=UTCDateTime)
    updated_at: datetime = Field(sa_type=UTCDateTime)

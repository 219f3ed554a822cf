"""The ledger: one row for each request and meter, for ever; what is billed is computed from nothing else."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Index, LargeBinary, Numeric
from sqlmodel import Field, SQLModel

from farebox_portal.db import UTCDateTime


class UsageRow(SQLModel, table=True):
    """What one request used of one meter. (account, request, meter) is its identity: applied twice, it counts once.

    The account is part of the key, so that no customer's request id can displace another's.
    """

    __tablename__ = "usage_events"
    # With the quantity in it, a period's total is read from the index alone.
    __table_args__ = (Index("usage_events_by_meter", "subscription_id", "meter", "admitted_at_ms", "quantity"),)

    customer_id: str = Field(primary_key=True)
    rid: str = Field(primary_key=True)
    meter: str = Field(primary_key=True)
    quantity: int = Field(sa_type=BigInteger)
    subscription_id: str
    key_id: str
    policy: str
    admitted_at_ms: int = Field(sa_type=BigInteger)
    status: int
    dimensions: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    flags: str = ""


class UsageHour(SQLModel, table=True):
    """The sum of a subscription's rows of one meter and hour (UTC), written in the transaction of the rows."""

    __tablename__ = "usage_hours"

    subscription_id: str = Field(primary_key=True)
    meter: str = Field(primary_key=True)
    hour_ms: int = Field(primary_key=True, sa_type=BigInteger)  # when it begins
    # A thousand rows of the largest quantity pass what 64 bits hold; that must not stop the queue.
    quantity: int = Field(sa_column=Column(BigInteger().with_variant(Numeric(38, 0), "postgresql"), nullable=False))


class SpoolCursor(SQLModel, table=True):
    """How far each spool has been read into the ledger: absolute, moved in the same transaction as the rows."""

    __tablename__ = "spool_cursors"

    spool: str = Field(primary_key=True)
    end: int = Field(sa_type=BigInteger)
    updated_at: datetime = Field(sa_type=UTCDateTime)


class GatewayRow(SQLModel, table=True):
    """A plugin's keeper with its workers, as it last told us. Times are real ones, also where billing's are not."""

    __tablename__ = "gateways"

    name: str = Field(primary_key=True)  # its spools are `<name>.<boot>.<worker>`
    instance: str  # names its spool directory
    boot: str  # names its process
    last_seen_at: datetime = Field(sa_type=UTCDateTime)
    left_at: datetime | None = Field(default=None, sa_type=UTCDateTime)


class QuarantinedEvent(SQLModel, table=True):
    """An event that could not be applied, with the reason. Kept, so that a fault here never loses or blocks usage."""

    __tablename__ = "quarantined_events"

    # Its identity is its content, so that a batch sent again does not put it aside twice.
    spool: str = Field(primary_key=True)
    digest: str = Field(primary_key=True)
    end: int = Field(sa_type=BigInteger)
    reason: str
    payload: bytes = Field(sa_type=LargeBinary)
    created_at: datetime = Field(sa_type=UTCDateTime)

"""Who buys."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Column
from sqlmodel import Field, SQLModel

from farebox_portal.db import UTCDateTime


class Customer(SQLModel, table=True):
    """An account: all its keys and counters lie on one Valkey shard, under its id.

    Whatever changes what its keys may do raises `entitlements_version` in the same transaction; the publisher brings
    `published_version` after it. So a crash between the two loses no change, and nobody has to call the publisher.
    """

    __tablename__ = "customers"

    id: str = Field(primary_key=True)
    key: str = Field(unique=True)
    name: str
    primary_email: str | None = None
    currency: str | None = None
    metadata_: dict[str, Any] = Field(default_factory=dict, sa_column=Column("metadata", JSON, nullable=False))
    entitlements_version: int = 1
    published_version: int = 0
    created_at: datetime = Field(sa_type=UTCDateTime)
    updated_at: datetime = Field(sa_type=UTCDateTime)
    deleted_at: datetime | None = Field(default=None, sa_type=UTCDateTime)

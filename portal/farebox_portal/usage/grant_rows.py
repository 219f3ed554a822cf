"""Grants of units to a subscription's metered entitlements, as rows. Never changed but by being voided."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Column, ForeignKey, Index, String
from sqlmodel import Field, Session, SQLModel, col, select

from farebox_portal.db import UTCDateTime
from farebox_portal.pricing.grants import Grant

_IDS_AT_ONCE = 500


class GrantRow(SQLModel, table=True):
    """See `pricing.grants.Grant`. `recurrence`: a cadence, counted from `recurrence_anchor`."""

    __tablename__ = "entitlement_grants"
    __table_args__ = (Index("entitlement_grants_by_feature", "subscription_id", "feature_key"),)

    id: str = Field(primary_key=True)
    # A subscription that never began may be deleted, and its grants with it.
    subscription_id: str = Field(
        sa_column=Column(String, ForeignKey("subscriptions.id", ondelete="CASCADE"), nullable=False)
    )
    feature_key: str
    amount: int = Field(sa_type=BigInteger)
    priority: int
    effective_at: datetime = Field(sa_type=UTCDateTime)
    expires_at: datetime | None = Field(default=None, sa_type=UTCDateTime)
    rollover_min: int = Field(sa_type=BigInteger)
    rollover_max: int = Field(sa_type=BigInteger)
    recurrence: str | None = None
    recurrence_anchor: datetime | None = Field(default=None, sa_type=UTCDateTime)
    metadata_: dict[str, Any] = Field(default_factory=dict, sa_column=Column("metadata", JSON, nullable=False))
    created_at: datetime = Field(sa_type=UTCDateTime)
    voided_at: datetime | None = Field(default=None, sa_type=UTCDateTime)


@dataclass(frozen=True)
class Granted:
    """A grant and what it is for."""

    feature_key: str
    grant: Grant


def grant_of(row: GrantRow) -> Grant:
    return Grant(
        id=row.id,
        amount=row.amount,
        effective_at=row.effective_at,
        created_at=row.created_at,
        priority=row.priority,
        expires_at=row.expires_at,
        voided_at=row.voided_at,
        rollover_min=row.rollover_min,
        rollover_max=row.rollover_max,
        recurs=row.recurrence,
        recurs_from=row.recurrence_anchor,
    )


def read_grants(session: Session, subscription_ids: Sequence[str]) -> Mapping[str, tuple[Granted, ...]]:
    """All that were ever made, by subscription, the oldest first; nothing for those that have none."""
    found: dict[str, list[Granted]] = defaultdict(list)
    for at in range(0, len(subscription_ids), _IDS_AT_ONCE):
        some = subscription_ids[at : at + _IDS_AT_ONCE]
        asked = select(GrantRow).where(col(GrantRow.subscription_id).in_(some))
        for row in session.exec(asked.order_by(col(GrantRow.id))):
            found[row.subscription_id].append(Granted(row.feature_key, grant_of(row)))
    return {subscription_id: tuple(grants) for subscription_id, grants in found.items()}


def grants_for(grants: Sequence[Granted], feature_key: str) -> tuple[Grant, ...]:
    return tuple(one.grant for one in grants if one.feature_key == feature_key)

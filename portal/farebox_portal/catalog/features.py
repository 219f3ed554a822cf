"""Features: what a plan can grant. Never changed, only archived: plans that were sold keep them."""

from datetime import datetime
from typing import Any

from pydantic import Field
from sqlmodel import Session, col, or_, select
from sqlmodel.sql.expression import SelectOfScalar

from farebox_portal.catalog.tables import Feature, Meter
from farebox_portal.documents import Input, Instant, Key, Metadata, Name, Output
from farebox_portal.errors import Conflict, Invalid, NotFound
from farebox_portal.ids import new_id


class FeatureInput(Input):
    key: Key
    name: Name
    meter_slug: Key | None = None
    metadata: Metadata = Field(default_factory=dict)


class FeatureDocument(Output):
    id: str
    key: str
    name: str
    meter_slug: str | None
    metadata: dict[str, Any]
    created_at: Instant
    updated_at: Instant
    archived_at: Instant | None


def show(feature: Feature) -> FeatureDocument:
    return FeatureDocument(
        id=feature.id,
        key=feature.key,
        name=feature.name,
        meter_slug=feature.meter_slug,
        metadata=feature.metadata_,
        created_at=feature.created_at,
        updated_at=feature.updated_at,
        archived_at=feature.archived_at,
    )


def create(session: Session, wanted: FeatureInput, now: datetime) -> Feature:
    """Raises Conflict when the key is taken, Invalid when the meter does not exist."""
    taken = session.exec(select(Feature).where(Feature.key == wanted.key)).first()
    if taken is not None:
        past = " by a feature that was archived" if taken.archived_at else ""
        raise Conflict(f"The key '{wanted.key}' is taken{past}.", code="feature_key_taken")
    if wanted.meter_slug is not None and not _is_meter(session, wanted.meter_slug):
        raise Invalid([{"pointer": "/meterSlug", "detail": "there is no such meter"}])
    feature = Feature(
        id=new_id(now),
        key=wanted.key,
        name=wanted.name,
        meter_slug=wanted.meter_slug,
        metadata_=wanted.metadata,
        created_at=now,
        updated_at=now,
    )
    session.add(feature)
    return feature


def get(session: Session, id_or_key: str) -> Feature:
    """Also an archived one. Raises NotFound."""
    feature = session.exec(select(Feature).where(or_(Feature.id == id_or_key, Feature.key == id_or_key))).first()
    if feature is None:
        raise NotFound("There is no such feature.", code="feature_not_found")
    return feature


def every(*, archived: bool = False) -> SelectOfScalar[Feature]:
    rows = select(Feature).order_by(col(Feature.key))
    return rows if archived else rows.where(col(Feature.archived_at).is_(None))


def archive(session: Session, feature: Feature, now: datetime) -> None:
    """No new plan may use it. Does nothing to one that is archived."""
    if feature.archived_at is None:
        feature.archived_at = feature.updated_at = now
        session.add(feature)


def _is_meter(session: Session, slug: str) -> bool:
    found = session.exec(select(Meter.id).where(Meter.slug == slug, col(Meter.deleted_at).is_(None))).first()
    return found is not None

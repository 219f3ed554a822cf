"""Meters: what is counted. The slug names it everywhere: in policies, on usage, in features."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator
from sqlmodel import Session, col, or_, select
from sqlmodel.sql.expression import SelectOfScalar

from farebox_portal.catalog.tables import Feature, Meter, Policy
from farebox_portal.documents import Input, Instant, Key, Name, Output, Text
from farebox_portal.errors import Conflict, NotFound
from farebox_portal.ids import new_id

Aggregation = Literal["SUM", "COUNT", "UNIQUE_COUNT", "MAX", "MIN", "AVG", "LATEST"]
JsonPath = Annotated[str, StringConstraints(pattern=r"^\$(\.[A-Za-z0-9_-]+|\[[0-9]{1,4}\])+$", max_length=256)]


class MeterChange(Input):
    """What of a meter may change. The rest decides what its numbers mean, and there are numbers already."""

    name: Name | None = None
    description: Text | None = None
    group_by: dict[Key, JsonPath] = Field(default_factory=dict)


class MeterInput(MeterChange):
    slug: Key
    event_type: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = None
    aggregation: Aggregation
    value_property: JsonPath | None = None

    @model_validator(mode="after")
    def _value_fits_aggregation(self) -> Self:
        if self.aggregation == "COUNT" and self.value_property is not None:
            raise ValueError("COUNT counts events and takes no valueProperty")
        if self.aggregation != "COUNT" and self.value_property is None:
            raise ValueError(f"{self.aggregation} needs a valueProperty such as $.total")
        return self


class MeterDocument(Output):
    id: str
    slug: str
    name: str
    description: str | None
    event_type: str
    aggregation: str
    value_property: str | None
    group_by: dict[str, str]
    created_at: Instant
    updated_at: Instant


def show(meter: Meter) -> MeterDocument:
    return MeterDocument.model_validate(meter, from_attributes=True)


def create(session: Session, wanted: MeterInput, now: datetime) -> Meter:
    """Raises Conflict when the slug is taken."""
    taken = session.exec(select(Meter).where(Meter.slug == wanted.slug)).first()
    if taken is not None:
        past = " by a meter that was deleted; its usage is still in the ledger" if taken.deleted_at else ""
        raise Conflict(f"The slug '{wanted.slug}' is taken{past}.", code="meter_slug_taken")
    meter = Meter(
        id=new_id(now),
        slug=wanted.slug,
        name=wanted.name or wanted.slug,
        description=wanted.description,
        event_type=wanted.event_type or wanted.slug,
        aggregation=wanted.aggregation,
        value_property=wanted.value_property,
        group_by=wanted.group_by,
        created_at=now,
        updated_at=now,
    )
    session.add(meter)
    return meter


def get(session: Session, id_or_slug: str) -> Meter:
    """Raises NotFound."""
    meter = session.exec(every().where(or_(Meter.id == id_or_slug, Meter.slug == id_or_slug))).first()
    if meter is None:
        raise NotFound("There is no such meter.", code="meter_not_found")
    return meter


def every() -> SelectOfScalar[Meter]:
    return select(Meter).where(col(Meter.deleted_at).is_(None)).order_by(col(Meter.slug))


def change(session: Session, meter: Meter, wanted: MeterChange, now: datetime) -> Meter:
    """Replace what may change."""
    meter.name = wanted.name or meter.slug
    meter.description = wanted.description
    meter.group_by = wanted.group_by
    meter.updated_at = now
    session.add(meter)
    return meter


def delete(session: Session, meter: Meter, now: datetime) -> None:
    """Raises Conflict while a feature or a policy counts on it. Its usage stays in the ledger."""
    feature = session.exec(
        select(Feature.key).where(Feature.meter_slug == meter.slug, col(Feature.archived_at).is_(None))
    ).first()
    if feature is not None:
        raise Conflict(f"The feature '{feature}' counts on it; archive that first.", code="meter_in_use")
    for policy in session.exec(select(Policy)):
        used: dict[str, Any] = policy.document.get("meters", {})
        if meter.slug in used:
            raise Conflict(f"The policy '{policy.key}' counts on it; change that first.", code="meter_in_use")
    meter.deleted_at = meter.updated_at = now
    session.add(meter)

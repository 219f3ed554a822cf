"""Meters: what is counted. The slug names it everywhere: in policies, on usage, in features.

The slug, the event type, the aggregation and the value decide what a meter's numbers mean, and there are numbers
already: they never change. What a meter is called and what its usage can be split by may.

OpenMeter's `eventFrom`, before which events do not count, is kept and shown. It says nothing here: the ledger begins
with what the gateway meters once the meter is there. So it may not lie in the future, where it would.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints, ValidationInfo, field_validator
from sqlmodel import Session, col, or_, select
from sqlmodel.sql.expression import SelectOfScalar

from farebox_portal.catalog.tables import Feature, Meter, Policy
from farebox_portal.checking import shape_faults
from farebox_portal.documents import Input, Instant, Key, Metadata, Name, Output, Text
from farebox_portal.errors import Conflict, Fault, Invalid, NotFound, pointer
from farebox_portal.ids import new_id

RESERVED_DIMENSIONS = ("subject", "customerId", "subscriptionId", "apiKeyId", "policy")
"""All usage has these, and can be split by them."""


def _check_dimension(name: str) -> str:
    if name in RESERVED_DIMENSIONS:
        raise ValueError("is there without being named, on every meter")
    return name


Aggregation = Literal["SUM", "COUNT", "UNIQUE_COUNT", "MAX", "MIN", "AVG", "LATEST"]
JsonPath = Annotated[str, StringConstraints(pattern=r"^\$(\.[A-Za-z0-9_-]+|\[[0-9]{1,4}\])+$", max_length=256)]
Dimension = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$"), AfterValidator(_check_dimension)
]
GroupBy = Annotated[dict[Dimension, JsonPath], Field(max_length=16)]


class MeterChange(Input):
    """What of a meter may change."""

    name: Name | None = None
    description: Text | None = None
    group_by: GroupBy | None = None
    metadata: Metadata | None = None


class MeterInput(MeterChange):
    slug: Key
    event_type: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = None
    aggregation: Aggregation
    value_property: Annotated[JsonPath | None, Field(validate_default=True)] = None
    event_from: Instant | None = None

    @field_validator("value_property")
    @classmethod
    def _value_fits_aggregation(cls, value: str | None, info: ValidationInfo) -> str | None:
        aggregation = info.data.get("aggregation")  # not there when it is at fault itself
        if aggregation == "COUNT" and value is not None:
            raise ValueError("COUNT counts events and takes no valueProperty")
        if aggregation not in (None, "COUNT") and value is None:
            raise ValueError(f"{aggregation} needs a valueProperty such as $.total")
        return value


class MeterDocument(Output):
    id: str
    slug: str
    name: str
    description: str | None
    event_type: str
    aggregation: str
    value_property: str | None
    group_by: dict[str, str]
    event_from: Instant | None
    metadata: dict[str, Any]
    created_at: Instant
    updated_at: Instant


_OURS = ("id", "createdAt", "updatedAt")
_FIXED = ("slug", "eventType", "aggregation", "valueProperty", "eventFrom")


def show(meter: Meter) -> MeterDocument:
    return MeterDocument(
        id=meter.id,
        slug=meter.slug,
        name=meter.name,
        description=meter.description,
        event_type=meter.event_type,
        aggregation=meter.aggregation,
        value_property=meter.value_property,
        group_by=meter.group_by,
        event_from=meter.event_from,
        metadata=meter.metadata_ or {},
        created_at=meter.created_at,
        updated_at=meter.updated_at,
    )


def create(session: Session, wanted: MeterInput, now: datetime) -> Meter:
    """Raises Conflict when the slug is taken, Invalid."""
    if wanted.event_from is not None and now < wanted.event_from:
        detail = "must not lie in the future: the gateway counts from the first request on"
        raise Invalid([{"pointer": "/eventFrom", "detail": detail}])
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
        group_by=wanted.group_by or {},
        event_from=wanted.event_from,
        metadata_=wanted.metadata or {},
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


def change(session: Session, meter: Meter, document: dict[str, Any], now: datetime) -> Meter:
    """Replace what may change. The rest may be sent as it is, so that what was read can be sent back.

    Raises Invalid with every fault, Conflict when a feature is a slice by what would go.
    """
    shown = show(meter).wire()
    parts = {name: value for name, value in document.items() if name not in (*_OURS, *_FIXED)}
    changed = [name for name in _FIXED if name in document and document[name] != shown.get(name)]
    found: list[Fault] = [{"pointer": pointer(name), "detail": "cannot change; make another"} for name in changed]
    found += shape_faults(MeterChange, parts)
    if found:
        raise Invalid(found)
    wanted = MeterChange.model_validate(parts)
    _require_dimensions(session, meter, wanted.group_by or {})
    meter.name = wanted.name or meter.slug
    meter.description = wanted.description
    meter.group_by = wanted.group_by or {}
    meter.metadata_ = wanted.metadata or {}
    meter.updated_at = now
    session.add(meter)
    return meter


def delete(session: Session, meter: Meter, now: datetime) -> None:
    """Raises Conflict while a feature or a policy counts on it. Its usage stays in the ledger."""
    for feature in _features_of(session, meter):
        raise Conflict(f"The feature '{feature.key}' counts on it; archive that first.", code="meter_in_use")
    for policy in session.exec(select(Policy)):
        used: dict[str, Any] = policy.document.get("meters", {})
        if meter.slug in used:
            raise Conflict(f"The policy '{policy.key}' counts on it; change that first.", code="meter_in_use")
    meter.deleted_at = meter.updated_at = now
    session.add(meter)


def _features_of(session: Session, meter: Meter) -> list[Feature]:
    standing = select(Feature).where(Feature.meter_slug == meter.slug, col(Feature.archived_at).is_(None))
    return list(session.exec(standing.order_by(col(Feature.key))))


def _require_dimensions(session: Session, meter: Meter, group_by: dict[str, str]) -> None:
    for feature in _features_of(session, meter):
        for name in feature.filters or {}:
            if name not in group_by:
                raise Conflict(f"The feature '{feature.key}' is a slice by '{name}'.", code="meter_in_use")

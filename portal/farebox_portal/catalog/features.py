"""Features: what a plan can grant. Never changed, only archived: plans that were sold keep them.

A feature with a meter is all of its usage, or with filters a slice of it: the tokens of one model. Filters are names of
the meter's `groupBy` with the values that count. OpenMeter writes them in two more ways, which are taken too:

    filters                        {"model": "gpt-4"}  {"model": ["gpt-4", "gpt-4o"]}
    meterGroupByFilters            {"model": "gpt-4"}
    advancedMeterGroupByFilters    {"model": {"$eq": "gpt-4"}}  {"model": {"$in": ["gpt-4", "gpt-4o"]}}

They are kept in the first form, which is what the ledger is asked with, and shown in the first and the last.

OpenMeter's `unitCost`, what a unit costs the provider, is kept and shown. It is no price: nobody is charged by it.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints, WithJsonSchema
from sqlmodel import Session, col, or_, select
from sqlmodel.sql.expression import SelectOfScalar

from farebox_portal.catalog.tables import Addon, Feature, Meter, Plan, Policy
from farebox_portal.documents import Input, Instant, Key, Metadata, Name, Output
from farebox_portal.errors import Conflict, Fault, Invalid, NotFound, pointer
from farebox_portal.ids import new_id

CostName = Annotated[str, StringConstraints(min_length=1, max_length=256)]
CostAmount = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,15}(\.[0-9]{1,15})?$")] | Annotated[float, Field(ge=0)]
FILTERS_MAX = 16
FILTER_VALUES_MAX = 100
FILTER_VALUE_LENGTH_MAX = 256


def _condition(said: Any) -> str | list[str]:
    """The value, or the values, that count. Raises ValueError."""
    if isinstance(said, dict):
        if len(said) != 1 or not said.keys() <= {"$eq", "$in"}:
            raise ValueError("must have one condition, $eq or $in: others cannot be counted exactly over a period")
        (operator, said), *_ = said.items()
        if isinstance(said, list) is (operator == "$eq"):
            raise ValueError("takes one value under $eq, and a list of values under $in")
    values: list[Any] = said if isinstance(said, list) else [said]
    if not 1 <= len(values) <= FILTER_VALUES_MAX:
        raise ValueError(f"must have 1 to {FILTER_VALUES_MAX} values")
    if not all(isinstance(value, str) and 0 < len(value) <= FILTER_VALUE_LENGTH_MAX for value in values):
        raise ValueError(f"must be texts of 1 to {FILTER_VALUE_LENGTH_MAX} characters")
    return said if isinstance(said, list) else str(said)


_TEXTS = {"type": "array", "items": {"type": "string"}, "minItems": 1}
_CONDITION = {
    "anyOf": [
        {"type": "string"},
        _TEXTS,
        {"type": "object", "properties": {"$eq": {"type": "string"}, "$in": _TEXTS}, "additionalProperties": False},
    ]
}
Filters = Annotated[
    dict[str, Annotated[Any, AfterValidator(_condition), WithJsonSchema(_CONDITION)]], Field(max_length=FILTERS_MAX)
]

_FORMS = {
    "filters": "filters",
    "meter_group_by_filters": "meterGroupByFilters",
    "advanced_meter_group_by_filters": "advancedMeterGroupByFilters",
}


class ManualCost(Input):
    """In dollars for a unit."""

    type: Literal["manual"]
    amount: CostAmount


class LlmCost(Input):
    """Where OpenMeter's price list of models is looked up: by a value, or by a name of the meter's `groupBy`."""

    type: Literal["llm"]
    provider: CostName | None = None
    provider_property: CostName | None = None
    model: CostName | None = None
    model_property: CostName | None = None
    token_type: CostName | None = None
    token_type_property: CostName | None = None
    pricing: dict[CostName, CostAmount] | None = None


class FeatureInput(Input):
    key: Key
    name: Name
    meter_slug: Key | None = None
    filters: Filters | None = None
    meter_group_by_filters: Filters | None = None
    advanced_meter_group_by_filters: Filters | None = None
    unit_cost: Annotated[ManualCost | LlmCost, Field(discriminator="type")] | None = None
    metadata: Metadata | None = None

    @property
    def said_filters(self) -> dict[str, dict[str, str | list[str]]]:
        """The form, as in the document → the filters, where there are any."""
        return {name: said for field, name in _FORMS.items() if (said := getattr(self, field))}


class FeatureDocument(Output):
    id: str
    key: str
    name: str
    meter_slug: str | None
    filters: dict[str, str | list[str]] | None
    advanced_meter_group_by_filters: dict[str, dict[str, str | list[str]]] | None
    unit_cost: dict[str, Any] | None
    metadata: dict[str, Any]
    created_at: Instant
    updated_at: Instant
    archived_at: Instant | None


def show(feature: Feature) -> FeatureDocument:
    filters = feature.filters or None
    return FeatureDocument(
        id=feature.id,
        key=feature.key,
        name=feature.name,
        meter_slug=feature.meter_slug,
        filters=filters,
        advanced_meter_group_by_filters=filters
        and {name: {"$in" if isinstance(value, list) else "$eq": value} for name, value in filters.items()},
        unit_cost=feature.unit_cost,
        metadata=feature.metadata_,
        created_at=feature.created_at,
        updated_at=feature.updated_at,
        archived_at=feature.archived_at,
    )


def create(session: Session, wanted: FeatureInput, now: datetime) -> Feature:
    """Raises Conflict when the key is taken, Invalid when the meter does not exist or cannot be sliced so."""
    taken = session.exec(select(Feature).where(Feature.key == wanted.key)).first()
    if taken is not None:
        past = " by a feature that was archived" if taken.archived_at else ""
        raise Conflict(f"The key '{wanted.key}' is taken{past}.", code="feature_key_taken")
    meter = _meter(session, wanted.meter_slug)
    found = _faults(wanted, meter)
    if found:
        raise Invalid(found)
    feature = Feature(
        id=new_id(now),
        key=wanted.key,
        name=wanted.name,
        meter_slug=wanted.meter_slug,
        filters=next(iter(wanted.said_filters.values()), None),
        unit_cost=None if wanted.unit_cost is None else wanted.unit_cost.model_dump(by_alias=True, exclude_none=True),
        metadata_=wanted.metadata or {},
        created_at=now,
        updated_at=now,
    )
    session.add(feature)
    return feature


def _faults(wanted: FeatureInput, meter: Meter | None) -> list[Fault]:
    found: list[Fault] = []
    if wanted.meter_slug is not None and meter is None:
        found.append({"pointer": "/meterSlug", "detail": "there is no such meter"})
    first: dict[str, Any] | None = None
    for form, filters in wanted.said_filters.items():
        if first is not None and filters != first:
            found.append({"pointer": pointer(form), "detail": "says otherwise than the other filters"})
        first = first or filters
        if wanted.meter_slug is None:
            found.append({"pointer": pointer(form), "detail": "needs a meterSlug: it is usage that is filtered"})
        found += [
            {"pointer": pointer(form, name), "detail": "is not in the meter's groupBy"}
            for name in filters
            if meter is not None and name not in meter.group_by
        ]
    return found


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
    """No new plan may use it; who bought it keeps it. Does nothing to one that is archived.

    Raises Conflict while a plan or an add-on that is on sale has it, or a policy asks for it. Drafts are checked at
    publication.
    """
    if feature.archived_at is not None:
        return
    on_sale = select(Plan).where(col(Plan.published_at).is_not(None), col(Plan.archived_at).is_(None))
    for plan in session.exec(on_sale.order_by(col(Plan.key))):
        if any(card.get("featureKey") == feature.key for phase in plan.phases for card in phase["rateCards"]):
            raise Conflict(f"The plan '{plan.key}' has it and is on sale; archive that first.", code="feature_in_use")
    extras = select(Addon).where(col(Addon.published_at).is_not(None), col(Addon.archived_at).is_(None))
    for addon in session.exec(extras.order_by(col(Addon.key))):
        if any(card.get("featureKey") == feature.key for card in addon.rate_cards):
            detail = f"The add-on '{addon.key}' has it and is on sale; archive that first."
            raise Conflict(detail, code="feature_in_use")
    for policy in session.exec(select(Policy).order_by(col(Policy.key))):
        if feature.key in (policy.document.get("requiredEntitlements") or ()):
            raise Conflict(f"The policy '{policy.key}' asks for it; change that first.", code="feature_in_use")
    feature.archived_at = feature.updated_at = now
    session.add(feature)


def _meter(session: Session, slug: str | None) -> Meter | None:
    return session.exec(select(Meter).where(Meter.slug == slug, col(Meter.deleted_at).is_(None))).first()

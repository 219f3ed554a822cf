"""The add-on document: OpenMeter's, with the rate cards of plans."""

from typing import Annotated, Any, Literal

from pydantic import Field

from farebox_portal.catalog.plan_document import RATE_CARDS_MAX, Currency, Metadata, RateCard
from farebox_portal.catalog.tables import Addon
from farebox_portal.documents import Input, Instant, Key, Name, Output, Text, Whole

QUANTITY_MAX = 1_000_000
Quantity = Annotated[Whole, Field(ge=1, le=QUANTITY_MAX)]


class AddonInput(Input):
    """`instanceType`: of a single one a subscription has one at most, of a multiple one so many."""

    key: Key
    name: Name
    description: Text | None = None
    instance_type: Literal["single", "multiple"]
    currency: Currency = "USD"
    rate_cards: Annotated[list[RateCard], Field(min_length=1, max_length=RATE_CARDS_MAX)]
    metadata: Metadata | None = None


class AddonDocument(Output):
    """The document as it was sent, and what became of it."""

    id: str
    key: str
    version: int
    name: str
    description: str | None
    instance_type: str
    currency: str
    rate_cards: list[dict[str, Any]]
    metadata: dict[str, Any]
    status: str
    effective_from: Instant | None
    effective_to: Instant | None
    created_at: Instant
    updated_at: Instant


def show(addon: Addon) -> AddonDocument:
    return AddonDocument(
        **addon.model_dump(exclude={"metadata_", "published_at", "archived_at"}),
        metadata=addon.metadata_,
        status=addon.status,
        effective_from=addon.published_at,
        effective_to=addon.archived_at,
    )


class AddonChoice(Input):
    """`key`: or an id. `version`: left out, the one that is on sale."""

    key: Annotated[str, Field(max_length=64)]
    version: Annotated[Whole, Field(ge=1, le=1_000_000)] | None = None


class OfferInput(Input):
    """Subscribers of the plan may have the add-on in the phase `fromPlanPhase` and those after it."""

    addon: AddonChoice
    from_plan_phase: Key
    max_quantity: Quantity | None = None
    metadata: Metadata | None = None


class OfferDocument(Output):
    addon: AddonDocument
    from_plan_phase: str
    max_quantity: int | None
    metadata: dict[str, Any]
    created_at: Instant

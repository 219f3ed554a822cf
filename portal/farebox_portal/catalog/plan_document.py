"""The plan document: OpenMeter's and Zuplo's, so that a plan written for them is taken unchanged, and our rate limits.

    plan → phases → rate cards, each a price and what it grants

Here stand its fields and their shapes. What of a rate card is money (price, discounts, commitments, unit conversion) is
read by `pricing.documents`; OpenAPI shows `price_document`'s models for it. `plan_rules` brings all together.
"""

import json
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StrictBool,
    StringConstraints,
    ValidationInfo,
    field_validator,
)

from farebox_portal import documents
from farebox_portal.catalog.currencies import check_currency
from farebox_portal.catalog.price_document import Commitments, Discounts, Price, UnitConfig
from farebox_portal.checking import DocumentedAs
from farebox_portal.documents import Input, Instant, Key, Name, Output, Text, Whole, parse_json
from farebox_portal.durations import parse_duration
from farebox_portal.pricing.period import CADENCES, LASTING

UNITS_MAX = (1 << 53) - 1
PHASES_MAX = 20
RATE_CARDS_MAX = 100
_PHASE_SHORTEST = timedelta(hours=1)
_PHASE_LONGEST = timedelta(days=31 * 120)  # calendars end at the year 9999, and all phases must fit into them
_NESTING_MAX = 16

_OURS = frozenset(
    {
        *("id", "version", "status", "effectiveFrom", "effectiveTo", "validationErrors"),
        *("createdAt", "updatedAt", "publishedAt", "archivedAt", "deletedAt"),
        *("paymentMethodRequired", "paymentRequired"),
    }
)


def _check_cadence(text: str) -> str:
    if text not in CADENCES:
        raise ValueError(f"must be one of {', '.join(CADENCES)}")
    return text


def _check_usage_period(text: str) -> str:
    if text not in (*CADENCES, LASTING):
        raise ValueError(f"must be one of {', '.join(CADENCES)}; or {LASTING}: it is never reset")
    return text


def _check_phase_duration(text: str) -> str:
    duration = parse_duration(text)
    longest = timedelta(days=31 * duration.months) + duration.span
    if duration.shortest < _PHASE_SHORTEST or longest > _PHASE_LONGEST:
        raise ValueError("must lie between an hour (PT1H) and ten years (P10Y)")
    return text


def _check_rate_span(text: str) -> str:
    if text in ("second", "minute", "hour"):
        return text
    try:
        duration = parse_duration(text)
    except ValueError:
        raise ValueError("must be second, minute, hour or an ISO 8601 duration such as PT10S") from None
    if duration.months or not timedelta(seconds=1) <= duration.span <= timedelta(days=1):
        raise ValueError("must lie between a second (PT1S) and a day (P1D)")
    return text


def _check_settlement(text: str) -> str:
    # To take it and send invoices all the same would be worse than a no.
    if text == "credit_only":
        raise ValueError("credit_only, which never makes an invoice, is not offered; use credit_then_invoice")
    if text != "credit_then_invoice":
        raise ValueError("must be credit_then_invoice")
    return text


def _check_json_text(text: str) -> str:
    try:
        parse_json(text.encode())
    except json.JSONDecodeError:
        raise ValueError('must hold JSON in a string, such as "{\\"value\\": 5}"') from None
    return text


def _check_nesting(metadata: Any) -> Any:
    level = [metadata]
    for _ in range(_NESTING_MAX + 1):
        level = [part for part in level if isinstance(part, dict | list)]
        if not level:
            return metadata
        level = [item for part in level for item in (part.values() if isinstance(part, dict) else part)]
    raise ValueError(f"must be nested at most {_NESTING_MAX} deep")


Metadata = Annotated[documents.Metadata, BeforeValidator(_check_nesting)]
Cadence = Annotated[str, AfterValidator(_check_cadence)]
UsagePeriod = Annotated[str, AfterValidator(_check_usage_period)]
Currency = Annotated[str, AfterValidator(check_currency)]
Units = Annotated[Whole, Field(ge=0, le=UNITS_MAX)]

# --- what is sent ----------------------------------------------------------------------------------------------------


class Metered(Input):
    """An allowance for each usage period; hard unless `isSoftLimit`. A soft one of 0 is pay as you go."""

    type: Literal["metered"]
    issue_after_reset: Units | None = None
    issue_after_reset_priority: Annotated[Whole, Field(ge=1, le=255)] | None = None
    is_soft_limit: StrictBool = False
    usage_period: UsagePeriod | None = None
    preserve_overage_at_reset: StrictBool = False
    metadata: Metadata | None = None


class OnOff(Input):
    type: Literal["boolean"]
    config: StrictBool | None = None  # Zuplo's examples have it; it says nothing
    metadata: Metadata | None = None


class Static(Input):
    type: Literal["static"]
    config: Annotated[str, AfterValidator(_check_json_text)]
    metadata: Metadata | None = None


class StripeTax(Input):
    code: Annotated[str, StringConstraints(pattern=r"^txcd_[0-9]{8}$")]


class CustomTax(Input):
    code: Annotated[str, StringConstraints(min_length=1, max_length=256)]


class TaxConfig(Input):
    """`taxCodeId` names a tax code of the OpenMeter that it was written for: kept, and only taken beside `stripe`."""

    behavior: Literal["inclusive", "exclusive"] | None = None
    stripe: StripeTax | None = None
    custom_invoicing: CustomTax | None = None
    tax_code_id: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None

    @field_validator("tax_code_id")
    @classmethod
    def _is_said_otherwise_too(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and "stripe" in info.data and info.data["stripe"] is None:
            raise ValueError('means nothing here; say which it is beside it: "stripe": {"code": "txcd_10103001"}')
        return value


class RateCard(Input):
    """What is charged and what is granted. `price` left out or null: free."""

    type: Literal["flat_fee", "usage_based"]
    key: Key
    name: Name
    description: Text | None = None
    feature_key: Key | None = None
    billing_cadence: Cadence | None = None
    price: Annotated[Any, DocumentedAs(Price)] = None
    discounts: Annotated[Any, DocumentedAs(Discounts)] = None
    spend_commitments: Annotated[Any, DocumentedAs(Commitments)] = None
    commitments: Annotated[Any, DocumentedAs(Commitments)] = None
    unit_config: Annotated[Any, DocumentedAs(UnitConfig)] = None
    tax_config: TaxConfig | None = None
    entitlement_template: Annotated[Metered | OnOff | Static, Field(discriminator="type")] | None = None
    metadata: Metadata | None = None


class Phase(Input):
    key: Key
    name: Name
    description: Text | None = None
    duration: Annotated[str, AfterValidator(_check_phase_duration)] | None = None
    rate_cards: Annotated[list[RateCard], Field(min_length=1, max_length=RATE_CARDS_MAX)]
    metadata: Metadata | None = None


class RateLimit(Input):
    requests: Annotated[Whole, Field(ge=1, le=1_000_000)]
    per: Annotated[str, AfterValidator(_check_rate_span)]


class ProRating(Input):
    """`enabled` false: a fee is charged in full for every period that is begun, and a change gives nothing back of it.

    `mode`: what a change gives back is told by time and by the most used allowance, whichever is more; or by time alone
    (prorate_prices). Fees of add-ons are for the time they were there in any case.
    """

    enabled: StrictBool
    mode: Literal["max_consumption_based", "prorate_prices"] = "max_consumption_based"


class Alignment(Input):
    """Deprecated by both; all cadences of a plan must align anyway."""

    billables_must_align: StrictBool | None = None


class PlanInput(Input):
    key: Key
    name: Name
    description: Text | None = None
    currency: Currency
    billing_cadence: Cadence
    phases: Annotated[list[Phase], Field(min_length=1, max_length=PHASES_MAX)]
    pro_rating_config: ProRating | None = None
    rate_limit: RateLimit | None = None
    concurrency_limit: Annotated[Whole, Field(ge=1, le=1_000_000)] | None = None
    default_tax_config: TaxConfig | None = None
    alignment: Alignment | None = None
    settlement_mode: Annotated[str, AfterValidator(_check_settlement)] | None = None
    metadata: Metadata | None = None


def without_ours(document: Any) -> Any:
    """Without what we, OpenMeter and Zuplo say about a version, so that what was read from any of us may be sent."""
    if not isinstance(document, dict):
        return document
    return {name: value for name, value in document.items() if name not in _OURS}


# --- what is shown ---------------------------------------------------------------------------------------------------


class PlanDocument(Output):
    """The document as it was sent, and what became of it."""

    id: str
    key: str
    version: int
    name: str
    description: str | None
    currency: str
    billing_cadence: str
    phases: list[dict[str, Any]]
    pro_rating_config: dict[str, Any] | None
    rate_limit: dict[str, Any] | None
    concurrency_limit: int | None
    default_tax_config: dict[str, Any] | None
    alignment: dict[str, Any] | None
    settlement_mode: str | None
    metadata: dict[str, Any]
    status: str
    effective_from: Instant | None
    effective_to: Instant | None
    created_at: Instant
    updated_at: Instant
    published_at: Instant | None
    archived_at: Instant | None

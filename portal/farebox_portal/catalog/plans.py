"""Plans: what is sold. A plan has versions; a version is a draft, then active and immutable, then archived.

The document is Zuplo's and OpenMeter's: plan → phases → rate cards, each a price and what it grants. `faults` checks it
in whole; the same check runs again at publication, because the features it names may have been archived meanwhile.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from farebox_portal.catalog.currencies import check_currency
from farebox_portal.catalog.tables import Feature, Plan
from farebox_portal.checking import shape_faults, well_shaped
from farebox_portal.documents import Input, Instant, Key, Metadata, Name, Output, Text, Whole
from farebox_portal.durations import parse_duration
from farebox_portal.errors import Conflict, Fault, Invalid, NotFound, pointer
from farebox_portal.ids import new_id
from farebox_portal.pricing.period import CADENCES

UNITS_MAX = (1 << 53) - 1
_PHASE_SHORTEST = timedelta(hours=1)
_MONTHS = {"P1M": 1, "P3M": 3, "P6M": 6, "P12M": 12, "P1Y": 12}
_HOURS = {"PT1H": 1, "P1D": 24, "P1W": 168, "P2W": 336, "P4W": 672}


def _check_amount(value: Any) -> str:
    """A price as a decimal string. Numbers are taken too: OpenMeter's documents have both."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError('must be a decimal string such as "49.00"')
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        raise ValueError('must be a decimal string such as "49.00"') from None
    if not amount.is_finite() or amount < 0:
        raise ValueError("must be 0 or more")
    if amount.adjusted() >= 15 or not -15 <= int(amount.as_tuple().exponent) <= 15:
        raise ValueError("must have at most 15 digits before and 15 after the point")
    return format(amount, "f")


def _check_cadence(text: str) -> str:
    if text not in CADENCES:
        raise ValueError(f"must be one of {', '.join(CADENCES)}")
    return text


def _check_phase_duration(text: str) -> str:
    if parse_duration(text).shortest < _PHASE_SHORTEST:
        raise ValueError("must be an hour (PT1H) or more")
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


def _check_json_text(text: str) -> str:
    try:
        json.loads(text)
    except ValueError:
        raise ValueError('must hold JSON in a string, such as "{\\"value\\": 5}"') from None
    return text


Amount = Annotated[str, BeforeValidator(_check_amount)]
Cadence = Annotated[str, AfterValidator(_check_cadence)]
Currency = Annotated[str, AfterValidator(check_currency)]
Units = Annotated[Whole, Field(ge=0, le=UNITS_MAX)]


class FlatPrice(Input):
    type: Literal["flat"]
    amount: Amount
    payment_term: Literal["in_advance", "in_arrears"] = "in_advance"


class UnitPrice(Input):
    type: Literal["unit"]
    amount: Amount


class Metered(Input):
    """An allowance for each usage period; hard unless `isSoftLimit`. A soft one of 0 is pay as you go."""

    type: Literal["metered"]
    issue_after_reset: Units | None = None
    is_soft_limit: bool = False
    usage_period: Cadence | None = None
    preserve_overage_at_reset: bool = False


class OnOff(Input):
    type: Literal["boolean"]


class Static(Input):
    type: Literal["static"]
    config: Annotated[str, AfterValidator(_check_json_text)]


class RateCard(Input):
    """What is charged and what is granted. `price` left out or null: free."""

    type: Literal["flat_fee", "usage_based"]
    key: Key
    name: Name
    description: Text | None = None
    feature_key: Key | None = None
    billing_cadence: Cadence | None = None
    price: Annotated[FlatPrice | UnitPrice, Field(discriminator="type")] | None = None
    entitlement_template: Annotated[Metered | OnOff | Static, Field(discriminator="type")] | None = None
    metadata: Metadata = Field(default_factory=dict)


class Phase(Input):
    key: Key
    name: Name
    description: Text | None = None
    duration: Annotated[str, AfterValidator(_check_phase_duration)] | None = None
    rate_cards: Annotated[list[RateCard], Field(min_length=1, max_length=100)]
    metadata: Metadata = Field(default_factory=dict)


class RateLimit(Input):
    requests: Annotated[Whole, Field(ge=1, le=1_000_000)]
    per: Annotated[str, AfterValidator(_check_rate_span)]


class ProRating(Input):
    enabled: bool
    mode: Literal["max_consumption_based"] = "max_consumption_based"


class PlanInput(Input):
    key: Key
    name: Name
    description: Text | None = None
    currency: Currency
    billing_cadence: Cadence
    phases: Annotated[list[Phase], Field(min_length=1, max_length=20)]
    pro_rating_config: ProRating | None = None
    rate_limit: RateLimit | None = None
    concurrency_limit: Annotated[Whole, Field(ge=1, le=1_000_000)] | None = None
    metadata: Metadata = Field(default_factory=dict)


class PlanDocument(Output):
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
    metadata: dict[str, Any]
    status: str
    created_at: Instant
    updated_at: Instant
    published_at: Instant | None
    archived_at: Instant | None


def show(plan: Plan) -> PlanDocument:
    return PlanDocument(
        id=plan.id,
        key=plan.key,
        version=plan.version,
        name=plan.name,
        description=plan.description,
        currency=plan.currency,
        billing_cadence=plan.billing_cadence,
        phases=plan.phases,
        pro_rating_config=plan.pro_rating_config,
        rate_limit=plan.rate_limit,
        concurrency_limit=plan.concurrency_limit,
        metadata=plan.metadata_,
        status=plan.status,
        created_at=plan.created_at,
        updated_at=plan.updated_at,
        published_at=plan.published_at,
        archived_at=plan.archived_at,
    )


# --- checking -------------------------------------------------------------------------------------------------------


def faults(document: Any, meter_of: Mapping[str, str | None]) -> list[Fault]:
    """Everything wrong with a plan document. Pure: `meter_of` has the features there are, each with its meter."""
    found = shape_faults(PlanInput, document)
    phases = document.get("phases") if isinstance(document, dict) else None
    if not isinstance(phases, list):
        return found
    found += _repeated("phases", phases)
    for index, phase in enumerate(phases):
        if isinstance(phase, dict):
            found += _phase_faults(index, phase, len(phases))
            found += _card_faults(index, phase, document.get("billingCadence"), meter_of)
    return found


def _phase_faults(index: int, phase: dict[str, Any], phases: int) -> Iterator[Fault]:
    is_last = index == phases - 1
    given = phase.get("duration") is not None
    if is_last and given:
        yield {
            "pointer": pointer("phases", index, "duration"),
            "detail": "the last phase goes on, so it has no duration",
        }
    if not is_last and not given:
        yield {"pointer": pointer("phases", index, "duration"), "detail": "is required on every phase but the last"}
    cards = phase.get("rateCards")
    if isinstance(cards, list):
        yield from _repeated(f"phases/{index}/rateCards", cards)


def _repeated(place: str, items: list[Any]) -> Iterator[Fault]:
    seen: set[str] = set()
    for index, item in enumerate(items):
        key = item.get("key") if isinstance(item, dict) else None
        if not isinstance(key, str):
            continue
        if key in seen:
            yield {"pointer": f"/{place}/{index}/key", "detail": "stands on an earlier one already"}
        seen.add(key)


def _card_faults(
    index: int, phase: dict[str, Any], plan_cadence: Any, meter_of: Mapping[str, str | None]
) -> Iterator[Fault]:
    cards = phase.get("rateCards")
    for number, raw in enumerate(cards if isinstance(cards, list) else ()):
        card = well_shaped(RateCard, raw)
        if card is None:
            continue
        for field, detail in _broken_rules(card, plan_cadence, meter_of):
            yield {"pointer": pointer("phases", index, "rateCards", number, *field), "detail": detail}


def _broken_rules(
    card: RateCard, plan_cadence: Any, meter_of: Mapping[str, str | None]
) -> Iterable[tuple[tuple[str, ...], str]]:
    """(field, what is wrong) for each rule that the card breaks. Source of the rules: OpenMeter's errors.go."""
    template, price = card.entitlement_template, card.price
    feature = card.feature_key
    meter = meter_of.get(feature) if feature is not None else None
    if feature is not None and feature not in meter_of:
        yield ("featureKey",), "there is no such feature"
    elif feature is not None and feature != card.key:
        yield ("key",), "must be the same as featureKey"
    if template is not None and feature is None:
        yield ("featureKey",), "is required beside an entitlementTemplate"
    if isinstance(price, UnitPrice) and card.type == "flat_fee":
        yield ("price", "type"), "a flat_fee takes a flat price; use usage_based to charge by the unit"
    if isinstance(price, UnitPrice) and card.type == "usage_based" and feature is None:
        yield ("featureKey",), "is required beside a price by usage"
    if isinstance(price, UnitPrice) and feature in meter_of and meter is None:
        yield ("featureKey",), "a price by usage needs a feature with a meter"
    if isinstance(template, Metered):
        if feature in meter_of and meter is None:
            yield ("featureKey",), "a metered entitlement needs a feature with a meter"
        if template.issue_after_reset is None and not template.is_soft_limit:
            yield ("entitlementTemplate", "issueAfterReset"), "is required on a hard limit"
    if card.billing_cadence is None and card.type == "usage_based":
        yield ("billingCadence",), "is required on usage_based"
    if card.billing_cadence is not None and not _aligned(card.billing_cadence, plan_cadence):
        yield ("billingCadence",), "must equal the plan's billingCadence, or one divide the other without remainder"


def _aligned(cadence: str, plan_cadence: Any) -> bool:
    if cadence == plan_cadence or plan_cadence not in CADENCES:
        return True
    for length in (_MONTHS, _HOURS):
        if cadence in length and plan_cadence in length:
            shorter, longer = sorted((length[cadence], length[plan_cadence]))
            return longer % shorter == 0
    # Months hold whole days and hours, but no whole number of weeks.
    return {cadence, plan_cadence} & {"PT1H", "P1D"} != set()


# --- from draft to archive ------------------------------------------------------------------------------------------


def create(session: Session, document: dict[str, Any], now: datetime) -> Plan:
    """A draft: version 1 of a new key, or the next of one there is. Raises Invalid with every fault, Conflict."""
    wanted = _require_valid(session, document)
    latest = session.exec(select(Plan).where(Plan.key == wanted.key).order_by(col(Plan.version).desc())).first()
    if latest is not None and latest.status == "draft":
        raise Conflict(
            f"Version {latest.version} of '{wanted.key}' is still a draft ({latest.id}); replace or publish that.",
            code="plan_draft_exists",
        )
    if latest is not None and latest.currency != wanted.currency:
        raise Invalid(
            [{"pointer": "/currency", "detail": "must stay the same over all versions; use another plan key"}]
        )
    # Also the numbers of deleted drafts stay free to take again: nobody ever bought one.
    version = 1 if latest is None else latest.version + 1
    plan = Plan(id=new_id(now), version=version, created_at=now, updated_at=now, **_columns(wanted))
    session.add(plan)
    return plan


def replace(session: Session, plan: Plan, document: dict[str, Any], now: datetime) -> Plan:
    """Put another document in a draft's place. Raises Conflict when it was published, Invalid with every fault."""
    _require_draft(plan)
    wanted = _require_valid(session, document)
    if wanted.key != plan.key:
        raise Invalid([{"pointer": "/key", "detail": "cannot change"}])
    if plan.version > 1 and wanted.currency != plan.currency:
        raise Invalid(
            [{"pointer": "/currency", "detail": "must stay the same over all versions; use another plan key"}]
        )
    for name, value in _columns(wanted).items():
        setattr(plan, name, value)
    plan.updated_at = now
    session.add(plan)
    return plan


def publish(session: Session, plan: Plan, now: datetime) -> Plan:
    """From now on it can be bought and cannot change. Does nothing to an active one. Raises Conflict, Invalid."""
    if plan.status == "archived":
        raise Conflict("An archived plan cannot be published; make a new version of it.", code="plan_archived")
    if plan.status == "draft":
        _require_valid(session, _document(plan))
        plan.published_at = plan.updated_at = now
        session.add(plan)
    return plan


def archive(session: Session, plan: Plan, now: datetime) -> Plan:
    """No new subscriptions; those there are go on. Does nothing to an archived one. Raises Conflict for a draft."""
    if plan.status == "draft":
        raise Conflict("A draft is not archived but deleted.", code="plan_is_draft")
    if plan.archived_at is None:
        plan.archived_at = plan.updated_at = now
        session.add(plan)
    return plan


def delete(session: Session, plan: Plan) -> None:
    """Raises Conflict unless it is a draft."""
    _require_draft(plan)
    session.delete(plan)


def get(session: Session, id_or_key: str) -> Plan:
    """One version by its id; by key the newest active one, or the newest if none is. Raises NotFound."""
    by_id = session.get(Plan, id_or_key)
    if by_id is not None:
        return by_id
    active = newest_active(session, id_or_key)
    plan = active or session.exec(select(Plan).where(Plan.key == id_or_key).order_by(col(Plan.version).desc())).first()
    if plan is None:
        raise NotFound("There is no such plan.", code="plan_not_found")
    return plan


def get_by_id(session: Session, plan_id: str) -> Plan:
    """One version, for whoever is about to change it: a key would leave open which. Raises NotFound."""
    plan = session.get(Plan, plan_id)
    if plan is None:
        raise NotFound("There is no plan version of this id.", code="plan_not_found")
    return plan


def get_version(session: Session, key: str, version: int) -> Plan | None:
    return session.exec(select(Plan).where(Plan.key == key, Plan.version == version)).first()


def newest_active(session: Session, key: str) -> Plan | None:
    """What a new subscription gets."""
    return session.exec(every(key=key, status="active").order_by(None).order_by(col(Plan.version).desc())).first()


def every(*, key: str | None = None, status: str | None = None) -> SelectOfScalar[Plan]:
    rows = select(Plan).order_by(col(Plan.key), col(Plan.version))
    if key is not None:
        rows = rows.where(Plan.key == key)
    if status == "draft":
        rows = rows.where(col(Plan.published_at).is_(None))
    elif status == "active":
        rows = rows.where(col(Plan.published_at).is_not(None), col(Plan.archived_at).is_(None))
    elif status == "archived":
        rows = rows.where(col(Plan.archived_at).is_not(None))
    return rows


def _require_draft(plan: Plan) -> None:
    if plan.status != "draft":
        raise Conflict(
            "A published plan cannot change; make a new version by POST of the same key.", code="plan_published"
        )


def _require_valid(session: Session, document: dict[str, Any]) -> PlanInput:
    features = session.exec(select(Feature).where(col(Feature.archived_at).is_(None)))
    found = faults(document, {feature.key: feature.meter_slug for feature in features})
    if found:
        raise Invalid(found)
    return PlanInput.model_validate(document)


def _columns(wanted: PlanInput) -> dict[str, Any]:
    """The table's columns. JSON parts keep the accepted document's form: what was not said is not stored."""
    said = wanted.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)
    return {
        "key": wanted.key,
        "name": wanted.name,
        "description": wanted.description,
        "currency": wanted.currency,
        "billing_cadence": wanted.billing_cadence,
        "phases": said["phases"],
        "pro_rating_config": said.get("proRatingConfig"),
        "rate_limit": said.get("rateLimit"),
        "concurrency_limit": wanted.concurrency_limit,
        "metadata_": wanted.metadata,
    }


def _document(plan: Plan) -> dict[str, Any]:
    document = {
        "key": plan.key,
        "name": plan.name,
        "description": plan.description,
        "currency": plan.currency,
        "billingCadence": plan.billing_cadence,
        "phases": plan.phases,
        "proRatingConfig": plan.pro_rating_config,
        "rateLimit": plan.rate_limit,
        "concurrencyLimit": plan.concurrency_limit,
        "metadata": plan.metadata_,
    }
    return {name: value for name, value in document.items() if value is not None}

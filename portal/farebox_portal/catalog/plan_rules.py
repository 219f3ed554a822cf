"""What makes a plan sound. Pure: a document and the features there are in, every fault with its place out.

Three readers look at a document, and what one has said of a place no other repeats:

    the shape     fields and types, `plan_document`
    the money     prices, discounts, commitments, as the invoice will read them: `pricing.documents`
    the sense     keys that are unique, cadences that align, features that there are and meters that can be sold

The rules are OpenMeter's (openmeter/productcatalog/errors.go). The check runs again at publication, for a feature that
the plan names may have been archived meanwhile.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from pydantic import ValidationError

from farebox_portal.catalog.plan_document import (
    PHASES_MAX,
    RATE_CARDS_MAX,
    Metered,
    PlanInput,
    RateCard,
    without_ours,
)
from farebox_portal.catalog.plan_metadata import metadata_faults
from farebox_portal.checking import fault_of, well_shaped
from farebox_portal.errors import Fault, pointer
from farebox_portal.pricing.documents import read_rate_card
from farebox_portal.pricing.flat import Flat
from farebox_portal.pricing.period import CADENCES, aligned

ADDITIVE = ("SUM", "COUNT")
"""Aggregations whose quantities add up over requests and hours, as quotas and invoices add them up."""

FAULTS_MAX = 200
POINTER_LENGTH_MAX = 512
"""A document of a megabyte can have a hundred thousand faults, or a name as long; neither is worth repeating."""


@dataclass(frozen=True, slots=True)
class FeatureFacts:
    """What of a feature a plan depends on. `aggregation`: its meter's; None when it has no meter."""

    aggregation: str | None = None
    is_filtered: bool = False


Features = Mapping[str, FeatureFacts]
"""By key, those that are not archived."""


def faults(document: Any, features: Features) -> list[Fault]:
    """Everything wrong with a plan document: one fault for each place, and FAULTS_MAX of them at most."""
    document = without_ours(document)
    return each_place_once(chain(_shape_faults(document), _further_faults(document, features)))


def each_place_once(faults: Iterable[Fault]) -> list[Fault]:
    """The first fault of each place, and FAULTS_MAX of them at most."""
    found: dict[str, Fault] = {}
    for fault in faults:
        if len(found) == FAULTS_MAX:
            return [*found.values(), {"pointer": "", "detail": f"has more faults; these are the first {FAULTS_MAX}"}]
        fault = _short(fault)
        found.setdefault(fault["pointer"], fault)
    return list(found.values())


def _short(fault: Fault) -> Fault:
    """The fault, or one of what it lies in where the caller chose a name of great length."""
    place, detail = fault["pointer"], fault["detail"]
    if len(place) <= POINTER_LENGTH_MAX:
        return fault
    while len(place) > POINTER_LENGTH_MAX:
        place = place.rpartition("/")[0]
    return {"pointer": place, "detail": f"a part of it with a very long name {detail}"}


def _shape_faults(document: Any) -> Iterator[Fault]:
    try:
        PlanInput.model_validate(document)
    except ValidationError as error:
        for fault in error.errors(include_url=False, include_input=False):
            yield fault_of(fault, document)


def _further_faults(document: Any, features: Features) -> Iterator[Fault]:
    if not isinstance(document, dict):
        return
    yield from metadata_faults(document.get("metadata"))
    phases = _list(document, "phases", PHASES_MAX)
    yield from _repeated("/phases", phases)
    for index, phase in enumerate(phases):
        if isinstance(phase, dict):
            yield from _duration_faults(index, phase, is_last=index == len(phases) - 1)
            place = pointer("phases", index, "rateCards")
            yield from cards_faults(phase, place, document.get("billingCadence"), features)


def cards_faults(part: dict[str, Any], place: str, plan_cadence: Any, features: Features) -> Iterator[Fault]:
    """Of `rateCards` in a part of a document, which stand at `place`. `plan_cadence` None: it is not known yet."""
    cards = _list(part, "rateCards", RATE_CARDS_MAX)
    yield from _repeated(place, cards)
    for number, card in enumerate(cards):
        yield from _card_faults(card, place + pointer(number), plan_cadence, features)


def _list(part: dict[str, Any], name: str, longest: int) -> list[Any]:
    """The items; none of a list that is too long: that is its fault, and no time is spent on what is in it."""
    items = part.get(name)
    return items if isinstance(items, list) and len(items) <= longest else []


def _duration_faults(index: int, phase: dict[str, Any], *, is_last: bool) -> Iterator[Fault]:
    given = phase.get("duration") is not None
    place = pointer("phases", index, "duration")
    if is_last and given:
        yield {"pointer": place, "detail": "the last phase goes on, so it has no duration"}
    if not is_last and not given:
        yield {"pointer": place, "detail": "is required on every phase but the last"}


def _repeated(place: str, items: list[Any]) -> Iterator[Fault]:
    seen: set[str] = set()
    for index, item in enumerate(items):
        key = item.get("key") if isinstance(item, dict) else None
        if not isinstance(key, str):
            continue
        if key in seen:
            yield {"pointer": f"{place}/{index}/key", "detail": "stands on an earlier one already"}
        seen.add(key)


def _card_faults(raw: Any, place: str, plan_cadence: Any, features: Features) -> Iterator[Fault]:
    priced, money_faults = read_rate_card(raw, place)
    for where, detail in money_faults:
        yield {"pointer": where, "detail": detail}
    card = well_shaped(RateCard, raw)
    if card is None:
        return
    is_metered_price = priced is not None and priced.price is not None and not isinstance(priced.price, Flat)
    rules = (
        *_feature_faults(card, features),
        *_meter_faults(card, features, is_metered_price=is_metered_price),
        *_cadence_faults(card, plan_cadence),
    )
    for field, detail in rules:
        yield {"pointer": place + pointer(*field), "detail": detail}


_Broken = Iterator[tuple[tuple[str, ...], str]]
"""(field, what is wrong) for each rule that a card breaks."""


def _feature_faults(card: RateCard, features: Features) -> _Broken:
    if card.feature_key is not None and card.feature_key not in features:
        yield ("featureKey",), "there is no such feature"
    elif card.feature_key is not None and card.feature_key != card.key:
        yield ("key",), "must be the same as featureKey"
    if card.entitlement_template is not None and card.feature_key is None:
        yield ("featureKey",), "is required beside an entitlementTemplate"
    template = card.entitlement_template
    if isinstance(template, Metered) and template.issue_after_reset is None and not template.is_soft_limit:
        yield ("entitlementTemplate", "issueAfterReset"), "is required on a hard limit"


def _meter_faults(card: RateCard, features: Features, *, is_metered_price: bool) -> _Broken:
    is_metered = isinstance(card.entitlement_template, Metered)
    feature, template = features.get(card.feature_key or ""), card.entitlement_template
    if feature is None or not (is_metered or is_metered_price):
        return
    aggregation = feature.aggregation
    if aggregation is None:
        what = "a metered entitlement" if is_metered else "a price by usage"
        yield ("featureKey",), f"{what} needs a feature with a meter"
    elif aggregation not in ADDITIVE:
        what = f"{aggregation} of a period is not the sum of its requests"
        yield ("featureKey",), f"{what}: only {' and '.join(ADDITIVE)} can be sold"
    if feature.is_filtered and isinstance(template, Metered) and not template.is_soft_limit:
        detail = "must be true: the gateway limits whole meters, and this feature is a slice of one"
        yield ("entitlementTemplate", "isSoftLimit"), detail


def _cadence_faults(card: RateCard, plan_cadence: Any) -> _Broken:
    if card.billing_cadence is None or plan_cadence not in CADENCES:
        return
    if not aligned(card.billing_cadence, plan_cadence):
        yield ("billingCadence",), "must equal the plan's billingCadence, or one divide the other without remainder"

"""What makes an add-on sound, and what lets it stand beside a plan's own rate cards. Pure.

An add-on's rate cards obey the rules of a plan's; they are read by the same code. Beside a plan, card by card of one
feature, from the phase on in which the add-on may be bought:

    boolean + boolean    granted once
    metered + metered    limits add up, if they are of the same usage period
    static + static      a fault, unless both say the same
    anything else        a fault: a feature is of one kind
    two prices by usage  a fault: the same usage would be paid for twice
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from farebox_portal.catalog.addon_document import AddonInput
from farebox_portal.catalog.plan_document import without_ours
from farebox_portal.catalog.plan_rules import Features, cards_faults, each_place_once
from farebox_portal.catalog.tables import Addon, Plan
from farebox_portal.checking import shape_faults
from farebox_portal.errors import Fault
from farebox_portal.pricing.documents import read_rate_card
from farebox_portal.pricing.flat import Flat
from farebox_portal.pricing.period import aligned


def faults(document: Any, features: Features) -> list[Fault]:
    """Everything wrong with an add-on document: one fault for each place."""
    document = without_ours(document)
    further = cards_faults(document, "/rateCards", None, features) if isinstance(document, dict) else iter(())
    return each_place_once(chain(shape_faults(AddonInput, document), further))


def offer_faults(plan: Plan, addon: Addon, from_phase: str, max_quantity: int | None) -> Iterator[Fault]:
    """What keeps the plan from offering the add-on, as places in an `OfferInput`."""
    if addon.currency != plan.currency:
        yield {"pointer": "/addon", "detail": f"it costs {addon.currency}, the plan {plan.currency}"}
    if addon.instance_type == "single" and max_quantity is not None:
        yield {"pointer": "/maxQuantity", "detail": "cannot be set: of a single add-on there is one at most"}
    cadences = sorted({card["billingCadence"] for card in addon.rate_cards if card.get("billingCadence")})
    for cadence in cadences:
        if not aligned(cadence, plan.billing_cadence):
            detail = f"its rate cards are billed by {cadence}, which does not align with the plan's"
            yield {"pointer": "/addon", "detail": f"{detail} {plan.billing_cadence}"}
    keys = [phase["key"] for phase in plan.phases]
    if from_phase not in keys:
        yield {"pointer": "/fromPlanPhase", "detail": f"the plan's phases are {', '.join(keys)}"}
        return
    for phase in plan.phases[keys.index(from_phase) :]:
        for clash in clashes(phase["rateCards"], plan.billing_cadence, addon.rate_cards, plan.billing_cadence):
            yield {"pointer": "/addon", "detail": f"in the phase '{phase['key']}' {clash}"}


Cards = Sequence[Mapping[str, Any]]


def clashes(ours: Cards, our_cadence: str, theirs: Cards, their_cadence: str) -> Iterator[str]:
    """Why two lists of accepted cards cannot be in force at once. The cadences: of allowances that say none."""
    terms = {one.feature_key: one for one in _each_term(ours, our_cadence)}
    for other in _each_term(theirs, their_cadence):
        one = terms.get(other.feature_key)
        if one is not None:
            yield from _clash(one, other)


@dataclass(frozen=True, slots=True)
class _Term:
    """What a card says of a feature. `kind` None: nothing is granted, it only charges."""

    feature_key: str
    kind: str | None
    config: Any
    usage_period: str
    is_priced_by_usage: bool


def _each_term(cards: Cards, cadence: str) -> Iterator[_Term]:
    for card in cards:
        if card.get("featureKey") is None:
            continue
        template = card.get("entitlementTemplate") or {}
        kind = template.get("type") or ("metered" if card["type"] == "usage_based" else None)
        period = template.get("usagePeriod") or card.get("billingCadence") or cadence
        price = None if (read := read_rate_card(card)[0]) is None else read.price
        is_priced_by_usage = price is not None and not isinstance(price, Flat)
        yield _Term(card["featureKey"], kind, template.get("config"), period, is_priced_by_usage)


def _clash(one: _Term, other: _Term) -> Iterator[str]:
    key = one.feature_key
    if one.is_priced_by_usage and other.is_priced_by_usage:
        yield f"usage of '{key}' has a price already: it would be paid for twice"
    elif one.kind is None or other.kind is None:
        return
    elif one.kind != other.kind:
        yield f"'{key}' is {one.kind} already, and cannot be {other.kind} too"
    elif one.kind == "static" and one.config != other.config:
        yield f"'{key}' has another value already"
    elif one.kind == "metered" and one.usage_period != other.usage_period:
        yield f"'{key}' is allowed by {one.usage_period}, and an allowance by {other.usage_period} would not add up"

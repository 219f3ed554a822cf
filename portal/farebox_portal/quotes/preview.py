"""What made-up usage would cost: by one rate card, or by all of a plan in one of its billing periods.

Of a plan, each fee counts as often as it begins within one billing period that starts now, and usage as that of one
period of its card: what a price list's calculator says to whoever buys the plan today. The lines are the invoice's.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field
from sqlmodel import Session

from farebox_portal.catalog import addon_document, addons, plan_document, plans
from farebox_portal.catalog.addon_document import AddonChoice
from farebox_portal.catalog.tables import Feature, Plan
from farebox_portal.checking import DocumentedAs
from farebox_portal.documents import Input, Key, Whole
from farebox_portal.errors import Fault, Invalid, NotFound, pointer
from farebox_portal.invoicing.charges import by_usage, cards
from farebox_portal.pricing import money
from farebox_portal.pricing.card import RateCard
from farebox_portal.pricing.line import Line
from farebox_portal.pricing.part import ZERO
from farebox_portal.pricing.period import boundary
from farebox_portal.pricing.schedule import Span, service_periods
from farebox_portal.quotes.card import rate_whole, read_card
from farebox_portal.quotes.quote import QuoteDocument, quote
from farebox_portal.usage.access import read_features

USAGE_KEYS_MAX = 100
ADDONS_MAX = 20
_QUANTITY = re.compile(r"[0-9]{1,30}(\.[0-9]{1,15})?", re.ASCII)


def read_quantity(said: Any) -> Decimal:
    """A text such as "15000" or "20.5", or a whole number. Raises ValueError."""
    if isinstance(said, int) and not isinstance(said, bool):
        said = str(said)
    if not isinstance(said, str) or not _QUANTITY.fullmatch(said):
        raise ValueError('must be a quantity of 0 or more, such as "15000" or "20.5"')
    return Decimal(said)


Quantity = Annotated[Decimal, BeforeValidator(read_quantity)]
Currency = Annotated[str, AfterValidator(plan_document.check_currency)]


class AddonWanted(Input):
    addon: AddonChoice
    quantity: addon_document.Quantity = 1


class PreviewInput(Input):
    """Either a rate card or the key of a plan; beside a plan, add-ons, whether it offers them or not.

    `usage`: by the slugs of meters or the keys of features; one number where there is only one thing to charge for.
    `phase`: left out, the plan's first. `planVersion`: left out, the one on sale, or the newest.
    """

    currency: Currency | None = None
    rate_card: Annotated[Any, DocumentedAs(plan_document.RateCard)] = None
    plan_key: Key | None = None
    plan_version: Annotated[Whole, Field(ge=1, le=1_000_000)] | None = None
    phase: Key | None = None
    addons: Annotated[list[AddonWanted], Field(max_length=ADDONS_MAX)] = Field(default_factory=list)
    usage: Quantity | Annotated[dict[str, Quantity], Field(max_length=USAGE_KEYS_MAX)] = ZERO


def preview(session: Session, wanted: PreviewInput, now: datetime) -> QuoteDocument:
    """Raises Invalid with every fault, NotFound for a plan that is not there. Writes nothing."""
    if (wanted.rate_card is None) == (wanted.plan_key is None):
        raise Invalid([{"pointer": "", "detail": "must have either rateCard or planKey"}])
    if wanted.plan_key is None:
        return _of_card(session, wanted)
    plan = plans.get(session, wanted.plan_key, wanted.plan_version)
    if wanted.currency not in (None, plan.currency):
        raise Invalid([{"pointer": "/currency", "detail": f"the plan costs {plan.currency}"}])
    of = money.currency(plan.currency)
    wares = [_Ware(_phase(plan, wanted.phase)["rateCards"]), *_addons(session, wanted, plan)]
    return quote(list(_lines(plan, wares, wanted.usage, read_features(session), now)), of)


def _of_card(session: Session, wanted: PreviewInput) -> QuoteDocument:
    faults: list[Fault] = [
        {"pointer": pointer(name), "detail": "needs a planKey"}
        for name, said in (("planVersion", wanted.plan_version), ("phase", wanted.phase), ("addons", wanted.addons))
        if said
    ]
    if faults:
        raise Invalid(faults)
    card = read_card(wanted.rate_card, "/rateCard")
    of = money.currency(wanted.currency or "USD")
    used = _used_by([card], wanted.usage, read_features(session))
    return quote(rate_whole(card, used.get(card.feature_key or "", ZERO), of), of)


def _phase(plan: Plan, key: str | None) -> Mapping[str, Any]:
    for phase in plan.phases:
        if key in (None, phase["key"]):
            return phase
    raise Invalid([{"pointer": "/phase", "detail": "the plan has no such phase"}])


@dataclass(frozen=True)
class _Ware:
    """Rate cards as documents, and how often their fees are paid."""

    documents: Sequence[Mapping[str, Any]]
    quantity: int = 1


def _addons(session: Session, wanted: PreviewInput, plan: Plan) -> Iterator[_Ware]:
    for place, one in enumerate(wanted.addons):
        try:
            addon = addons.get(session, one.addon.key, one.addon.version)
        except NotFound:
            raise Invalid(
                [{"pointer": pointer("addons", place, "addon"), "detail": "there is no such add-on"}]
            ) from None
        if addon.currency != plan.currency:
            detail = f"it costs {addon.currency}, the plan {plan.currency}"
            raise Invalid([{"pointer": pointer("addons", place, "addon"), "detail": detail}])
        yield _Ware(addon.rate_cards, one.quantity)


def _lines(
    plan: Plan,
    wares: Sequence[_Ware],
    usage: Decimal | dict[str, Decimal],
    features: Mapping[str, Feature],
    now: datetime,
) -> Iterator[Line]:
    of = money.currency(plan.currency)
    priced = [(card, ware.quantity) for ware in wares for card in cards({"rateCards": ware.documents})]
    granted = [one["featureKey"] for ware in wares for one in ware.documents if one.get("featureKey")]
    used = _used_by([card for card, _ in priced], usage, features, granted)
    end = boundary(now, plan.billing_cadence, 1)
    for card, quantity in priced:
        if by_usage(card):
            yield from rate_whole(card, used.get(card.feature_key or "", ZERO), of)
            continue
        times = 1
        if card.billing_cadence is not None:
            times = len(list(service_periods(now, card.billing_cadence, Span(now), end)))
        for _ in range(times):
            yield from rate_whole(card, ZERO, of, quantity)


def _used_by(
    priced: list[RateCard],
    usage: Decimal | dict[str, Decimal],
    features: Mapping[str, Feature],
    granted: Sequence[str] = (),
) -> dict[str, Decimal]:
    """By feature; `granted`: others, that cost nothing. Raises Invalid for usage that nobody can tell what it is of."""
    charged = [card.feature_key for card in priced if by_usage(card) and card.feature_key is not None]
    if isinstance(usage, Decimal):
        if len(charged) > 1 and usage:
            detail = f"must say how much of which: {', '.join(charged)}"
            raise Invalid([{"pointer": "/usage", "detail": detail}])
        return dict.fromkeys(charged, usage)
    names = {key: _names(key, features) for key in [*charged, *granted]}
    faults: list[Fault] = [
        {"pointer": pointer("usage", name), "detail": _unknown(name, names, features)}
        for name in usage
        if not any(name in known for known in names.values())
    ]
    if faults:
        raise Invalid(faults)
    return {key: next((usage[name] for name in known if name in usage), ZERO) for key, known in names.items()}


def _names(key: str, features: Mapping[str, Feature]) -> list[str]:
    """The feature's key, and its meter unless it is only a slice of that."""
    feature = features.get(key)
    return [key] if feature is None or feature.meter_slug is None or feature.filters else [key, feature.meter_slug]


def _unknown(name: str, names: Mapping[str, list[str]], features: Mapping[str, Feature]) -> str:
    slices = [key for key in names if key in features and features[key].meter_slug == name]
    if slices:
        return f"is charged in slices; say how much of each feature: {', '.join(slices)}"
    return f"is not charged; known: {', '.join(sorted({one for known in names.values() for one in known}))}"

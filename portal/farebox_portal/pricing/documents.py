"""Rate cards as OpenMeter and Zuplo write them, read into records; every fault is named with its place.

Both products spell some things in more than one way, and what was written for them should be taken unchanged:

    amounts       "0.05" or 0.05; those of a tier also {"type": "unit", "amount": "0.05"}
    tiered        {"type": "tiered", "mode": "graduated"} or {"type": "graduated"}; likewise volume
    package size  quantityPerPackage or quantityPerUnit
    commitments   minimumAmount and maximumAmount in the price, or both in spendCommitments of the price or of the card
    discounts     {"percentage": {"percentage": 10}, "usage": {"quantity": "100"}} or {"percentage": 10, "usage": "100"}

A field we do not know is a fault inside everything that decides money; a mistyped minimum must not pass for none.
"""

import re
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal
from typing import Any, TypeVar

from farebox_portal.pricing.card import RateCard
from farebox_portal.pricing.conversion import Conversion
from farebox_portal.pricing.dynamic import Dynamic
from farebox_portal.pricing.flat import Flat
from farebox_portal.pricing.graduated import Graduated
from farebox_portal.pricing.package import Package
from farebox_portal.pricing.part import ONE, ZERO
from farebox_portal.pricing.period import CADENCES
from farebox_portal.pricing.price import Price
from farebox_portal.pricing.tiers import Tier
from farebox_portal.pricing.unit import Unit
from farebox_portal.pricing.volume import Volume

Fault = tuple[str, str]
"""(JSON pointer, what is wrong there)"""

_T = TypeVar("_T")
_COMMITMENTS = ("minimumAmount", "maximumAmount")
_DIGITS = 15  # before the point, and after it
TIERS_MAX = 1000
# Decimal() takes more than JSON's numbers: "1_000", " 5", "NaN" and every script's digits.
_DECIMAL = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,4})?")
_ELSEWHERE = ("description", "entitlementTemplate", "taxConfig", "metadata")
_MONEY = ("price", "discounts", "spendCommitments", "commitments", "unitConfig")
_CARD = ("type", "key", "name", "featureKey", "billingCadence", *_MONEY, *_ELSEWHERE)
_MISSING = object()


def read_rate_card(document: object, pointer: str = "") -> tuple[RateCard | None, list[Fault]]:
    """(the card, no faults) or (None, all faults). `pointer` is where the document itself stands.

    What does not concern money (entitlementTemplate, taxConfig, metadata, description) is left to others.
    """
    place = _Place(document, pointer, [])
    card = _card(place) if place.is_object(_CARD) else None
    return (None, place.faults) if place.faults else (card, [])


def read_price(document: object, pointer: str = "") -> tuple[Price | None, list[Fault]]:
    """(the price, None for a free one, no faults) or (None, all faults)."""
    place = _Place(document, pointer, [])
    price = _price(place)
    return (None, place.faults) if place.faults else (price, [])


class _Place:
    """A value in the document, where it stands, and the one list that all faults go to."""

    def __init__(self, value: Any, pointer: str, faults: list[Fault]) -> None:
        self.value = value
        self.pointer = pointer
        self.faults = faults

    def fault(self, detail: str) -> None:
        self.faults.append((self.pointer, detail))

    def at(self, step: str | int) -> "_Place":
        """A field or an item; the value is _MISSING where there is none, or null."""
        pointer = f"{self.pointer}/{str(step).replace('~', '~0').replace('/', '~1')}"
        if isinstance(step, int):
            return _Place(self.value[step], pointer, self.faults)
        value = self.value.get(step) if isinstance(self.value, Mapping) else None
        return _Place(_MISSING if value is None else value, pointer, self.faults)

    @property
    def is_there(self) -> bool:
        return self.value is not _MISSING and self.value is not None

    def is_object(self, known: Collection[str]) -> bool:
        """Whether it is one; fields beyond `known` are faults."""
        if not isinstance(self.value, Mapping):
            self.fault("must be an object")
            return False
        for name in self.value:
            if name not in known:
                self.at(str(name)).fault("is not a field we know")
        return True

    def text(self) -> str:
        if not isinstance(self.value, str) or not self.value:
            self.fault("is required" if not self.is_there else "must be a text")
            return ""
        return self.value

    def one_of(self, allowed: Collection[str], default: str = "") -> str:
        if not self.is_there and default:
            return default
        if self.value not in allowed:
            self.fault(f"must be one of {', '.join(allowed)}")
            return default
        return str(self.value)

    def number(self, default: Decimal | None = None) -> Decimal:
        """0 or more, exactly as written."""
        if not self.is_there and default is not None:
            return default
        try:
            return _number(self.value)
        except ValueError as error:
            self.fault("is required" if not self.is_there else str(error))
            return ONE

    def optional_number(self) -> Decimal | None:
        return self.number() if self.is_there else None

    def build(self, make: Callable[[], _T]) -> _T | None:
        """What `make` returns; what the record itself says no to becomes a fault of this place."""
        try:
            return make()
        except ValueError as error:
            self.fault(str(error))
            return None


def _number(value: object) -> Decimal:
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        found = Decimal(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        found = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    else:
        raise ValueError('must be a decimal such as "49.00"')
    if not found.is_finite() or found < 0:
        raise ValueError("must be 0 or more")
    exponent = found.as_tuple().exponent
    if found.adjusted() >= _DIGITS or not isinstance(exponent, int) or not -_DIGITS <= exponent <= _DIGITS:
        raise ValueError(f"must have at most {_DIGITS} digits before and {_DIGITS} after the point")
    return abs(found)  # "-0" is 0


def _card(card: _Place) -> RateCard | None:
    kind = card.at("type").one_of(("flat_fee", "usage_based"))
    price = _price(card.at("price"))
    feature_key = card.at("featureKey").text() if card.at("featureKey").is_there else None
    cadence = card.at("billingCadence").one_of(CADENCES) if card.at("billingCadence").is_there else None
    minimum, maximum = _commitments(card)
    percentage, free_units = _discounts(card.at("discounts"))
    conversion = _conversion(card.at("unitConfig"))
    by_usage = price is not None and not isinstance(price, Flat)
    if kind == "flat_fee" and by_usage:
        card.at("price").at("type").fault("a flat_fee takes a flat price; use usage_based to charge by the unit")
    if kind == "usage_based" and by_usage and feature_key is None:
        card.at("featureKey").fault("is required beside a price by usage")
    if kind == "usage_based" and cadence is None and not card.at("billingCadence").is_there:
        card.at("billingCadence").fault("is required on usage_based")
    if not by_usage:
        _refuse_usage_terms(card, minimum, maximum)
    if minimum is not None and maximum is not None and minimum > maximum:
        card.fault("the minimum spend exceeds the maximum")
    key, name = card.at("key").text(), card.at("name").text()
    if card.faults:
        return None
    return RateCard(key, name, price, feature_key, cadence, conversion, free_units, percentage, minimum, maximum)


def _refuse_usage_terms(card: _Place, minimum: Decimal | None, maximum: Decimal | None) -> None:
    """What bounds or converts usage says nothing where usage is not charged: it would be a promise not kept."""
    if card.at("discounts").at("usage").is_there:
        card.at("discounts").at("usage").fault("needs a price by usage")
    if card.at("unitConfig").is_there:
        card.at("unitConfig").fault("needs a price by usage")
    if minimum is not None or maximum is not None:
        card.fault("minimum and maximum spend need a price by usage")


def _commitments(card: _Place) -> tuple[Decimal | None, Decimal | None]:
    places = [card.at("price")]
    for parent in (card, card.at("price")):
        for name in ("spendCommitments", "commitments"):
            if parent.at(name).is_there and parent.at(name).is_object(_COMMITMENTS):
                places.append(parent.at(name))
    found: list[Decimal | None] = []
    for name in _COMMITMENTS:
        said = [place.at(name) for place in places if place.at(name).is_there]
        amounts = [place.number() for place in said]
        if len(set(amounts)) > 1:
            said[-1].fault("is said twice, and not the same")
        found.append(amounts[-1] if amounts else None)
    return found[0], found[1]


def _discounts(discounts: _Place) -> tuple[Decimal, Decimal]:
    if not discounts.is_there or not discounts.is_object(("percentage", "usage")):
        return ZERO, ZERO
    percentage = _wrapped(discounts.at("percentage"), "percentage")
    free_units = _wrapped(discounts.at("usage"), "quantity")
    value = percentage.number(ZERO)
    if value > 100:
        percentage.fault("must lie between 0 and 100")
    return value, free_units.number(ZERO)


def _wrapped(place: _Place, name: str, *also: str) -> _Place:
    """The number itself, or the object that holds it under `name`."""
    if isinstance(place.value, Mapping):
        place.is_object((name, *also))
        if not place.at(name).is_there:
            place.at(name).fault("is required")
            return _Place(_MISSING, place.pointer, place.faults)
        return place.at(name)
    return place


def _conversion(config: _Place) -> Conversion | None:
    fields = ("operation", "conversionFactor", "rounding", "precision", "displayUnit")
    if not config.is_there or not config.is_object(fields):
        return None
    operation = config.at("operation").one_of(("divide", "multiply"))
    factor = config.at("conversionFactor").number()
    rounding = config.at("rounding").one_of(("none", "ceiling", "floor", "half_up"), "none")
    precision = config.at("precision").number(ZERO)
    if config.at("displayUnit").is_there:
        config.at("displayUnit").text()
    if precision != int(precision):
        config.at("precision").fault("must be a whole number")
    return config.build(lambda: Conversion(operation, factor, rounding, int(precision)))  # type: ignore[arg-type]


def _price(price: _Place) -> Price | None:
    if not price.is_there:
        return None
    if not isinstance(price.value, Mapping):
        price.fault("must be an object or null")
        return None
    kind = price.at("type").one_of((*_MODELS, "tiered", "free"))
    if kind == "tiered":
        kind = price.at("mode").one_of(("graduated", "volume"))
    if kind not in _MODELS:
        return None
    read, fields = _MODELS[kind]
    bounds = () if kind == "flat" else (*_COMMITMENTS, "spendCommitments", "commitments")
    price.is_object(("type", *fields, *bounds))
    return read(price)


def _flat(price: _Place) -> Flat:
    amount = price.at("amount").number()
    term = price.at("paymentTerm").one_of(("in_advance", "in_arrears"), "in_advance")
    return Flat(amount, term)  # type: ignore[arg-type]


def _unit(price: _Place) -> Unit:
    return Unit(price.at("amount").number())


def _package(price: _Place) -> Package | None:
    named = [price.at(name) for name in ("quantityPerPackage", "quantityPerUnit") if price.at(name).is_there]
    size = named[0] if named else price.at("quantityPerPackage")
    amount, quantity = price.at("amount").number(), size.number()
    return size.build(lambda: Package(amount, quantity))


def _dynamic(price: _Place) -> Dynamic:
    return Dynamic(price.at("multiplier").number(ONE))


def _graduated(price: _Place) -> Graduated | None:
    tiers = _tiers(price.at("tiers"))
    return None if tiers is None else Graduated(tiers)


def _volume(price: _Place) -> Volume | None:
    tiers = _tiers(price.at("tiers"))
    return None if tiers is None else Volume(tiers)


_TIERED = ("mode", "tiers")
_MODELS: dict[str, tuple[Callable[[_Place], Price | None], tuple[str, ...]]] = {
    "flat": (_flat, ("amount", "paymentTerm")),
    "unit": (_unit, ("amount",)),
    "graduated": (_graduated, _TIERED),
    "volume": (_volume, _TIERED),
    "package": (_package, ("amount", "quantityPerPackage", "quantityPerUnit")),
    "dynamic": (_dynamic, ("multiplier",)),
}


def _tiers(tiers: _Place) -> tuple[Tier, ...] | None:
    """In order of their bounds, whatever the order they were written in. None if there is a fault among them."""
    if not isinstance(tiers.value, list) or not tiers.value:
        tiers.fault("must be a list of at least one tier")
        return None
    if len(tiers.value) > TIERS_MAX:
        tiers.fault(f"must be a list of at most {TIERS_MAX} tiers")
        return None
    faults_before = len(tiers.faults)
    read = [(_tier(tiers.at(number)), tiers.at(number)) for number in range(len(tiers.value))]
    bounds = [tier.up_to for tier, _ in read]
    if bounds.count(None) != 1:
        tiers.fault("exactly one tier must be open, without upToAmount")
    taken: set[Decimal] = set()
    for tier, place in read:
        if tier.up_to is not None and tier.up_to in taken:
            place.at("upToAmount").fault("is the bound of another tier")
        taken |= set() if tier.up_to is None else {tier.up_to}
    if len(tiers.faults) > faults_before:
        return None
    return tuple(sorted((tier for tier, _ in read), key=lambda tier: (tier.up_to is None, tier.up_to or ZERO)))


def _tier(place: _Place) -> Tier:
    if not place.is_object(("upToAmount", "flatPrice", "unitPrice")):
        return Tier(None)
    up_to = place.at("upToAmount").optional_number()
    if up_to is not None and up_to <= 0:
        place.at("upToAmount").fault("must be above 0")
    if not {"flatPrice", "unitPrice"} & set(place.value):
        place.fault("needs a flatPrice or a unitPrice")
    flat, unit = (_tier_price(place.at(f"{kind}Price"), kind) for kind in ("flat", "unit"))
    return Tier(up_to, flat, unit)


def _tier_price(place: _Place, kind: str) -> Decimal:
    amount = _wrapped(place, "amount", "type")
    if isinstance(place.value, Mapping):
        place.at("type").one_of((kind,), kind)
    return amount.number(ZERO)

"""A price of Stripe's as a rate card here, or why it is none. Pure.

    licensed, per unit or by tiers     a flat fee in advance, of what its quantity costs
    metered, per unit                  a price by unit
    metered, tiers                     the same tiers, graduated or volume
    metered, transform_quantity        rounded up: packages; rounded down: another unit

Amounts are divided by what Stripe multiplies them by, which is not ISO's exponent for every currency.
"""

import re
from decimal import Decimal
from hashlib import sha256
from typing import Any

from farebox_portal.errors import Invalid
from farebox_portal.pricing.money import EXACT, Currency, currency, decimal_text
from farebox_portal.quotes.card import rate_whole, read_card
from farebox_portal.quotes.quote import plain
from farebox_portal.stripe_import.records import Price, Product

_CADENCES = {
    ("day", 1): "P1D", ("day", 7): "P1W", ("day", 14): "P2W", ("day", 28): "P4W", ("week", 1): "P1W",
    ("week", 2): "P2W", ("week", 4): "P4W", ("month", 1): "P1M", ("month", 3): "P3M", ("month", 6): "P6M",
    ("month", 12): "P1Y", ("year", 1): "P1Y",
}  # fmt: skip
_PAY_AS_YOU_GO = {"type": "metered", "isSoftLimit": True, "issueAfterReset": 0}


class Unmapped(Exception):
    """Why there is nothing here that would be the same."""


def cadence_of(price: Price) -> str:
    """Raises Unmapped."""
    if price.interval is None:
        raise Unmapped("it is charged once, and not by a subscription")
    found = _CADENCES.get((price.interval, price.interval_count))
    if found is None:
        raise Unmapped(f"it is charged every {price.interval_count} {price.interval}s, which no plan here is")
    return found


def key_of(id_: str) -> str:
    """A key from an id, the same each time, and another one for each: lower case where that loses nothing."""
    plain_id = re.sub(r"[^a-z0-9]+", "_", id_.lower()).strip("_")
    if plain_id == id_ and len(plain_id) <= 64:
        return plain_id
    return f"{plain_id[:55].strip('_') or 'x'}_{sha256(id_.encode()).hexdigest()[:8]}"


def card_of(price: Price, product: Product, quantity: int, meter_slug: str | None) -> dict[str, Any]:
    """`quantity`: of a licensed price. `meter_slug`: of a metered one. Raises Unmapped."""
    if price.obstacles:
        raise Unmapped("; ".join(price.obstacles))
    try:
        of = currency(price.currency)
    except ValueError as error:
        raise Unmapped(str(error)) from None
    if of.stripe_exponent is None:
        raise Unmapped(f"Stripe does not charge {of.code}")
    card: dict[str, Any] = {"name": price.name or product.name, "billingCadence": cadence_of(price)}
    tax: dict[str, Any] = {}
    if price.tax_behavior in ("inclusive", "exclusive"):
        tax["behavior"] = price.tax_behavior
    if product.tax_code is not None and re.fullmatch(r"txcd_[0-9]{8}", product.tax_code):
        tax["stripe"] = {"code": product.tax_code}
    if tax:
        card["taxConfig"] = tax
    if not price.is_metered:
        amount = _fee(price, of, quantity)
        price_document = {"type": "flat", "amount": amount, "paymentTerm": "in_advance"}
        return card | {"type": "flat_fee", "key": key_of(price.id), "price": price_document}
    if meter_slug is None:
        raise Unmapped(f"its meter {price.meter} is not among those that Stripe has told of")
    card |= {"type": "usage_based", "key": meter_slug, "featureKey": meter_slug}
    return card | _usage_price(price, of) | {"entitlementTemplate": dict(_PAY_AS_YOU_GO)}


def _fee(price: Price, of: Currency, quantity: int) -> str:
    """What so many cost for a period, by the invoice's engine where it takes tiers or packages."""
    if price.unit is not None and price.divide_by is None:
        return plain(_units(price.unit, of) * quantity)
    document = {"type": "usage_based", "key": "fee", "name": "Fee", "featureKey": "fee", "billingCadence": "P1M"}
    try:
        lines = rate_whole(read_card(document | _usage_price(price, of)), Decimal(quantity), of)
    except Invalid as error:
        raise Unmapped(error.detail) from None
    return decimal_text(sum(line.amount_minor for line in lines), of)


def _usage_price(price: Price, of: Currency) -> dict[str, Any]:
    """`price`, and `unitConfig` where the unit is another one."""
    if price.tiers:
        return {"price": _tiered(price, of)}
    if price.unit is None:
        raise Unmapped("it has neither an amount nor tiers")
    amount = plain(_units(price.unit, of))
    if price.divide_by is None:
        return {"price": {"type": "unit", "amount": amount}}
    if price.rounds_up:
        package = {"type": "package", "amount": amount, "quantityPerPackage": str(price.divide_by)}
        return {"price": package}
    unit = {"operation": "divide", "conversionFactor": str(price.divide_by), "rounding": "floor"}
    return {"price": {"type": "unit", "amount": amount}, "unitConfig": unit}


def _tiered(price: Price, of: Currency) -> dict[str, Any]:
    if price.tiers_mode not in ("graduated", "volume"):
        raise Unmapped(f"its tiers are {price.tiers_mode}")
    tiers = []
    for tier in price.tiers:
        document: dict[str, Any] = {"unitPrice": {"type": "unit", "amount": plain(_units(tier.unit, of))}}
        if tier.flat:
            document["flatPrice"] = {"type": "flat", "amount": plain(_units(tier.flat, of))}
        if tier.up_to is not None:
            document["upToAmount"] = str(tier.up_to)
        tiers.append(document)
    return {"type": "tiered", "mode": price.tiers_mode, "tiers": tiers}


def _units(amount: Decimal, of: Currency) -> Decimal:
    """Stripe's minor units → units: "0.08" cents are 0.0008 dollars."""
    assert of.stripe_exponent is not None
    return amount.scaleb(-of.stripe_exponent, EXACT)

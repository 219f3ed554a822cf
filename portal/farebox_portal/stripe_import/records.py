"""What Stripe Billing has, as far as it matters here. Amounts are Stripe's own minor units, exact, as decimals.

Read from the JSON of the API as it is, by `from_json` of each. What is there and cannot be carried over is named in
`obstacles`, in words for people.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Self

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Product:
    id: str
    name: str
    is_active: bool
    tax_code: str | None

    @classmethod
    def from_json(cls, row: Json) -> Self:
        return cls(row["id"], row["name"], row["active"], _id(row.get("tax_code")))


@dataclass(frozen=True, slots=True)
class Tier:
    """Up to and including `up_to`; None: all beyond."""

    up_to: int | None
    flat: Decimal
    unit: Decimal


@dataclass(frozen=True, slots=True)
class Price:
    """`interval` None: charged once. `unit` None: tiered, or the customer chooses. `divide_by`: of a package."""

    id: str
    product: str
    currency: str
    is_active: bool
    name: str | None
    is_metered: bool
    interval: str | None
    interval_count: int
    unit: Decimal | None
    tiers: tuple[Tier, ...]
    tiers_mode: str | None
    divide_by: int | None
    rounds_up: bool
    meter: str | None
    tax_behavior: str | None
    obstacles: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, row: Json) -> Self:
        recurring, transform = row.get("recurring") or {}, row.get("transform_quantity") or {}
        return cls(
            id=row["id"],
            product=_id(row["product"]) or "",
            currency=row["currency"].upper(),
            is_active=row["active"],
            name=row.get("nickname"),
            is_metered=recurring.get("usage_type") == "metered",
            interval=recurring.get("interval"),
            interval_count=recurring.get("interval_count", 1),
            unit=_decimal(row.get("unit_amount_decimal"), row.get("unit_amount")),
            tiers=tuple(_tier(each) for each in row.get("tiers") or ()),
            tiers_mode=row.get("tiers_mode"),
            divide_by=transform.get("divide_by"),
            rounds_up=transform.get("round") == "up",
            meter=_id(recurring.get("meter")),
            tax_behavior=row.get("tax_behavior"),
            obstacles=tuple(_price_obstacles(row)),
        )


@dataclass(frozen=True, slots=True)
class Meter:
    """`formula`: sum, count or last."""

    id: str
    event_name: str
    name: str
    formula: str

    @classmethod
    def from_json(cls, row: Json) -> Self:
        return cls(row["id"], row["event_name"], row["display_name"], row["default_aggregation"]["formula"])


@dataclass(frozen=True, slots=True)
class Customer:
    """`method`: what they pay with by default, also a card of the old kind."""

    id: str
    name: str | None
    email: str | None
    currency: str | None
    method: str | None

    @classmethod
    def from_json(cls, row: Json) -> Self:
        method = _id((row.get("invoice_settings") or {}).get("default_payment_method"))
        currency = row.get("currency")
        return cls(
            id=row["id"],
            name=row.get("name"),
            email=row.get("email"),
            currency=currency.upper() if currency else None,
            method=method or _id(row.get("default_source")),
        )


@dataclass(frozen=True, slots=True)
class Item:
    """`quantity` None: by usage."""

    price: str
    quantity: int | None
    period_end: datetime


@dataclass(frozen=True, slots=True)
class Subscription:
    """`method`: its own way to pay, where that is not the customer's. `cancel_at`: when Stripe ends it."""

    id: str
    customer: str
    status: str
    items: tuple[Item, ...]
    anchor: datetime
    ends_with_period: bool
    cancel_at: datetime | None
    method: str | None
    obstacles: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, row: Json) -> Self:
        items = tuple(_item(each) for each in row["items"]["data"])
        cancel_at = _instant(row.get("cancel_at"))
        ends = max((item.period_end for item in items), default=None)
        return cls(
            id=row["id"],
            customer=_id(row["customer"]) or "",
            status=row["status"],
            items=items,
            anchor=_moment(row["billing_cycle_anchor"]),
            ends_with_period=bool(row.get("cancel_at_period_end"))
            or (cancel_at is not None and ends is not None and cancel_at <= ends),
            cancel_at=cancel_at,
            method=_id(row.get("default_payment_method")) or _id(row.get("default_source")),
            obstacles=tuple(_subscription_obstacles(row)),
        )


@dataclass(frozen=True, slots=True)
class Billing:
    """All of it."""

    products: tuple[Product, ...]
    prices: tuple[Price, ...]
    meters: tuple[Meter, ...]
    customers: tuple[Customer, ...]
    subscriptions: tuple[Subscription, ...]


def _price_obstacles(row: Json) -> Iterator[str]:
    if row["type"] == "one_time":
        yield "it is charged once, and not by a subscription"
    if row.get("custom_unit_amount"):
        yield "the customer chooses the amount"
    if row["billing_scheme"] == "tiered" and not row.get("tiers"):
        yield "its tiers were not told"


def _subscription_obstacles(row: Json) -> Iterator[str]:
    items = row["items"]["data"]
    if row["status"] not in ("active", "past_due", "trialing"):
        yield f"it is {row['status']}"
    if row.get("discounts") or any(each.get("discounts") for each in items):
        yield "it has a discount: make a coupon of it, and order by hand"
    if row.get("default_tax_rates") or any(each.get("tax_rates") for each in items):
        yield "it has tax rates of its own"
    if row.get("collection_method") == "send_invoice":
        yield "it is not charged but sent invoices: order by hand, with the customer's payment_provider: manual"
    if row.get("pause_collection"):
        yield "its collection is paused"
    if row.get("schedule"):
        yield "a schedule changes it later"
    if row.get("pending_update"):
        yield "a change of it waits to be paid"
    if row.get("billing_thresholds") or any(each.get("billing_thresholds") for each in items):
        yield "it is invoiced at a threshold too"
    if row.get("transfer_data") or row.get("application_fee_percent") or row.get("on_behalf_of"):
        yield "its money goes to a connected account"
    if row["items"].get("has_more"):
        yield "it has more items than were told"
    if not items:
        yield "it has no items"


def _item(row: Json) -> Item:
    return Item(row["price"]["id"], row.get("quantity"), _moment(row["current_period_end"]))


def _tier(row: Json) -> Tier:
    return Tier(
        up_to=row.get("up_to"),
        flat=_decimal(row.get("flat_amount_decimal"), row.get("flat_amount")) or Decimal(0),
        unit=_decimal(row.get("unit_amount_decimal"), row.get("unit_amount")) or Decimal(0),
    )


def _decimal(exact: Any, whole: Any) -> Decimal | None:
    said = whole if exact is None else exact
    return None if said is None else Decimal(str(said))


def _id(field: Any) -> str | None:
    """Of what Stripe may send whole, or by its id."""
    if isinstance(field, Mapping):
        return str(field["id"])
    return None if field is None else str(field)


def _moment(epoch_s: int) -> datetime:
    return datetime.fromtimestamp(epoch_s, UTC)


def _instant(epoch_s: int | None) -> datetime | None:
    return None if epoch_s is None else _moment(epoch_s)

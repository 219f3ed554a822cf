"""What Stripe has → what there would be here, and a reason for everything that would not. Pure.

A plan here has fixed rate cards, a subscription there any set of prices with quantities. So each set that somebody has
becomes a plan; and so does each price that is on sale by itself, with a quantity of 1. Sets and prices that are not on
sale become private plans: those who have them keep them, and nobody else sees them.

What was imported before is known by Stripe's ids, and stays as it is.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from farebox_portal.catalog.plan_rules import FeatureFacts
from farebox_portal.catalog.plan_rules import faults as plan_faults
from farebox_portal.pricing.period import CADENCES, boundary, period_at
from farebox_portal.stripe_import.prices import Unmapped, cadence_of, card_of, key_of
from farebox_portal.stripe_import.records import Billing, Customer, Meter, Price, Product, Subscription

ANCHOR_OLDEST = timedelta(days=4 * 365)
"""Anchors must lie within five years of now; one that is older is moved on by whole cycles of four years."""
_AGGREGATIONS = {"sum": ("SUM", "$.value"), "count": ("COUNT", None)}
_PRIVATE = {"zuplo_private_plan": "true"}
_SINGLE = 1

Parts = tuple[tuple[str, int], ...]
"""The set of prices that a subscription has: (price, quantity), sorted; 1 of a metered one."""


@dataclass(frozen=True, slots=True)
class Known:
    """What there is here already. `features`: key → its meter, and how that adds up; `plans`: keys that are taken.

    `customers`: by Stripe's id, ours; `subscriptions`: Stripe's ids. `grants`: features that each plan is to have.
    """

    features: Mapping[str, FeatureFacts]
    meters: Mapping[str, str]
    plans: frozenset[str]
    customers: Mapping[str, str]
    subscriptions: frozenset[str]
    takes_several: bool
    grants: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CustomerDraft:
    """`key` and Stripe's id are the same. `method`: what they pay with."""

    stripe_id: str
    name: str
    email: str | None
    currency: str | None
    method: str | None


@dataclass(frozen=True, slots=True)
class SubscriptionDraft:
    """`method`: to be made the customer's, as the subscription at Stripe has one of its own."""

    stripe_id: str
    customer: str
    plan: str
    starts_at: datetime
    anchor: datetime
    cancel_at: datetime | None
    method: str | None


@dataclass(frozen=True, slots=True)
class Left:
    """What is not carried over, and why."""

    kind: str
    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Cancellation:
    """What Stripe has to end with the period that runs, so that nobody is billed twice."""

    subscription: str
    customer: str
    at: datetime


@dataclass
class Proposal:
    """`notes`: what is carried over, and somebody should know of."""

    meters: list[dict[str, Any]] = field(default_factory=list)
    features: list[dict[str, Any]] = field(default_factory=list)
    plans: list[dict[str, Any]] = field(default_factory=list)
    customers: list[CustomerDraft] = field(default_factory=list)
    subscriptions: list[SubscriptionDraft] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    cancellations: list[Cancellation] = field(default_factory=list)
    known_count: int = 0


def propose(billing: Billing, known: Known, now: datetime) -> Proposal:
    work = _Work(billing, known, now)
    work.meters()
    work.plans_on_sale()
    work.customers()
    work.subscriptions()
    work.left_products()
    return work.proposal


class _Work:
    def __init__(self, billing: Billing, known: Known, now: datetime) -> None:
        self.billing = billing
        self.known = known
        self.now = now
        self.proposal = Proposal()
        self.products = {product.id: product for product in billing.products}
        self.prices = {price.id: price for price in billing.prices}
        self.features = dict(known.features)
        self.slugs: dict[str, str] = {}  # meter of Stripe → meter here
        self.faults: dict[Parts, str] = {}
        self.plan_keys: dict[Parts, str] = {}
        self.open: dict[str, list[str]] = {}  # customer → plans of what begins

    # --- what is measured --------------------------------------------------------------------------------------------

    def meters(self) -> None:
        wanted = {price.meter for price in self.billing.prices if price.is_metered and price.meter}
        for meter in self.billing.meters:
            if meter.id in wanted:
                self._meter(meter)

    def _meter(self, meter: Meter) -> None:
        found = _AGGREGATIONS.get(meter.formula)
        if found is None:
            self._leave("meter", meter.id, f"it takes the {meter.formula} value, and only sums and counts can be sold")
            return
        slug, (aggregation, value) = key_of(meter.event_name), found
        there = self.known.meters.get(slug)
        if there is not None and there != aggregation:
            self._leave("meter", meter.id, f"there is a meter '{slug}' here that is a {there}")
            return
        feature = self.known.features.get(slug)
        if feature is not None and feature.aggregation is None:
            self._leave("meter", meter.id, f"there is a feature '{slug}' here that has no meter")
            return
        self.slugs[meter.id] = slug
        if there is None:
            document = {"slug": slug, "name": meter.name, "aggregation": aggregation, "valueProperty": value}
            self.proposal.meters.append({name: said for name, said in document.items() if said is not None})
        if feature is None:
            self.proposal.features.append({"key": slug, "name": meter.name, "meterSlug": slug})
            self.features[slug] = FeatureFacts(aggregation)

    # --- what is sold ------------------------------------------------------------------------------------------------

    def plans_on_sale(self) -> None:
        for price in self.billing.prices:
            product = self.products.get(price.product)
            if not price.is_active or product is None or not product.is_active:
                continue
            self._plan(((price.id, _SINGLE),), is_listed=True)
            fault = self.faults.get(((price.id, _SINGLE),))
            if fault is not None:
                self._leave("price", price.id, fault)

    def _plan(self, parts: Parts, *, is_listed: bool) -> str | None:
        """The key of the plan for this set, made if need be; None: there can be none, see `faults`."""
        if parts in self.plan_keys or parts in self.faults:
            return self.plan_keys.get(parts)
        try:
            document = self._document(parts, is_listed=is_listed)
        except Unmapped as unmapped:
            self.faults[parts] = str(unmapped)
            return None
        key = str(document["key"])
        self.plan_keys[parts] = key
        if key in self.known.plans:
            self.proposal.known_count += 1
        else:
            self.proposal.plans.append(document)
            if not any(card.get("entitlementTemplate") for card in document["phases"][0]["rateCards"]):
                self.proposal.notes.append(
                    f"the plan '{key}' ({document['name']}) grants nothing that the gateway could let in: Stripe does "
                    "not know what it includes; say --grant FEATURE, or add rate cards to it"
                )
        return key

    def _document(self, parts: Parts, *, is_listed: bool) -> dict[str, Any]:
        """Raises Unmapped."""
        found = [self._price(price_id) for price_id, _ in parts]
        currencies = {price.currency for price, _ in found}
        if len(currencies) > 1:
            raise Unmapped(f"it has prices in {' and '.join(sorted(currencies))}")
        cards = [
            card_of(price, product, quantity, self.slugs.get(price.meter or ""))
            for (price, product), (_, quantity) in zip(found, parts, strict=True)
        ]
        cadence = min((cadence_of(price) for price, _ in found), key=CADENCES.index)
        keys = {card["key"] for card in cards}
        cards += [_granting(feature, cadence) for feature in self.known.grants if feature not in keys]
        counted = zip((product.name for _, product in found), (count for _, count in parts), strict=True)
        names = [name if count == 1 else f"{name} × {count}" for name, count in counted]
        document = {
            "key": _plan_key(parts),
            "name": " + ".join(dict.fromkeys(names))[:256],
            "currency": found[0][0].currency,
            "billingCadence": cadence,
            "phases": [{"key": "default", "name": "Default", "rateCards": cards}],
            "metadata": {"stripe_prices": ",".join(f"{id_}:{count}" for id_, count in parts)}
            | ({} if is_listed else _PRIVATE),
        }
        if broken := plan_faults(document, self.features):
            raise Unmapped("; ".join(f"{fault['pointer']} {fault['detail']}" for fault in broken))
        return document

    def _price(self, price_id: str) -> tuple[Price, Product]:
        price = self.prices.get(price_id)
        if price is None:
            raise Unmapped(f"its price {price_id} is not among those that Stripe has told of")
        unknown = Product(price.product, price.name or price.product, False, None)
        return price, self.products.get(price.product, unknown)

    # --- who has it --------------------------------------------------------------------------------------------------

    def customers(self) -> None:
        for customer in self.billing.customers:
            if customer.id in self.known.customers:
                self.proposal.known_count += 1
            else:
                self.proposal.customers.append(_draft(customer))

    def subscriptions(self) -> None:
        there = {customer.id for customer in self.billing.customers}
        for subscription in self.billing.subscriptions:
            is_known = subscription.id in self.known.subscriptions
            if is_known:
                self.proposal.known_count += 1
                self._cancel(subscription)
                continue
            try:
                self._subscribe(subscription, there)
            except Unmapped as unmapped:
                self._leave("subscription", subscription.id, str(unmapped))

    def _subscribe(self, subscription: Subscription, there: set[str]) -> None:
        if subscription.obstacles:
            raise Unmapped("; ".join(subscription.obstacles))
        if subscription.customer not in there:
            raise Unmapped(f"its customer {subscription.customer} was deleted")
        starts_at = _begins(subscription, self.now)
        counted = ((item.price, _SINGLE if item.quantity is None else item.quantity) for item in subscription.items)
        parts = tuple(sorted(counted))
        key = self._plan(parts, is_listed=False)
        if key is None:
            raise Unmapped(self.faults[parts])
        others = self.open.setdefault(subscription.customer, [])
        if others and not self.known.takes_several:
            raise Unmapped("its customer has another one: set multipleSubscriptionsEnabled, and run again")
        if key in others:
            raise Unmapped("its customer has the same one twice")
        others.append(key)
        cadence = min((cadence_of(self.prices[price_id]) for price_id, _ in parts), key=CADENCES.index)
        self.proposal.subscriptions.append(
            SubscriptionDraft(
                stripe_id=subscription.id,
                customer=subscription.customer,
                plan=key,
                starts_at=starts_at,
                anchor=_anchor(subscription.anchor, cadence, starts_at, self.now),
                cancel_at=subscription.cancel_at,
                method=subscription.method,
            )
        )
        self._cancel(subscription)

    def _cancel(self, subscription: Subscription) -> None:
        """Unless it is going to end by itself."""
        if not subscription.ends_with_period:
            at = max(item.period_end for item in subscription.items)
            self.proposal.cancellations.append(Cancellation(subscription.id, subscription.customer, at))

    # --- what is left ------------------------------------------------------------------------------------------------

    def left_products(self) -> None:
        priced = {price.product for price in self.billing.prices}
        for product in self.billing.products:
            if product.id not in priced:
                self._leave("product", product.id, "it has no price")
        sold = {price_id for parts in self.plan_keys for price_id, _ in parts}
        told = {left.id for left in self.proposal.left}
        for price in self.billing.prices:
            if price.id not in sold and price.id not in told:
                why = "; ".join(price.obstacles) or "it is not on sale, and nobody has it"
                self._leave("price", price.id, why)

    def _leave(self, kind: str, id_: str, reason: str) -> None:
        self.proposal.left.append(Left(kind, id_, reason))


def _begins(subscription: Subscription, now: datetime) -> datetime:
    """Where the running period ends, of all its items alike. Raises Unmapped."""
    ends = {item.period_end for item in subscription.items}
    if len(ends) > 1:
        raise Unmapped("the periods of its items end at different times")
    (at,) = ends
    if subscription.ends_with_period:
        raise Unmapped(f"it ends at {at.isoformat()} by itself")
    if at <= now:
        raise Unmapped(f"its period ended at {at.isoformat()}; run again once Stripe has renewed it")
    return at


def _anchor(anchor: datetime, cadence: str, starts_at: datetime, now: datetime) -> datetime:
    """Stripe's own where the calendar is the same, so that the 31st stays the 31st after a February."""
    while anchor < now - ANCHOR_OLDEST:
        anchor = boundary(anchor, "P1Y", 4) if cadence.endswith(("M", "Y")) else _later(anchor, cadence)
    return anchor if period_at(anchor, cadence, starts_at).start == starts_at else starts_at


def _later(anchor: datetime, cadence: str) -> datetime:
    """By whole cycles, about four years."""
    cycle = boundary(anchor, cadence, 1) - anchor
    return anchor + cycle * max(1, ANCHOR_OLDEST // cycle)


def _draft(customer: Customer) -> CustomerDraft:
    is_address = customer.email is not None and customer.email.count("@") == 1 and " " not in customer.email
    email = customer.email if is_address and len(customer.email or "") <= 254 else None
    name = (customer.name or customer.email or customer.id).strip()[:256]
    return CustomerDraft(customer.id, name or customer.id, email, customer.currency, customer.method)


def _plan_key(parts: Sequence[tuple[str, int]]) -> str:
    if len(parts) == 1 and parts[0][1] == _SINGLE:
        return key_of(parts[0][0])
    return "bundle_" + sha256(repr(tuple(parts)).encode()).hexdigest()[:16]


def _granting(feature: str, cadence: str) -> dict[str, Any]:
    """As much of it as anybody wants, at no price."""
    template = {"type": "metered", "isSoftLimit": True, "issueAfterReset": 0}
    return {
        "type": "flat_fee", "key": feature, "name": feature, "featureKey": feature, "billingCadence": cadence,
        "entitlementTemplate": template,
    }  # fmt: skip


def lines(proposal: Proposal) -> Iterator[str]:
    """The proposal for people."""
    for meter in proposal.meters:
        yield f"meter         {meter['slug']}  {meter['aggregation']}"
    for plan in proposal.plans:
        private = "  private" if "zuplo_private_plan" in plan["metadata"] else ""
        yield f"plan          {plan['key']}  {plan['name']}  {plan['currency']} {plan['billingCadence']}{private}"
    for customer in proposal.customers:
        yield f"customer      {customer.stripe_id}  {customer.name}"
    for one in proposal.subscriptions:
        yield f"subscription  {one.stripe_id}  {one.plan}  from {one.starts_at.isoformat()}"
    for left in proposal.left:
        yield f"not           {left.kind} {left.id}: {left.reason}"
    for note in proposal.notes:
        yield f"note          {note}"
    for each in proposal.cancellations:
        yield f"cancel        {each.subscription} at Stripe, with the period that ends at {each.at.isoformat()}"

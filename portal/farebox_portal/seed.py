"""Demo data: a believable provider with four plans and a customer on each. Writing it twice changes nothing."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlmodel import Session, select

from farebox_portal.catalog import configuration, features, meters, plans, policies
from farebox_portal.catalog.tables import Feature, Meter, Plan, Policy
from farebox_portal.customers import accounts
from farebox_portal.customers.tables import Customer
from farebox_portal.prepaid import credits
from farebox_portal.pricing.period import LASTING
from farebox_portal.settings import Settings
from farebox_portal.subscriptions import keys, lifecycle
from farebox_portal.subscriptions.tables import Subscription

Document = dict[str, Any]

METERS: list[Document] = [
    {"slug": "api_requests", "name": "API requests", "aggregation": "COUNT"},
    {"slug": "egress_bytes", "name": "Bytes sent", "aggregation": "SUM", "valueProperty": "$.total"},
    *(
        {
            "slug": f"{kind}_tokens",
            "name": f"{kind.capitalize()} tokens",
            "aggregation": "SUM",
            "valueProperty": "$.total",
            "groupBy": {"model": "$.model"},
        }
        for kind in ("input", "output")
    ),
]

FEATURES: list[Document] = [
    {"key": "api_requests", "name": "API requests", "meterSlug": "api_requests"},
    {"key": "egress_bytes", "name": "Data transfer", "meterSlug": "egress_bytes"},
    {"key": "input_tokens", "name": "Input tokens", "meterSlug": "input_tokens"},
    {"key": "output_tokens", "name": "Output tokens", "meterSlug": "output_tokens"},
    {"key": "premium", "name": "Premium endpoints"},
]

POLICIES: list[Document] = [
    {
        "key": "chat",
        "meters": {
            "api_requests": 1,
            "input_tokens": "usage.inputTokens",
            "output_tokens": "usage.outputTokens",
        },
        "dimensions": {"model": "usage.model"},
        "reserve": {"output_tokens": "request.maxTokens"},
    },
    {
        "key": "capped",
        "meters": {"api_requests": 1, "output_tokens": "usage.outputTokens"},
        "dimensions": {"model": "usage.model"},
        "cutOff": True,
    },
    {"key": "bytes", "meters": {"egress_bytes": "response.bytes"}},
    {"key": "premium", "meters": {"api_requests": 1}, "requiredEntitlements": ["premium"]},
]


WELCOME: Document = {"units": 5_000, "featureKey": "api_requests", "name": "Welcome"}
"""What is in the wallet of the customer on the plan `credits`."""


def _usage(key: str, name: str, units: int, *, soft: bool = False, price: str = "", period: str = "P1M") -> Document:
    """A rate card on a metered feature: an allowance, and a price for each unit beyond it if there is one."""
    template: Document = {"type": "metered", "issueAfterReset": units, "isSoftLimit": soft, "usagePeriod": period}
    card: Document = {
        "type": "usage_based",
        "key": key,
        "name": name,
        "featureKey": key,
        "billingCadence": "P1M",
        "entitlementTemplate": template,
    }
    if not price:
        return card
    unit: Document = {"type": "unit", "amount": price}
    if not units:
        return card | {"price": unit}
    # A price is for all usage: what is included is a first tier that costs nothing.
    included = {"upToAmount": str(units), "unitPrice": {"type": "unit", "amount": "0"}}
    return card | {"price": {"type": "tiered", "mode": "graduated", "tiers": [included, {"unitPrice": unit}]}}


def _plan(key: str, name: str, description: str, cards: list[Document], rate: int) -> Document:
    return {
        "key": key,
        "name": name,
        "description": description,
        "currency": "USD",
        "billingCadence": "P1M",
        "phases": [{"key": "default", "name": name, "rateCards": cards}],
        "rateLimit": {"requests": rate, "per": "second"},
    }


_TRANSFER = _usage("egress_bytes", "Data transfer", 1 << 40, soft=True)

PLANS: list[Document] = [
    _plan(
        "free",
        "Free",
        "100 requests a month to try it out.",
        [
            _usage("api_requests", "API requests", 100),
            _TRANSFER,
            _usage("input_tokens", "Input tokens", 20_000),
            _usage("output_tokens", "Output tokens", 20_000),
        ],
        rate=10,
    ),
    _plan(
        "pro",
        "Pro",
        "$49 a month with 10 000 requests; one cent for each beyond. Includes the premium endpoints.",
        [
            {
                "type": "flat_fee",
                "key": "base_fee",
                "name": "Base fee",
                "billingCadence": "P1M",
                "price": {"type": "flat", "amount": "49.00", "paymentTerm": "in_advance"},
            },
            _usage("api_requests", "API requests", 10_000, soft=True, price="0.01"),
            _TRANSFER,
            _usage("input_tokens", "Input tokens", 1_000_000, soft=True),
            _usage("output_tokens", "Output tokens", 1_000_000, soft=True),
            {
                "type": "flat_fee",
                "key": "premium",
                "name": "Premium endpoints",
                "featureKey": "premium",
                "entitlementTemplate": {"type": "boolean"},
            },
        ],
        rate=100,
    ),
    _plan(
        "ai",
        "AI, pay as you go",
        "No fee: $2 for a million tokens in, $8 for a million tokens out.",
        [
            _usage("api_requests", "API requests", 0, soft=True),
            _TRANSFER,
            _usage("input_tokens", "Input tokens", 0, soft=True, price="0.000002"),
            _usage("output_tokens", "Output tokens", 0, soft=True, price="0.000008"),
        ],
        rate=50,
    ),
    _plan(
        "credits",
        "Credits",
        "Requests paid ahead: the first 5 000 are on us, 1 000 more are $10. Nothing left, nothing passes.",
        [
            _usage("api_requests", "API requests", 0, period=LASTING),
            _TRANSFER,
            _usage("input_tokens", "Input tokens", 200_000, period="P1Y"),
            _usage("output_tokens", "Output tokens", 200_000, period="P1Y"),
        ],
        rate=50,
    ),
]

CUSTOMERS = {
    "free": "Ada's Weekend Project",
    "pro": "Brightline Logistics",
    "ai": "Cobalt Labs",
    "credits": "Delta Maps",
}
"""Plan key → who is on it. The customer's key is the plan's."""


@dataclass(frozen=True)
class SeededCustomer:
    """A customer on a plan. `api_key` is there only in the run that made it: it is stored nowhere."""

    email: str
    customer_id: str
    subscription_id: str
    api_key: str | None = field(repr=False)


def seed(session: Session, settings: Settings, now: datetime) -> dict[str, SeededCustomer]:
    """Write what of the demo data is not there yet; the customers by plan key."""
    _seed_catalog(session, now)
    session.flush()
    return {plan: _seed_customer(session, settings, plan, name, now) for plan, name in CUSTOMERS.items()}


def _seed_catalog(session: Session, now: datetime) -> None:
    for document in METERS:
        if session.exec(select(Meter).where(Meter.slug == document["slug"])).first() is None:
            meters.create(session, meters.MeterInput.model_validate(document), now)
    session.flush()
    for document in FEATURES:
        if session.exec(select(Feature).where(Feature.key == document["key"])).first() is None:
            features.create(session, features.FeatureInput.model_validate(document), now)
    session.flush()
    for document in POLICIES:
        if session.get(Policy, document["key"]) is None:
            policies.create(session, document, now)
    for document in PLANS:
        if session.exec(select(Plan).where(Plan.key == document["key"])).first() is None:
            plans.publish(session, plans.create(session, document, now), now)
    session.flush()
    if not configuration.read(session).plan_order:
        configuration.change(session, {"planOrder": [document["key"] for document in PLANS]}, now)


def _seed_customer(session: Session, settings: Settings, plan: str, name: str, now: datetime) -> SeededCustomer:
    email = f"{plan}@example.com"
    customer = session.exec(select(Customer).where(Customer.key == plan)).first()
    if customer is None:
        wanted = accounts.CustomerInput.model_validate({"key": plan, "name": name, "primaryEmail": email})
        customer = accounts.create(session, wanted, now)
    known = session.exec(select(Subscription).where(Subscription.customer_id == customer.id)).first()
    if known is not None:
        return SeededCustomer(email, customer.id, known.id, None)
    order = lifecycle.SubscriptionInput.model_validate({"plan": {"key": plan}, "customerKey": plan})
    subscription = lifecycle.create(session, order, now)
    issued = keys.issue(session, subscription, keys.KeyInput(), settings, now)
    if plan == "credits":
        credits.grant(session, customer, credits.CreditInput.model_validate(WELCOME), now)
    return SeededCustomer(email, customer.id, subscription.id, issued.key)

"""Asks Stripe for all of its Billing. Reads only; the key needs more than collecting does: see READS."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from farebox_portal.errors import CannotStart
from farebox_portal.payments.gateway import Account, GatewayFailure, Lacking
from farebox_portal.stripe_import.records import Billing, Customer, Meter, Price, Product, Subscription

READS = "Products, Prices, Billing meters, Customers, Subscriptions: read"


class Reader(Protocol):
    is_live: bool

    def account(self) -> Account: ...

    def rows(self, path: str, params: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Every object of a list, as JSON. Raises GatewayFailure."""
        ...


def fetch(reader: Reader) -> Billing:
    """Raises CannotStart when Stripe does not tell."""
    try:
        prices = reader.rows("/v1/prices", {"expand": ["data.tiers"]})
        subscriptions = reader.rows("/v1/subscriptions", {})
        return Billing(
            products=tuple(map(Product.from_json, reader.rows("/v1/products", {}))),
            prices=tuple(map(Price.from_json, prices)),
            meters=tuple(map(Meter.from_json, reader.rows("/v1/billing/meters", {}))),
            customers=tuple(map(Customer.from_json, reader.rows("/v1/customers", {}))),
            subscriptions=tuple(map(Subscription.from_json, subscriptions)),
        )
    except Lacking as failure:
        raise CannotStart(f"the key may not read it all ({failure.code}); it needs {READS}") from None
    except GatewayFailure as failure:
        raise CannotStart(f"Stripe: {failure.detail}") from None

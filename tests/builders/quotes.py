"""Rate cards that charge by usage."""

from collections.abc import Callable
from typing import Any

from builders.portal import a_card

Use = Callable[..., None]
"""(subscription, at, units, **units by meter): into the ledger."""


def a_price(price: dict[str, Any], key: str = "api_requests", **fields: Any) -> dict[str, Any]:
    """A card that charges by usage, and lets as much of it through as one likes."""
    return a_card(key, 0, soft=True, type="usage_based", price=price) | fields


def included(units: int, amount: str) -> dict[str, Any]:
    tiers = [{"upToAmount": units, "unitPrice": "0"}, {"unitPrice": amount}]
    return {"type": "tiered", "mode": "graduated", "tiers": tiers}

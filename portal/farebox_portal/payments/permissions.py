"""What a restricted key of Stripe's must be allowed: eight rows of the dashboard, and how each is found out.

Nothing lists the permissions of a key, so each is probed by a request that cannot succeed or changes nothing: without
the permission it is answered 403, with it 200, 400 or 404. That presumes that Stripe looks at the permission before it
looks at the rest, which `tests/stripe_live` asks it. A refusal names what is missing in words of its own
(`rak_invoice_write`), which the dashboard never shows; `row_of` says which row is meant.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Permission:
    """`row`: as the dashboard shows it, and the level. `words`: what its names in refusals begin with, after `rak_`."""

    row: str
    words: tuple[str, ...]
    method: Literal["get", "post"]
    path: str
    params: Mapping[str, Any]


# The order is that of `row_of` too: what begins another one's words stands after it.
PERMISSIONS = (
    Permission("Accounts: read", ("account",), "get", "/v1/account", {}),
    Permission(
        "Customer portal: write", ("customer_portal", "billing_portal"), "post", "/v1/billing_portal/sessions",
        {"customer": "cus_farebox_probe"},
    ),
    Permission("Customers: write", ("customer",), "post", "/v1/customers/cus_farebox_probe", {"description": "probe"}),
    Permission("Payment Methods: read", ("payment_method",), "get", "/v1/payment_methods/pm_farebox_probe", {}),
    Permission(
        "Checkout Sessions: write", ("checkout",), "post", "/v1/checkout/sessions/cs_farebox_probe/expire", {}
    ),
    Permission("Invoices: write", ("invoice",), "post", "/v1/invoices/in_farebox_probe/finalize", {}),
    Permission(
        "Tax Calculations and Transactions: write", ("tax_calculation", "tax_transaction"), "post",
        "/v1/tax/calculations",
        {
            "currency": "usd",
            "line_items": [{"amount": 100, "reference": "probe"}],
            "customer": "cus_farebox_probe",
        },
    ),
    Permission(
        "Webhook Endpoints and Event Destinations: write", ("webhook", "event_destination"), "post",
        "/v1/webhook_endpoints/we_farebox_probe", {},
    ),
)  # fmt: skip


def name_of(refusal: str) -> str | None:
    """What a 403 calls the missing permission: `rak_invoice_write`."""
    found = re.search(r"\brak_[a-z0-9_]+", refusal)
    return found.group() if found else None


def row_of(refusal: str) -> str | None:
    """The dashboard's row of what a 403 says is missing; None: it names none of the eight."""
    words = (name_of(refusal) or "").removeprefix("rak_")
    return next((one.row for one in PERMISSIONS if words.startswith(one.words)), None) if words else None

"""The account itself, and its balance."""

from farebox_portal.standin.books import Books
from farebox_portal.standin.operation import Operation
from farebox_portal.standin.wire import LABEL, Document, Given


def _account(books: Books, given: Given) -> Document:
    return {
        "id": books.cause.get("account") or books.account_id,
        "object": "account",
        "business_profile": {"name": "Demo payments", "support_email": None, "url": None},
        "business_type": "company",
        "capabilities": {"card_payments": "active"},
        "charges_enabled": True,
        "controller": {"type": "account"},
        "country": "DE",
        "default_currency": "eur",
        "details_submitted": True,
        "email": None,
        "metadata": {},
        "payouts_enabled": False,
        "settings": {
            "branding": dict.fromkeys(("icon", "logo", "primary_color", "secondary_color")),
            "card_payments": {"decline_on": {"avs_failure": False, "cvc_failure": False}},
            "dashboard": {"display_name": LABEL, "timezone": "Etc/UTC"},
            "payments": {"statement_descriptor": "DEMO PAYMENTS"},
        },
        "type": "standard",
    }


def _balance(books: Books, given: Given) -> Document:
    """What was charged and not refunded."""
    sums: dict[str, int] = {}
    for charge in books.all("charge", paid=True):
        sums[charge["currency"]] = sums.get(charge["currency"], 0) + charge["amount"] - charge["amount_refunded"]
    available = [{"amount": sums[each], "currency": each} for each in sorted(sums)]
    return {"object": "balance", "livemode": False, "available": available, "pending": []}


OPERATIONS = (
    Operation("GET", "/v1/account", "accounts_kyc_basic_read", _account),
    Operation("GET", "/v1/balance", "balance_read", _balance),
)

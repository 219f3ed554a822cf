"""API keys: their prefix says the mode, and a restricted one may lack a permission.

Every test key is good for everything until `/__standin/keys` says otherwise. A live key is refused, whatever it says:
whoever sends one here has mixed up two installations.
"""

import base64
import binascii
import re
from typing import Any

from farebox_portal.standin.books import Books
from farebox_portal.standin.wire import LABEL, Refused

# Those that an API biller needs, by their names in Stripe's 403 answers, and the dashboard's names for them.
PERMISSIONS = {
    "rak_accounts_kyc_basic_read": "Accounts",
    "rak_customer_write": "Customers",
    "rak_payment_method_read": "Payment Methods",
    "rak_checkout_session_write": "Checkout Sessions",
    "rak_customer_portal_write": "Customer portal",
    "rak_invoice_write": "Invoices",
    "rak_tax_calculations_write": "Tax Calculations and Transactions",
    "rak_webhook_write": "Webhook Endpoints and Event Destinations",
}


def authenticate(books: Books, authorization: str) -> str:
    """The key. Raises Refused (401)."""
    key = _key_of(authorization)
    if not key:
        raise Refused(401, "You did not provide an API key.")
    if re.match(r"(sk|rk)_live_", key):
        raise Refused(401, f"{LABEL}. This is the payment stand-in, and it refuses live keys. Use a test key.")
    if not re.match(r"(sk|rk)_test_\w+$", key) or _known(books, key).get("revoked"):
        raise Refused(401, f"Invalid API Key provided: {_hint(key)}")
    return key


def authorize(books: Books, key: str, needs: str) -> None:
    """Raises Refused (403) naming the permission, in the words that Stripe uses."""
    permission = f"rak_{needs}"
    if permission in _lacking(books, key):
        raise Refused(
            403,
            f"The provided key '{_hint(key)}' does not have the required permissions for this endpoint on account "
            f"'{account_of(books, key)}'. Having the '{permission}' permission would allow this request to continue.",
        )


def account_of(books: Books, key: str) -> str:
    return str(_known(books, key).get("account", books.account_id))


def restrict(books: Books, key: str, **terms: Any) -> None:
    """`permissions` (only these), `revoked`, `account` (whose key it is)."""
    known = books.settings("keys")
    known[key] = terms
    books.save(known)


def _known(books: Books, key: str) -> dict[str, Any]:
    found: dict[str, Any] = books.settings("keys").get(key, {})
    return found


class _Beyond(frozenset[str]):
    """All permissions but these. To write is to be allowed to read."""

    def __contains__(self, permission: object) -> bool:
        has = super().__contains__
        return not has(permission) and not has(str(permission).removesuffix("_read") + "_write")


def _lacking(books: Books, key: str) -> frozenset[str]:
    permissions = _known(books, key).get("permissions")
    return frozenset() if permissions is None else _Beyond(permissions)


def _key_of(authorization: str) -> str:
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() != "basic":
        return value.strip()
    try:
        return base64.b64decode(value).decode().partition(":")[0]
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _hint(key: str) -> str:
    """No answer repeats a credential."""
    return key[:8] + "*" * 8 + key[-4:] if len(key) > 16 else key[:8] + "…"

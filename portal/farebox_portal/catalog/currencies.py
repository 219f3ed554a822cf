"""The currencies that may be charged: those whose minor unit `pricing.money` knows."""

from farebox_portal.pricing import money

CURRENCIES = frozenset(money.CURRENCIES)


def check_currency(code: str) -> str:
    """The code itself. Raises ValueError if ISO 4217 does not have it."""
    if code not in CURRENCIES:
        raise ValueError("must be an ISO 4217 currency code such as USD")
    return code

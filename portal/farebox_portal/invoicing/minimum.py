"""The least that can be charged. What is below it stays on the draft, and the next period's lines join it there.

Source: docs.stripe.com/currencies#minimum-and-maximum-charge-amounts (2026-09). For currencies without an entry the
provider converts; there every amount above 0 is tried.
"""

from decimal import Decimal

from farebox_portal.pricing.money import Currency, to_minor

_AMOUNTS = """
    AED 2.00  AUD 0.50  BRL 0.50  CAD 0.50  CHF 0.50  CZK 15.00  DKK 2.50  EUR 0.50  GBP 0.30  HKD 4.00  HUF 175.00
    INR 0.50  JPY 50  MXN 10  MYR 2  NOK 3.00  NZD 0.50  PLN 2.00  RON 2.00  SEK 3.00  SGD 0.50  THB 10  USD 0.50
""".split()  # noqa: SIM905  (a table reads better than a list)
MINIMUM = {code: Decimal(amount) for code, amount in zip(_AMOUNTS[::2], _AMOUNTS[1::2], strict=True)}


def minimum_minor(of: Currency) -> int:
    return to_minor(MINIMUM.get(of.code, Decimal(0)), of)

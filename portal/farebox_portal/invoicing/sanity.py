"""What makes an invoice look wrong, so that somebody looks before the customer does. Pure."""

from collections.abc import Sequence

HISTORY = 6
"""How many invoices of periods before count for what is usual."""
_HISTORY_MIN = 3
_UNUSUAL = 5
_WORTH_A_LOOK = 100  # times the least that can be charged: five times a dollar is nothing to wake anybody for

REASONS = {
    "negative_total": "The total is below 0: finalizing it makes that a credit of the customer's.",
    "mixed_currency": "Its lines are in more than one currency.",
    "unusual_total": f"The total is more than {_UNUSUAL} times the mean of the periods before.",
    "tax_pending": "The provider is working out the tax. It is issued as soon as that is known.",
    "tax_failed": "The tax cannot be worked out, and the billing profile enforces it. It is tried again by itself when "
    "the customer's address changes, and once a day; finalizing it issues it without tax.",
    "arithmetic": "Its sums do not add up: this is a fault of ours; please report it.",
}


def doubts(total_minor: int, currencies: set[str], before: Sequence[int], least_minor: int) -> list[str]:
    """The reasons for holding it, of REASONS. `before`: totals of the periods before; `least_minor`: see minimum.py."""
    found = []
    if total_minor < 0:
        found.append("negative_total")
    if len(currencies) > 1:
        found.append("mixed_currency")
    # total > 5 × sum / count, in integers
    is_unusual = len(before) >= _HISTORY_MIN and total_minor * len(before) > _UNUSUAL * sum(before)
    if is_unusual and sum(before) > 0 and total_minor >= _WORTH_A_LOOK * max(least_minor, 1):
        found.append("unusual_total")
    return found

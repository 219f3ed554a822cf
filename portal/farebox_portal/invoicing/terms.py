"""How this installation invoices: from the settings, and nothing that an invoice of before depends on."""

from dataclasses import dataclass
from datetime import timedelta

from farebox_portal.settings import Settings

HORIZON = timedelta(days=92)
"""For how long after its end a period's usage is looked at again. What comes later is in the ledger and not billed."""


@dataclass(frozen=True)
class Terms:
    """`window`: how long after its end a period's usage is waited for. `due_after`: from the issue to the due date.

    `refuses_disputed`: no access while a payment is disputed, nor after that was lost.

    `retries_by_provider`: it tries again what failed, and decides when that is given up.
    `carries_small`: what is less than can be charged waits for the next invoice. `seller_*` stand on each invoice.
    """

    window: timedelta = timedelta(hours=1)
    due_after: timedelta = timedelta(days=30)
    prefix: str = "INV-"
    carries_small: bool = True
    refuses_disputed: bool = False
    retries_by_provider: bool = False
    seller_name: str = "Farebox"
    seller_address: str = ""


def terms_of(settings: Settings) -> Terms:
    return Terms(
        window=timedelta(seconds=settings.invoice_collection_window_s),
        due_after=timedelta(days=settings.invoice_due_days),
        prefix=settings.invoice_prefix,
        retries_by_provider=settings.dunning == "stripe",
        refuses_disputed=settings.disputed_access == "refuse",
        carries_small=settings.invoice_minimum == "carry",
        seller_name=settings.seller_name,
        seller_address=settings.seller_address,
    )

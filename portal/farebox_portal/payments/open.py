"""The provider that the settings name."""

from functools import lru_cache
from typing import TYPE_CHECKING

from farebox_portal.payments.gateway import Gateway
from farebox_portal.payments.pace import LIVE_PER_S, TEST_PER_S, Pace
from farebox_portal.settings import Settings, is_live

if TYPE_CHECKING:
    from farebox_portal.payments.stripe_gateway import StripeGateway

RETRIES_OF_JOBS = 2
RETRIES_OF_REQUESTS = 1


def open_gateway(settings: Settings, retries: int) -> Gateway | None:
    """None: everything is paid by hand. Opens no connection yet. `retries`: by the provider's own client."""
    if settings.stripe_api_key is None:
        return None
    key, per_s = settings.stripe_api_key.get_secret_value(), jobs_per_s(settings)
    return _stripe(key, settings.stripe_api_base, retries, per_s if retries == RETRIES_OF_JOBS else None)


def jobs_per_s(settings: Settings) -> float | None:
    """How often the jobs may ask the provider; None: as often as they like, as it is on this machine, or there is none.

    Of a process, so that several of them with jobs share no budget; one has the jobs of an installation.
    """
    if settings.stripe_api_key is None or settings.is_stripe_local:
        return None
    return LIVE_PER_S if is_live(settings.stripe_api_key.get_secret_value()) else TEST_PER_S


def open_reader(settings: Settings, key: str) -> "StripeGateway":
    """With a key of its own, for reading what operation has no use for."""
    from farebox_portal.payments.stripe_gateway import StripeGateway

    return StripeGateway(key, settings.stripe_api_base, retries=RETRIES_OF_JOBS)


@lru_cache(maxsize=8)
def _stripe(key: str, api_base: str, retries: int, per_s: float | None) -> Gateway:
    """One for all threads of the process, so that connections are used again."""
    # Imported here, as it takes 0.1 s and 36 MB that a portal without Stripe need not spend.
    from farebox_portal.payments.stripe_gateway import StripeGateway

    return StripeGateway(key, api_base, retries=retries, pace=None if per_s is None else Pace(per_s))

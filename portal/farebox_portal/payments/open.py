"""The provider that the settings name."""

from functools import lru_cache

from farebox_portal.payments.gateway import Gateway
from farebox_portal.settings import Settings

RETRIES_OF_JOBS = 2
RETRIES_OF_REQUESTS = 1


def open_gateway(settings: Settings, retries: int) -> Gateway | None:
    """None: everything is paid by hand. Opens no connection yet. `retries`: by the provider's own client."""
    if settings.stripe_api_key is None:
        return None
    return _stripe(settings.stripe_api_key.get_secret_value(), settings.stripe_api_base, retries)


@lru_cache(maxsize=8)
def _stripe(key: str, api_base: str, retries: int) -> Gateway:
    """One for all threads of the process, so that connections are used again."""
    # Imported here, as it takes 0.1 s and 36 MB that a portal without Stripe need not spend.
    from farebox_portal.payments.stripe_gateway import StripeGateway

    return StripeGateway(key, api_base, retries=retries)

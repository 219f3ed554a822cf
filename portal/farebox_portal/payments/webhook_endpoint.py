"""Where the provider sends its events to: registered, looked after, and given a new secret.

The provider tells an endpoint's secret once, when it is made, and lets neither that nor the API version be changed. So
whatever is to be another one is another endpoint: made, stored with its secret, and only then the one before removed.
Meanwhile both secrets are good, and what both tell is the same event by its id. One that the provider has disabled, as
it could not reach us for days, is made anew too, as are those that omit events or tell of them in the words of another
version than our client's.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

import structlog
from sqlalchemy import Engine

from farebox_portal import audit
from farebox_portal.db import transaction
from farebox_portal.errors import Conflict
from farebox_portal.payments.gateway import Endpoint, Gateway, GatewayFailure, Lacking, Unauthorized
from farebox_portal.payments.tables import PaymentAccount
from farebox_portal.settings import LOOPBACK, Settings

log = structlog.get_logger(__name__)

PATH = "/v1/webhooks/stripe"


@dataclass(frozen=True, slots=True)
class Made:
    """`replaced`: those before it, to be removed once it is stored."""

    endpoint: Endpoint
    replaced: tuple[str, ...]


def is_reachable(settings: Settings) -> bool:
    """Whether the provider could deliver to us: over https, or on the machine on which its stand-in runs too."""
    is_local = urlsplit(settings.public_url).hostname in LOOPBACK
    return settings.is_stripe_local if is_local else settings.public_url.startswith("https://")


def is_ours_to_register(settings: Settings) -> bool:
    """Not where somebody has made one by hand, and gave us its secret."""
    return settings.stripe_webhook_secret is None and is_reachable(settings)


def register(gateway: Gateway, settings: Settings, row: PaymentAccount, *, is_forced: bool = False) -> Made | None:
    """Make an endpoint if there is none that does, and put it into the row. None: all is well, or not for us to do.

    Raises Conflict where the provider refuses one.
    """
    if not is_ours_to_register(settings):
        return None
    url = settings.public_url + PATH
    try:
        known = [one for one in gateway.endpoints(row.instance) if one.is_ours]
        if not is_forced and any(_does(one, row, url) for one in known):
            return None
        made = gateway.add_endpoint(url, row.instance, f"fb1:{row.instance}:webhook:{secrets.token_hex(8)}")
    except (Unauthorized, Lacking):
        raise
    except GatewayFailure as failure:
        raise Conflict(
            f"The provider does not take the webhook endpoint: {failure.detail}", code="stripe_webhook_refused"
        ) from failure
    row.webhook_id = made.id
    # The secret before signs what is still on its way.
    row.webhook_secrets = [*([made.secret] if made.secret else []), *row.webhook_secrets[:1]]
    return Made(made, tuple(one.id for one in known))


def _does(one: Endpoint, row: PaymentAccount, url: str) -> bool:
    is_known = one.id == row.webhook_id and bool(row.webhook_secrets)
    return is_known and one.url == url and one.is_enabled and one.is_current and not one.untold


def remove(gateway: Gateway, made: Made | None) -> None:
    """Those that were replaced. One that stays, as the provider does not answer, goes the next time."""
    for id_ in () if made is None else made.replaced:
        try:
            gateway.remove_endpoint(id_)
        except GatewayFailure as failure:
            log.warning("webhook_endpoint_left", id=id_, code=failure.code)


def look_after(
    engine: Engine,
    gateway: Gateway,
    settings: Settings,
    account: PaymentAccount,
    now: datetime,
    *,
    is_forced: bool = False,
) -> bool:
    """Make it anew if it does not do any more; whether it was. Raises GatewayFailure, Conflict."""
    before = account.webhook_id
    made = register(gateway, settings, account, is_forced=is_forced)
    if made is None:
        return False
    with transaction(engine) as session:
        stored = session.get_one(PaymentAccount, account.id, with_for_update=True)
        if stored.webhook_id != before:  # somebody else was quicker, and keeps theirs
            replaced: Sequence[str] = (made.endpoint.id,)
        else:
            replaced = made.replaced
            stored.webhook_id, stored.webhook_secrets = account.webhook_id, list(account.webhook_secrets)
            stored.updated_at = now
            session.add(stored)
            audit.record(session, "stripe.webhook_endpoint", "payment_account", stored.id, now,
                         before={"id": before}, after={"id": stored.webhook_id})  # fmt: skip
    log.warning("webhook_endpoint_replaced", before=before, id=account.webhook_id, is_forced=is_forced)
    remove(gateway, Made(made.endpoint, tuple(replaced)))
    return True

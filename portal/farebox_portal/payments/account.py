"""The account that is collected with: whether there is one, and connecting it."""

import secrets
from datetime import datetime

from sqlalchemy import Engine
from sqlmodel import Session, func, select

from farebox_portal import audit
from farebox_portal.db import transaction
from farebox_portal.documents import Instant, Output
from farebox_portal.errors import Conflict, Invalid
from farebox_portal.invoicing import profiles
from farebox_portal.invoicing.profile_document import ProfileInput
from farebox_portal.payments import webhook_endpoint
from farebox_portal.payments.gateway import Gateway, GatewayFailure
from farebox_portal.payments.tables import PaymentAccount, PaymentEvent
from farebox_portal.settings import Settings

_PROVIDER = "stripe"


class WebhookDocument(Output):
    """`mode` polling: no events come, as nobody outside can reach us; everything is asked for instead."""

    mode: str
    url: str | None = None
    id: str | None = None
    pending: int
    dead: int


class ReadinessDocument(Output):
    """`isReady`: invoices are collected. If not, `fault` says why, and `remedy` what helps."""

    provider: str
    is_ready: bool
    fault: str | None = None
    remedy: str | None = None
    has_stripe_app: bool
    stripe_app_id: str | None = None
    mode: str | None = None
    has_default_billing_profile: bool
    default_billing_profile_id: str | None = None
    connected_at: Instant | None = None
    webhooks: WebhookDocument | None = None


def connected(session: Session) -> PaymentAccount | None:
    """None: everything is paid by hand."""
    return session.get(PaymentAccount, _PROVIDER)


def usable(session: Session, gateway: Gateway) -> PaymentAccount | None:
    """The account, while anything may be asked of it: its key is the one that was checked, and is not refused."""
    row = connected(session)
    return row if row is not None and row.status == "ready" and is_checked(row, gateway) else None


def is_checked(row: PaymentAccount, gateway: Gateway) -> bool:
    """Whether the key is the one with which the account was connected, or which it was rotated to.

    Another one may be of another account, where none of our customers is: each would look like one that was deleted.
    """
    return row.key_fingerprint in (None, gateway.fingerprint)


def connect(
    engine: Engine, gateway: Gateway, settings: Settings, now: datetime, profile: ProfileInput | None = None
) -> PaymentAccount:
    """From now on invoices are collected there. Raises Conflict the second time, Invalid for a key that will not do.

    `profile`: how is invoiced, unless there is a billing profile already.

    Asks the provider first; then everything is written at once. A webhook endpoint whose secret was lost on the way is
    made anew.
    """
    with transaction(engine, read_only=True) as session:
        if connected(session) is not None:
            raise Conflict("A Stripe account is connected already.", code="stripe_already_connected")
    account_id = _check(gateway)
    row = PaymentAccount(
        id=_PROVIDER,
        account_id=account_id,
        is_live=gateway.is_live,
        instance=secrets.token_hex(6),
        key_fingerprint=gateway.fingerprint,
        connected_at=now,
        updated_at=now,
    )
    made = webhook_endpoint.register(gateway, settings, row)
    with transaction(engine) as session:
        if connected(session) is not None:
            raise Conflict("A Stripe account is connected already.", code="stripe_already_connected")
        session.add(row)
        profiles.connect(session, account_id, profile or profiles.of_provider(), now)
        audit.record(session, "stripe.connect", "payment_account", row.id, now, after={"account": account_id})
    webhook_endpoint.remove(gateway, made)
    return row


def rotate(engine: Engine, gateway: Gateway, settings: Settings, now: datetime) -> PaymentAccount:
    """The key in the environment is another one: take it, if it is of the same account and mode."""
    with transaction(engine, read_only=True) as session:
        row = connected(session)
    if row is None:
        raise Conflict("No Stripe account is connected; connect one first.", code="stripe_not_connected")
    if gateway.is_live != row.is_live:
        raise Conflict("The key is of the other mode; live and test never mix.", code="stripe_mode_differs")
    if _check(gateway) != row.account_id:
        raise Conflict("The key is of another Stripe account.", code="stripe_account_differs")
    made = webhook_endpoint.register(gateway, settings, row)
    with transaction(engine) as session:
        stored = session.get_one(PaymentAccount, _PROVIDER)
        stored.status, stored.fault, stored.updated_at = "ready", None, now
        stored.key_fingerprint = gateway.fingerprint
        stored.webhook_id, stored.webhook_secrets = row.webhook_id, row.webhook_secrets
        session.add(stored)
        audit.record(session, "stripe.rotate", "payment_account", row.id, now, after={"account": row.account_id})
    webhook_endpoint.remove(gateway, made)
    return stored


def _check(gateway: Gateway) -> str:
    """The account's id. Raises Invalid, naming what the key lacks."""
    try:
        lacking = gateway.lacking()
        if lacking:
            rows = "; ".join(lacking)
            detail = f"the restricted key lacks: {rows}. Allow it in the dashboard under API keys"
            raise Invalid([{"pointer": "", "detail": detail}], code="stripe_permission_missing")
        return gateway.account().id
    except GatewayFailure as failure:
        detail = f"FAREBOX_STRIPE_API_KEY: {failure.detail}"
        raise Invalid([{"pointer": "", "detail": detail}], code="stripe_key_refused") from failure


def webhook_secrets(session: Session, settings: Settings) -> list[str]:
    """All that an event may be signed with; none: events are not taken."""
    row = connected(session)
    found = [] if row is None else list(row.webhook_secrets)
    if settings.stripe_webhook_secret is not None:
        found.insert(0, settings.stripe_webhook_secret.get_secret_value())
    return found


def note_fault(session: Session, status: str, fault: str, now: datetime) -> None:
    row = connected(session)
    if row is not None and (row.status, row.fault) != (status, fault):
        row.status, row.fault, row.updated_at = status, fault, now
        session.add(row)


def readiness(session: Session, settings: Settings, gateway: Gateway | None) -> ReadinessDocument:
    """From our own records; `gateway` (None: no key is set) is asked nothing."""
    profile = profiles.default(session)
    profile_id = None if profile is None else profile.id
    row = connected(session)
    if row is None:
        steps = ("set FAREBOX_STRIPE_API_KEY, then " if gateway is None else "") + "POST /v1/setup/stripe"
        return ReadinessDocument(
            provider="manual", is_ready=True, remedy=f"to collect by Stripe: {steps}", has_stripe_app=False,
            has_default_billing_profile=profile_id is not None, default_billing_profile_id=profile_id,
        )  # fmt: skip
    fault, remedy = _fault(row, gateway)
    is_polling = not webhook_secrets(session, settings)
    return ReadinessDocument(
        provider="stripe",
        is_ready=fault is None,
        fault=fault,
        remedy=remedy,
        has_stripe_app=True,
        stripe_app_id=row.account_id,
        mode="live" if row.is_live else "test",
        has_default_billing_profile=profile_id is not None,
        default_billing_profile_id=profile_id,
        connected_at=row.connected_at,
        webhooks=WebhookDocument(
            mode="polling" if is_polling else "events",
            url=None if is_polling else settings.public_url + webhook_endpoint.PATH,
            id=row.webhook_id,
            pending=_count(session, "pending"),
            dead=_count(session, "dead"),
        ),
    )


def _fault(row: PaymentAccount, gateway: Gateway | None) -> tuple[str | None, str | None]:
    """Why nothing is collected, and what helps."""
    if gateway is None:
        return "FAREBOX_STRIPE_API_KEY is not set.", "set it, and start again"
    if not is_checked(row, gateway):
        fault = "FAREBOX_STRIPE_API_KEY is another key than the one that was checked; nothing is sent with it."
        return fault, "POST /v1/setup/stripe/rotate"
    return row.fault, None if row.fault is None else "mend the key, then POST /v1/setup/stripe/rotate"


def _count(session: Session, state: str) -> int:
    return session.exec(select(func.count()).select_from(PaymentEvent).where(PaymentEvent.state == state)).one()

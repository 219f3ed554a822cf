"""The provider: is it the account that was connected, may its key do what it must, who sends the invoices, do webhooks
come? Three checks on one look at it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import Engine
from sqlmodel import Session, col, func, select

from farebox_portal.db import transaction
from farebox_portal.doctor.report import Check, Finding, check, fail, skipped, warn
from farebox_portal.invoicing import profiles
from farebox_portal.payments import webhook_endpoint
from farebox_portal.payments.account import connected, is_checked, webhook_secrets
from farebox_portal.payments.gateway import Account, Endpoint, Gateway, GatewayFailure
from farebox_portal.payments.tables import PaymentEvent
from farebox_portal.settings import Settings

SKEW_MAX_S = 60
"""Signatures of webhooks are good for five minutes, by our clock."""
SILENT_MAX = timedelta(days=7)
STUCK = timedelta(minutes=10)
_KEYS = "the dashboard: Developers, API keys, this key, Edit permissions"


@dataclass(frozen=True, slots=True)
class Connected:
    """Our own record of the account."""

    account_id: str
    is_live: bool
    instance: str
    fault: str | None
    is_key_checked: bool
    webhook_id: str | None
    has_secret: bool


@dataclass(frozen=True, slots=True)
class Answers:
    """What the provider said. `fault`: why it said nothing."""

    account: Account | None = None
    lacking: tuple[str, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Inbox:
    """Webhooks that have come. `waiting`: since when the oldest waits to be applied."""

    last_at: datetime | None = None
    waiting_since: datetime | None = None
    dead: int = 0


@dataclass(frozen=True, slots=True)
class Profile:
    """How is invoiced. `has_default`: there is a billing profile; `country`: its supplier's. `tax`: off, and so on."""

    has_default: bool
    name: str
    address: str
    country: str | None
    tax: profiles.TaxMode


@dataclass(frozen=True, slots=True)
class Facts:
    """`account` None: nothing is connected. `answers` None: nobody was asked, as there is no key."""

    is_production: bool
    is_standin: bool
    public_url: str
    by_environment: bool  # the webhook's secret
    account: Connected | None
    answers: Answers | None
    inbox: Inbox
    profile: Profile
    now: datetime = field(kw_only=True)
    wall: datetime = field(kw_only=True)


def read(settings: Settings, engine: Engine, gateway: Gateway | None, now: datetime, wall: datetime) -> Facts:
    """Asks the provider, outside any transaction; changes nothing there."""
    with transaction(engine, read_only=True) as session:
        row = connected(session)
        account = None if row is None else Connected(
            account_id=row.account_id,
            is_live=row.is_live,
            instance=row.instance,
            fault=row.fault,
            is_key_checked=gateway is not None and is_checked(row, gateway),
            webhook_id=row.webhook_id,
            has_secret=bool(webhook_secrets(session, settings)),
        )  # fmt: skip
        inbox, profile = _inbox(session), _profile_of(session, settings)
    return Facts(
        is_production=settings.environment == "production",
        is_standin=settings.is_stripe_local,
        public_url=settings.public_url,
        by_environment=settings.stripe_webhook_secret is not None,
        account=account,
        answers=None if gateway is None else _ask(gateway, "" if account is None else account.instance),
        inbox=inbox,
        profile=profile,
        now=now,
        wall=wall,
    )


def _profile_of(session: Session, settings: Settings) -> Profile:
    row = profiles.default(session)
    seller = profiles.seller(row, settings.seller_name, settings.seller_address)
    addresses = [] if row is None else row.document["supplier"].get("addresses") or []
    country = addresses[0].get("country") if addresses else None
    return Profile(row is not None, seller["name"], seller["address"], country, profiles.tax_mode(row))


def _inbox(session: Session) -> Inbox:
    def of(state: str) -> tuple[int, datetime | None]:
        rows = select(func.count(), func.min(PaymentEvent.received_at)).where(PaymentEvent.state == state)
        return session.exec(rows).one()

    last = session.exec(
        select(PaymentEvent.received_at).order_by(col(PaymentEvent.received_at).desc()).limit(1)
    ).first()
    return Inbox(last_at=last, waiting_since=of("pending")[1], dead=of("dead")[0])


def _ask(gateway: Gateway, instance: str) -> Answers:
    try:
        lacking = tuple(gateway.lacking())
        return Answers(
            account=None if "Accounts: read" in lacking else gateway.account(),
            lacking=lacking,
            endpoints=() if any(row.startswith("Webhook") for row in lacking) else tuple(gateway.endpoints(instance)),
        )
    except GatewayFailure as failure:
        return Answers(fault=failure.detail)


# --- mode and permissions --------------------------------------------------------------------------------------------


def examine_stripe(facts: Facts) -> Check:
    key, title = "stripe", "Stripe mode and permissions"
    if facts.account is None and facts.answers is None:
        return skipped(key, title, "no FAREBOX_STRIPE_API_KEY: everything is paid by hand")
    mode = "live" if facts.account is not None and facts.account.is_live else "test"
    named = facts.answers.account if facts.answers is not None else None
    summary = f"{mode} mode, account {named.id if named else 'unknown'}"
    return check(key, title, summary, _stripe(facts))


def _stripe(facts: Facts) -> Iterator[Finding]:
    account, answers = facts.account, facts.answers
    if account is None:
        yield fail("a key is set, and no account is connected: everything is paid by hand", "POST /v1/setup/stripe")
    elif answers is None:
        yield fail("an account is connected, and FAREBOX_STRIPE_API_KEY is not set: nothing is collected", "set it")
    elif not account.is_key_checked:
        yield fail("the key is another one than was checked; nothing is sent with it", "POST /v1/setup/stripe/rotate")
    elif account.fault is not None:
        yield fail(f"nothing is sent: {account.fault}", "mend the key, then POST /v1/setup/stripe/rotate")
    if facts.is_standin:
        yield (fail if facts.is_production else warn)(
            "FAREBOX_STRIPE_API_BASE is the payment stand-in: demo payments, no money moves", "remove it"
        )
    if answers is None:
        return
    if answers.fault:
        yield fail(
            f"Stripe refuses or cannot be reached: {answers.fault}", "FAREBOX_STRIPE_API_KEY; the way out over https"
        )
    for row in answers.lacking:
        yield fail(f"the restricted key lacks '{row}'", _KEYS)
    there = answers.account
    if there is not None and account is not None and there.id != account.account_id:
        yield fail(
            f"the key is of the account {there.id}, and {account.account_id} is connected",
            "a key of the connected account",
        )
    if there is not None and there.answered_at is not None:
        skew_s = (facts.wall - there.answered_at).total_seconds()
        if abs(skew_s) > SKEW_MAX_S:
            yield fail(
                f"this host's clock differs from Stripe's by {skew_s:+.0f} s; from 300 s on webhooks are refused",
                "let chrony or systemd-timesyncd keep it",
            )


# --- who sends the invoices ------------------------------------------------------------------------------------------


def examine_profile(facts: Facts) -> Check:
    summary = f"invoices of {facts.profile.name!r}, tax {facts.profile.tax.replace('_', ' ')}"
    return check("billing_profile", "Billing profile", summary, _profile(facts))


def _profile(facts: Facts) -> Iterator[Finding]:
    profile = facts.profile
    if facts.account is not None and not profile.has_default:
        yield fail("an account is connected, and there is no default billing profile", "POST /v1/billing/profiles")
    if profile.name == Settings.model_fields["seller_name"].default:
        grave = fail if facts.is_production else warn
        yield grave(
            f"invoices say that they are of {profile.name!r}",
            "the billing profile's supplier, or FAREBOX_SELLER_NAME, as it stands in the register",
        )
    if not profile.address:
        yield warn(
            "invoices have no address of yours, which most laws want",
            "the billing profile's supplier, or FAREBOX_SELLER_ADDRESS, lines by \\n",
        )
    there = facts.answers.account if facts.answers is not None else None
    if there is not None and there.country and profile.country not in (None, there.country):
        yield warn(
            f"the billing profile's supplier is in {profile.country}, and the Stripe account in {there.country}",
            "PUT /v1/billing/profiles/{id}, supplier.addresses",
        )


# --- webhooks --------------------------------------------------------------------------------------------------------


def examine_webhooks(facts: Facts) -> Check:
    key, title = "webhooks", "Webhooks"
    if facts.account is None:
        return skipped(key, title, "no provider is connected")
    last = (
        "none has come yet" if facts.inbox.last_at is None else f"the last one came {facts.inbox.last_at.isoformat()}"
    )
    return check(key, title, last, _webhooks(facts, facts.account))


def _webhooks(facts: Facts, account: Connected) -> Iterator[Finding]:
    inbox = facts.inbox
    if inbox.dead:
        yield fail(
            f"{inbox.dead} events could not be applied, however often it was tried",
            "GET /v1/payment-events?status=dead, then POST /v1/payment-events/{id}/replay",
        )
    if inbox.waiting_since is not None and facts.now - inbox.waiting_since > STUCK:
        yield fail(
            "events have waited for more than 10 minutes", "run `farebox jobs`, or `farebox portal` without --no-jobs"
        )
    if not account.has_secret:
        yield warn(
            "no webhooks: everything is asked for by the clock instead, so what happens there is known minutes later",
            "FAREBOX_PUBLIC_URL=https://…, then POST /v1/setup/stripe/rotate",
        )
        return
    if facts.by_environment or facts.answers is None or facts.answers.fault:
        return
    yield from _endpoint(facts, account, facts.answers.endpoints)
    if inbox.last_at is not None and facts.now - inbox.last_at > SILENT_MAX:
        yield warn("no event has come for a week", "the dashboard: Developers, Webhooks, deliveries")


def _endpoint(facts: Facts, account: Connected, endpoints: tuple[Endpoint, ...]) -> Iterator[Finding]:
    anew = "POST /v1/setup/stripe/rotate registers it anew"
    ours = next((one for one in endpoints if one.id == account.webhook_id), None)
    if ours is None:
        yield fail("our endpoint is not registered at Stripe any more", anew)
        return
    if not ours.is_enabled:
        yield fail(
            "our endpoint is switched off at Stripe, as its deliveries failed for days", "enable it there, or " + anew
        )
    if ours.url != facts.public_url + webhook_endpoint.PATH:
        yield fail(f"our endpoint is registered as {ours.url}, and we are {facts.public_url}", anew)
    if ours.untold:
        yield warn(f"our endpoint does not tell of {', '.join(ours.untold)}", anew)
    if not ours.is_current:
        yield warn("our endpoint tells of things in the words of another API version", anew)
    if strangers := [one for one in endpoints if one.url == ours.url and one.id != ours.id]:
        yield warn(
            f"{len(strangers)} other endpoints at Stripe lead here too, and sign with secrets that are not ours",
            "delete them there",
        )

"""A customer leaves a way to pay: by a link of ours, over the provider's page, and back.

    POST /v1/subscriptions ── 409, checkoutUrl ── GET /checkout/TOKEN ── provider ── GET /checkout/done

The link says for whom it is and what is going to be ordered, and is signed; nothing is stored before somebody opens it.
The page on the provider's side takes no money: the first invoice does, like every later one.
"""

import base64
import hashlib
import hmac
import json
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Engine
from sqlmodel import Session, col, select

from farebox_portal.db import transaction
from farebox_portal.errors import NotFound
from farebox_portal.payments.account import connected
from farebox_portal.payments.gateway import Done, Gateway, Missing, RemoteCheckout, Request
from farebox_portal.payments.operations import last, perform
from farebox_portal.payments.payers import ensure_payer, refresh
from farebox_portal.payments.tables import Checkout, Payer, PaymentAccount
from farebox_portal.settings import Settings

OPEN_FOR = timedelta(hours=24)
_EVERY = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Order:
    """What a link is for. `message`: what the customer is told about the money, on the provider's page."""

    customer_id: str
    currency: str
    message: str
    expires_s: int

    @property
    def key(self) -> str:
        """The same for the same order, whenever the link was made: a page that is still open is used again."""
        return hashlib.sha256(f"{self.customer_id}/{self.currency}/{self.message}".encode()).hexdigest()[:24]


def link(settings: Settings, order: Order) -> str:
    body = json.dumps([order.customer_id, order.currency, order.message, order.expires_s]).encode()
    return f"{settings.public_url}/checkout/{_text(body)}.{_text(_signature(settings, body))}"


def read_token(settings: Settings, token: str, now: datetime) -> Order:
    """Raises NotFound for what we have not signed, or not lately."""
    refused = NotFound("This link is not valid any more. Order again to get a new one.", code="checkout_expired")
    body_text, _, signature_text = token.partition(".")
    try:
        body, signature = _bytes(body_text), _bytes(signature_text)
    except ValueError:
        raise refused from None
    if not hmac.compare_digest(signature, _signature(settings, body)):
        raise refused
    order = Order(*json.loads(body))
    if now.timestamp() >= order.expires_s:
        raise refused
    return order


def open_page(engine: Engine, gateway: Gateway, settings: Settings, order: Order, now: datetime) -> str:
    """The address of the provider's page. Raises GatewayFailure, NotFound."""
    with transaction(engine, read_only=True) as session:
        account = connected(session)
        known = _open(session, order)
        lost = _lost(session, order)
    if account is None:
        raise NotFound("No payment provider is connected.", code="stripe_not_connected")
    for row in known:
        if _look(gateway, row.id) is not None and row.url is not None:
            return row.url
    request: Request = {
        "instance": account.instance,
        "our_customer": order.customer_id,
        "customer": ensure_payer(engine, gateway, account, order.customer_id, now),
        "currency": order.currency,
        "message": order.message,
        "success_url": f"{settings.public_url}/checkout/done?session={{CHECKOUT_SESSION_ID}}",
        "cancel_url": f"{settings.public_url}/checkout/canceled",
    }
    page = lost if lost is not None and _look(gateway, lost.id) is not None else None
    page = page or perform(
        engine, gateway, account.instance, order.customer_id, "checkout", request, now, part=order.key
    )
    with transaction(engine) as session:
        if session.get(Checkout, page.id) is None:
            session.add(
                Checkout(
                    id=page.id,
                    customer_id=order.customer_id,
                    order_key=order.key,
                    status="open",
                    url=page.url,
                    look_at=now + _EVERY,
                    created_at=now,
                )
            )
    if page.url is None:
        raise NotFound("The page is closed already.", code="checkout_expired")
    return page.url


def _open(session: Session, order: Order) -> list[Checkout]:
    rows = select(Checkout).where(Checkout.customer_id == order.customer_id, Checkout.order_key == order.key)
    return list(session.exec(rows.where(Checkout.status == "open").order_by(col(Checkout.created_at).desc())))


def _lost(session: Session, order: Order) -> Done | None:
    """A page that was made, and whoever made it died before it was written down."""
    made = last(session, order.customer_id, f"checkout:{order.key}")
    if made is None or made.state != "done" or made.result_id is None:
        return None
    return None if session.get(Checkout, made.result_id) else Done(made.result_id, made.result_url)


def _look(gateway: Gateway, id_: str) -> RemoteCheckout | None:
    """While it is open."""
    try:
        found = gateway.checkout(id_)
    except Missing:
        return None
    return found if found.status == "open" else None


def advance_checkout(engine: Engine, gateway: Gateway, account: PaymentAccount, checkout_id: str, now: datetime) -> str:
    """Its status, once what was left there is the customer's way to pay. Raises GatewayFailure, NotFound.

    Called when the customer comes back, when a webhook says so, and by the clock, in any order.
    """
    with transaction(engine, read_only=True) as session:
        row = session.get(Checkout, checkout_id)
        payer = None if row is None else session.get(Payer, row.customer_id)
    if row is None or payer is None:
        raise NotFound("There is no such checkout.", code="checkout_not_found")
    if row.status != "open":
        return row.status
    try:
        remote = gateway.checkout(checkout_id)
    except Missing:
        status = "expired"
    else:
        # The address of the page that one comes back to says nothing: what the provider has does.
        status = remote.status if remote.customer == payer.provider_id else "expired"
    if status == "complete":
        refresh(engine, gateway, account, row.customer_id, now, prefers_latest=True)
    with transaction(engine) as session:
        stored = session.get_one(Checkout, checkout_id)
        stored.status = status
        stored.look_at = now + _pause(now - stored.created_at) if status == "open" else None
        session.add(stored)
    return status


def _pause(age: timedelta) -> timedelta:
    """Whoever does not come back within an hour is looked for more rarely."""
    return _EVERY if age < timedelta(hours=1) else timedelta(hours=1)


def due_checkout(session: Session, now: datetime) -> str | None:
    rows = select(Checkout.id).where(col(Checkout.look_at) <= now).order_by(col(Checkout.look_at)).limit(1)
    return session.exec(rows).first()


def postpone(engine: Engine, checkout_id: str, now: datetime) -> None:
    """The provider did not answer; others have their turn first."""
    with transaction(engine) as session:
        row = session.get_one(Checkout, checkout_id)
        row.look_at = now + _EVERY
        session.add(row)


def _signature(settings: Settings, body: bytes) -> bytes:
    key = hashlib.sha256(b"farebox checkout link\0" + settings.admin_token.get_secret_value().encode()).digest()
    return hmac.digest(key, body, "sha256")


def _text(body: bytes) -> str:
    return base64.urlsafe_b64encode(body).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))

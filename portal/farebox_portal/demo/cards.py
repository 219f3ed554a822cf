"""Demo payments: connect the stand-in, and have the seeded customers leave a card there as a person would."""

import http.client
import json
from collections.abc import Collection
from datetime import datetime
from urllib.parse import urlsplit

from sqlalchemy import Engine
from sqlmodel import Session, select

from farebox_portal.customers.tables import Customer
from farebox_portal.db import transaction
from farebox_portal.errors import CannotStart
from farebox_portal.payments import account
from farebox_portal.payments.checkout import OPEN_FOR, Order, advance_checkout, open_page
from farebox_portal.payments.gateway import Gateway, GatewayFailure
from farebox_portal.payments.open import RETRIES_OF_JOBS, open_gateway
from farebox_portal.payments.tables import Payer, PaymentAccount
from farebox_portal.settings import Settings

CARD = "4242424242424242"
CARD_HOLDERS = frozenset({"pro", "ai", "credits"})
"""Keys of the seeded customers whose plan costs something, or who pay ahead."""


def take_payments(engine: Engine, settings: Settings, now: datetime) -> None:
    """Before anything is sold: what is sold later is collected. Raises CannotStart."""
    gateway = open_gateway(settings, RETRIES_OF_JOBS)
    if gateway is None:
        return
    try:
        with transaction(engine, read_only=True) as session:
            is_connected = account.connected(session) is not None
        if is_connected:
            account.rotate(engine, gateway, settings, now)  # the portal may have another port than the last time
        else:
            account.connect(engine, gateway, settings, now)
    except GatewayFailure as failure:
        raise CannotStart(f"the payment stand-in does not work: {failure.detail}") from failure


def leave_cards(engine: Engine, settings: Settings, now: datetime, holders: Collection[str] = CARD_HOLDERS) -> None:
    """Each of them that has no card leaves one that pays. Raises CannotStart."""
    gateway = open_gateway(settings, RETRIES_OF_JOBS)
    with transaction(engine, read_only=True) as session:
        connected = account.connected(session)
        without = _without_card(session, holders)
    if gateway is None or connected is None:
        return
    for customer_id in without:
        try:
            _leave_card(engine, gateway, connected, settings, customer_id, now)
        except GatewayFailure as failure:
            raise CannotStart(f"the payment stand-in does not work: {failure.detail}") from failure


def _without_card(session: Session, holders: Collection[str]) -> list[str]:
    rows = session.exec(select(Customer.id, Customer.key)).all()
    found = [customer_id for customer_id, key in rows if key in holders]
    payers = {customer_id: session.get(Payer, customer_id) for customer_id in found}
    return [customer_id for customer_id, payer in payers.items() if payer is None or payer.method_id is None]


def _leave_card(
    engine: Engine, gateway: Gateway, connected: PaymentAccount, settings: Settings, customer_id: str, now: datetime
) -> None:
    message = "A card for the demo: no money moves."
    order = Order(customer_id, "USD", message, int((now + OPEN_FOR).timestamp()))
    session_id = open_page(engine, gateway, settings, order, now).rpartition("/")[2]
    _fill_in(settings.stripe_api_base, session_id)
    advance_checkout(engine, gateway, connected, session_id, now)


def _fill_in(stand_in: str, session_id: str) -> None:
    """What a person does on the page."""
    parts = urlsplit(stand_in)
    link = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    body = json.dumps({"session": session_id, "card": CARD})
    try:
        headers = {"Content-Type": "application/json"}
        link.request("POST", "/__standin/actions/complete_checkout", body, headers)
        answer = link.getresponse()
        if answer.status != 200 or json.loads(answer.read())["error"] is not None:
            raise CannotStart("the payment stand-in did not take the demo's card")
    except (OSError, http.client.HTTPException) as error:
        raise CannotStart(f"the payment stand-in does not answer: {error}") from error
    finally:
        link.close()

"""A provider that collects by the real Stripe adapter from the stand-in, every request held against the contract."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import stripe
from fastapi.testclient import TestClient
from sqlalchemy import Engine
from sqlmodel import col, select

from builders.invoices import TERMS, a_shelf
from builders.portal_http import some_settings
from builders.stripe_client import KEY, Checked, Inside
from builders.stripe_contract import Contract
from builders.stripe_flows import PAYS
from builders.subscriptions import APRIL
from farebox_portal.app import create_app
from farebox_portal.clock import FrozenClock
from farebox_portal.db import transaction
from farebox_portal.invoicing.close import close_due
from farebox_portal.invoicing.tables import Invoice
from farebox_portal.payments import account, events
from farebox_portal.payments.stripe_gateway import StripeGateway
from farebox_portal.payments.tables import Collection, Operation, Payer
from farebox_portal.payments.work import Till
from farebox_portal.subscriptions.tables import Subscription
from rig.standin import Standin, StandinInside

DAY = timedelta(days=1)


class Shop:
    """`pro` is $29 a month in advance and a cent for each request beyond 1000; see `a_shelf`. Its clock stands."""

    standin: Any
    http: Any  # Stripe's client, or what takes its place

    def __init__(self, engine: Engine, folder: Path, standin: Standin, contract: Contract, **settings: str) -> None:
        self._open(engine, folder, standin, Checked(contract), FrozenClock(APRIL), **settings)
        with transaction(engine) as session:
            a_shelf(session)

    def _open(
        self, engine: Engine, folder: Path, standin: Any, http: stripe.HTTPClient, clock: FrozenClock, **settings: str
    ) -> None:
        given = {"FAREBOX_STRIPE_API_KEY": KEY, "FAREBOX_STRIPE_API_BASE": standin.url}
        given |= {"FAREBOX_PUBLIC_URL": "http://portal.test"} | settings  # no webhooks can reach that
        self.engine = engine
        self.standin = standin
        self.settings = some_settings(folder, **given)
        self.clock = clock
        self.http = http
        self.gateway = StripeGateway(KEY, standin.url, http_client=http)
        self.till = Till(engine, self.gateway, TERMS)
        token = self.settings.admin_token.get_secret_value()
        self.client = TestClient(
            create_app(self.settings, engine, self.clock),
            headers={"Authorization": f"Bearer {token}"},
            follow_redirects=False,
        )

    def connect(self) -> None:
        account.connect(self.engine, self.gateway, self.settings, self.clock.now())

    def a_customer(self, key: str = "acme", card: str | None = PAYS, **fields: Any) -> str:
        """Its id; with this card as the way to pay."""
        document = {"key": key, "name": key.capitalize(), "primaryEmail": f"{key}@example.com"} | fields
        answer = self.client.post("/v1/customers", json=document)
        assert answer.status_code == 201, answer.text
        if card is not None:
            self.leave_card(key, card)
        return str(answer.json()["id"])

    def leave_card(self, key: str, card: str = PAYS) -> None:
        """Order, get the link, leave a card on the page behind it, and come back."""
        refused = self.order(key)
        assert refused.status_code == 409, refused.text
        session = self.open_checkout(refused.json()["checkoutUrl"])
        done = self.standin.act("complete_checkout", session=session, card=card, authenticated=True)
        assert done["error"] is None, done
        back = self.client.get("/checkout/done", params={"session": session})
        assert "is saved" in back.text, back.text

    def open_checkout(self, url: str) -> str:
        """The session behind a link of ours."""
        answer = self.client.get(url.removeprefix(self.settings.public_url))
        assert answer.status_code == 303, answer.text
        return str(answer.headers["location"].rpartition("/")[2])

    def new_card(self, key: str, card: str = PAYS) -> None:
        """On the provider's own page."""
        opened = self.client.post(f"/v1/customers/{key}/payment-page", json={"returnUrl": "http://127.0.0.1:1/"})
        assert opened.status_code == 200, opened.text
        session = opened.json()["url"].rpartition("/")[2]
        self.standin.act("update_card", session=session, card=card, authenticated=True)

    def order(self, key: str = "acme", plan: str = "pro", **fields: Any) -> Any:
        return self.client.post("/v1/subscriptions", json={"plan": {"key": plan}, "customerKey": key} | fields)

    def a_subscription(self, key: str = "acme", plan: str = "pro", **fields: Any) -> str:
        answer = self.order(key, plan, **fields)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def work(self) -> None:
        """What the jobs do, until nothing is due."""
        now = self.clock.now()
        close_due(self.engine, now, TERMS)
        for _ in range(200):
            did = [
                self.till.apply_event(now), self.till.look_at_checkout(now), self.till.enroll(now),
                self.till.collect(now), self.till.refund(now),
            ]  # fmt: skip
            if not any(did):
                return
        raise AssertionError("there is always something to do")

    def hear(self, kind: str) -> None:
        """The webhooks of this kind, as if they came now; the latest first, as they may."""
        bodies = [json.dumps(self.standin.books.show(one)).encode() for one in self.standin.books.all("event")]
        with transaction(self.engine) as session:
            for body in reversed(bodies):
                hint = self.gateway.hint(body)
                if hint.kind == kind:
                    events.store(session, hint, body, self.clock.now())
        self.work()

    def later(self, by: timedelta) -> None:
        self.clock.advance(by)
        self.work()

    def until(self, holds: Callable[[], bool]) -> None:
        """Jobs go on, every six minutes; what is late at the provider gets the time it needs."""
        for _ in range(100):
            self.later(timedelta(minutes=6))
            if holds():
                return
            time.sleep(0.03)
        raise AssertionError(f"it never came to an end: {self.collections()}")

    def invoices(self) -> list[Invoice]:
        with transaction(self.engine, read_only=True) as session:
            rows = select(Invoice).order_by(col(Invoice.subscription_id), col(Invoice.sequence))
            return list(session.exec(rows))

    def invoice(self) -> Invoice:
        (found,) = self.invoices()
        return found

    def collections(self) -> list[Collection]:
        with transaction(self.engine, read_only=True) as session:
            return list(session.exec(select(Collection).order_by(col(Collection.invoice_id))))

    def collection(self) -> Collection:
        (found,) = self.collections()
        return found

    def operations(self) -> list[Operation]:
        with transaction(self.engine, read_only=True) as session:
            return list(session.exec(select(Operation).order_by(col(Operation.key))))

    def subscription(self, id_: str) -> Subscription:
        with transaction(self.engine, read_only=True) as session:
            return session.get_one(Subscription, id_)

    def payer(self, customer_id: str) -> Payer:
        with transaction(self.engine, read_only=True) as session:
            return session.get_one(Payer, customer_id)

    def standing(self, id_: str) -> tuple[str, Any]:
        row = self.subscription(id_)
        return row.payment_status, row.payment_refused_at

    def there(self) -> list[tuple[str, str, int, tuple[int, ...]]]:
        """What the provider has: our id, status, total and lines of each invoice."""
        books = self.standin.books
        return sorted(
            (
                one["metadata"].get("fb_invoice_id", ""),
                one["status"],
                one["total"],
                tuple(line["amount"] for line in books.all("line_item", invoice=one["id"])),
            )
            for one in books.all("invoice")
        )

    def charges(self) -> list[int]:
        return [one["amount"] for one in self.standin.books.all("charge") if one["paid"]]


class ShopInside(Shop):
    """The same without a socket, at the provider's own pace: for tests that go through it a thousand times.

    The database has to have what `a_shelf` sells. Within `at_home` the portal's pages ask the same stand-in.
    """

    def __init__(self, engine: Engine, folder: Path, **settings: str) -> None:
        clock = FrozenClock(APRIL)
        standin = StandinInside(clock)
        settings = {"FAREBOX_STRIPE_API_BASE": "http://127.0.0.1:1"} | settings
        self._open(engine, folder, standin, Inside(standin), clock, **settings)

    @contextmanager
    def at_home(self) -> Iterator[None]:
        with mock.patch("farebox_portal.payments.open._stripe", return_value=self.gateway):
            yield
        self.standin.close()

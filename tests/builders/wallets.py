"""A provider that sells prepaid credits, asked over HTTP; its clock stands, and its jobs run when they are called."""

from collections import Counter as Tally
from datetime import datetime, timedelta
from typing import Any

from fastapi.testclient import TestClient
from sqlalchemy import Engine
from sqlmodel import Session, select

from builders.invoices import TERMS
from builders.portal import a_batch, a_card, a_feature, a_meter, a_plan, an_event
from builders.quotes import a_price, included
from builders.subscriptions import APRIL, a_fee, an_order
from farebox_portal.app import create_app
from farebox_portal.clock import FrozenClock
from farebox_portal.db import transaction
from farebox_portal.entitlements.compile import compile_account
from farebox_portal.entitlements.facts import read_facts
from farebox_portal.entitlements.used import with_usage
from farebox_portal.invoicing import ledger
from farebox_portal.invoicing.close import close_due
from farebox_portal.invoicing.tables import Invoice, LedgerEntry
from farebox_portal.prepaid.booking import book_slice
from farebox_portal.prepaid.recharge import recharge_slice
from farebox_portal.settings import Settings
from farebox_portal.subscriptions.tables import Subscription
from farebox_portal.usage.ingest import apply_batch

LASTING = {"type": "metered", "issueAfterReset": 0, "isSoftLimit": False, "usagePeriod": "P100Y"}


def a_counter(session: Session) -> None:
    """`packs` and `more_packs`: units of the meter `credits`, none of its own and never reset; `monthly`: ten of them
    anew each month; `pro` and `max`: $29 in advance, and usage.
    """
    for slug in ("credits", "api_requests"):
        a_meter(session, slug)
        a_feature(session, slug, slug)
    for key in ("packs", "more_packs"):
        a_plan(session, a_card("credits", entitlementTemplate=LASTING), key=key)
    a_plan(session, a_card("credits", limit=10), key="monthly")
    for key in ("pro", "max"):
        a_plan(session, a_fee("29"), a_price(included(1000, "0.01")), key=key)


class Counter:
    """Where credit is sold."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine = engine
        self.settings = settings
        self.clock = FrozenClock(APRIL)
        token = settings.admin_token.get_secret_value()
        headers = {"Authorization": f"Bearer {token}"}
        self.client = TestClient(create_app(settings, engine, self.clock), headers=headers)
        self._events = 0
        with transaction(engine) as session:
            a_counter(session)

    def a_subscription(self, plan: str = "packs", customer: str = "acme") -> str:
        with transaction(self.engine) as session:
            return an_order(session, plan, self.clock.now(), customer).id

    def send(self, method: str, path: str, document: Any = None, customer: str = "acme", **more: Any) -> Any:
        return self.client.request(method, f"/v1/customers/{customer}{path}", json=document, **more)

    def get(self, path: str, customer: str = "acme") -> Any:
        answer = self.send("GET", path, customer=customer)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def grant(self, customer: str = "acme", **fields: Any) -> str:
        answer = self.send("POST", "/credits", fields, customer)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def top_up(self, amount: str = "20.00", customer: str = "acme", **fields: Any) -> dict[str, Any]:
        answer = self.send("POST", "/wallet/top-ups", {"amount": amount} | fields, customer)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def invoice(self, id_: str, verb: str) -> Any:
        return self.client.post(f"/v1/invoices/{id_}/{verb}")

    def use(self, subscription_id: str, at: datetime, **used: int) -> None:
        self._events += 1
        with transaction(self.engine) as session:
            row = session.get_one(Subscription, subscription_id)
            event = an_event(row, rid=f"r{self._events}", at=at, **used)
            apply_batch(session, a_batch(event, spool=f"host/{self._events}/1"), self.clock.now())

    def work(self, by: timedelta = timedelta(0)) -> None:
        """Later, what the jobs do until nothing is due."""
        self.clock.advance(by)
        now = self.clock.now()
        close_due(self.engine, now, TERMS)
        while book_slice(self.engine, now):
            pass
        recharge_slice(self.engine, self.settings, now)

    def limit(self, subscription_id: str, at: datetime | None = None, meter: str = "credits") -> int:
        """What is published: how much may be used of the meter at an instant that lies ahead, while nobody is there."""
        now = self.clock.now()
        with transaction(self.engine, read_only=True) as session:
            row = session.get_one(Subscription, subscription_id)
            (facts,) = with_usage(session, read_facts(session, [row.customer_id]), now)
            (sold,) = [one for one in compile_account(facts, now).subscriptions if one.id == subscription_id]
        at_ms = int((at or now).timestamp() * 1000)
        stages = [sold, *(stage for stage in sold.stages if stage.from_ms <= at_ms)]
        (quota,) = [one for one in stages[-1].quotas if one.meter == meter]
        assert quota.hard
        return quota.limit

    def left(self, credit_id: str) -> int:
        """Minor units."""
        (found,) = [one for one in self.get("/credits")["items"] if one["id"] == credit_id]
        return round(float(found["left"]) * 100)

    def invoices(self) -> list[Invoice]:
        with transaction(self.engine, read_only=True) as session:
            return list(session.exec(select(Invoice).order_by(Invoice.number)))  # type: ignore[arg-type]

    def accounts(self) -> dict[str, int]:
        """What stands in each kind of account of the books, if it is not empty; what goes out is below 0."""
        with transaction(self.engine, read_only=True) as session:
            found = ledger.balances(session.exec(select(LedgerEntry)))
        assert sum(found.values()) == 0
        kinds: Tally[str] = Tally()
        for (account, _), total in found.items():
            kinds[account.partition(":")[0]] += total
        return {kind: total for kind, total in kinds.items() if total}

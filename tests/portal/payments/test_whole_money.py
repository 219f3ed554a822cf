"""The machine of the books, with a provider that collects: cards, declines, hosted pages, lost answers, webhooks in any
order, as often as they like or not at all, credit notes, voids, and a portal that dies in the midst of it.

After each step what the provider has is what we asked for, and nothing is there twice. In the end both sides have the
same money, to the cent.
"""

import random
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule
from sqlmodel import col, select

from builders.crashes import Crash, Effects
from builders.invoices import TERMS
from builders.portal_http import some_settings
from builders.stripe_client import KEY, Inside
from builders.stripe_flows import ASKS, DECLINED_WHEN_CHARGED, PAYS
from builders.whole_books import PLANS, START, Books, a_shop_with_shelves, run
from farebox_portal.clock import FrozenClock
from farebox_portal.db import make_engine, transaction
from farebox_portal.errors import Conflict
from farebox_portal.invoicing import actions, credit_notes
from farebox_portal.invoicing.close import close_due
from farebox_portal.invoicing.credit_notes import CreditNoteInput
from farebox_portal.invoicing.tables import Invoice
from farebox_portal.payments import account, events
from farebox_portal.payments.gateway import GatewayFailure
from farebox_portal.payments.payers import ensure_payer, refresh
from farebox_portal.payments.stripe_gateway import StripeGateway
from farebox_portal.payments.tables import Collection, PaymentAccount
from farebox_portal.payments.work import Till
from rig.standin import StandinInside

FAULTS: tuple[dict[str, Any], ...] = (
    {"mode": "drop_before"}, {"mode": "drop_after"}, {"mode": "stored_500"}, {"mode": "stored_500", "effect": False},
    {"mode": "bad_gateway"}, {"mode": "lock_timeout"}, {"mode": "rate_limit"}, {"mode": "conflict_409"},
)  # fmt: skip


class Money(Books):
    clock: FrozenClock
    standin: StandinInside
    http: Inside
    gateway: StripeGateway
    connected: Any  # what the provider had when nobody had bought anything

    @property
    def now(self) -> Any:
        return self.clock.instant

    @now.setter
    def now(self, instant: Any) -> None:
        self.clock.instant = instant

    @initialize(plan=st.sampled_from(PLANS))
    def subscribe(self, plan: str) -> None:
        super().subscribe(plan)

    def open(self) -> None:
        self.standin.go_back(self.connected)
        self.effects = Effects(self.engine, self.http)
        self.till = Till(self.engine, self.gateway, TERMS)
        self.dies_after: int | None = None
        self.heard = 0
        self.by_hand: set[str] = set()
        with transaction(self.engine, read_only=True) as session:
            self.customer = self.row(session).customer_id
            self.account = session.exec(select(PaymentAccount)).one()
        self.new_card(PAYS)

    # --- what happens ------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """What the jobs do. Whoever dies is not there any more, until time goes on."""
        if self.dies_after is not None:
            self.effects.at = (len(self.effects.names) + self.dies_after,)
        try:
            close_due(self.engine, self.now, TERMS)
            for _ in range(300):
                did = [
                    self.till.apply_event(self.now), self.till.enroll(self.now), self.till.collect(self.now),
                    self._refunded(),
                ]  # fmt: skip
                if not any(did):
                    break
            else:
                raise AssertionError("there is always something to do")
        except Crash:
            self.effects.restart()
            self.dies_after = None
        finally:
            self.effects.at = ()

    def _refunded(self) -> bool:
        try:
            return self.till.refund(self.now)
        except GatewayFailure:
            return False

    @rule(after=st.integers(0, 40))
    def die(self, after: int) -> None:
        """The next run of the jobs that comes as far as that."""
        self.dies_after = after

    @rule(hours=st.integers(1, 40 * 24))
    def advance_with_three_runs_at_once(self, hours: int) -> None:
        super().advance_with_three_runs_at_once(hours)
        self.close()

    @rule(card=st.sampled_from([PAYS, DECLINED_WHEN_CHARGED, ASKS]))
    def new_card(self, card: str) -> None:
        now = self.now
        try:
            payer = ensure_payer(self.engine, self.gateway, self.account, self.customer, now)
            page = self.gateway.portal_url(payer, "http://portal.test/").rpartition("/")[2]
            self.standin.act("update_card", session=page, card=card, authenticated=True)
            refresh(self.engine, self.gateway, self.account, self.customer, now, prefers_latest=True)
        except GatewayFailure:
            return  # the customer gives up; what was left is found when somebody looks

    @rule()
    def decline_next(self) -> None:
        self.standin.act("fail_next", decline_code="insufficient_funds")

    @rule()
    def pay_there(self) -> None:
        """On the provider's page, whatever we think of it."""
        for one in self.standin.books.all("invoice", status="open"):
            self.standin.act("pay_invoice", invoice=one["id"], card=PAYS)

    @rule(given=st.sampled_from(FAULTS), nth=st.integers(1, 6))
    def fault(self, given: dict[str, Any], nth: int) -> None:
        self.standin.fault(nth=nth, **given)

    @rule(seed=st.integers(0, 1000), copies=st.integers(1, 5), share=st.sampled_from([0.0, 0.1, 1.0]))
    def hear(self, seed: int, copies: int, share: float) -> None:
        """Everything that was told since the last time: some of it lost, the rest often and in any order."""
        chance = random.Random(seed)
        bodies = self.standin.events()
        told = [body for body in bodies[self.heard :] * copies if chance.random() >= share]
        self.heard = len(bodies)
        chance.shuffle(told)
        with transaction(self.engine) as session:
            for body in told:
                events.store(session, self.gateway.hint(body), body, self.now)
        self.close()

    @rule()
    def pay(self) -> None:
        """By bank transfer, though the provider was to collect it."""
        with transaction(self.engine) as session:
            found = session.exec(select(Invoice).where(col(Invoice.status).in_(["issued", "overdue"]))).all()
            for invoice in found:
                actions.pay(session, invoice, TERMS, self.now)
                self.by_hand.add(invoice.id)
        self.close()

    @rule(cents=st.integers(1, 3000), place=st.integers(0, 20))
    def credit(self, cents: int, place: int) -> None:
        with transaction(self.engine) as session:
            found = session.exec(select(Invoice).where(col(Invoice.number).is_not(None), Invoice.status != "void"))
            invoices = [one for one in found if one.total_minor - one.credited_minor >= cents]
            if not invoices:
                return
            wanted = CreditNoteInput(amount=f"{cents // 100}.{cents % 100:02}", reason="outage")
            with suppress(Conflict):  # it was never paid, and is given up
                credit_notes.give(session, invoices[place % len(invoices)], wanted, self.now)
        self.close()

    @rule(place=st.integers(0, 20))
    def void(self, place: int) -> None:
        with transaction(self.engine) as session:
            found = select(Invoice).where(col(Invoice.status).in_(["issued", "overdue", "uncollectible"]))
            invoices = session.exec(found).all()
            if invoices:
                actions.void(session, invoices[place % len(invoices)], TERMS, self.now)
        self.close()

    @precondition(lambda self: self.standin.standin.faults.queue)
    @rule()
    def mend(self) -> None:
        self.standin.control("faults", method="DELETE")

    # --- what must hold ----------------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_there_twice(self) -> None:
        if not hasattr(self, "till"):
            return
        books, living = self.standin.books, defaultdict(list)
        for one in books.all("invoice"):
            if one["status"] != "void":
                living[one["metadata"]["fb_invoice_id"]].append(one)
        assert max(map(len, living.values()), default=0) <= 1
        assert len(list(books.all("customer"))) <= 1
        paid = sum(one["total"] for one in books.all("invoice", status="paid"))
        assert sum(charge["amount"] for charge in books.all("charge", paid=True)) == paid

    def settle_everything(self) -> None:
        """Everything works again, and there is a card that pays."""
        self.standin.control("faults", method="DELETE")
        self.standin.books.settings("next_failures", queue=[])["queue"].clear()
        self.dies_after = None
        self.new_card(PAYS)
        super().settle_everything()
        self.advance(hours=24)
        self.compare_money()

    def compare_money(self) -> None:
        """Each invoice, ours and theirs."""
        books = self.standin.books
        theirs = {one["metadata"]["fb_invoice_id"]: one for one in books.all("invoice") if one["status"] != "void"}
        with transaction(self.engine, read_only=True) as session:
            collections = {one.invoice_id: one for one in session.exec(select(Collection))}
            for invoice in session.exec(select(Invoice)):
                row, there = collections.get(invoice.id), theirs.get(invoice.id)
                if row is not None and row.state == "stopped":
                    # Only what people did on both sides at once is for people to see to.
                    assert row.fault in ("paid_twice", "total_differs"), row
                    continue
                if there is None:
                    assert invoice.status != "paid" or invoice.id in self.by_hand or not invoice.paid_minor, invoice
                    continue
                assert there["status"] == invoice.status, (invoice, there["status"])
                if invoice.status == "paid":
                    assert there["total"] == invoice.paid_minor, invoice
                    assert self.refunded(there["id"]) == invoice.refunded_minor, invoice

    def refunded(self, id_: str) -> int:
        books = self.standin.books
        intents = {one["payment"]["payment_intent"] for one in books.all("invoice_payment", invoice=id_)}
        return sum(one["amount_refunded"] for one in books.all("charge") if one["payment_intent"] in intents)


@contextmanager
def a_provider(shop: Path) -> Iterator[None]:
    Money.shop = shop
    Money.clock = FrozenClock(START)
    Money.standin = StandinInside(Money.clock)
    Money.http = Inside(Money.standin)
    Money.gateway = StripeGateway(KEY, Money.standin.url, http_client=Money.http)
    given = {"FAREBOX_STRIPE_API_KEY": KEY, "FAREBOX_STRIPE_API_BASE": "http://127.0.0.1:1"}
    settings = some_settings(shop.parent, **given, FAREBOX_PUBLIC_URL="http://portal.test")
    engine = make_engine(f"sqlite:///{shop}")
    account.connect(engine, Money.gateway, settings, START)
    engine.dispose()
    Money.connected = Money.standin.photograph()
    yield
    Money.standin.close()


def test_whatever_happens_both_sides_have_the_same_money() -> None:
    with a_shop_with_shelves() as shop, a_provider(shop):
        run(Money, examples=30, steps=12)

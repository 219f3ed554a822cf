"""Grants, top-ups, payments, usage, expiry and void in any order; after each step the wallet, the published limit and
the books are compared with a reference.

The reference is naive on purpose: it burns unit by unit through a sorted list of what happened, and knows nothing of
stages, periods or shares. The gateway is one that compares its counter with the limit that was published last; the
ledger gets what it let in late, in any order.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from dateutil.relativedelta import relativedelta
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlmodel import select

from builders.portal import a_card, a_plan
from builders.portal_http import some_settings
from builders.subscriptions import APRIL, a_fee
from builders.wallets import LASTING, Counter
from farebox_portal.db import make_engine, transaction
from farebox_portal.invoicing.tables import TOP_UP, Invoice
from farebox_portal.migrate import migrate
from farebox_portal.wallet.tables import CreditLot

FEE = 2900
SECOND = timedelta(seconds=1)
NEVER = datetime.max.replace(tzinfo=APRIL.tzinfo)
Days = st.one_of(st.none(), st.integers(1, 60))


@dataclass
class Lot:
    """`left` is kept of money alone; what is left of units is reckoned from the beginning each time."""

    id: str
    is_money: bool
    amount: int
    priority: int
    starts: datetime
    expires: datetime
    left: int = 0
    voided: datetime = NEVER

    @property
    def ends(self) -> datetime:
        return min(self.expires, self.voided)

    @property
    def order(self) -> tuple[int, datetime, datetime]:
        return self.priority, self.expires, self.starts


def units(lots: list[Lot], usage: list[tuple[datetime, int]], now: datetime) -> tuple[int, int]:
    """(what is left, what nothing covered)."""
    happened: list[tuple[datetime, int, Any]] = [(at, 2, n) for at, n in usage]
    happened += [(lot.ends, 0, lot) for lot in lots if lot.ends <= now]
    happened += [(lot.starts, 1, lot) for lot in lots]
    left: dict[str, int] = {}
    uncovered = 0
    for _, kind, what in sorted(happened, key=lambda one: one[:2]):
        if kind == 0:
            left.pop(what.id, None)
        elif kind == 1:
            left[what.id] = what.amount
        else:
            uncovered += what
        for _ in range(uncovered):
            found = next((lot for lot in sorted(lots, key=lambda lot: lot.order) if left.get(lot.id)), None)
            if found is None:
                break
            left[found.id] -= 1
            uncovered -= 1
    return sum(left.values()), uncovered


class Wallets(RuleBasedStateMachine):
    folder: Path

    @initialize()
    def begin(self) -> None:
        copyfile(self.folder / "schema.db", self.folder / "farebox.db")
        self.engine = make_engine(f"sqlite:///{self.folder / 'farebox.db'}")
        self.counter = Counter(self.engine, some_settings(self.folder))
        with transaction(self.engine) as session:
            a_plan(session, a_fee("29"), a_card("credits", entitlementTemplate=LASTING), key="both")
        self.row = self.counter.a_subscription("both")
        self.lots: list[Lot] = []
        self.orders: list[tuple[dict[str, Any], Lot, int | None]] = []
        self.given_up: list[dict[str, Any]] = []
        self.burnt: dict[str, dict[str, int]] = {}  # invoice -> lot -> cents
        self.usage: list[tuple[datetime, int]] = []
        self.on_its_way: list[tuple[datetime, int]] = []
        self.months = 0
        self.work(timedelta(0))

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.engine.dispose()

    @property
    def now(self) -> datetime:
        return self.counter.clock.now()

    def expiry(self, days: int | None) -> dict[str, Any]:
        return {} if days is None else {"expiration": {"duration": "P1D", "count": days}}

    # --- what happens ------------------------------------------------------------------------------------------------

    @rule(dollars=st.integers(1, 60), priority=st.integers(1, 2), days=Days)
    def grant_money(self, dollars: int, priority: int, days: int | None) -> None:
        self.work(SECOND)
        lot = self.lot(True, dollars * 100, priority, days)
        lot.id = self.counter.grant(amount=f"{dollars}.00", priority=priority, **self.expiry(days))
        self.lots.append(lot)

    @rule(n=st.integers(1, 40), priority=st.integers(1, 2), days=Days)
    def grant_units(self, n: int, priority: int, days: int | None) -> None:
        self.work(SECOND)
        lot = self.lot(False, n, priority, days)
        lot.id = self.counter.grant(units=n, featureKey="credits", priority=priority, **self.expiry(days))
        self.lots.append(lot)

    @rule(dollars=st.integers(1, 60), n=st.one_of(st.none(), st.integers(1, 40)), days=Days)
    def order(self, dollars: int, n: int | None, days: int | None) -> None:
        self.work(SECOND)
        more: dict[str, Any] = {} if n is None else {"units": n, "featureKey": "credits"}
        bought = self.counter.top_up(f"{dollars}.00", **more, **self.expiry(days))
        self.orders.append((bought, self.lot(n is None, dollars * 100 if n is None else n, 100, days), days))

    @precondition(lambda self: self.orders)
    @rule(data=st.data(), verb=st.sampled_from(["pay", "pay", "pay", "void", "mark-uncollectible"]))
    def settle(self, data: st.DataObject, verb: str) -> None:
        self.work(SECOND)
        bought, lot, days = self.orders.pop(data.draw(st.integers(0, len(self.orders) - 1)))
        if verb == "mark-uncollectible" and bought in self.given_up:
            verb = "pay"
        assert self.counter.invoice(bought["invoiceId"], verb).status_code == 200
        if verb == "mark-uncollectible":  # it may be paid after all
            self.orders.append((bought, lot, days))
            self.given_up.append(bought)
        if verb != "pay":
            return
        lot.starts, lot.left = self.now, lot.amount if lot.is_money else 0
        lot.expires = NEVER if days is None else self.now + timedelta(days=days)
        paid = self.counter.get("/wallet/top-ups")["items"]
        lot.id = next(one["creditId"] for one in paid if one["id"] == bought["id"])
        self.lots.append(lot)

    @precondition(lambda self: any(lot.ends == NEVER for lot in self.lots))
    @rule(data=st.data(), refund=st.booleans())
    def void(self, data: st.DataObject, refund: bool) -> None:
        self.work(SECOND)
        lot = data.draw(st.sampled_from([lot for lot in self.lots if lot.ends > self.now]))
        refund = refund and lot.priority == 100
        assert self.counter.send("POST", f"/credits/{lot.id}/void", {"refund": refund}).status_code == 200
        lot.voided, lot.left = self.now, 0

    @rule(n=st.integers(1, 30), is_late=st.booleans())
    def use(self, n: int, is_late: bool) -> None:
        """Admission: its counter has all that was let in, and the limit is the published one."""
        self.work(SECOND)
        n = min(n, max(0, self.counter.limit(self.row) - sum(used for _, used in self.usage)))
        if n:
            self.usage.append((self.now, n))
            self.on_its_way.append((self.now, n))
        if not is_late:
            self.deliver_one(-1)

    @precondition(lambda self: self.on_its_way)
    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        self.deliver_one(data.draw(st.integers(0, len(self.on_its_way) - 1)))

    @precondition(lambda self: any(self.burnt.values()))
    @rule()
    def void_the_last_fee(self) -> None:
        self.work(SECOND)
        id_ = [id_ for id_, burnt in self.burnt.items() if burnt][-1]
        answer = self.counter.invoice(id_, "void")
        if answer.status_code == 409:
            assert answer.json()["code"] == "invoice_paid"
            self.burnt[id_] = {}
            return
        for lot in self.lots:
            lot.left += self.burnt[id_].get(lot.id, 0) if lot.ends > self.now else 0
        self.burnt[id_] = {}

    @rule(days=st.integers(0, 40))
    def later(self, days: int) -> None:
        self.work(timedelta(days=days, minutes=2))

    # --- the reference -----------------------------------------------------------------------------------------------

    def lot(self, is_money: bool, amount: int, priority: int, days: int | None) -> Lot:
        expires = NEVER if days is None else self.now + timedelta(days=days)
        return Lot("", is_money, amount, priority, self.now, expires, amount if is_money else 0)

    def deliver_one(self, place: int) -> None:
        if self.on_its_way:
            at, n = self.on_its_way.pop(place)
            self.counter.use(self.row, at, credits=n)

    def work(self, by: timedelta) -> None:
        self.counter.work(by)
        for lot in self.lots:
            if lot.ends <= self.now:
                lot.left = 0
        fees = [one for one in self.counter.invoices() if one.kind != TOP_UP]
        while APRIL + relativedelta(months=self.months) <= self.now:  # no usage is priced, so nothing waits for any
            burnt: dict[str, int] = {}
            for lot in sorted(self.lots, key=lambda lot: lot.order):
                if lot.is_money and lot.starts <= self.now < lot.ends:
                    burnt[lot.id] = min(lot.left, FEE - sum(burnt.values()))
                    lot.left -= burnt[lot.id]
            invoice = fees[self.months]
            assert invoice.total_minor == FEE - sum(burnt.values())
            self.burnt[invoice.id] = {id_: taken for id_, taken in burnt.items() if taken}
            self.months += 1

    # --- what must hold ----------------------------------------------------------------------------------------------

    @invariant()
    def money_is_what_the_reference_says(self) -> None:
        if not hasattr(self, "counter"):
            return
        shown = self.counter.get("/wallet")["money"]
        balance = sum(round(float(one["balance"]) * 100) for one in shown)
        assert balance == sum(lot.left for lot in self.lots if lot.starts <= self.now < lot.ends)

    @invariant()
    def the_limit_is_what_the_reference_says_of_what_is_known(self) -> None:
        if not hasattr(self, "counter"):
            return
        lots = [lot for lot in self.lots if not lot.is_money]
        known = [one for one in self.usage if one not in self.on_its_way]
        left, uncovered = units(lots, known, self.now)
        limit = self.counter.limit(self.row)
        assert limit == sum(n for _, n in known) - uncovered + left
        left, uncovered = units(lots, self.usage, self.now)
        assert uncovered == 0, "nothing was let in that was not paid for"
        assert limit <= sum(n for _, n in self.usage) + left, "what comes late never lowers it"

    @invariant()
    def the_books_are_right(self) -> None:
        if not hasattr(self, "counter"):
            return
        with transaction(self.engine, read_only=True) as session:
            lots = session.exec(select(CreditLot)).all()
            invoices = session.exec(select(Invoice)).all()
        accounts = self.counter.accounts()
        ordered = sum(one.total_minor for one in invoices if one.kind == TOP_UP and one.status == "issued")
        assert -accounts.get("credit", 0) == sum(lot.left_minor for lot in lots) + ordered
        assert accounts.get("cash", 0) == sum(one.paid_minor - one.refunded_minor for one in invoices)
        assert accounts.get("receivable", 0) == sum(one.outstanding_minor for one in invoices if one.status == "issued")


@pytest.fixture
def machine() -> Iterator[type[Wallets]]:
    shared_memory = Path("/dev/shm")
    with TemporaryDirectory(dir=shared_memory if shared_memory.is_dir() else None) as folder:
        Wallets.folder = Path(folder)
        engine = make_engine(f"sqlite:///{Wallets.folder / 'schema.db'}")
        migrate(engine)
        engine.dispose()
        yield Wallets


def test_whatever_happens_the_wallet_is_right(machine: type[Wallets]) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=12,
            stateful_step_count=15,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        ),
    )

"""A machine: lives, usage and payments in any order, closed by three runs at once; then the books are compared.

The reference is naive on purpose. It keeps a list of what was in force when, adds up seconds and units, and rounds once
at the end; it knows nothing of charges, differences, drafts and credits. What it says must be what was charged, less
what was given back, to the cent: for each month of each time on a plan.

M1 to M13 are the invariants of money (`invoicing.checks` has the list), I3 and I7 those of usage and periods.
"""

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from dateutil.relativedelta import relativedelta
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlmodel import Session, col, select

from builders.invoices import TERMS, a_shelf
from builders.portal import a_batch, an_event
from builders.subscriptions import an_order
from farebox_portal.catalog.tables import Plan
from farebox_portal.db import make_engine, transaction
from farebox_portal.invoicing import actions
from farebox_portal.invoicing.close import close_due
from farebox_portal.invoicing.steps import LATE
from farebox_portal.invoicing.tables import CreditRow, Invoice, InvoiceLine
from farebox_portal.invoicing.verify import verify
from farebox_portal.migrate import migrate
from farebox_portal.subscriptions import lifecycle, plan_change
from farebox_portal.subscriptions.lifecycle import PauseInput
from farebox_portal.subscriptions.plan_change import ChangeInput
from farebox_portal.subscriptions.tables import Subscription
from farebox_portal.usage.access import used_share
from farebox_portal.usage.ingest import apply_batch

START = datetime(2026, 1, 31, 13, 37, tzinfo=UTC)
FEES = {"flat": 1000, "pro": 2900, "max": 9900, "cents": 0, "volume": 0, "free": 0}
PLANS = sorted(FEES)
HOUR = timedelta(hours=1)


@dataclass
class Tenure:
    """One time on a plan, without its pauses. `end` None: it goes on."""

    plan: str
    start: datetime
    end: datetime | None = None
    is_last: bool = False  # it was ended by a cancelation
    served: list[tuple[datetime, datetime | None]] = field(default_factory=list)
    used: Counter[datetime] = field(default_factory=Counter)

    def stop(self, at: datetime, *, is_last: bool = False) -> None:
        self.pause(at)
        self.end, self.is_last = at, is_last

    def pause(self, at: datetime) -> None:
        if self.served and self.served[-1][1] is None:
            self.served[-1] = (self.served[-1][0], at)

    def seconds(self, start: datetime, end: datetime) -> Fraction:
        total = timedelta()
        for begins, ends in self.served:
            total += max(timedelta(), min(end, ends or end) - max(start, begins))
        return Fraction(total // timedelta(microseconds=1))


def months(anchor: datetime, tenure: Tenure, until: datetime) -> Iterator[tuple[datetime, datetime]]:
    n = 0
    while (start := anchor + relativedelta(months=n)) < min(tenure.end or until, until):
        end = anchor + relativedelta(months=n + 1)
        if end > tenure.start:
            yield start, end
        n += 1


def price(plan: str, units: int) -> int:
    """What a month's usage costs, in cents."""
    match plan:
        case "pro":
            exact = Fraction(max(0, units - 1000))
        case "max":
            exact = Fraction(max(0, units - 1000), 2)
        case "cents":
            exact = Fraction(units)
        case "volume":
            exact = Fraction(units * (10 if units <= 1000 else 1))
        case _:
            exact = Fraction(0)
    return half_up(exact)


def half_up(exact: Fraction) -> int:
    return int((Decimal(exact.numerator) / Decimal(exact.denominator)).quantize(Decimal(1), ROUND_HALF_UP))


class Books(RuleBasedStateMachine):
    shop: Path  # a database in which nobody has bought anything yet

    @initialize(plan=st.sampled_from(PLANS))
    def subscribe(self, plan: str) -> None:
        self.database = self.shop.with_name(f"{uuid4()}.db")
        copyfile(self.shop, self.database)
        self.engine = make_engine(f"sqlite:///{self.database}")
        self.now, self.events = START, 0
        with transaction(self.engine) as session:
            self.id = an_order(session, plan, START).id
        self.open()
        self.tenures = [Tenure(plan, START, served=[(START, None)])]
        self.is_paused = False
        self.ends: datetime | None = None
        self.close()

    def open(self) -> None:
        """What else there is before anything happens."""

    def teardown(self) -> None:
        if not hasattr(self, "database"):
            return
        try:
            self.settle_everything()
        finally:
            self.engine.dispose()
            self.database.unlink()

    # --- what happens ------------------------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        return self.ends is not None and self.ends <= self.now

    @property
    def is_plain(self) -> bool:
        return not self.is_paused and self.ends is None

    def row(self, session: Session) -> Subscription:
        return session.get_one(Subscription, self.id)

    @precondition(lambda self: self.is_plain)
    @rule(plan=st.sampled_from(PLANS))
    def change(self, plan: str) -> None:
        if plan == self.tenures[-1].plan:
            return
        with transaction(self.engine) as session:
            wanted = ChangeInput.model_validate({"plan": {"key": plan}, "timing": "immediate"})
            planned = plan_change.plan_change(session, self.row(session), wanted, used_share, self.now)
            plan_change.carry_out(session, planned, self.now)
        self.tenures[-1].stop(self.now)
        if self.tenures[-1].start == self.now:
            self.tenures.pop()
        self.tenures.append(Tenure(plan, self.now, served=[(self.now, None)]))
        self.close()

    @precondition(lambda self: self.is_plain)
    @rule()
    def pause(self) -> None:
        with transaction(self.engine) as session:
            lifecycle.pause(session, self.row(session), PauseInput(), self.now)
        self.tenures[-1].pause(self.now)
        self.is_paused = True
        self.close()

    @precondition(lambda self: self.is_paused and not self.is_over)
    @rule()
    def resume(self) -> None:
        with transaction(self.engine) as session:
            lifecycle.resume(session, self.row(session), "immediate", self.now)
        self.tenures[-1].served.append((self.now, None))
        self.is_paused = False
        self.close()

    @precondition(lambda self: not self.is_over and self.now > START)
    @rule(at_once=st.booleans())
    def cancel(self, at_once: bool) -> None:
        timing: Any = "immediate" if at_once else "next_billing_cycle"
        with transaction(self.engine) as session:
            row = lifecycle.cancel(session, self.row(session), timing, self.now)
            self.ends = row.active_to
        self.close()

    @precondition(lambda self: self.ends is not None and not self.is_over)
    @rule()
    def unschedule(self) -> None:
        with transaction(self.engine) as session:
            lifecycle.unschedule_cancelation(session, self.row(session), self.now)
        self.ends = None
        self.close()

    @rule(units=st.integers(1, 1500), days=st.integers(0, 45))
    def use(self, units: int, days: int) -> None:
        """Also long after it happened; but not when nobody looks any more."""
        if self.ends is not None and self.ends + LATE[-1] <= self.now:
            return
        at = max(self.now - timedelta(days=days, hours=1), START)
        tenure = next(one for one in reversed(self.tenures) if one.start <= at)
        if at >= min((end for end in (tenure.end, self.ends) if end is not None), default=self.now):
            return
        self.events += 1
        with transaction(self.engine) as session:
            event = an_event(self.row(session), rid=str(self.events), at=at, api_requests=units)
            apply_batch(session, a_batch(event, spool=str(self.events)), self.now)
        (month,) = [start for start, end in months(START, tenure, self.now + HOUR) if start <= at < end]
        tenure.used[month] += units

    @rule()
    def pay(self) -> None:
        with transaction(self.engine) as session:
            for invoice in session.exec(select(Invoice).where(col(Invoice.status).in_(["issued", "overdue"]))).all():
                actions.pay(session, invoice, TERMS, self.now)

    @rule()
    def release(self) -> None:
        with transaction(self.engine) as session:
            for invoice in session.exec(select(Invoice).where(Invoice.status == "held")).all():
                actions.finalize(session, invoice, TERMS, self.now)

    @rule(hours=st.integers(1, 40 * 24))
    def advance(self, hours: int) -> None:
        """As the job does: nothing is due for longer than a day before it is done."""
        until = self.now + timedelta(hours=hours)
        while self.now < until:
            self.now = min(until, self.now + timedelta(days=10))
            self.close()

    def close(self) -> None:
        close_due(self.engine, self.now, TERMS)

    @rule(hours=st.integers(1, 40 * 24))
    def advance_with_three_runs_at_once(self, hours: int) -> None:
        self.now += timedelta(hours=hours)
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda _: close_due(self.engine, self.now, TERMS), range(3)))
        assert close_due(self.engine, self.now, TERMS) == 0

    # --- what must hold ----------------------------------------------------------------------------------------------

    @invariant()
    def sums_add_up(self) -> None:
        if not hasattr(self, "engine"):
            return
        with transaction(self.engine, read_only=True) as session:
            assert verify(session, replays=False) == []
            for one in session.exec(select(Invoice)):
                if one.status != "draft" and 0 < one.total_minor < 50:
                    assert one.kind in ("final", "late")  # M13: nobody finalizes by hand here

    def settle_everything(self) -> None:
        """Everything ends, is paid for, and is long past: then what was charged is what it all comes to."""
        self.now += HOUR
        if not self.is_over:
            with transaction(self.engine) as session:
                self.ends = lifecycle.cancel(session, self.row(session), "immediate", self.now).active_to
        assert self.ends is not None
        if len(self.tenures) > 1 and self.tenures[-1].start == self.ends:  # it ended before the change had any time
            self.tenures.pop()
        self.tenures[-1].stop(self.ends, is_last=True)
        for _ in range(2):
            self.advance(hours=20 * 24)
            self.release()
            self.pay()
        self.sums_add_up()
        with transaction(self.engine, read_only=True) as session:
            charged, granted = self.read_charges(session)
            assert verify(session) == []  # M6
        self.compare(charged, granted)

    def read_charges(self, session: Session) -> tuple[Counter[Any], Counter[Any]]:
        """(billed, given back) by kind, plan, the start of the time on it, and the start of the month."""
        charged: Counter[Any] = Counter()
        granted: Counter[Any] = Counter()
        plans = {plan.id: plan.key for plan in session.exec(select(Plan))}
        place_of: dict[str, Any] = {}
        for line in session.exec(select(InvoiceLine)):
            kind = "usage" if line.meter else "fee"
            began = line.charge_key.split("@")[1].split("/")[0]
            month = max(line.rated_start, START)
            if kind == "usage":
                month = max(start for start in (START + relativedelta(months=n) for n in range(60)) if start <= month)
            place = kind, plans[line.plan_id], began, month
            place_of[line.charge_key] = place
            charged[place] += line.gross_minor
        for one in session.exec(select(CreditRow)):
            if one.charge_key is not None:
                granted[place_of[one.charge_key]] += one.released_minor
        return charged, granted

    def compare(self, charged: Counter[Any], granted: Counter[Any]) -> None:
        expected: set[Any] = set()
        for tenure in self.tenures:
            began = tenure.start.strftime("%Y%m%dT%H%M%S.%f")
            for start, end in months(START, tenure, self.now):
                fee, usage = ("fee", tenure.plan, began, start), ("usage", tenure.plan, began, start)
                expected |= {fee, usage}
                assert charged[usage] == price(tenure.plan, tenure.used[start]), (usage, tenure)  # I3, M5
                length = Fraction((end - start) // timedelta(microseconds=1))
                owed = half_up(FEES[tenure.plan] * tenure.seconds(start, end) / length)
                net = charged[fee] - granted[fee]
                if tenure.is_last and tenure.end is not None and start < tenure.end < end:
                    rest = half_up(
                        FEES[tenure.plan] * Fraction((end - tenure.end) // timedelta(microseconds=1)) / length
                    )
                    assert owed <= net <= owed + rest + 1, (fee, tenure)
                elif tenure.end is not None and start < tenure.end < end:
                    # A change gives back a share of what was charged: a cent's rounding of a cent's rounding.
                    assert abs(net - owed) <= 1, (fee, tenure)
                else:
                    assert net == owed, (fee, tenure)  # M4
        # What was ordered and replaced in the same instant costs nothing, and nobody is charged for anything else.
        assert all(charged[place] == granted[place] for place in charged if place not in expected), (charged, granted)


@contextmanager
def a_shop_with_shelves() -> Iterator[Path]:
    """A database in which nobody has bought anything yet."""
    shared_memory = Path("/dev/shm")
    with TemporaryDirectory(dir=shared_memory if shared_memory.is_dir() else None) as folder:
        shop = Path(folder) / "shop.db"
        engine = make_engine(f"sqlite:///{shop}")
        migrate(engine)
        with transaction(engine) as session:
            a_shelf(session)
        engine.dispose()
        yield shop


def run(machine: type[Books], examples: int, steps: int) -> None:
    """FAREBOX_TEST_EXAMPLES: so many instead."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=int(os.environ.get("FAREBOX_TEST_EXAMPLES", examples)),
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=checks,
        ),
    )

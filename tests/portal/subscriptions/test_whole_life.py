"""Everything that can be done to a subscription, in any order, beside a model that is too simple to be wrong.

The model writes a life down day by day, as one would on squared paper: which plan, since when its phase, paused or not,
and since when usage counts. A command overwrites all days from its own on. Nothing is asked of the model but to look up
a day. An add-on that was ordered is a paper of its own, with a number on each day; whether it is there on some day is
found out by walking there from its first.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlmodel import Session, select

from builders.addons import an_addon, offered
from builders.portal import a_batch, a_card, a_database, an_event
from builders.subscriptions import APRIL, ORDER, a_catalog, an_order
from farebox_portal import audit
from farebox_portal.customers.tables import Customer
from farebox_portal.errors import Conflict
from farebox_portal.subscriptions import addons, document, lifecycle, plan_change
from farebox_portal.subscriptions.addons import AddonOrderInput, QuantityInput
from farebox_portal.subscriptions.plan_change import ChangeInput
from farebox_portal.subscriptions.rows import read_life, read_plans
from farebox_portal.subscriptions.tables import Subscription
from farebox_portal.usage.access import usage_document, used_share
from farebox_portal.usage.ingest import apply_batch

DAYS = 3000
DAY = timedelta(days=1)
TRIAL_DAYS = 14
LIMITS = {"free": 100, "pro": 10_000, "max": 100_000}
PLANS = ["free", "pro", "max", "trial"]
PACK = 500
"""Requests a month, of each add-on; `free` does not offer it, and `trial` not in its first phase."""
TIMINGS = [None, "immediate", "next_billing_cycle", 5, 45]


def on(day: int) -> datetime:
    return APRIL + day * DAY


@dataclass(frozen=True)
class Cell:
    plan: str
    phase_since: int
    counts_since: int
    paused: bool = False


@dataclass
class Paper:
    """How many packs were ordered, for each day from day 0 on."""

    id: str
    ordered: list[int]

    def first(self) -> int:
        return next(day for day, quantity in enumerate(self.ordered) if quantity)

    def with_order(self, day: int, quantity: int) -> list[int]:
        return self.ordered[:day] + [quantity] * (DAYS - day)


@dataclass
class Model:
    start: int
    days: list[Cell]  # from day 0 on, also after the end
    end: int | None = None
    used: dict[int, int] = field(default_factory=dict)
    papers: list[Paper] = field(default_factory=list)

    def state(self, today: int) -> str:
        if self.end is not None and (self.end <= today or self.end <= self.start):
            return "inactive"
        if today < self.start:
            return "scheduled"
        if self.days[today].paused:
            return "paused"
        return "active" if self.end is None else "canceled"

    def fill(self, from_: int, cell: Cell) -> None:
        self.days[from_:] = [cell] * (DAYS - from_)

    def phase(self, day: int) -> str:
        cell = self.days[day]
        if cell.plan != "trial":
            return "default"
        return "trial" if day < cell.phase_since + TRIAL_DAYS else "full"

    def limit(self, day: int) -> int:
        own = {"trial": 10, "full": 1000}.get(self.phase(day)) or LIMITS[self.days[day].plan]
        return own + PACK * self.packs(day)

    def packs(self, day: int) -> int:
        return sum(self.there(paper.ordered, day) for paper in self.papers)

    def there(self, ordered: list[int], day: int) -> int:
        """What of it is in force: it is over for good where nothing is ordered, offered or subscribed any more."""
        first = next((one for one, quantity in enumerate(ordered) if quantity), DAYS)
        for one in range(first, day + 1):
            if not (ordered[one] and self.offers(one)) or (self.end is not None and self.end <= one):
                return 0
        return ordered[day] if first <= day else 0

    def offers(self, day: int) -> bool:
        return self.days[day].plan in ("pro", "max") or self.phase(day) == "full"

    def usage(self, today: int) -> int:
        cell = self.days[today]
        since = max(self.cycle_start(today), cell.counts_since)
        if self.phase(today) == "full":
            since = max(since, cell.phase_since + TRIAL_DAYS)
        return sum(units for day, units in self.used.items() if since <= day <= today)

    def cycle_start(self, today: int) -> int:
        return max(day for day in range(today + 1) if day == self.start or self.is_boundary(day))

    def next_cycle(self, today: int) -> int:
        return next(day for day in range(max(today, self.start) + 1, DAYS) if self.is_boundary(day))

    def is_boundary(self, day: int) -> bool:
        return on(day).day == on(self.start).day


class WholeLife(RuleBasedStateMachine):
    folder: TemporaryDirectory[str]
    engine: Any = None

    def __init__(self) -> None:
        super().__init__()
        if WholeLife.engine is None:
            WholeLife.folder = TemporaryDirectory()
            WholeLife.engine = a_database(Path(WholeLife.folder.name))
        # Every run is a transaction that is not committed: two hundred runs need one database.
        self.connection = WholeLife.engine.connect()
        self.begun = self.connection.begin()
        self.session = Session(bind=self.connection)
        self.today = 0
        self.model: Model | None = None
        self.row: Subscription | None = None
        self.steps = 0

    def teardown(self) -> None:
        self.session.close()
        self.begun.rollback()
        self.connection.close()

    @initialize(plan=st.sampled_from(PLANS))
    def open_shop(self, plan: str) -> None:
        a_catalog(self.session)
        pack = an_addon(self.session, a_card(limit=PACK), key="pack")
        offered(self.session, pack, "pro", "max")
        offered(self.session, pack, "trial", phase="full")
        self.subscribe(plan, 0)

    # --- what is done ---

    @rule(units=st.integers(0, 500), days=st.sampled_from([1, 2, 5, 9, 14, 20, 40]))
    def wait(self, units: int, days: int) -> None:
        """Something is used today, and then time passes."""
        if units and self.model is not None and self.model.state(self.today) in ("active", "canceled"):
            self._use(units)
        self.today += days

    @precondition(lambda self: self.model is None or self.model.state(self.today) == "inactive")
    @rule(plan=st.sampled_from(PLANS), delay=st.sampled_from([0, 0, 3, 20]))
    def subscribe(self, plan: str, delay: int) -> None:
        while on(self.today + delay).day > 28:  # the model's months all have such a day
            self.today += 1
        start = self.today + delay
        self.row = an_order(self.session, plan, on(self.today), timing=on(start))
        self.model = Model(start, [Cell(plan, start, start)] * DAYS)
        self.steps = 1

    @precondition(lambda self: self.model is not None)
    @rule(plan=st.sampled_from(PLANS), timing=st.sampled_from([None, "immediate", "next_billing_cycle", 5, 45]))
    def change(self, plan: str, timing: str | int | None) -> None:
        model, row = self._both()
        wanted = ChangeInput.model_validate({"plan": {"key": plan}, "timing": self._timing(timing)})

        def change() -> None:
            planned = plan_change.plan_change(self.session, row, wanted, used_share, on(self.today))
            plan_change.carry_out(self.session, planned, on(self.today))

        state = model.state(self.today)
        if state in ("canceled", "paused", "inactive"):
            self._refused(f"subscription_{state}", change)
            return
        now = max(self.today, model.start)
        is_down = {plan, model.days[now].plan} <= set(ORDER) and ORDER.index(plan) < ORDER.index(model.days[now].plan)
        day = self._day(timing if timing is not None else "next_billing_cycle" if is_down else "immediate")
        if model.end is not None and model.end <= day:
            code = "subscription_ends_before"
            before = model.days[max(day - 1, model.start)]
            self._refused("plan_unchanged" if self._is_on(plan, before) else code, change)
            return
        left = model.days[day] if day <= self.today else model.days[max(day - 1, model.start)]
        if left.plan == plan:
            self._refused("plan_unchanged", change)
            return
        change()
        is_fresh = not is_down and timing != "next_billing_cycle"
        since = day if is_fresh or day == model.start else model.days[day - 1].counts_since
        model.fill(day, Cell(plan, day, since))
        self.steps += 1

    @precondition(lambda self: self.model is not None)
    @rule(timing=st.sampled_from(["immediate", "next_billing_cycle", 5, 45]))
    def cancel(self, timing: str | int) -> None:
        model, row = self._both()

        def cancel() -> None:
            lifecycle.cancel(self.session, row, self._timing(timing), on(self.today))

        if model.state(self.today) == "inactive":
            self._refused("subscription_inactive", cancel)
            return
        cancel()
        model.end = self._day(timing)
        model.fill(model.end, model.days[max(model.end - 1, model.start)])
        self.steps += 1

    @precondition(lambda self: self.model is not None)
    @rule()
    def unschedule_cancelation(self) -> None:
        model, row = self._both()

        def unschedule() -> None:
            lifecycle.unschedule_cancelation(self.session, row, on(self.today))

        if model.state(self.today) == "inactive":
            self._refused("subscription_inactive", unschedule)
        elif model.end is None:
            self._refused("cancelation_not_scheduled", unschedule)
        else:
            unschedule()
            model.end = None
            self.steps += 1

    @precondition(lambda self: self.model is not None)
    @rule(keeps_end=st.booleans())
    def take_back(self, keeps_end: bool) -> None:
        """`unschedule_change`, or with the end too: `restore`."""
        model, row = self._both()
        step = lifecycle.unschedule_change if keeps_end else lifecycle.restore

        def take_back() -> None:
            step(self.session, row, on(self.today))

        now = max(self.today, model.start)
        is_planned = any(cell != model.days[now] for cell in model.days[now:])
        if model.state(self.today) == "inactive":
            self._refused("subscription_inactive", take_back)
        elif not is_planned and (keeps_end or model.end is None):
            self._refused("change_not_scheduled" if keeps_end else "nothing_scheduled", take_back)
        else:
            take_back()
            model.fill(now, model.days[now])
            model.end = model.end if keeps_end else None
            self.steps += 1

    @precondition(lambda self: self.model is not None)
    @rule(timing=st.sampled_from(["immediate", "next_billing_cycle", 5, 45]), length=st.sampled_from([None, 1, 30]))
    def pause(self, timing: str | int, length: int | None) -> None:
        model, row = self._both()
        state = model.state(self.today)
        day = self._day(timing)
        resumes = None if length is None else on(day + length)
        wanted = lifecycle.PauseInput.model_validate({"timing": self._timing(timing), "resumesAt": resumes})

        def pause() -> None:
            lifecycle.pause(self.session, row, wanted, on(self.today))

        if state in ("inactive", "paused"):
            self._refused(f"subscription_{state}", pause)
        elif state == "scheduled":
            self._refused("subscription_not_begun", pause)
        elif model.end is not None and model.end <= day:
            self._refused("subscription_ends_before", pause)
        else:
            pause()
            cell = model.days[day]
            model.fill(day, replace(cell, paused=True))
            if length is not None and (model.end is None or day + length < model.end):
                model.fill(day + length, replace(cell, paused=False))
            self.steps += 1

    @precondition(lambda self: self.model is not None)
    @rule(timing=st.sampled_from(["immediate", "next_billing_cycle", 5]))
    def resume(self, timing: str | int) -> None:
        model, row = self._both()
        state = model.state(self.today)
        day = self._day(timing)

        def resume() -> None:
            lifecycle.resume(self.session, row, self._timing(timing), on(self.today))

        if state == "inactive":
            self._refused("subscription_inactive", resume)
        elif state != "paused":
            self._refused("subscription_not_paused", resume)
        elif model.end is not None and model.end <= day:
            self._refused("subscription_ends_before", resume)
        else:
            resume()
            model.fill(day, replace(model.days[day], paused=False))
            self.steps += 1

    @precondition(lambda self: self.model is not None)
    @rule()
    def delete(self) -> None:
        model, row = self._both()

        def delete() -> None:
            lifecycle.delete(self.session, row, on(self.today))

        state = model.state(self.today)
        if state != "scheduled":
            self._refused("subscription_inactive" if state == "inactive" else "subscription_begun", delete)
        else:
            delete()
            self.model = self.row = None

    # --- add-ons ---

    @precondition(lambda self: self.model is not None)
    @rule(quantity=st.integers(1, 3), timing=st.sampled_from(TIMINGS[1:]))
    def add(self, quantity: int, timing: str | int) -> None:
        model, row = self._both()
        wanted = {"addon": {"key": "pack"}, "quantity": quantity, "timing": self._timing(timing)}

        def add() -> str:
            return addons.add(self.session, row, AddonOrderInput.model_validate(wanted), on(self.today))

        if self._refuses_addons(add):
            return
        day = self._day(timing)
        if any(model.there(paper.ordered, later) for paper in model.papers for later in self._later(paper, day)):
            self._refused("addon_exists", add)
        elif not model.offers(day):
            self._refused("addon_not_offered", add)
        else:
            model.papers.append(Paper(add(), [0] * day + [quantity] * (DAYS - day)))
            self.steps += 1

    @precondition(lambda self: self.model is not None and self.model.papers)
    @rule(place=st.integers(0, 3), quantity=st.integers(0, 3), timing=st.sampled_from(TIMINGS))
    def have_another_quantity(self, place: int, quantity: int, timing: str | int | None) -> None:
        model, row = self._both()
        paper = model.papers[place % len(model.papers)]
        wanted = QuantityInput.model_validate({"quantity": quantity, "timing": self._timing(timing)})

        def change() -> None:
            addons.change(self.session, row, paper.id, wanted, on(self.today))

        if self._refuses_addons(change):
            return
        first = paper.first()
        if timing is not None:
            day = self._day(timing)
        elif self.today < first:
            day = first
        else:
            day = self._day("immediate" if quantity > paper.ordered[self.today] else "next_billing_cycle")
        before = 0 if day <= first else model.there(paper.with_order(day, paper.ordered[day - 1]), day)
        if day > first and not before:
            self._refused("addon_inactive", change)
        elif day <= first and not quantity:
            self._refused("addon_not_begun", change)
        elif quantity > before and not model.offers(day):
            self._refused("addon_not_offered", change)
        elif paper.with_order(day, quantity) == paper.ordered:
            self._refused("addon_unchanged", change)
        else:
            change()
            paper.ordered = paper.with_order(day, quantity)
            self.steps += 1

    @precondition(lambda self: self.model is not None and self.model.papers)
    @rule(place=st.integers(0, 3))
    def take_addon_back(self, place: int) -> None:
        model, row = self._both()
        paper = model.papers[place % len(model.papers)]

        def take_back() -> None:
            addons.unschedule(self.session, row, paper.id, on(self.today))

        begun = paper.with_order(self.today, paper.ordered[self.today])
        if model.state(self.today) == "inactive":
            self._refused("subscription_inactive", take_back)
        elif begun == paper.ordered:
            self._refused("change_not_scheduled", take_back)
        else:
            take_back()
            paper.ordered = begun
            model.papers = [one for one in model.papers if any(one.ordered)]
            self.steps += 1

    def _refuses_addons(self, step: Any) -> bool:
        state = self._both()[0].state(self.today)
        if state != "active":
            self._refused("subscription_not_begun" if state == "scheduled" else f"subscription_{state}", step)
        return state != "active"

    def _later(self, paper: Paper, day: int) -> list[int]:
        """Days from then on at which it would be there, if it ever is: what is in force has no holes."""
        return [one for one in (day, paper.first()) if one >= day]

    # --- what has to hold ---

    @invariant()
    def every_day_is_as_on_paper(self) -> None:
        if self.model is None or self.row is None:
            return
        model, row = self.model, self.row
        life = read_life(self.session, row)
        plans = read_plans(self.session, [life])
        customer = self.session.get_one(Customer, row.customer_id)
        for ahead in (0, 1, 5, 14, 15, 31, 46, 90):
            day = self.today + ahead
            found = document.show_life(row, customer, life, plans, on(day))
            assert (found.status, found.active_to) == (model.state(day), None if model.end is None else on(model.end))
            if found.status != "inactive":
                cell = model.days[max(day, model.start)]
                assert (found.plan.key, found.phase.key) == (cell.plan, model.phase(max(day, model.start)))
                assert sum(one.quantity for one in found.addons) == (0 if day < model.start else model.packs(day))

    @invariant()
    def allowances_count_what_they_should(self) -> None:
        if self.model is None or self.row is None or self.model.state(self.today) in ("inactive", "scheduled"):
            return
        evening = on(self.today) + timedelta(hours=2)
        found = usage_document(self.session, self.row.id, evening).entitlements["api_requests"]
        assert found.limit == self.model.limit(self.today)
        assert found.usage == self.model.usage(self.today)
        if self.model.state(self.today) == "paused":
            assert not found.has_access

    @invariant()
    def it_is_listed_under_its_state_and_plan(self) -> None:
        if self.model is None or self.row is None:
            return
        plan = self.model.days[max(self.today, self.model.start)].plan
        state = self.model.state(self.today)
        if state == "inactive":
            plan = read_plans(self.session, [life := read_life(self.session, self.row)])[life.segments[-1].plan_id].key
        for asked in ("scheduled", "active", "canceled", "paused", "inactive"):
            wanted = lifecycle.every(on(self.today), status=asked, plan_key=plan)
            ids = [row.id for row in self.session.exec(wanted)]
            assert (self.row.id in ids) == (asked == state)

    @invariant()
    def every_step_stands_in_the_log(self) -> None:
        if self.row is None:
            return
        entries = select(audit.AuditEntry).where(
            audit.AuditEntry.object_type == "subscription", audit.AuditEntry.object_id == self.row.id
        )
        assert len(self.session.exec(entries).all()) == self.steps

    # --- in between ---

    def _both(self) -> tuple[Model, Subscription]:
        assert self.model is not None
        assert self.row is not None
        return self.model, self.row

    def _use(self, units: int) -> None:
        model, row = self._both()
        at = on(self.today) + timedelta(hours=1)  # later than all that is decided on this day
        event = an_event(row, rid=f"{row.id}-{self.today}", at=at, api_requests=units)
        apply_batch(self.session, a_batch(event, spool=f"{row.id}-{self.today}"), at)
        model.used[self.today] = units

    def _timing(self, timing: str | int | None) -> Any:
        return on(self.today + timing) if isinstance(timing, int) else timing

    def _day(self, timing: str | int) -> int:
        model, _ = self._both()
        if timing == "immediate":
            return max(self.today, model.start)
        if timing == "next_billing_cycle":
            return model.next_cycle(self.today)
        assert isinstance(timing, int)
        return max(self.today + timing, model.start)

    @staticmethod
    def _is_on(plan: str, cell: Cell) -> bool:
        return cell.plan == plan

    @staticmethod
    def _refused(code: str, step: Any) -> None:
        try:
            step()
        except Conflict as refusal:
            found = refusal.code
        else:
            found = "(it was taken)"
        assert found == code


TestWholeLife = WholeLife.TestCase
TestWholeLife.settings = settings(max_examples=200, stateful_step_count=15, deadline=None)

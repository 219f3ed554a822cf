"""One experiment at work: selling, asking, damaging under load, and coming to rest."""

import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

from builders.provider import Provider
from faults.check import METER, Customer, Report, at_rest, check
from faults.load import Answer, Load, Mix, Question
from faults.rig import Rig

PLENTY = 1_000_000
RATE = 250.0
CONNECTIONS = 24
REST_WITHIN_S = 30.0


class Run:
    """One experiment at work. ``answers`` collects what all clients saw; ``faults``: what it found wrong by itself."""

    def __init__(self, rig: Rig, name: str, seed: int) -> None:
        self.rig = rig
        self.name = name
        self.random = random.Random(f"{name}/{seed}")
        self.operator = Provider(rig)  # type: ignore[arg-type]  # it has what of the demo an operator needs
        self.customers: list[Customer] = []
        self.answers: list[Answer] = []
        self.faults: list[str] = []
        self.notes: list[str] = []
        self.afterwards = ExitStack()  # what the experiment has set up for itself, until it is judged
        self._loads = 0

    # --- selling and asking ---------------------------------------------------------------------------------------

    def sell(self, limit: int | None, **plan: Any) -> Customer:
        """A customer of a plan of its own: a hard monthly limit unless ``plan`` has other phases."""
        subscription = plan.pop("subscription", {})
        key = self.operator.a_plan({METER: PLENTY if limit is None else limit}, **plan)
        buyer = self.operator.a_buyer(key, **subscription)
        sold = Customer(
            buyer.customer_key, buyer.customer_id, buyer.subscription_id, buyer.api_key, buyer.key_id, limit
        )
        self.customers.append(sold)
        return sold

    def load(
        self,
        *customers: Customer,
        count: int | None = None,
        rate: float = 0.0,
        connections: int = CONNECTIONS,
        paths: Sequence[str] = ("/v1/echo/{tag}/{number}",),
        strangers_in: int = 10,
        change: Callable[[Question], Question] = lambda question: question,
    ) -> "_Collected":
        """Load for all customers of this run, or for these."""
        self._loads += 1
        buyers = [(each.tag, each.api_key) for each in customers or self.customers]
        numbered = [path.replace("{number}", f"{self._loads}.{{number}}") for path in paths]
        draw = Mix(buyers, numbered, strangers_in).questions(self.random.randrange(1 << 30), count)

        def question(number: int) -> Question | None:
            found = draw(number)
            return None if found is None else change(found)

        return _Collected(self, Load(self.rig.gateway, question, connections=connections, rate=rate))

    # --- ending ---------------------------------------------------------------------------------------------------

    def finish(self) -> Report:
        """Heal, let everything come to rest, use up what is left of every limit, and compare."""
        self.rig.heal()
        for customer in self.customers:
            self.touch(customer)
        self.rest()
        for customer in self.customers:
            self.fill(customer)
        self.rest()
        report = check(self.rig, self.name, self.customers, self.answers)
        self.operator.close()
        return replace(report, violations=(*report.violations, *self.faults), notes=tuple(self.notes))

    def rest(self) -> None:
        """Wait until nothing is under way. What does not come to rest shows as a violation later."""
        with suppress(TimeoutError):
            self.rig.wait_until(lambda: at_rest(self.rig, self.customers), "everything at rest", REST_WITHIN_S)

    def touch(self, customer: Customer) -> Answer:
        """Ask until it is decided: the first request after a loss has the account rebuilt. The last answer."""
        deadline = time.monotonic() + REST_WITHIN_S
        while (answer := self.ask(customer)).status not in (200, 401, 403, 429):
            if time.monotonic() > deadline:
                self.faults.append(f"{customer.tag}: no decision {REST_WITHIN_S:.0f} s after everything was well")
                break
            time.sleep(0.05)
        return answer

    def fill(self, customer: Customer) -> None:
        """Ask until nothing is left."""
        if customer.limit is None:
            return
        seen: list[Answer] = []

        def is_full() -> bool:
            return any(answer.problem == "quota_exceeded" for answer in seen)

        with self.load(customer, count=customer.limit + 100, connections=4, strangers_in=0) as load:
            seen = load.answers
            while not load.is_over and not is_full():
                time.sleep(0.005)
            load.stop()
        last = self.touch(customer)
        if not is_full() or last.problem != "quota_exceeded":
            self.faults.append(f"{customer.tag}: never refused, last {last.status} {last.problem}")

    def ask(self, customer: Customer, path: str = "/v1/echo/{tag}/{number}") -> Answer:
        with self.load(customer, count=1, connections=1, strangers_in=0, paths=(path,)) as load:
            pass
        return load.answers[0]

    def pause(self, least_s: float, most_s: float) -> None:
        time.sleep(self.random.uniform(least_s, most_s))

    def demand(self, is_so: bool, otherwise: str) -> None:
        if not is_so:
            self.faults.append(otherwise)


class _Collected:
    """A load whose answers the run gets when it is over."""

    def __init__(self, run: Run, load: Load) -> None:
        self._run, self._load = run, load

    def __enter__(self) -> Load:
        return self._load.__enter__()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._load.stop()  # whoever would have stopped it has failed
        self._load.wait()
        self._run.answers += self._load.answers


def under_load(damage: Callable[[Run], None], *, limit: int = 250, after_s: float = 1.0) -> Callable[[Run], None]:
    """One customer who reaches a limit about then, one with plenty, and strangers; the damage; and on for a while."""

    def body(run: Run) -> None:
        run.sell(limit)
        run.sell(None)
        with run.load(rate=RATE) as load:
            run.pause(0.4, 1.0)
            damage(run)
            time.sleep(after_s)
            load.stop()

    return body

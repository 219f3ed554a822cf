"""The portal dies at every point between two effects; whoever comes after it ends where nobody had died.

A recording run numbers the effects (see `builders.crashes`). Then each flow is played once for each of them, and dies
before it; and again for pairs of points of the outbox, where what recovers dies too. What is compared in the end is
everything but moments and random ids: invoices, lines, ledger, payers, collections and operations of ours, and what the
provider has and has charged.

People do again what was not answered: their requests carry an `Idempotency-Key`.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from sqlmodel import Session, col, select

from builders.crashes import Crash, Effects
from builders.databases import SqliteFiles
from builders.invoices import a_shelf
from builders.payments import DAY, ShopInside
from builders.portal import a_batch, an_event
from builders.stripe_flows import DECLINED_WHEN_CHARGED, PAYS
from builders.subscriptions import APRIL
from farebox_portal.catalog.tables import Plan
from farebox_portal.db import transaction
from farebox_portal.invoicing.tables import CreditNote, CreditRow, Invoice, InvoiceLine, LedgerEntry
from farebox_portal.payments.advance import LEASE, LEASE_OF_LINE
from farebox_portal.payments.tables import Checkout, Collection, Operation, Payer
from farebox_portal.subscriptions.tables import Subscription
from farebox_portal.usage.ingest import apply_batch

MAY = datetime(2026, 5, 1, tzinfo=APRIL.tzinfo)
HOUR = timedelta(hours=1)
ALL = bool(os.environ.get("FAREBOX_TEST_ALL"))
"""Every pair of points of the outbox, and not only those that are near each other: minutes."""

Step = Callable[["World"], object]


@dataclass(frozen=True)
class Photograph:
    """A moment to go back to. `effects`: how many there had been."""

    database: bytes
    there: Any
    now: datetime
    page: str
    effects: int


@dataclass
class World:
    """A shop, and what its people remember."""

    shop: ShopInside
    database: Path
    effects: Effects
    page: str = ""  # the provider's, on which somebody is

    def photograph(self) -> Photograph:
        self.shop.engine.dispose()
        kept = self.database.read_bytes()
        there, now = self.shop.standin.photograph(), self.shop.clock.now()
        return Photograph(kept, there, now, self.page, len(self.effects.names))

    def go_back(self, to: Photograph) -> None:
        self.shop.engine.dispose()
        self.database.write_bytes(to.database)
        self.shop.standin.go_back(to.there)
        self.shop.clock.instant, self.page = to.now, to.page
        self.effects.names[:] = [""] * to.effects

    def record(self, start: Photograph, steps: list[Step]) -> list[Photograph]:
        """Play them undisturbed; the moments before each."""
        self.go_back(start)
        self.effects.restart()
        self.effects.names.clear()
        self.effects.at = ()
        found = []
        for step in steps:
            found.append(self.photograph())
            step(self)
        return found

    def play(self, moments: list[Photograph], steps: list[Step], *at: int) -> None:
        """From the step on in which the first of these effects comes, each until it is done.

        People try again at once, and jobs when the lease of who died is over.
        """
        first = max(place for place, moment in enumerate(moments) if moment.effects <= at[0])
        self.go_back(moments[first])
        self.effects.at = at
        for step in steps[first:]:
            while not self._tried(step):
                self.effects.restart()
                if step in (jobs, quiet):
                    self.shop.clock.advance(LEASE + 9 * LEASE_OF_LINE)
        assert len(self.effects.names) > max(at), "nobody died"

    def _tried(self, step: Step) -> bool:
        try:
            step(self)
        except Crash:
            return False
        return True

    def post(self, key: str, path: str, document: Any) -> Any:
        """As somebody who repeats what was not answered."""
        return self.shop.client.post(path, json=document, headers={"Idempotency-Key": key})


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    memory = Path("/dev/shm")
    folder = TemporaryDirectory(dir=memory if memory.is_dir() else None)
    with folder as name, SqliteFiles(Path(name)) as files, files.migrated() as engine:
        assert engine.url.database is not None
        with transaction(engine) as session:
            a_shelf(session)
        shop = ShopInside(engine, Path(name))
        with shop.at_home():
            shop.connect()
            yield World(shop, Path(engine.url.database), Effects(engine, shop.http))


@pytest.fixture(scope="module")
def starts(world: World) -> dict[str, Photograph]:
    connected = world.photograph()
    world.record(connected, SUBSCRIBE)
    subscribed = world.photograph()
    world.record(subscribed, FAIL)
    return {"connected": connected, "subscribed": subscribed, "failed": world.photograph()}


# --- what people and jobs do -----------------------------------------------------------------------------------------


def sign_up(world: World) -> None:
    document = {"key": "acme", "name": "Acme", "primaryEmail": "acme@example.com"}
    assert world.post("sign-up", "/v1/customers", document).status_code == 201


def follow_link(world: World) -> None:
    """Order, and leave a card on the page that the answer links to."""
    session = world.shop.open_checkout(order(world).json()["checkoutUrl"])
    world.shop.standin.act("complete_checkout", session=session, card=PAYS)
    world.page = session


def come_back(world: World) -> None:
    """Also by reloading a page that did not come."""
    assert "is saved" in world.shop.client.get("/checkout/done", params={"session": world.page}).text


def order(world: World) -> Any:
    return world.post("order", "/v1/subscriptions", {"plan": {"key": "pro"}, "customerKey": "acme"})


def ordered(world: World) -> None:
    answer = order(world)
    assert answer.status_code == 201, answer.text


def jobs(world: World) -> None:
    world.shop.work()


def until(instant: datetime) -> Step:
    def wait(world: World) -> None:
        world.shop.clock.instant = max(world.shop.clock.now(), instant)

    return wait


def quiet(world: World) -> None:
    """Whatever was put off is done."""
    for _ in range(3):
        world.shop.clock.advance(timedelta(minutes=6))
        world.shop.work()


def used(units: int) -> Step:
    def use(world: World) -> None:
        with transaction(world.shop.engine) as session:
            row = session.exec(select(Subscription)).one()
            apply_batch(session, a_batch(an_event(row, at=MAY - DAY, api_requests=units)), world.shop.clock.now())

    return use


def card(number: str) -> Step:
    def change(world: World) -> None:
        world.shop.new_card("acme", number)

    return change


def of_the_last(verb: str, **document: Any) -> Step:
    """What an operator does to the last invoice. That it was done already is as good."""

    def press(world: World) -> None:
        invoice = world.shop.invoices()[-1]
        with transaction(world.shop.engine, read_only=True) as session:
            if verb == "credit-notes" and session.exec(select(CreditNote)).first():
                return
        answer = world.shop.client.post(f"/v1/invoices/{invoice.id}/{verb}", json=document)
        assert answer.status_code in (200, 201) or answer.json()["code"] == "invoice_void", answer.text

    return press


def change_plan(world: World) -> None:
    id_ = world.shop.invoices()[0].subscription_id
    with transaction(world.shop.engine, read_only=True) as session:
        if session.get_one(Subscription, id_).plan_id != plan_id(session, "pro"):
            return
    wanted = {"plan": {"key": "max"}, "timing": "immediate"}
    assert world.shop.client.post(f"/v1/subscriptions/{id_}/change", json=wanted).status_code == 200


def plan_id(session: Session, key: str) -> str:
    return session.exec(select(Plan.id).where(Plan.key == key)).one()


SUBSCRIBE: list[Step] = [sign_up, follow_link, come_back, ordered, jobs, quiet]
CLOSE: list[Step] = [used(1234), until(MAY + HOUR), jobs, quiet]
FAIL: list[Step] = [card(DECLINED_WHEN_CHARGED), until(MAY + HOUR), jobs]
RETRY: list[Step] = [until(MAY + DAY + 2 * HOUR), jobs, card(PAYS), until(MAY + 3 * DAY + 3 * HOUR), jobs, quiet]
VOID: list[Step] = [of_the_last("void"), jobs, quiet]
CREDIT: list[Step] = [
    of_the_last("credit-notes", amount="9", reason="outage"), jobs, card(PAYS), until(MAY + DAY + 2 * HOUR), jobs, quiet
]  # fmt: skip
CHANGE: list[Step] = [until(APRIL + 10 * DAY), change_plan, jobs, quiet]
FLOWS: dict[str, tuple[str, list[Step]]] = {
    "subscribe": ("connected", SUBSCRIBE),
    "close": ("subscribed", CLOSE),
    "fail and pay": ("subscribed", FAIL + RETRY),
    "void": ("failed", VOID),
    "credit": ("failed", CREDIT),
    "change": ("subscribed", CHANGE),
}


# --- what is left ----------------------------------------------------------------------------------------------------


def state(world: World) -> dict[str, Any]:
    """Everything but moments and random ids."""
    with transaction(world.shop.engine, read_only=True) as session:
        return ours(session) | theirs(world.shop)


def ours(session: Session) -> dict[str, Any]:
    number_of = {one.id: one.number or "?" for one in session.exec(select(Invoice))}

    def known(text: str) -> str:
        for id_, number in number_of.items():
            text = text.replace(id_, number)
        return text

    return {
        "subscriptions": sorted(
            (row.payment_status, row.payment_refused_at, row.plan_id) for row in session.exec(select(Subscription))
        ),
        "invoices": sorted(
            (one.number, one.kind, one.status, one.provider, bool(one.provider_id), *amounts_of(one))
            for one in session.exec(select(Invoice))
        ),
        "lines": sorted(
            (number_of[line.invoice_id], line.charge_key, line.line_key, line.revision, line.amount_minor)
            for line in session.exec(select(InvoiceLine))
        ),
        "ledger": sorted(
            (known(one.source.rpartition(":")[2]), kind(one.debit), kind(one.credit), one.amount_minor)
            for one in session.exec(select(LedgerEntry))
        ),
        "credits": sorted((row.granted_minor, row.left_minor) for row in session.exec(select(CreditRow))),
        "notes": sorted((one.number, one.total_minor) for one in session.exec(select(CreditNote))),
        "payers": [(row.method_label, bool(row.provider_id)) for row in session.exec(select(Payer))],
        "checkouts": [row.status for row in session.exec(select(Checkout))],
        "collections": sorted(
            (number_of[row.invoice_id], row.state, row.pay_at, row.tries, row.fault)
            for row in session.exec(select(Collection))
        ),
        "operations": sorted(
            (known(one.object_id) if one.object_id in number_of else "payer", one.step.partition(":")[0], one.state)
            for one in last_attempts(session)
        ),
    }


def amounts_of(one: Invoice) -> tuple[int, ...]:
    return one.total_minor, one.paid_minor, one.credited_minor, one.refunded_minor


def last_attempts(session: Session) -> list[Operation]:
    rows = session.exec(select(Operation).order_by(col(Operation.attempt)))
    return list({(row.object_id, row.step): row for row in rows}.values())


def kind(account: str) -> str:
    return account.partition(":")[0]


def theirs(shop: ShopInside) -> dict[str, Any]:
    books = shop.standin.books
    return {
        "their customers": len(list(books.all("customer"))),
        "their sessions": Counter(one["status"] for one in books.all("checkout.session")),
        "their invoices": sorted(one[1:] for one in shop.there()),
        "their items": len(list(books.all("invoiceitem"))),
        "their charges": sorted((one["amount"], one["paid"]) for one in books.all("charge")),
    }


# --- the tests -------------------------------------------------------------------------------------------------------


def test_a_flow_ends_as_it_should_when_nobody_dies(world: World, starts: dict[str, Photograph]) -> None:
    """What the others are compared with."""
    paid = {
        "subscribe": [2900], "close": [2900, 2900 + 234], "fail and pay": [2900, 2900], "void": [2900],
        "credit": [2000, 2900], "change": [2900, 4667],
    }  # fmt: skip
    for name, (start, steps) in FLOWS.items():
        world.record(starts[start], steps)
        found = state(world)
        assert sorted(world.shop.charges()) == sorted(paid[name]), name
        assert {status for status, *_ in found["subscriptions"]} == {"paid"}, name
        assert {one[2] for one in found["invoices"]} <= {"paid", "void"}, name


@pytest.mark.parametrize("flow", FLOWS)
def test_whoever_dies_between_two_effects_changes_nothing_about_the_end(
    world: World, starts: dict[str, Photograph], flow: str
) -> None:
    start, steps = FLOWS[flow]
    moments = world.record(starts[start], steps)
    undisturbed, effects = state(world), list(world.effects.names)
    assert len(effects) > 10
    for number, name in enumerate(effects):
        world.play(moments, steps, number)
        assert state(world) == undisturbed, f"died before {number}: {name}"


def test_whoever_recovers_may_die_too(world: World, starts: dict[str, Photograph]) -> None:
    start, steps = FLOWS["close"]
    moments = world.record(starts[start], steps)
    undisturbed, effects = state(world), list(world.effects.names)
    outbox = [number for number, name in enumerate(effects) if "operations" in name or name.startswith("post")]
    pairs = [(first, second) for first in outbox for second in range(first + 1, len(effects))]
    for first, second in pairs if ALL else [(first, second) for first, second in pairs if second - first in (1, 4)]:
        world.play(moments, steps, first, second)
        assert state(world) == undisturbed, f"died before {first}: {effects[first]}, and again at {second}"

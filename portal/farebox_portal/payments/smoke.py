"""`farebox smoke --test-mode`: once through all that collecting needs, at the real provider, with its test money.

    account ─ permissions ─ customer with a test card ─ checkout page ─ invoice ─ lines ─ finalize ─ pay ─ portal page
    ─ webhook ─ clean up

The same adapter, steps and request forms as in operation; nothing of it touches the catalog, the ledger or a customer
of ours. What is made carries an instance of its own, so that a running portal that hears of it knows that it is none of
its. A paid invoice cannot be deleted at the provider: it stays, in test mode, without its customer.
"""

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from farebox_portal.documents import Output
from farebox_portal.errors import CannotStart
from farebox_portal.payments.gateway import Done, Gateway, GatewayFailure, Lacking, Request, Step

TEST_CARD = "pm_card_visa"
LINES = (("fee", 4900), ("usage", 123))
HEARD_WITHIN_S = 60.0
_LOOK_EVERY_S = 0.5
_BACK = "https://example.com/farebox-smoke"

Outcome = Literal["pass", "skip", "fail"]
Inbox = Callable[[str], bool]
"""Whether an event about this object has come in."""


class StepDocument(Output):
    name: str
    status: Outcome
    ms: int
    detail: str


class SmokeDocument(Output):
    """`status`: fail when a step fails; those after it are not tried, but what was made is cleaned up."""

    status: Literal["pass", "fail"]
    account: str | None
    steps: list[StepDocument]


class Failed(Exception):
    """A step did not do what it should."""


class Skipped(Exception):
    """A step could not be tried, and the rest does not depend on it."""


@dataclass
class _Walk:
    gateway: Gateway
    show: Callable[[StepDocument], None]
    instance: str
    steps: list[StepDocument] = field(default_factory=list)
    account: str | None = None
    customer: str = ""
    has_card: bool = False
    invoice: str = ""

    @property
    def has_failed(self) -> bool:
        return any(step.status == "fail" for step in self.steps)

    def send(self, step: Step, request: Request, part: str = "") -> Done:
        return self.gateway.send(step, request, f"fb1:{self.instance}:{step}{part}:1")

    @contextmanager
    def step(self, name: str, details: list[str]) -> Iterator[None]:
        """Times what is done within it, and notes how it ended. `details`: what to show, when it went well."""
        began_s = time.monotonic()
        status: Outcome = "pass"
        try:
            yield
        except Skipped as skipped:
            status, details = "skip", [str(skipped)]
        except Failed as failed:
            status, details = "fail", [str(failed)]
        except GatewayFailure as failure:
            status, details = "fail", [f"{failure.detail} ({failure.code or type(failure).__name__})"]
        done = StepDocument(
            name=name, status=status, ms=round(1000 * (time.monotonic() - began_s)), detail=", ".join(details)
        )
        self.steps.append(done)
        self.show(done)


def smoke(
    gateway: Gateway,
    inbox: Inbox | None,
    show: Callable[[StepDocument], None] = lambda _: None,
    sleep: Callable[[float], None] = time.sleep,
) -> SmokeDocument:
    """Walks through it. `inbox` None: no webhooks reach this installation. Raises CannotStart for a live key."""
    if gateway.is_live:
        raise CannotStart("this is a live key, and real money: smoke wants a test key, sk_test_… or rk_test_…")
    walk = _Walk(gateway, show, f"smoke-{secrets.token_hex(6)}")
    todo: list[Callable[[], None]] = [
        lambda: _account(walk),
        lambda: _permissions(walk),
        lambda: _customer(walk),
        lambda: _card(walk),
        lambda: _checkout(walk),
        lambda: _invoice(walk),
        lambda: _lines(walk),
        lambda: _finalize(walk),
        lambda: _pay(walk),
        lambda: _portal(walk),
        lambda: _webhook(walk, inbox, sleep),
    ]
    for one in todo:
        if not walk.has_failed:
            one()
    _clean_up(walk)
    return SmokeDocument(status="fail" if walk.has_failed else "pass", account=walk.account, steps=walk.steps)


def _account(walk: _Walk) -> None:
    details: list[str] = []
    with walk.step("account", details):
        found = walk.gateway.account()
        walk.account = found.id
        details += [each for each in (found.id, found.name, found.country) if each]


def _permissions(walk: _Walk) -> None:
    with walk.step("permissions", ["all that are needed"]):
        if lacking := walk.gateway.lacking():
            raise Failed("the key lacks " + "; ".join(lacking))


def _customer(walk: _Walk) -> None:
    details: list[str] = []
    request: Request = {
        "instance": walk.instance,
        "customer": walk.instance,
        "name": "Farebox smoke test",
        "email": "smoke@example.com",
    }
    with walk.step("customer", details):
        try:
            walk.customer = walk.send("customer", request | {"method": TEST_CARD}).id
        except Lacking:
            # To attach a card is more than a restricted key needs in operation, where the checkout page does it.
            walk.customer = walk.send("customer", request, "-without-card").id
        details.append(walk.customer)


def _card(walk: _Walk) -> None:
    details: list[str] = []
    with walk.step("card", details):
        methods = walk.gateway.methods(walk.customer)
        if not methods:
            raise Skipped("the key may not attach test cards; the invoice will be voided instead of paid")
        walk.send("method", {"id": walk.customer, "method": methods[0].id})
        chosen = walk.gateway.customer(walk.customer).method
        if chosen != methods[0].id:
            raise Failed(f"{methods[0].id} was to be the way to pay, and {chosen} is")
        walk.has_card = True
        details.append(methods[0].label)


def _checkout(walk: _Walk) -> None:
    details: list[str] = []
    request: Request = {
        "instance": walk.instance,
        "our_customer": walk.instance,
        "customer": walk.customer,
        "currency": "USD",
        "message": "Farebox smoke test: nothing is charged.",
        "success_url": f"{_BACK}?session={{CHECKOUT_SESSION_ID}}",
        "cancel_url": _BACK,
    }
    with walk.step("checkout", details):
        made = walk.send("checkout", request)
        found = walk.gateway.checkout(made.id)
        if (found.status, found.customer) != ("open", walk.customer) or not made.url:
            raise Failed(f"the page is {found.status}, of the customer {found.customer}")
        details.append(made.id)


def _invoice(walk: _Walk) -> None:
    details: list[str] = []
    request: Request = {
        "instance": walk.instance,
        "invoice": walk.instance,
        "customer": walk.customer,
        "currency": "USD",
        "description": "Farebox smoke test",
    }
    with walk.step("invoice", details):
        walk.invoice = walk.send("invoice", request).id
        listed = [one.id for one in walk.gateway.invoices(walk.customer, walk.instance, walk.instance)]
        if listed != [walk.invoice]:
            raise Failed(f"{walk.invoice} was made, and the list has {listed}")
        details.append(walk.invoice)


def _lines(walk: _Walk) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    with walk.step("lines", [f"{len(LINES)} lines"]):
        for name, amount_minor in LINES:
            request: Request = {
                "instance": walk.instance,
                "id": walk.invoice,
                "customer": walk.customer,
                "currency": "USD",
                "line": name,
                "amount_minor": amount_minor,
                "description": f"Farebox smoke test: {name}",
                "start_s": int(start.timestamp()),
                "end_s": int((start + timedelta(days=31)).timestamp()),
            }
            walk.send("line", request, f"-{name}")
        found = walk.gateway.invoice(walk.invoice)
        if sorted(found.lines) != sorted(LINES):
            raise Failed(f"{LINES} were sent, and it has {found.lines}")


def _finalize(walk: _Walk) -> None:
    details: list[str] = []
    with walk.step("finalize", details):
        walk.send("finalize", {"id": walk.invoice})
        found = walk.gateway.invoice(walk.invoice)
        total_minor = sum(amount_minor for _, amount_minor in LINES)
        if (found.status, found.total_minor, bool(found.url)) != ("open", total_minor, True):
            raise Failed(f"it is {found.status}, of {found.total_minor}, with the page {found.url}")
        details.append(f"{total_minor} minor units of {found.currency}")


def _pay(walk: _Walk) -> None:
    step: Step = "pay" if walk.has_card else "void"
    wanted = "paid" if walk.has_card else "void"
    with walk.step(step, [wanted]):
        walk.send(step, {"id": walk.invoice})
        status = walk.gateway.invoice(walk.invoice).status
        if status != wanted:
            raise Failed(f"it is {status}")


def _portal(walk: _Walk) -> None:
    with walk.step("portal", ["a page of the customer's own"]):
        walk.gateway.portal_url(walk.customer, _BACK)


def _webhook(walk: _Walk, inbox: Inbox | None, sleep: Callable[[float], None]) -> None:
    with walk.step("webhook", ["an event about the invoice has come in"]):
        if inbox is None:
            raise Skipped("no webhooks reach this installation; it asks by the clock")
        ends_s = time.monotonic() + HEARD_WITHIN_S
        while not inbox(walk.invoice):
            if time.monotonic() >= ends_s:
                raise Failed(
                    f"no event has come within {HEARD_WITHIN_S:.0f} s: is the portal running, is its URL public?"
                )
            sleep(_LOOK_EVERY_S)


def _clean_up(walk: _Walk) -> None:
    if not walk.customer:
        return
    with walk.step("clean up", ["the customer is deleted, with card and pages"]):
        if walk.invoice and walk.gateway.invoice(walk.invoice).status == "draft":
            walk.send("delete", {"id": walk.invoice})
        walk.gateway.remove_customer(walk.customer)
        if not walk.gateway.customer(walk.customer).is_deleted:
            raise Failed(f"{walk.customer} is still there")

"""The experiments of group F, on billing, webhooks and time, each by its number.

F1   three invoice runs at once, two more the next day         test_f1 here; invoicing/test_concurrency
F2   timeouts after the effect, stored 500, 409, 429           test_faults; a key that is too old: test_f2 here
F3   webhooks x 5, shuffled, three days late, 10 % lost        test_f3 here; over HTTP: test_webhooks
F4   forged, stale, wrong secret, other mode, rewritten, huge  test_f4 here; test_webhooks
F5   paid before created; deleted, then updated late           test_f5 here
F6   hosted page and automatic charge at the same time         test_f6 here
F7   twenty changes of plan in a period                        test_f7 here
F8   anchors on the 29th to 31st, leap years, 50 years         pricing/test_period, pricing/test_schedule
F9   usage three days after the close                          test_f9 here; invoicing/test_close
F10  what is edited while a period is open; five times usual   test_f10 here; invoicing/test_sanity
F11  failed, grace, refused, paid, to the second               test_f11 here; test_collect
F12  years of it, with faults                                  test_f12 here, test_whole_money
"""

import os
import random
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from dateutil.relativedelta import relativedelta
from sqlalchemy import Engine
from sqlmodel import select

from builders.databases import Databases
from builders.invoices import TERMS, a_shelf
from builders.payments import DAY, ShopInside
from builders.portal import a_batch, an_event
from builders.stripe_flows import DECLINED_WHEN_CHARGED, PAYS
from builders.subscriptions import APRIL
from builders.whole_books import START, Books, a_shop_with_shelves
from farebox_portal.db import transaction
from farebox_portal.entitlements.compile import compile_account
from farebox_portal.entitlements.facts import read_facts
from farebox_portal.invoicing.close import close_due
from farebox_portal.invoicing.verify import verify
from farebox_portal.payments import events
from farebox_portal.payments.advance import POLL
from farebox_portal.subscriptions.tables import Subscription
from farebox_portal.usage.ingest import apply_batch

from .test_whole_money import FAULTS, Money, a_provider

MAY = datetime(2026, 5, 1, tzinfo=APRIL.tzinfo)
HOUR = timedelta(hours=1)
EXAMPLES = int(os.environ.get("FAREBOX_TEST_EXAMPLES", 0))


@pytest.fixture
def shop(engine: Engine, tmp_path: Path) -> Iterator[ShopInside]:
    with transaction(engine) as session:
        a_shelf(session)
    shop = ShopInside(engine, tmp_path)
    with shop.at_home():
        shop.connect()
        yield shop


@pytest.fixture
def paying(shop: ShopInside) -> ShopInside:
    """`acme` is on `pro`, and has paid for April."""
    shop.a_customer()
    shop.a_subscription()
    shop.work()
    return shop


def use(shop: ShopInside, units: int, at: datetime, name: str = "r1") -> None:
    with transaction(shop.engine) as session:
        row = session.exec(select(Subscription)).one()
        event = an_event(row, rid=name, at=at, api_requests=units)
        apply_batch(session, a_batch(event, spool=name), shop.clock.now())


def left(shop: ShopInside) -> tuple[Any, ...]:
    """What is in the books, here and there, without ids and moments."""
    return (
        sorted((one.status, one.total_minor, one.paid_minor, one.refunded_minor) for one in shop.invoices()),
        sorted(one.state for one in shop.collections()),
        sorted(one[1:] for one in shop.there()),
        sorted(shop.charges()),
        [shop.standing(one.subscription_id) for one in shop.invoices()],
    )


def hear(shop: ShopInside, bodies: list[bytes]) -> None:
    with transaction(shop.engine) as session:
        for body in bodies:
            events.store(session, shop.gateway.hint(body), body, shop.clock.now())
    shop.work()


def test_f1_three_invoice_runs_at_once_and_two_more_the_next_day_make_one_invoice(paying: ShopInside) -> None:
    use(paying, 1100, MAY - DAY)
    paying.clock.instant = MAY + HOUR
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: close_due(paying.engine, paying.clock.now(), TERMS), range(3)))
    paying.work()
    before = left(paying)
    for _ in range(2):
        paying.later(DAY)
    assert left(paying) == before
    assert sorted(paying.charges()) == [2900, 3000]


def test_f2_what_was_done_under_a_key_that_is_too_old_is_found_and_not_done_again(paying: ShopInside) -> None:
    paying.clock.instant = MAY + HOUR
    paying.standin.fault("drop_after", "POST /v1/invoices")
    paying.work()
    paying.standin.fault("drop_before", times=100_000)
    for _ in range(26):
        paying.later(HOUR)
    assert sorted(one[1] for one in paying.there()) == ["draft", "paid"]
    paying.standin.control("faults", method="DELETE")
    paying.later(6 * HOUR)
    assert sorted(one[1:] for one in paying.there()) == [("paid", 2900, (2900,))] * 2
    assert paying.charges() == [2900, 2900]


def scenario(shop: ShopInside, tell: Any) -> tuple[Any, ...]:
    """A renewal that fails, another card, a page that is paid, and time for everything to be heard of."""
    shop.a_customer("good")
    shop.a_customer("bad", DECLINED_WHEN_CHARGED)
    shop.a_subscription("good")
    shop.a_subscription("bad")
    shop.work()
    tell(shop)
    shop.later(HOUR)
    for one in shop.standin.books.all("invoice", status="open"):
        shop.standin.act("pay_invoice", invoice=one["id"], card=PAYS)
    tell(shop)
    shop.later(POLL)
    shop.clock.instant = MAY + HOUR
    shop.new_card("good", DECLINED_WHEN_CHARGED)
    shop.work()
    tell(shop)
    shop.later(DAY + HOUR)
    shop.new_card("good", PAYS)
    for _ in range(6):
        tell(shop)
        shop.later(DAY)
    return left(shop)


def told_late(seed: int) -> Any:
    """Five times each, in any order, three days late, and a tenth of it never."""
    chance = random.Random(seed)
    waiting: list[tuple[datetime, bytes]] = []
    heard = 0

    def tell(shop: ShopInside) -> None:
        nonlocal heard
        bodies, now = shop.standin.events(), shop.clock.now()
        waiting.extend((now + 3 * DAY, body) for body in bodies[heard:] * 5 if chance.random() >= 0.1)
        heard = len(bodies)
        due = [body for at, body in waiting if at <= now]
        waiting[:] = [one for one in waiting if one[0] > now]
        chance.shuffle(due)
        hear(shop, due)

    return tell


@pytest.mark.parametrize("seed", range(max(1, EXAMPLES // 10)))
def test_f3_webhooks_that_are_many_late_lost_and_in_disorder_end_as_none_at_all(
    databases: Databases, tmp_path: Path, seed: int
) -> None:
    ends = []
    for tell in (lambda _: None, told_late(seed)):
        with databases.migrated() as engine:
            with transaction(engine) as session:
                a_shelf(session)
            shop = ShopInside(engine, tmp_path)
            with shop.at_home():
                shop.connect()
                ends.append(scenario(shop, tell))
    assert ends[0] == ends[1]
    assert ends[0][3] == [2900] * 4


def test_f4_a_test_event_on_a_live_account_and_a_huge_one_are_refused_and_write_nothing(paying: ShopInside) -> None:
    body = paying.standin.events()[0].replace(b'"livemode": false', b'"livemode": true')
    assert b'"livemode": true' in body
    with (
        mock.patch.object(paying.gateway, "is_genuine", return_value=True),
        mock.patch("farebox_portal.payments.account.webhook_secrets", return_value=["whsec_1"]),
    ):
        other = paying.client.post("/v1/webhooks/stripe", content=body)
        huge = paying.client.post("/v1/webhooks/stripe", content=b" " * (10 << 20))
    assert (other.status_code, other.json()["code"]) == (400, "stripe_mode_differs")
    assert huge.status_code == 413
    assert paying.client.get("/v1/payment-events").json()["totalCount"] == 0
    counted = paying.client.get("/metrics").text
    assert 'route="/v1/webhooks/stripe",status="400"' in counted


def test_f5_events_backwards_and_a_customer_who_was_deleted_and_updated_later_change_nothing_back(
    paying: ShopInside,
) -> None:
    before = left(paying)
    hear(paying, paying.standin.events()[::-1])
    assert left(paying) == before
    customer = next(paying.standin.books.all("customer"))
    updated = next(body for body in reversed(paying.standin.events()) if b'"customer.updated"' in body)
    paying.standin.act("delete_customer", customer=customer["id"])
    deleted = next(body for body in reversed(paying.standin.events()) if b'"customer.deleted"' in body)
    late = updated.replace(b'"id": "evt_', b'"id": "evt_late')
    hear(paying, [deleted])
    hear(paying, [late])
    payer = paying.payer(paying.invoices()[0].customer_id)
    assert (payer.provider_id, payer.method_id) == (None, None)
    assert left(paying) == before


@pytest.mark.parametrize("number", range(EXAMPLES or 8))
def test_f6_a_page_that_is_paid_while_it_is_charged_is_paid_once(paying: ShopInside, number: int) -> None:
    paying.clock.instant = MAY + HOUR
    paying.standin.fault("rate_limit", "POST /v1/invoices/*/pay", times=3)
    paying.work()
    invoice = paying.invoices()[-1]
    paying.clock.advance(HOUR)

    def pay_there() -> None:
        with suppress(RuntimeError):  # it is paid already
            paying.standin.act("pay_invoice", invoice=invoice.provider_id, card=PAYS)

    def come_back() -> None:
        paying.client.get("/checkout/done", params={"session": "cs_test_none"})

    with ThreadPoolExecutor(4) as pool:
        work: list[Any] = [pay_there, paying.work, come_back, lambda: hear(paying, paying.standin.events())]
        random.Random(number).shuffle(work)
        for done in [pool.submit(one) for one in work]:
            done.result()
    paying.later(6 * HOUR)
    assert paying.charges() == [2900, 2900]
    assert [one.status for one in paying.invoices()] == ["paid", "paid"]


def test_f7_twenty_changes_in_a_period_are_charged_for_their_time() -> None:
    chance = random.Random(7)
    with a_shop_with_shelves() as shop:
        Books.shop = shop
        books = Books()
        books.subscribe(plan="pro")
        for _ in range(20):
            books.now += timedelta(seconds=chance.randrange(DAY // timedelta(seconds=1)))
            books.change(plan=chance.choice(["flat", "pro", "max", "cents"]))
            books.pay()
        books.teardown()  # compares each time on a plan with what was charged for it


def test_f9_usage_that_comes_three_days_after_the_close_is_a_line_of_the_next_invoice(paying: ShopInside) -> None:
    use(paying, 1100, MAY - DAY)
    paying.clock.instant = MAY + HOUR
    paying.work()
    paying.clock.advance(3 * DAY)
    use(paying, 50, MAY - DAY, name="late")
    paying.work()
    paying.clock.instant = MAY + 31 * DAY + HOUR
    paying.work()
    assert [one[2:] for one in sorted(paying.there(), key=lambda one: one[0])] == [
        (2900, (2900,)),
        (3000, (2900, 100)),
        (2950, (2900, 50)),
    ]


def test_f10_what_is_far_above_the_usual_is_not_charged_before_somebody_has_looked(paying: ShopInside) -> None:
    at = MAY
    for number in range(4):
        use(paying, 1100 if number < 3 else 60_000, at - DAY, name=f"month-{number}")
        paying.clock.instant = at + HOUR
        paying.work()
        at += relativedelta(months=1)
    last = paying.invoices()[-1]
    assert (last.status, last.reasons) == ("held", ["unusual_total"])
    assert max(paying.charges()) == 3000
    assert paying.client.post(f"/v1/invoices/{last.id}/finalize").status_code == 200
    paying.work()
    assert max(paying.charges()) == 2900 + 59_000


def test_f11_access_ends_three_days_after_the_failure_to_the_second_and_is_back_with_the_payment(
    paying: ShopInside,
) -> None:
    customer = paying.invoices()[0].customer_id

    def access() -> list[tuple[int, str]]:
        with transaction(paying.engine, read_only=True) as session:
            (facts,) = read_facts(session, [customer])
            (sold,) = compile_account(facts, paying.clock.now()).subscriptions
        return [(step.from_ms, step.refusal) for step in sold.access]

    granted = access()
    paying.new_card("acme", DECLINED_WHEN_CHARGED)
    paying.clock.instant = MAY + HOUR
    paying.work()
    refused_ms = int((MAY + HOUR + 3 * DAY).timestamp() * 1000)
    assert access() == [*granted, (refused_ms, "payment_required")]
    paying.clock.instant = MAY + HOUR + 4 * DAY
    paying.new_card("acme", PAYS)
    hear(paying, paying.standin.events())
    assert access() == granted


@pytest.mark.parametrize("seed", range(max(1, EXAMPLES // 10)))
def test_f12_a_year_of_everything_with_faults_leaves_both_sides_with_the_same_money(seed: int) -> None:
    chance = random.Random(seed)
    months = 60 if EXAMPLES else 12
    with a_shop_with_shelves() as shop, a_provider(shop):
        Money.clock.instant = START
        money = Money()
        money.subscribe(plan="pro")
        acts: list[Any] = [
            lambda: money.use(units=chance.randrange(1, 1500), days=chance.randrange(30)),
            lambda: money.hear(seed=chance.randrange(999), copies=3, share=0.1),
            lambda: money.fault(given=chance.choice(FAULTS), nth=chance.randrange(1, 9)),
            lambda: money.die(after=chance.randrange(40)),
            lambda: money.credit(cents=chance.randrange(1, 900), place=chance.randrange(9)),
            lambda: money.new_card(card=chance.choice([PAYS, PAYS, DECLINED_WHEN_CHARGED])),
            lambda: money.change(plan=chance.choice(["flat", "pro", "max"])),
            money.pay_there, money.decline_next, money.mend,
        ]  # fmt: skip
        for _ in range(months):
            for act in chance.choices(acts, k=4):
                act()
                money.advance(hours=chance.randrange(24, 14 * 24))
            money.sums_add_up()
            money.nothing_is_there_twice()
        money.teardown()


# --- from the stand-in's log -----------------------------------------------------------------------------------------

ASKED = {
    "GET /v1/account",
    "POST /v1/customers", "GET /v1/customers", "GET /v1/customers/*", "POST /v1/customers/*",
    "GET /v1/customers/*/payment_methods",
    "POST /v1/checkout/sessions", "GET /v1/checkout/sessions/*", "POST /v1/billing_portal/sessions",
    "GET /v1/invoices", "POST /v1/invoices", "GET /v1/invoices/*", "DELETE /v1/invoices/*", "GET /v1/invoices/*/lines",
    "POST /v1/invoices/*/finalize", "POST /v1/invoices/*/pay", "POST /v1/invoices/*/void",
    "POST /v1/invoices/*/mark_uncollectible", "POST /v1/invoiceitems",
    "GET /v1/credit_notes", "POST /v1/credit_notes", "GET /v1/invoice_payments",
}  # fmt: skip
"""Everything that the jobs and the pages ask Stripe, beside the probes of a key when it is connected."""


def asked(shop: ShopInside) -> set[str]:
    patterns = [(re.compile(one.replace("*", "[^/]+")), one) for one in ASKED]
    found = {f"{one['method']} {one['path']}" for one in shop.standin.log()}
    return {next((name for pattern, name in patterns if pattern.fullmatch(one)), one) for one in found}


def test_nothing_is_asked_of_the_provider_but_what_is_on_the_list(shop: ShopInside) -> None:
    """No products, prices, subscriptions, payment or setup intents, refunds, charges, meters."""
    shop.standin.control("log", method="DELETE")
    assert scenario(shop, lambda shop: hear(shop, shop.standin.events()))[3] == [2900] * 4
    last = shop.invoices()[-1]
    shop.client.post(f"/v1/invoices/{last.id}/credit-notes", json={"amount": "1", "reason": "outage"})
    shop.later(HOUR)
    assert asked(shop) <= ASKED
    assert len(asked(shop)) > 12


def test_traffic_and_free_plans_ask_the_provider_nothing(paying: ShopInside) -> None:
    paying.a_customer("gratis", card=None)
    free = paying.a_subscription("gratis", plan="free")
    paying.standin.control("log", method="DELETE")
    paid = paying.invoices()[0].subscription_id
    token = {
        "Authorization": f"Bearer {paying.settings.plugin_token.get_secret_value()}",
        "Content-Type": "application/x-protobuf",
    }
    for number, id_ in enumerate((paid, free)):
        with transaction(paying.engine, read_only=True) as session:
            row = session.get_one(Subscription, id_)
        batch = a_batch(an_event(row, rid=f"r{number}", at=APRIL + HOUR, api_requests=5), spool=f"s{number}")
        sent = paying.client.post("/internal/v1/usage", content=batch.SerializeToString(), headers=token)
        assert sent.status_code == 200, sent.text
        assert paying.client.get(f"/v1/subscriptions/{id_}/access").status_code == 200
    assert paying.standin.log() == []
    paying.client.post(f"/v1/subscriptions/{paid}/cancel", json={"timing": "immediate"})
    paying.work()
    paying.standin.control("log", method="DELETE")
    for month in range(1, 4):
        paying.clock.instant = APRIL + relativedelta(months=month) + 2 * HOUR
        paying.work()
    assert paying.standin.log() == []
    with transaction(paying.engine, read_only=True) as session:
        assert verify(session) == []

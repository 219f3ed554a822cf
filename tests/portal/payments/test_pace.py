"""The provider is away for hours, and comes back: then everything is collected, no faster than it may be asked."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from sqlalchemy import Engine
from structlog.testing import capture_logs

from builders.invoices import a_shelf
from builders.payments import DAY, ShopInside
from builders.portal_http import some_settings
from builders.stripe_client import KEY
from builders.subscriptions import APRIL
from farebox_portal.clock import to_ms
from farebox_portal.db import transaction
from farebox_portal.entitlements.compile import compile_account
from farebox_portal.entitlements.facts import read_facts
from farebox_portal.payments.open import jobs_per_s
from farebox_portal.payments.pace import LIVE_PER_S, TEST_PER_S, Pace
from farebox_portal.payments.progress import CALLS, Tried, finishes_at, rate_per_minute
from farebox_portal.payments.stripe_gateway import StripeGateway

MAY = datetime(2026, 5, 1, tzinfo=APRIL.tzinfo)
CUSTOMERS = 12
MINUTE = timedelta(minutes=1)


class Watch:
    """A monotonic clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.slept: list[float] = []

    def seconds(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds


@pytest.fixture
def shop(engine: Engine, tmp_path: Path) -> Iterator[ShopInside]:
    with transaction(engine) as session:
        a_shelf(session)
    shop = ShopInside(engine, tmp_path)
    with shop.at_home():
        shop.connect()
        yield shop


def test_turns_are_a_pace_apart_and_what_was_not_used_is_not_made_up_for() -> None:
    watch = Watch()
    pace = Pace(8, watch.seconds, watch.sleep)
    turns = []
    for place in range(20):
        watch.now_s += 10 if place == 10 else 0
        pace.wait()
        turns.append(watch.now_s)
    assert {round(after - before, 9) for before, after in pairwise(turns)} == {0.125, 10.0}


@pytest.mark.parametrize(
    ("key", "base", "environment", "expected"),
    [
        (None, None, "test", None),
        ("sk_test_1", "http://127.0.0.1:1", "test", None),
        ("sk_test_1", None, "test", TEST_PER_S),
        ("rk_live_1", None, "production", LIVE_PER_S),
    ],
)
def test_the_budget_is_of_the_mode(
    tmp_path: Path, key: str | None, base: str | None, environment: str, expected: float | None
) -> None:
    given = {"STRIPE_API_KEY": key, "STRIPE_API_BASE": base, "ENVIRONMENT": environment}
    settings = some_settings(tmp_path, **{f"FAREBOX_{name}": value for name, value in given.items() if value})
    assert jobs_per_s(settings) == expected


@pytest.mark.parametrize(
    ("count", "ago", "per_s", "expected"),
    [(60, 2, 8.0, 30.0), (1, 2, 8.0, 480 / CALLS), (0, 0, 8.0, 480 / CALLS), (0, 0, None, None), (60, 0, None, None)],
)
def test_the_rate_is_measured_or_else_what_is_allowed(
    count: int, ago: int, per_s: float | None, expected: float | None
) -> None:
    since = MAY - ago * MINUTE if count else None
    assert rate_per_minute(Tried(count, since), MAY, per_s) == expected


def test_an_estimate_needs_something_that_waits_and_a_rate() -> None:
    assert finishes_at(60, 30.0, MAY) == MAY + 2 * MINUTE
    assert finishes_at(0, 30.0, MAY) is None
    assert finishes_at(60, None, MAY) is None


def test_while_the_provider_is_away_access_goes_on_invoices_wait_and_nobody_has_failed(shop: ShopInside) -> None:
    customers = [shop.a_customer(f"customer-{number}") for number in range(CUSTOMERS)]
    ids = [shop.a_subscription(f"customer-{number}") for number in range(CUSTOMERS)]
    shop.work()
    published = access(shop, customers)
    shop.standin.fault("drop_before", times=100_000)
    shop.clock.instant = MAY + timedelta(hours=1)
    for _ in range(6):
        shop.later(timedelta(hours=1))
    assert len(shop.charges()) == CUSTOMERS
    assert {shop.standing(id_) for id_ in ids} == {("pending", None)}
    assert {(one.state, one.failed_at, one.tries) for one in shop.collections()} == {
        ("done", None, 0),
        ("waiting", None, 0),
    }
    assert access(shop, customers) == published  # nothing was published anew, so traffic sees no difference
    told = shop.client.get("/v1/payment-collections/progress").json()
    assert (told["waiting"], told["collectedLately"]) == (CUSTOMERS, 0)
    assert told["oldestAt"] == "2026-05-01T02:00:00Z"
    assert "finishesAt" not in told

    shop.standin.control("faults", method="DELETE")
    watch = Watch()
    gateway = StripeGateway(KEY, shop.standin.url, http_client=shop.http, pace=Pace(8, watch.seconds, watch.sleep))
    shop.till, before = replace(shop.till, gateway=gateway), len(shop.standin.log())
    shop.later(timedelta(minutes=6))
    requests = len(shop.standin.log()) - before
    assert sum(watch.slept) == pytest.approx((requests - 1) / 8)
    assert len(shop.charges()) == 2 * CUSTOMERS
    assert {shop.standing(id_) for id_ in ids} == {("paid", None)}
    assert shop.client.get("/v1/payment-collections/progress").json()["waiting"] == 0
    assert access(shop, customers) == published
    shop.later(30 * DAY)


def access(shop: ShopInside, customers: list[str]) -> list[list[tuple[int, str]]]:
    with transaction(shop.engine, read_only=True) as session:
        accounts = [compile_account(facts, shop.clock.now()) for facts in read_facts(session, customers)]
    return [[(step.from_ms, step.refusal) for step in sold.access] for one in accounts for sold in one.subscriptions]


def test_an_invoice_takes_as_many_requests_as_the_estimate_says(shop: ShopInside) -> None:
    shop.a_customer()
    shop.a_subscription()
    before = len(shop.standin.log())
    shop.work()
    lines = 1
    assert len(shop.standin.log()) - before == CALLS - 3 + lines


def test_progress_is_told_while_there_is_some(shop: ShopInside) -> None:
    for number in range(25):
        shop.a_customer(f"customer-{number}")
        shop.a_subscription(f"customer-{number}")
    now = shop.clock.now()
    till = replace(shop.till, per_s=8.0)
    with capture_logs() as logged:
        till.tell_progress(now)
        till.enroll(now)
        for _ in range(4):
            till.collect(shop.clock.now())
            shop.clock.advance(timedelta(seconds=3))
        till.tell_progress(shop.clock.now())
        shop.work()
        till.tell_progress(shop.clock.now())
    first, second = [line for line in logged if line["event"] == "collecting"]
    assert (first["waiting"], first["perMinute"]) == (25, round(480 / CALLS, 1))
    assert (second["waiting"], second["collectedLately"], second["perMinute"]) == (21, 4, 20.0)
    left_ms = to_ms(datetime.fromisoformat(second["finishesAt"])) - to_ms(shop.clock.now())
    assert left_ms == 21 * 3000

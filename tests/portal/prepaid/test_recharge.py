"""When credit is bought by itself, and when not."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from builders.documents import faults
from builders.invoices import DAY
from builders.subscriptions import APRIL
from builders.wallets import Counter
from farebox_portal.prepaid.recharge import LATEST, Bought, pause, state
from farebox_portal.wallet.tables import AutoRecharge

RULE: dict[str, Any] = {"amount": "20.00", "units": 2000, "featureKey": "credits", "thresholdUnits": 100}
MAY = datetime(2026, 5, 1, tzinfo=UTC)


def a_rule(**fields: Any) -> AutoRecharge:
    given = {"threshold": 100, "amount_minor": 2000, "enabled": True, "armed_at": APRIL, "monthly_cap_minor": 5000}
    return AutoRecharge(customer_id="c", subscription_id="s", updated_at=APRIL, **(given | fields))


def paid(at: datetime, amount_minor: int = 2000) -> Bought:
    return Bought("paid", False, amount_minor, at)


OPEN = Bought("pending", False, 2000, APRIL + DAY)
FAILING = Bought("failed", False, 2000, APRIL + DAY)
GIVEN_UP = Bought("failed", True, 2000, APRIL + DAY)


@pytest.mark.parametrize(
    ("balance", "before", "fields", "expected"),
    [
        (99, [], {}, "due"),
        (100, [], {}, "idle"),
        (None, [], {}, "idle"),
        (0, [], {"enabled": False}, "disabled"),
        (0, [OPEN], {}, "pending"),
        (0, [FAILING], {}, "failing"),
        (0, [GIVEN_UP], {}, "payment_failed"),
        (0, [GIVEN_UP], {"armed_at": APRIL + 2 * DAY}, "due"),
        (0, [paid(APRIL), paid(APRIL)], {}, "cap_reached"),
        (0, [paid(APRIL), paid(APRIL)], {"monthly_cap_minor": 6000}, "due"),
        (0, [paid(APRIL), paid(APRIL)], {"monthly_cap_minor": None}, "due"),
        (0, [paid(APRIL - timedelta(microseconds=1)), paid(APRIL)], {}, "due"),
        (0, [paid(APRIL), GIVEN_UP], {"armed_at": APRIL + 2 * DAY}, "due"),
    ],
)
def test_what_is_to_be_done(balance: int | None, before: list[Bought], fields: dict[str, Any], expected: str) -> None:
    assert state(a_rule(**fields), before, balance, APRIL + 5 * DAY) == expected


@pytest.mark.parametrize(("balance", "seconds"), [(0, 1), (100, 1), (200, 1), (700, 6), (3100, 30), (10**12, 30)])
def test_the_more_is_left_the_later_it_is_looked_at_again(balance: int, seconds: int) -> None:
    assert pause(100, balance) == timedelta(seconds=seconds)


def put(counter: Counter, **fields: Any) -> Any:
    answer = counter.send("PUT", "/wallet/auto-recharge", RULE | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def now_of(counter: Counter) -> str:
    return str(counter.get("/wallet")["autoRecharge"]["status"])


def test_below_the_threshold_it_orders_one_and_waits_for_the_money(counter: Counter) -> None:
    row = counter.a_subscription()
    counter.grant(units=200, featureKey="credits")
    put(counter)
    counter.work()
    assert (counter.invoices(), now_of(counter)) == ([], "idle")
    counter.use(row, counter.clock.now(), credits=101)
    for _ in range(3):
        counter.work(timedelta(seconds=2))
    (invoice,) = counter.invoices()
    assert (invoice.total_minor, now_of(counter)) == (2000, "pending")
    counter.invoice(invoice.id, "pay")
    assert (counter.limit(row), now_of(counter)) == (2200, "idle")
    counter.work(timedelta(seconds=2))
    assert len(counter.invoices()) == 1
    assert [one["isAuto"] for one in counter.get("/wallet/top-ups")["items"]] == [True]


def test_the_cap_is_of_the_calendar_month(counter: Counter) -> None:
    row = counter.a_subscription()
    put(counter, monthlyCap="45.00")
    for _ in range(3):
        counter.work(DAY)
        for invoice in counter.invoices():
            counter.invoice(invoice.id, "pay")
        counter.use(row, counter.clock.now(), credits=2000)
    counter.work(DAY)
    assert (len(counter.invoices()), now_of(counter)) == (2, "cap_reached")
    assert counter.get("/wallet/auto-recharge")["spentThisMonth"] == "40.00"
    counter.clock.instant = MAY - timedelta(seconds=1)
    counter.work()
    assert len(counter.invoices()) == 2
    counter.clock.instant = MAY + LATEST
    counter.work()
    assert len(counter.invoices()) == 3


def test_what_was_given_up_is_not_tried_again_before_somebody_says_so(counter: Counter) -> None:
    counter.a_subscription()
    put(counter)
    counter.work()
    counter.invoice(counter.invoices()[0].id, "mark-uncollectible")
    counter.work(DAY)
    assert (len(counter.invoices()), now_of(counter)) == (1, "payment_failed")
    put(counter)
    counter.work(DAY)
    assert (len(counter.invoices()), now_of(counter)) == (2, "pending")


def test_money_is_bought_when_an_invoice_took_most_of_it(counter: Counter) -> None:
    counter.a_subscription("pro")
    counter.grant(amount="30.00")
    answer = counter.send("PUT", "/wallet/auto-recharge", {"amount": "50.00", "threshold": "5.00"})
    assert answer.status_code == 200, answer.text
    counter.work()
    assert sorted((one.kind, one.total_minor) for one in counter.invoices()) == [("start", 0), ("top_up", 5000)]


def test_nothing_is_bought_for_a_subscription_that_is_paused_or_over(counter: Counter) -> None:
    row = counter.a_subscription()
    put(counter)
    counter.client.post(f"/v1/subscriptions/{row}/pause")
    counter.work(DAY)
    assert counter.invoices() == []
    counter.client.post(f"/v1/subscriptions/{row}/resume")
    counter.work(DAY)
    assert len(counter.invoices()) == 1


def test_one_that_is_taken_back_orders_nothing(counter: Counter) -> None:
    counter.a_subscription()
    put(counter)
    assert counter.send("DELETE", "/wallet/auto-recharge").status_code == 204
    assert counter.send("GET", "/wallet/auto-recharge").status_code == 404
    counter.work(DAY)
    assert counter.invoices() == []


@pytest.mark.parametrize(
    ("document", "places"),
    [
        ({"amount": "20.00"}, {""}),
        ({"amount": "20.00", "thresholdUnits": 5}, {""}),
        (RULE | {"threshold": "5"}, {""}),
        ({"amount": "20.00", "threshold": "0.00"}, {"/threshold"}),
        (RULE | {"monthlyCap": "19.99"}, {"/monthlyCap"}),
        (RULE | {"thresholdUnits": 0}, {"/thresholdUnits"}),
    ],
)
def test_a_rule_that_cannot_be_is_refused_with_its_place(
    counter: Counter, document: dict[str, Any], places: set[str]
) -> None:
    counter.a_subscription()
    assert set(faults(counter.send("PUT", "/wallet/auto-recharge", document))) == places
    assert counter.send("GET", "/wallet/auto-recharge").status_code == 404

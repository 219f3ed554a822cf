"""A: what is sold is what is served, at any concurrency. No damage; each has a load of its own."""

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlmodel import col, select

from builders.provider import unique
from farebox_portal.customers import accounts
from farebox_portal.db import transaction
from farebox_portal.subscriptions.tables import Subscription
from faults.check import METER, Customer
from faults.load import Answer
from faults.run import RATE, Run


def burst_at_the_limit(run: Run) -> None:
    for _ in range(3):
        sold = run.sell(200)
        with run.load(sold, count=600, connections=64):
            pass


def small_limits(run: Run) -> None:
    for limit in (1, 2, 10):
        for times in (0.9, 1, 2):
            sold = run.sell(limit)
            with run.load(sold, count=max(1, round(limit * times)), connections=8, strangers_in=0):
                pass


def a_card(limit: int, period: str, *, feature: str = METER, soft: bool = False) -> dict[str, Any]:
    """An allowance of a feature; a feature that counts the same meter is another limit on it."""
    template = {"type": "metered", "issueAfterReset": limit, "isSoftLimit": soft, "usagePeriod": period}
    return {
        "type": "usage_based", "key": feature, "name": feature, "featureKey": feature, "billingCadence": "P1M",
        "entitlementTemplate": template,
    }  # fmt: skip


def phases(*cards: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": "default", "name": "Default", "rateCards": list(cards)}]


def day_and_month(run: Run) -> None:
    """Two limits on one meter: the smaller binds, and a refusal charges neither."""
    daily = unique("daily")
    run.operator.post("/v1/features", {"key": daily, "name": daily, "meterSlug": METER})
    sold = run.sell(90, phases=phases(a_card(150, "P1M"), a_card(90, "P1D", feature=daily)))
    with run.load(sold, count=300):
        pass


def cost_of_seven(run: Run) -> None:
    sold = run.sell(100)
    with run.load(sold, count=60, paths=("/v1/echo/seven/{tag}/{number}",)) as load:
        pass
    served = sum(answer.status == 200 for answer in load.answers)
    run.demand(served == 14, f"{served} requests of 7 units were let in on a limit of 100")


def raise_and_lower(run: Run) -> None:
    """The limit moves under load; once a worker has refused for the new one, nobody is let in by the old one."""
    sold = replace(run.sell(200), limit=None)
    run.customers[-1] = sold
    with run.load(sold, rate=RATE) as load:
        load.reached(300)  # the first limit is used up
        change_limit(run, sold, 400)
        run.rig.wait_until(lambda: let_in(load.answers) > 250, "more is let in after the limit was raised")
        change_limit(run, sold, 260)
        run.rig.wait_until(lambda: _refusals_in_a_row(load.answers) > 60, "refused after the limit was lowered")
        load.stop()
    run.demand(let_in(load.answers) <= 400, "more than the highest limit was let in")


def change_limit(run: Run, customer: Customer, limit: int) -> None:
    """Give the subscription another plan, as the portal's own code would: usage stays, the limit is another."""
    key = run.operator.a_plan({METER: limit})
    plan = next(each for each in run.operator.get("/v1/plans?limit=200")["items"] if each["key"] == key)
    with transaction(run.rig.engine) as session:
        accounts.touch(session, customer.id)
        row = session.exec(select(Subscription).where(col(Subscription.id) == customer.subscription_id)).one()
        row.plan_id = plan["id"]
        session.add(row)


def let_in(answers: Sequence[Answer]) -> int:
    return sum(answer.status == 200 for answer in answers)


def _refusals_in_a_row(answers: Sequence[Answer]) -> int:
    found = 0
    for answer in reversed(list(answers)):
        if answer.problem == "quota_exceeded":
            found += 1
        elif answer.status == 200:
            break
    return found


def rate_limited(run: Run) -> None:
    """What the rate limit refuses uses nothing of the quota."""
    sold = run.sell(None, rateLimit={"requests": 50, "per": "second"})
    with run.load(sold, rate=RATE * 2) as load:
        time.sleep(3)
        load.stop()
    run.demand(any(answer.status == 429 for answer in load.answers), "nobody was rate limited")
    run.demand(let_in(load.answers) <= 50 * 5, f"{let_in(load.answers)} let in within 3 s on 50/s and a burst of 50")


def soft_limit(run: Run) -> None:
    sold = run.sell(None, phases=phases(a_card(100, "P1M", soft=True)))
    with run.load(sold, count=300, strangers_in=0) as load:
        pass
    run.demand(let_in(load.answers) + _unavailable(load.answers) == 300, "a soft limit refused")


def _unavailable(answers: Sequence[Answer]) -> int:
    return sum(answer.status == 503 for answer in answers)


def period_ends(run: Run) -> None:
    """An hourly quota whose hour ends under load: each period gets its own limit, and no request is in two."""
    ends_at = datetime.now(UTC) + timedelta(seconds=4)
    anchor = {"billingAnchor": (ends_at - timedelta(hours=5)).isoformat()}
    run.sell(300, phases=phases(a_card(150, "PT1H")), subscription=anchor)
    with run.load(rate=RATE) as load:
        time.sleep(max(0.0, (ends_at - datetime.now(UTC)).total_seconds()) + 1.5)
        load.stop()


def failures_are_free(run: Run) -> None:
    """A third of the answers is a 500, which the policy does not bill: their units come back."""
    sold = run.sell(120)
    paths = ("/v1/status/200?{tag}={number}", "/v1/status/200?{tag}=b{number}", "/v1/status/500?{tag}={number}")
    with run.load(sold, count=300, paths=paths):
        pass

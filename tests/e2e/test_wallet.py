"""Prepaid units through the real Envoy: exactly as many as were paid for, and more the moment that more is paid."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

from builders.provider import Buyer, Provider, unique
from builders.stripe_flows import DECLINED_WHEN_CHARGED, PAYS
from rig.demo import Demo

PATIENCE_S = 30.0
RAISED_WITHIN_S = 2.0


@pytest.fixture(scope="module")
def bank(demo: Demo) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=demo.document["payments"], timeout=20, trust_env=False) as client:
        yield client


@pytest.fixture(scope="module")
def plan(provider: Provider) -> str:
    """Requests, none of its own, and no reset takes any."""
    template = {"type": "metered", "issueAfterReset": 0, "isSoftLimit": False, "usagePeriod": "P100Y"}
    card = {
        "type": "usage_based", "key": "api_requests", "name": "Requests", "featureKey": "api_requests",
        "billingCadence": "P1M", "entitlementTemplate": template,
    }  # fmt: skip
    key = unique("prepaid")
    phases = [{"key": "default", "name": "Default", "rateCards": [card]}]
    made = provider.post(
        "/v1/plans", {"key": key, "name": key, "currency": "USD", "billingCadence": "P1M", "phases": phases}
    )
    provider.post(f"/v1/plans/{made['id']}/publish")
    return key


def eventually(holds: Callable[[], bool], what: str, within_s: float = PATIENCE_S) -> float:
    """How long it took."""
    start = time.monotonic()
    while not holds():
        assert time.monotonic() < start + within_s, what
        time.sleep(0.02)
    return time.monotonic() - start


def grant(provider: Provider, buyer: Buyer, units: int, **fields: Any) -> None:
    provider.post(f"/v1/customers/{buyer.customer_id}/credits", {"units": units, "featureKey": "api_requests"} | fields)


def order(provider: Provider, buyer: Buyer, units: int) -> httpx2.Response:
    document = {"amount": "10.00", "units": units, "featureKey": "api_requests"}
    return provider.rest.post(f"/v1/customers/{buyer.customer_id}/wallet/top-ups", json=document)


def leave_card(bank: httpx2.Client, refused: httpx2.Response, card: str) -> None:
    assert (refused.status_code, refused.json()["code"]) == (409, "payment_method_required")
    page = httpx2.get(refused.json()["checkoutUrl"], trust_env=False, follow_redirects=False)
    session = page.headers["location"].rpartition("/")[2]
    done = bank.post("/__standin/actions/complete_checkout", json={"session": session, "card": card}).json()
    assert "is saved" in httpx2.get(done["redirect"], trust_env=False).text


def under_load(provider: Provider, buyer: Buyer, requests: int) -> dict[int, int]:
    """Status -> how many."""
    with ThreadPoolExecutor(50) as pool:
        codes = list(pool.map(lambda _: provider.call(buyer).status_code, range(requests)))
    return {code: codes.count(code) for code in codes}


def passes(provider: Provider, buyer: Buyer) -> bool:
    return provider.call(buyer).status_code == 200


def test_exactly_what_is_there_passes_and_again_exactly_what_was_paid_for(
    provider: Provider, bank: httpx2.Client, plan: str
) -> None:
    buyer = provider.a_buyer(plan)
    refused = provider.call(buyer)
    assert (refused.status_code, refused.json()["code"], refused.json()["limit"]) == (403, "quota_exceeded", 0)
    grant(provider, buyer, 101)
    eventually(lambda: passes(provider, buyer), "the grant was never published", RAISED_WITHIN_S)
    assert under_load(provider, buyer, 200) == {200: 100, 403: 100}

    leave_card(bank, order(provider, buyer, 51), PAYS)
    assert order(provider, buyer, 51).status_code == 201
    path = f"/v1/customers/{buyer.customer_id}/wallet/top-ups"
    eventually(lambda: provider.get(path)["items"][0]["status"] == "paid", "it was never paid")
    eventually(lambda: passes(provider, buyer), "what was paid for did not pass in time", RAISED_WITHIN_S)
    assert under_load(provider, buyer, 100) == {200: 50, 403: 50}
    provider.usage_within(buyer, {"api_requests": 152}, 5.0)
    wallet = provider.get(f"/v1/customers/{buyer.customer_id}/wallet")
    assert [(one["balance"], one["usage"]) for one in wallet["units"]] == [(0, 152)]


def test_what_expires_is_gone_at_its_instant_though_the_portal_is_away(provider: Provider, plan: str) -> None:
    buyer = provider.a_buyer(plan)
    at = datetime.now(UTC) + timedelta(seconds=3)
    grant(provider, buyer, 500, expiresAt=at.isoformat())
    eventually(lambda: passes(provider, buyer), "the grant was never published", RAISED_WITHIN_S)
    portal = provider.demo.pids["portal"]
    os.kill(portal, signal.SIGSTOP)
    try:
        answers = []
        while datetime.now(UTC) < at + timedelta(seconds=1):
            answers.append((datetime.now(UTC), provider.call(buyer).status_code, datetime.now(UTC)))
            time.sleep(0.1)
    finally:
        os.kill(portal, signal.SIGCONT)
    assert {code for _, code, came in answers if came < at} == {200}
    assert {code for asked, code, _ in answers if asked > at} == {403}


def recharging(provider: Provider, bank: httpx2.Client, plan: str, card: str) -> Buyer:
    buyer = provider.a_buyer(plan)
    leave_card(bank, order(provider, buyer, 5), card)
    rule = {"amount": "10.00", "units": 40, "featureKey": "api_requests", "thresholdUnits": 10, "monthlyCap": "20.00"}
    answer = provider.rest.put(f"/v1/customers/{buyer.customer_id}/wallet/auto-recharge", json=rule)
    assert answer.status_code == 200, answer.text
    return buyer


def rule_of(provider: Provider, buyer: Buyer) -> str:
    return str(provider.get(f"/v1/customers/{buyer.customer_id}/wallet/auto-recharge")["status"])


def test_little_left_is_recharged_up_to_the_cap(provider: Provider, bank: httpx2.Client, plan: str) -> None:
    buyer = recharging(provider, bank, plan, PAYS)
    passed = 0

    def capped() -> bool:
        nonlocal passed
        passed += passes(provider, buyer)
        return rule_of(provider, buyer) == "cap_reached" and not passes(provider, buyer)

    eventually(capped, "it never came to the cap", 60.0)
    invoices = provider.get(f"/v1/invoices?customerId={buyer.customer_id}")["items"]
    assert [(one["kind"], one["status"], one["total"]) for one in invoices] == [("top_up", "paid", "10.00")] * 2
    assert provider.usage(buyer)["api_requests"] <= 80


def test_a_card_that_declines_recharges_nothing_and_says_so(provider: Provider, bank: httpx2.Client, plan: str) -> None:
    buyer = recharging(provider, bank, plan, DECLINED_WHEN_CHARGED)
    eventually(lambda: rule_of(provider, buyer) == "failing", "it was never said to fail")
    time.sleep(2.0)  # in which the rule is looked at again and again
    (invoice,) = provider.get(f"/v1/invoices?customerId={buyer.customer_id}")["items"]
    assert (invoice["kind"], invoice["status"], invoice["amountPaid"]) == ("top_up", "issued", "0.00")
    refused = provider.call(buyer)
    assert (refused.status_code, refused.json()["code"]) == (403, "quota_exceeded")


def test_the_seeded_customer_has_something_in_the_wallet(provider: Provider, demo: Demo) -> None:
    assert provider.gateway.get("/v1/echo", headers=demo.bearer("credits")).status_code == 200
    (units,) = provider.get("/v1/customers/credits/wallet")["units"]
    assert (units["featureKey"], units["balance"] + units["usage"]) == ("api_requests", 5000)

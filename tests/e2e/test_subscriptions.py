"""A subscription's life as its API key meets it: a change acts within a second, or at its instant."""

import os
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import httpx2

from builders.provider import Buyer, Provider

WITHIN_S = 1.0


def limit(provider: Provider, buyer: Buyer) -> str:
    """The monthly quota as the gateway states it, or the code of its refusal."""
    answer = provider.call(buyer)
    return policy_of(answer) if answer.status_code == 200 else str(answer.json()["code"])


def policy_of(answer: httpx2.Response) -> str:
    return str(answer.headers["ratelimit-policy"]).split(";")[1]


def becomes(found: Callable[[], str], expected: str, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while (last := found()) != expected:
        assert time.monotonic() < deadline, f"{last}, not {expected}"
        time.sleep(0.02)


def test_an_upgrade_acts_within_a_second_on_the_same_key(provider: Provider) -> None:
    small, large = provider.a_plan({"api_requests": 3}), provider.a_plan({"api_requests": 500})
    buyer = provider.a_buyer(small)
    assert [provider.call(buyer).status_code for _ in range(4)] == [200, 200, 200, 403]
    provider.post(f"/v1/subscriptions/{buyer.subscription_id}/change", {"plan": {"key": large}, "timing": "immediate"})
    becomes(lambda: limit(provider, buyer), "q=500", WITHIN_S)


def test_a_pause_stops_within_a_second_and_resuming_lets_in_again(provider: Provider) -> None:
    buyer = provider.a_buyer(provider.a_plan({"api_requests": 500}))
    assert limit(provider, buyer) == "q=500"
    provider.post(f"/v1/subscriptions/{buyer.subscription_id}/pause")
    becomes(lambda: limit(provider, buyer), "no_active_subscription", WITHIN_S)
    provider.post(f"/v1/subscriptions/{buyer.subscription_id}/resume")
    becomes(lambda: limit(provider, buyer), "q=500", WITHIN_S)
    assert int(provider.call(buyer).headers["ratelimit"].split("r=")[1].split(";")[0]) < 498, "what was used counts on"


def test_a_change_for_later_acts_at_its_instant_though_the_portal_is_away(provider: Provider) -> None:
    small, large = provider.a_plan({"api_requests": 40}), provider.a_plan({"api_requests": 500})
    buyer = provider.a_buyer(small)
    assert limit(provider, buyer) == "q=40"
    at = datetime.now(UTC) + timedelta(seconds=4)
    change = {"plan": {"key": large}, "timing": at.isoformat()}
    provider.post(f"/v1/subscriptions/{buyer.subscription_id}/change", change)
    time.sleep(WITHIN_S)  # it is published
    portal = provider.demo.pids["portal"]
    os.kill(portal, signal.SIGSTOP)
    try:
        answers = []
        while datetime.now(UTC) < at + timedelta(seconds=1):
            answers.append((datetime.now(UTC), provider.call(buyer), datetime.now(UTC)))
            time.sleep(0.2)
    finally:
        os.kill(portal, signal.SIGCONT)
    assert {answer.status_code for _, answer, _ in answers} == {200}
    assert {policy_of(answer) for _, answer, came in answers if came < at} == {"q=40"}
    assert {policy_of(answer) for asked, answer, _ in answers if asked > at} == {"q=500"}

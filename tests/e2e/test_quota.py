"""Hard quotas through the real Envoy: what a client sees, and what the upstream itself says it served."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from builders.provider import PUBLISHED_WITHIN_S, Buyer, Provider, unique


def test_a_quota_of_ten_is_ten_requests_at_the_upstream_and_then_a_problem(provider: Provider) -> None:
    buyer = provider.a_buyer(provider.a_plan({"api_requests": 10}))
    tag = unique("tag")
    answers = [provider.call(buyer, f"/v1/echo?{tag}") for _ in range(13)]
    assert [answer.status_code for answer in answers] == [200] * 10 + [403] * 3
    assert len(provider.served(tag)) == 10

    refused = answers[-1]
    assert refused.headers["content-type"] == "application/problem+json"
    problem = refused.json()
    assert {name: problem[name] for name in ("code", "status", "meter", "limit", "used", "instance")} == {
        "code": "quota_exceeded",
        "status": 403,
        "meter": "api_requests",
        "limit": 10,
        "used": 10,
        "instance": "/v1/echo",
    }
    assert {"type", "title", "detail", "requestId", "upgradeUrl"} <= problem.keys()
    assert datetime.fromisoformat(problem["resetsAt"]) > datetime.now(UTC)
    assert int(refused.headers["retry-after"]) > 0


def test_every_answer_says_what_is_left(provider: Provider) -> None:
    buyer = provider.a_buyer(provider.a_plan({"api_requests": 3}, rateLimit={"requests": 50, "per": "second"}))
    left = []
    for _ in range(4):
        answer = provider.call(buyer)
        assert '"quota";q=3;w=' in answer.headers["ratelimit-policy"]
        left.append(answer.headers["ratelimit"].split(";")[1])
    assert left == ["r=2", "r=1", "r=0", "r=0"]
    assert '"rate";q=50;w=1' in answer.headers["ratelimit-policy"]


def test_two_hundred_parallel_requests_on_a_quota_of_a_hundred(provider: Provider) -> None:
    buyer = provider.a_buyer(provider.a_plan({"api_requests": 100}))
    tag = unique("tag")
    with ThreadPoolExecutor(50) as pool:
        codes = list(pool.map(lambda n: provider.call(buyer, f"/v1/echo?{tag}={n}").status_code, range(200)))
    assert sorted(codes) == [200] * 100 + [403] * 100
    assert len(provider.served(tag)) == 100
    provider.usage_within(buyer, {"api_requests": 100}, 5.0)


def test_a_rate_limit_refuses_with_429_and_says_when_to_come_back(provider: Provider) -> None:
    buyer = provider.a_buyer(provider.a_plan({"api_requests": 1000}, rateLimit={"requests": 3, "per": "PT1H"}))
    tag = unique("tag")
    answers = [provider.call(buyer, f"/v1/echo?{tag}") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200] * 3 + [429] * 2
    assert answers[-1].json()["code"] == "rate_limited"
    assert 0 < int(answers[-1].headers["retry-after"]) <= 1200
    assert len(provider.served(tag)) == 3


def test_what_is_not_in_the_plan_is_not_entitled(provider: Provider) -> None:
    plain = provider.a_buyer(provider.a_plan({"api_requests": 10}))
    premium = provider.a_buyer(provider.a_plan({"api_requests": 10}, features=("premium",)))
    refused = provider.call(plain, "/v1/premium/thing")
    assert (refused.status_code, refused.json()["code"]) == (403, "not_entitled")
    assert provider.call(premium, "/v1/premium/thing").status_code == 200
    no_bytes = provider.call(plain, "/v1/bytes/10")
    assert (no_bytes.status_code, no_bytes.json()["code"]) == (403, "not_entitled")


def test_granted_units_are_let_in_beside_the_plan_s_and_what_was_burnt_stays_burnt(provider: Provider) -> None:
    buyer = provider.a_buyer(provider.a_plan({"api_requests": 5}))
    grants = f"/v1/subscriptions/{buyer.subscription_id}/entitlements/api_requests/grants"
    tag = unique("tag")
    path = f"/v1/echo?{tag}"
    assert [provider.call(buyer, path).status_code for _ in range(6)] == [200] * 5 + [403]
    grant = provider.post(grants, {"amount": 3})
    wait_until_let_in(provider, buyer, path)
    assert [provider.call(buyer, path).status_code for _ in range(4)] == [200, 200, 403, 403]
    assert len(provider.served(tag)) == 8
    provider.usage_within(buyer, {"api_requests": 8}, 5.0)

    assert provider.rest.delete(f"{grants}/{grant['id']}").status_code == 204
    time.sleep(1.0)  # for the gateway to hear of it; nothing is to change
    refused = provider.call(buyer, path)
    assert (refused.status_code, refused.json()["code"]) == (403, "quota_exceeded")
    assert len(provider.served(tag)) == 8
    value = provider.get(grants.replace("/grants", "/value"))
    assert (value["usage"], value["balance"], value["limit"], value["hasAccess"]) == (8, 0, 8, False)
    provider.post(grants, {"amount": 1})
    wait_until_let_in(provider, buyer, path)
    assert provider.call(buyer, path).status_code == 403
    assert len(provider.served(tag)) == 9


def wait_until_let_in(provider: Provider, buyer: Buyer, path: str) -> None:
    """Until one more request is; those that are refused cost nothing."""
    deadline = time.monotonic() + PUBLISHED_WITHIN_S
    while provider.call(buyer, path).status_code != 200:
        assert time.monotonic() < deadline, "the grant has not reached the gateway"
        time.sleep(0.2)

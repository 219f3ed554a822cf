"""Who gets in: through the real Envoy, with the upstream as witness of who did not."""

import socket
import time
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest

from builders.provider import Buyer, Provider, unique
from farebox.v1.digest import checksum

REVOKED_WITHIN_S = 1.0
UNKNOWN = f"fb_test_{'A' * 30}" + checksum(f"fb_test_{'A' * 30}")  # well-formed, and nobody's


@pytest.fixture(scope="module")
def buyer(provider: Provider) -> Buyer:
    return provider.a_buyer(provider.a_plan({"api_requests": 1000}))


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "missing_api_key"),
        ({"authorization": "Bearer nonsense"}, "invalid_api_key"),
        ({"authorization": f"Bearer {UNKNOWN}"}, "invalid_api_key"),
        ({"x-api-key": UNKNOWN}, "invalid_api_key"),
        ({"authorization": "Basic dXNlcjpwYXNz"}, "invalid_api_key"),
    ],
)
def test_without_a_good_key_nothing_reaches_the_upstream(
    provider: Provider, headers: dict[str, str], code: str
) -> None:
    tag = unique("tag")
    answer = provider.gateway.get(f"/v1/echo?{tag}", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (401, code)
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.headers["content-type"] == "application/problem+json"
    assert provider.served(tag) == []


def test_two_different_keys_or_one_repeated_are_refused(provider: Provider, buyer: Buyer) -> None:
    other = provider.a_buyer(provider.a_plan({"api_requests": 10}))
    tag = unique("tag")
    answer = provider.call(buyer, f"/v1/echo?{tag}", headers={"x-api-key": other.api_key})
    assert (answer.status_code, answer.json()["code"]) == (401, "invalid_api_key")
    repeated = provider.gateway.get(
        f"/v1/echo?{tag}", headers=[("x-api-key", buyer.api_key), ("x-api-key", buyer.api_key)]
    )
    assert repeated.status_code == 401
    assert provider.served(tag) == []


def test_a_key_in_the_query_is_not_a_credential(provider: Provider, buyer: Buyer) -> None:
    answer = provider.gateway.get(f"/v1/echo?api_key={buyer.api_key}&x-api-key={buyer.api_key}")
    assert (answer.status_code, answer.json()["code"]) == (401, "missing_api_key")
    assert buyer.api_key not in answer.text


def test_a_revoked_key_is_refused_within_a_second(provider: Provider) -> None:
    buyer = provider.a_buyer(provider.a_plan({"api_requests": 100_000}))
    assert provider.call(buyer).status_code == 200
    assert provider.rest.delete(f"/v1/keys/{buyer.key_id}").status_code == 204
    revoked_at = time.monotonic()
    while provider.call(buyer).status_code == 200:
        assert time.monotonic() - revoked_at < REVOKED_WITHIN_S
    tag = unique("tag")
    answer = provider.call(buyer, f"/v1/echo?{tag}")
    assert (answer.status_code, answer.json()["code"]) == (401, "invalid_api_key")
    assert provider.served(tag) == []


def test_a_rotated_key_works_until_its_grace_ends_and_the_new_one_at_once(provider: Provider) -> None:
    buyer = provider.a_buyer(provider.a_plan({"api_requests": 100_000}))
    fresh = provider.post(f"/v1/keys/{buyer.key_id}/rotate", {"gracePeriod": "PT2S"})
    provider.wait_until_known(fresh["key"])
    assert provider.call(buyer).status_code == 200
    deadline = time.monotonic() + 5
    while (answer := provider.call(buyer)).status_code == 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert (answer.status_code, answer.json()["code"]) == (401, "expired_api_key")
    assert provider.gateway.get("/v1/echo", headers={"x-api-key": fresh["key"]}).status_code == 200


def test_an_ended_subscription_lets_nobody_in(provider: Provider) -> None:
    buyer = provider.a_buyer(provider.a_plan({"api_requests": 100_000}))
    provider.post(f"/v1/subscriptions/{buyer.subscription_id}/cancel")
    ended_at = time.monotonic()
    while (answer := provider.call(buyer)).status_code == 200:
        assert time.monotonic() - ended_at < REVOKED_WITHIN_S
    assert (answer.status_code, answer.json()["code"]) == (403, "no_active_subscription")


def test_a_subscription_that_has_not_begun_lets_nobody_in_yet(provider: Provider) -> None:
    begins = (datetime.now(UTC) + timedelta(days=3)).isoformat()
    buyer = provider.a_buyer(provider.a_plan({"api_requests": 10}), timing=begins)
    tag = unique("tag")
    answer = provider.call(buyer, f"/v1/echo?{tag}")
    assert (answer.status_code, answer.json()["code"]) == (403, "no_active_subscription")
    assert provider.served(tag) == []


FORGED = {
    "x-farebox-customer": "somebody-else",
    "x-farebox-subscription": "forged",
    "x-farebox-plan": "enterprise",
    "x-farebox-key": "forged",
    "X-Farebox-Admin": "yes",
    "x-envoy-auth-failure-mode-allowed": "true",
}


def test_the_upstream_sees_who_it_is_from_us_alone_and_never_the_key(provider: Provider, buyer: Buyer) -> None:
    for credential in (buyer.bearer, {"x-api-key": buyer.api_key}):
        tag = unique("tag")
        seen = provider.gateway.get(f"/v1/echo?{tag}", headers=credential | FORGED).json()["headers"]
        assert {name: value for name, value in seen.items() if name.startswith("x-farebox")} == {
            "x-farebox-customer": buyer.customer_key,
            "x-farebox-subscription": buyer.subscription_id,
            "x-farebox-plan": buyer.plan_key,
            "x-farebox-key": buyer.key_id,
        }
        (witnessed,) = provider.served(tag)
        everything = str(witnessed)
        assert buyer.api_key not in everything
        assert "authorization" not in witnessed["headers"]
        assert "x-api-key" not in witnessed["headers"]
        assert "somebody-else" not in everything
        assert "x-envoy-auth-failure-mode-allowed" not in witnessed["headers"]


def test_headers_repeated_or_written_with_underscores_forge_nothing(provider: Provider, buyer: Buyer) -> None:
    """By hand, as no client library would send it."""
    tag = unique("tag")
    address = urlsplit(provider.demo.gateway)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(
            f"GET /v1/echo?{tag} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
            f"X-FAREBOX-CUSTOMER: forged\r\nx-farebox-customer: forged\r\nx_farebox_customer: forged\r\n"
            f"authorization: Bearer {buyer.api_key}\r\n\r\n".encode()
        )
        while connection.recv(65536):
            pass
    assert "forged" not in str(provider.served(tag))


def test_a_free_route_needs_no_key_and_forges_nothing_either(provider: Provider) -> None:
    assert provider.gateway.get("/healthz", headers=FORGED).status_code == 200

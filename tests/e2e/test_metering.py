"""What is counted: against what the upstream reported, through the real Envoy, in the portal's own document."""

import json
import time
from typing import Any

import pytest

from builders.provider import Buyer, Provider, unique

VISIBLE_WITHIN_S = 2.0
LIMITS = {"api_requests": 1000, "egress_bytes": 10**9, "input_tokens": 10**6, "output_tokens": 10**6}
CHAT = {"model": "gpt-4o", "max_tokens": 40, "messages": [{"role": "user", "content": "one two three four five"}]}


@pytest.fixture
def buyer(provider: Provider) -> Buyer:
    return provider.a_buyer(provider.a_plan(LIMITS))


def usage(requests: int = 0, egress: int = 0, tokens_in: int = 0, tokens_out: int = 0) -> dict[str, int]:
    return {
        "api_requests": requests,
        "egress_bytes": egress,
        "input_tokens": tokens_in,
        "output_tokens": tokens_out,
    }


def test_a_call_is_in_the_usage_less_than_two_seconds_later(provider: Provider, buyer: Buyer) -> None:
    assert provider.call(buyer).status_code == 200
    provider.usage_within(buyer, usage(requests=1), VISIBLE_WITHIN_S)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_json_tokens_are_what_the_upstream_reported(provider: Provider, buyer: Buyer, path: str) -> None:
    answer = provider.call(buyer, path, method="POST", json=CHAT)
    assert answer.status_code == 200
    reported = tokens(answer.json()["usage"])
    assert min(reported) > 0
    provider.usage_within(buyer, usage(1, 0, *reported), VISIBLE_WITHIN_S)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_streamed_tokens_are_what_the_upstream_reported(
    provider: Provider, buyer: Buyer, path: str, encoding: str
) -> None:
    answer = provider.call(
        buyer, path, method="POST", json=CHAT | {"stream": True}, headers={"accept-encoding": encoding}
    )
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    reported = streamed_tokens(events)
    assert min(reported) > 0
    provider.usage_within(buyer, usage(1, 0, *reported), VISIBLE_WITHIN_S)


def test_fifty_thousand_bytes_are_fifty_thousand_bytes(provider: Provider, buyer: Buyer) -> None:
    answer = provider.call(buyer, "/v1/bytes/50000")
    assert len(answer.content) == 50_000
    provider.usage_within(buyer, usage(egress=50_000), VISIBLE_WITHIN_S)


def test_a_client_that_hangs_up_a_download_is_charged_for_what_it_got(provider: Provider, buyer: Buyer) -> None:
    got = 0
    with provider.gateway.stream("GET", "/v1/bytes/50000000?delay_ms=50", headers=buyer.bearer) as answer:
        for chunk in answer.iter_raw():
            got += len(chunk)
            if got > 300_000:
                break
    deadline = time.monotonic() + 10
    while not (charged := provider.usage(buyer)["egress_bytes"]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    # What Envoy had sent when the client was gone: all that it got, and at most the buffers in between.
    assert got <= charged < got + 2_000_000


def test_a_client_that_hangs_up_a_stream_is_charged_for_what_it_got(provider: Provider, buyer: Buyer) -> None:
    body = CHAT | {"stream": True, "max_tokens": 500}
    deltas = 0
    with provider.gateway.stream("POST", "/v1/chat/completions?delay_ms=20", headers=buyer.bearer, json=body) as answer:
        for line in answer.iter_lines():
            deltas += line.startswith("data: {")
            if deltas == 12:
                break
    deadline = time.monotonic() + 10
    while not (charged := provider.usage(buyer))["api_requests"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert charged["api_requests"] == 1
    assert 10 <= charged["output_tokens"] < 60, "about what was streamed; not the hold, not nothing, not everything"


@pytest.mark.parametrize("path", ["/v1/status/500", "/v1/status/404", "/v1/status/301", "/v1/no/such/thing"])
def test_what_did_not_succeed_costs_nothing(provider: Provider, buyer: Buyer, path: str) -> None:
    assert provider.call(buyer, path).status_code >= 300
    assert provider.call(buyer).status_code == 200
    provider.usage_within(buyer, usage(requests=1), VISIBLE_WITHIN_S)


def test_a_failed_request_gives_its_unit_back(provider: Provider) -> None:
    buyer = provider.a_buyer(provider.a_plan({"api_requests": 2}))
    tag = unique("tag")
    for _ in range(5):
        assert provider.call(buyer, f"/v1/status/500?{tag}").status_code == 500
        time.sleep(0.5)  # the access log brings the status five times a second
    assert len(provider.served(tag)) == 5
    assert [provider.call(buyer).status_code for _ in range(3)] == [200, 200, 403]


def test_a_slow_response_counts_when_it_is_done(provider: Provider, buyer: Buyer) -> None:
    assert provider.call(buyer, "/v1/slow/1500").status_code == 200
    provider.usage_within(buyer, usage(requests=1), VISIBLE_WITHIN_S)


def test_the_model_is_kept_with_the_usage_and_the_meter_can_be_asked_for_it(provider: Provider, buyer: Buyer) -> None:
    for model in ("gpt-4o", "gpt-4o-mini", "gpt-4o"):
        answer = provider.call(buyer, "/v1/chat/completions", method="POST", json=CHAT | {"model": model})
        assert answer.status_code == 200
    deadline = time.monotonic() + 5
    while provider.usage(buyer)["api_requests"] < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    found = provider.get(f"/v1/meters/output_tokens/query?filterCustomerId={buyer.customer_id}&groupBy=model")
    by_model = {row["groupBy"]["model"]: row["value"] for row in found["data"]}
    assert set(by_model) == {"gpt-4o", "gpt-4o-mini"}
    assert float(by_model["gpt-4o"]) == 2 * float(by_model["gpt-4o-mini"])


def tokens(reported: dict[str, Any]) -> tuple[int, int]:
    """(input, output) of an OpenAI or Anthropic usage object."""
    if "prompt_tokens" in reported:
        return reported["prompt_tokens"], reported["completion_tokens"]
    return reported["input_tokens"], reported["output_tokens"]


def streamed_tokens(events: list[dict[str, Any]]) -> tuple[int, int]:
    usages = [event["usage"] for event in events if event.get("usage")]
    if "prompt_tokens" in usages[-1]:
        return tokens(usages[-1])
    start = next(event["message"]["usage"] for event in events if event["type"] == "message_start")
    return start["input_tokens"], usages[-1]["output_tokens"]

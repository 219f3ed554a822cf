"""The sample upstream over real HTTP: what each path answers, and that its record says the same."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from rig.upstream import Upstream

THREE_WORDS = [{"role": "user", "content": "one two  three"}]
FIVE_WORDS = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": [{"type": "text", "text": "one two"}, {"type": "text", "text": "three"}]},
]


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    with Upstream(tmp_path_factory.mktemp("upstream")) as running:
        yield running


@pytest.fixture
def client(upstream: Upstream) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=upstream.url) as link:
        link.delete("/__log")
        yield link


def events(text: str) -> list[dict[str, Any]]:
    data = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(each) for each in data if each != "[DONE]"]


@pytest.mark.parametrize(
    ("method", "path", "status", "length"),
    [
        ("GET", "/v1/status/200", 200, 14),
        ("GET", "/v1/status/204", 204, 0),
        ("GET", "/v1/status/304", 304, 0),
        ("POST", "/v1/status/418", 418, 14),
        ("GET", "/v1/status/503", 503, 14),
        ("GET", "/v1/status/199", 422, None),
        ("GET", "/v1/status/600", 422, None),
        ("GET", "/v1/bytes/0", 200, 0),
        ("GET", "/v1/bytes/1", 200, 1),
        ("GET", "/v1/bytes/65536", 200, 65536),
        ("GET", "/v1/bytes/65537?delay_ms=1", 200, 65537),
        ("GET", "/v1/bytes/1000000", 200, 1000000),
        ("GET", "/v1/bytes/-1", 422, None),
        ("GET", "/v1/slow/1", 200, 13),
        ("HEAD", "/v1/echo", 200, 0),
        ("GET", "/v1/nothing", 404, None),
        ("GET", "/openapi.json", 200, None),
    ],
)
def test_a_path_answers_and_is_recorded(
    client: httpx2.Client, upstream: Upstream, method: str, path: str, status: int, length: int | None
) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert length is None or len(answer.content) == length
    (entry,) = upstream.entries()
    assert (entry["method"], entry["path"], entry["status"]) == (method, path, status)
    assert entry["complete"] is True
    assert entry["bytes"] == len(answer.content) or method == "HEAD"


@pytest.mark.parametrize("path", ["/v1/echo", "/v1/echo/below", "/v1/premium/report"])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_echo_says_what_arrived(client: httpx2.Client, method: str, path: str) -> None:
    answer = client.request(method, f"{path}?b=2&a=1", content=b"x" * 1000, headers={"X-Probe": "yes"}).json()
    assert answer["method"] == method
    assert answer["path"] == f"{path}?b=2&a=1"
    assert answer["headers"]["x-probe"] == "yes"
    assert answer["bodyBytes"] == 1000


@pytest.mark.parametrize(
    ("messages", "extra", "tokens_in", "tokens_out", "finish"),
    [
        (THREE_WORDS, {}, 3, 16, "stop"),
        (THREE_WORDS, {"max_tokens": 5}, 3, 5, "length"),
        (THREE_WORDS, {"max_tokens": 0}, 3, 0, "length"),
        (THREE_WORDS, {"max_tokens": 5, "max_completion_tokens": 7}, 3, 7, "length"),
        (FIVE_WORDS, {"max_tokens": 1, "temperature": 0.5}, 5, 1, "length"),
        ([{"role": "assistant", "content": None}], {"max_tokens": 1}, 0, 1, "length"),
    ],
)
def test_chat_counts_a_word_as_a_token_streamed_or_not(
    client: httpx2.Client, messages: list[Any], extra: dict[str, Any], tokens_in: int, tokens_out: int, finish: str
) -> None:
    body = {"model": "gpt-x", "messages": messages} | extra
    usage = {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": tokens_in + tokens_out}
    whole = client.post("/v1/chat/completions", json=body).json()
    assert whole["usage"] == usage
    assert (whole["model"], whole["choices"][0]["finish_reason"]) == ("gpt-x", finish)
    said = whole["choices"][0]["message"]["content"]
    assert len(said.split()) == tokens_out
    streamed = client.post("/v1/chat/completions", json=body | {"stream": True})
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert streamed.text.endswith("data: [DONE]\n\n")
    chunks = events(streamed.text)
    assert [chunk["usage"] for chunk in chunks if "usage" in chunk] == [usage]
    assert chunks[-1]["usage"] == usage
    assert "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"]) == said


@pytest.mark.parametrize(("wanted", "found"), [(True, 1), (False, 0)])
def test_a_chat_stream_leaves_usage_out_when_told_to(client: httpx2.Client, wanted: bool, found: int) -> None:
    body = {"messages": THREE_WORDS, "stream": True, "stream_options": {"include_usage": wanted}}
    text = client.post("/v1/chat/completions", json=body).text
    assert sum("usage" in chunk for chunk in events(text)) == found


@pytest.mark.parametrize(
    ("extra", "tokens_in", "tokens_out", "reason"),
    [
        ({}, 3, 16, "end_turn"),
        ({"max_tokens": 5}, 3, 5, "max_tokens"),
        ({"max_tokens": 2, "system": "be brief"}, 5, 2, "max_tokens"),
        ({"max_tokens": 2, "system": [{"type": "text", "text": "be"}]}, 4, 2, "max_tokens"),
    ],
)
def test_messages_count_a_word_as_a_token_streamed_or_not(
    client: httpx2.Client, extra: dict[str, Any], tokens_in: int, tokens_out: int, reason: str
) -> None:
    body = {"model": "claude-x", "messages": THREE_WORDS} | extra
    whole = client.post("/v1/messages", json=body).json()
    assert whole["usage"] == {"input_tokens": tokens_in, "output_tokens": tokens_out}
    assert (whole["type"], whole["model"], whole["stop_reason"]) == ("message", "claude-x", reason)
    stream = events(client.post("/v1/messages", json=body | {"stream": True}).text)
    assert [stream[0]["type"], stream[-2]["type"], stream[-1]["type"]] == [
        "message_start",
        "message_delta",
        "message_stop",
    ]
    assert stream[0]["message"]["usage"]["input_tokens"] == tokens_in
    assert stream[-2]["usage"] == {"output_tokens": tokens_out}
    said = "".join(each["delta"]["text"] for each in stream if each["type"] == "content_block_delta")
    assert said == whole["content"][0]["text"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
@pytest.mark.parametrize(
    "body",
    [{}, {"messages": []}, {"messages": THREE_WORDS, "max_tokens": -1}, {"messages": THREE_WORDS, "max_tokens": "x"}],
)
def test_a_body_that_is_no_chat_is_refused(client: httpx2.Client, path: str, body: dict[str, Any]) -> None:
    assert client.post(path, json=body).status_code == 422


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/bytes/6553600?delay_ms=20", None),
        ("/v1/chat/completions", {"messages": THREE_WORDS, "max_tokens": 1000, "stream": True, "delay_ms": 20}),
        ("/v1/messages?delay_ms=20", {"messages": THREE_WORDS, "max_tokens": 1000, "stream": True}),
    ],
)
def test_a_client_that_hangs_up_is_recorded_as_cut_off(
    client: httpx2.Client, upstream: Upstream, path: str, body: dict[str, Any] | None
) -> None:
    with client.stream("POST" if body else "GET", path, json=body) as answer:
        next(answer.iter_raw())
    (entry,) = settled(upstream)
    assert (entry["status"], entry["complete"]) == (200, False)
    assert 0 < entry["bytes"] < 6553600


def test_a_request_is_recorded_while_it_is_still_being_answered(upstream: Upstream, client: httpx2.Client) -> None:
    with socket.create_connection(("127.0.0.1", upstream.port)) as link:
        link.sendall(b"GET /v1/slow/600000 HTTP/1.1\r\nhost: x\r\n\r\n")
        deadline = time.monotonic() + 10
        while not (entries := upstream.entries()):
            assert time.monotonic() < deadline
        assert (entries[0]["status"], entries[0]["complete"]) == (None, False)


def test_repeated_headers_and_the_raw_path_are_kept(client: httpx2.Client, upstream: Upstream) -> None:
    client.get("/v1/echo/a%2Fb?x=%20&flag", headers=[("x-twice", "1"), ("x-twice", "2")])
    (entry,) = upstream.entries()
    assert entry["path"] == "/v1/echo/a%2Fb?x=%20&flag"
    assert entry["headers"]["x-twice"] == "1, 2"


def test_looking_and_probing_leave_no_trace_and_sequence_numbers_go_on(
    client: httpx2.Client, upstream: Upstream
) -> None:
    client.get("/v1/echo")
    (first,) = upstream.entries()
    client.get("/healthz")
    client.delete("/__log")
    assert upstream.entries() == []
    client.get("/v1/echo")
    assert [entry["seq"] for entry in upstream.entries()] == [first["seq"] + 1]


def test_a_port_that_is_taken_ends_it_with_a_reason(upstream: Upstream) -> None:
    command = [sys.executable, "-m", "farebox_portal.demo.upstream", "--port", str(upstream.port)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert found.returncode != 0
    assert "address already in use" in found.stderr


def settled(upstream: Upstream) -> list[dict[str, Any]]:
    """The record once it no longer changes: the server notices a hang-up a moment later."""
    before: list[dict[str, Any]] = []
    while (now := upstream.entries()) != before or not now:
        before = now
        time.sleep(0.1)
    return now

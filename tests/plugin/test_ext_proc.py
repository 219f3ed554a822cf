"""Watching responses as Envoy's ext_proc filter shows them."""

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from builders.plugin import Part, a_call_of, a_policy, an_account, ask, settled
from farebox.v1.envoy_ext_proc_pb2 import ProcessingRequest, ProcessingResponse
from farebox.v1.usage_pb2 import UsageEvent
from farebox_plugin.answer import METADATA_NAMESPACE
from farebox_plugin.ext_proc import ExtProc, Watch
from farebox_plugin.spool import SETTLED, SpoolReader

CHAT = a_policy(
    "chat",
    {"api_requests": 1, "input": "usage.inputTokens", "output": "usage.outputTokens"},
    dimensions={"model": "usage.model"},
)
BODY = json.dumps(
    {"model": "gpt-x", "usage": {"prompt_tokens": 12, "completion_tokens": 34, "total_tokens": 46}}
).encode()


@dataclass
class Reply:
    sent: list[ProcessingResponse] = field(default_factory=list)
    is_finished: bool = False

    def send(self, message: bytes) -> None:
        assert not self.is_finished
        self.sent.append(ProcessingResponse.FromString(message))

    def finish(self) -> None:
        self.is_finished = True


@pytest.fixture
async def feed(part: Part) -> ExtProc:
    await part.publish(an_account(limit=100, input=10**6, output=10**6), CHAT, a_policy())
    await part.directory.load_policies()
    return ExtProc(part.directory, part.settlements, part.extensions)


def headers(stream: int, *, policy: str = "chat", granted: bool = True, observing: bool = True) -> bytes:
    message = ProcessingRequest(observability_mode=observing)
    message.request_headers.SetInParent()
    message.metadata_context.SetInParent()
    if granted:
        text = f"{a_call_of(stream).rid} acct1 sub1 key1 {policy} api_requests=1,input=3,output=5"
        message.metadata_context.filter_metadata[METADATA_NAMESPACE].update({"grant": text})
    return message.SerializeToString()


def response(status: int = 200, content_type: str = "application/json", *, ends: bool = False, **flags: Any) -> bytes:
    message = ProcessingRequest(observability_mode=flags.get("observing", True))
    for name, value in ((":status", str(status)), ("content-type", content_type)):
        message.response_headers.headers.headers.add(key=name, raw_value=value.encode())
    message.response_headers.end_of_stream = ends
    return message.SerializeToString()


def body(data: bytes, *, ends: bool = False, observing: bool = True) -> bytes:
    message = ProcessingRequest(observability_mode=observing)
    message.response_body.body, message.response_body.end_of_stream = data, ends
    return message.SerializeToString()


def events(part: Part) -> list[UsageEvent]:
    frames = SpoolReader(part.folder, "w0").read()
    return [UsageEvent.FromString(r.body) for frame in frames for r in frame.records if r.kind == SETTLED]


def used(event: UsageEvent) -> dict[str, int]:
    return {meter.meter: meter.quantity for meter in event.meters}


def watch(feed: ExtProc) -> tuple[Watch, Reply]:
    reply = Reply()
    return feed.open(reply), reply


async def test_tokens_are_charged_as_the_body_reports_them(part: Part, feed: ExtProc) -> None:
    await ask(part, stream=2000)
    stream, reply = watch(feed)
    for message in (headers(2000), response(), body(BODY[:20]), body(BODY[20:], ends=True)):
        stream.receive(message)
    assert reply.is_finished, "Envoy holds a stream that we do not end"
    assert reply.sent == [], "an observed stream must not be answered"
    stream.closed()
    (event,) = events(part)
    assert used(event) == {"api_requests": 1, "input": 12, "output": 34}
    assert dict(event.dimensions) == {"model": "gpt-x"}
    assert event.status == 200
    await settled(part)


async def test_a_stream_that_ends_with_trailers_is_settled_there(part: Part, feed: ExtProc) -> None:
    await ask(part, stream=2001)
    stream, reply = watch(feed)
    for message in (headers(2001), response(), body(BODY)):
        stream.receive(message)
    assert events(part) == []
    trailers = ProcessingRequest(observability_mode=True)
    trailers.response_trailers.SetInParent()
    stream.receive(trailers.SerializeToString())
    assert reply.is_finished
    assert used(events(part)[0])["output"] == 34
    await settled(part)


async def test_a_client_that_hangs_up_is_charged_for_what_was_seen(part: Part, feed: ExtProc) -> None:
    await ask(part, stream=2002)
    stream, _ = watch(feed)
    stream.receive(headers(2002))
    stream.receive(response(content_type="text/event-stream"))
    for word in ("a", "b", "c", "d", "e", "f", "g"):
        delta = json.dumps({"model": "gpt-x", "choices": [{"delta": {"content": word}}]})
        stream.receive(body(f"data: {delta}\n\n".encode()))
    stream.closed()
    (event,) = events(part)
    assert used(event) == {"api_requests": 1, "input": 3, "output": 7}, "input as held, output as counted"
    assert "estimated" in event.flags
    await settled(part)


async def test_a_response_that_is_not_billable_is_voided(part: Part, feed: ExtProc) -> None:
    await ask(part, stream=2003)
    stream, _ = watch(feed)
    for message in (headers(2003), response(500), body(BODY, ends=True)):
        stream.receive(message)
    assert part.records()[-1] == (b"V", ["acct1", a_call_of(2003).rid])
    await settled(part)


async def test_a_body_without_usage_is_charged_as_held_and_flagged(part: Part, feed: ExtProc) -> None:
    await ask(part, stream=2004)
    stream, _ = watch(feed)
    for message in (headers(2004), response(), body(b'{"hello": 1}', ends=True)):
        stream.receive(message)
    (event,) = events(part)
    assert used(event) == {"api_requests": 1, "input": 3, "output": 5}
    assert "estimated" in event.flags
    await settled(part)


async def test_a_refused_request_comes_by_and_is_ignored(part: Part, feed: ExtProc) -> None:
    stream, _ = watch(feed)
    for message in (headers(2005, granted=False), response(), body(BODY, ends=True)):
        stream.receive(message)
    stream.closed()
    assert part.records() == []


async def test_a_policy_that_the_access_log_settles_is_not_settled_twice(part: Part, feed: ExtProc) -> None:
    stream, _ = watch(feed)
    for message in (headers(2006, policy="default"), response(), body(BODY, ends=True)):
        stream.receive(message)
    stream.closed()
    assert part.records() == []


async def test_a_stream_that_ends_before_any_response_is_left_to_the_access_log(part: Part, feed: ExtProc) -> None:
    stream, _ = watch(feed)
    stream.receive(headers(2007))
    stream.closed()
    assert part.records() == []


async def test_in_a_replying_mode_every_message_is_answered_before_the_stream_ends(part: Part, feed: ExtProc) -> None:
    await ask(part, stream=2008)
    stream, reply = watch(feed)
    stream.receive(headers(2008, observing=False))
    stream.receive(response(observing=False))
    stream.receive(body(BODY, ends=True, observing=False))
    kinds = [message.WhichOneof("response") for message in reply.sent]
    assert kinds == ["request_headers", "response_headers", "response_body"]
    assert reply.is_finished
    await settled(part)


async def test_bytes_that_are_no_message_do_no_harm(feed: ExtProc) -> None:
    stream, _ = watch(feed)
    stream.receive(b"\xff\xff")
    assert feed.counts["undecodable"] == 1

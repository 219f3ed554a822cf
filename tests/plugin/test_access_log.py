"""Settling from access log entries as Envoy writes them, on a real Valkey."""

import asyncio
from typing import Any

import pytest

from builders.plugin import Part, a_call_of, a_policy, an_account, ask, settled
from farebox.v1.envoy_access_log_pb2 import (
    AccessLogType,
    DownstreamEnd,
    DownstreamPeriodic,
    StreamAccessLogsMessage,
)
from farebox.v1.usage_pb2 import UsageEvent
from farebox_plugin import access_log
from farebox_plugin.access_log import AccessLog
from farebox_plugin.answer import METADATA_NAMESPACE
from farebox_plugin.records import Grant, Settlement
from farebox_plugin.spool import SETTLED, SpoolReader

POLICIES = (
    a_policy(),
    a_policy("bytes", {"api_requests": 1, "egress": "response.bytes", "ingress": "request.bytes"}),
    a_policy("chat", {"api_requests": 1, "tokens": "usage.outputTokens"}),
)


@pytest.fixture
async def feed(part: Part) -> AccessLog:
    await part.publish(an_account(limit=100, egress=10**9, ingress=10**9, tokens=10**6), *POLICIES)
    await part.directory.load_policies()
    return AccessLog(part.link, part.directory, part.settlements)


def entry(
    stream: int,
    *,
    policy: str = "default",
    status: int = 200,
    sent: int = 0,
    received: int = 0,
    kind: "AccessLogType" = DownstreamEnd,
    reset: bool = False,
    grant: bool = True,
    held: str = "",
) -> Any:
    message = StreamAccessLogsMessage()
    one = message.http_logs.log_entry.add()
    one.common_properties.access_log_type = kind
    one.common_properties.response_flags.downstream_connection_termination = reset
    one.response.response_code.value = status
    one.response.response_body_bytes = sent
    one.request.request_body_bytes = received
    if grant:
        text = f"{a_call_of(stream).rid} acct1 sub1 key1 {policy}" + (f" {held}" if held else "")
        one.common_properties.metadata.filter_metadata[METADATA_NAMESPACE].update({"grant": text})
    return message


def events(part: Part) -> list[UsageEvent]:
    frames = SpoolReader(part.folder, "w0").read()
    return [UsageEvent.FromString(r.body) for frame in frames for r in frame.records if r.kind == SETTLED]


def used(event: UsageEvent) -> dict[str, int]:
    return {meter.meter: meter.quantity for meter in event.meters}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"api_requests": 1}),
        ({"status": 204}, {"api_requests": 1}),
        ({"status": 500}, None),
        ({"status": 404}, None),
        ({"status": 0}, None),
        ({"policy": "bytes", "sent": 50_000, "received": 12}, {"api_requests": 1, "egress": 50_000, "ingress": 12}),
        ({"policy": "bytes", "sent": 0}, {"api_requests": 1}),
        ({"policy": "bytes", "sent": 700, "reset": True}, {"api_requests": 1, "egress": 700}),
    ],
)
async def test_what_an_entry_is_charged(part: Part, feed: AccessLog, given: dict[str, Any], expected: Any) -> None:
    await ask(part, stream=1000)
    feed.receive(entry(1000, **given).SerializeToString())
    found = events(part)
    assert [used(event) for event in found] == ([] if expected is None else [expected])
    if given.get("reset"):
        assert list(found[0].flags) == ["aborted"]
    await settled(part)
    assert (await part.counter())["api_requests"] == (0 if expected is None else 1)


def joined(*messages: Any) -> bytes:
    """One batch of all their entries: messages laid end to end are merged by the wire format."""
    return b"".join(message.SerializeToString() for message in messages)


async def test_requests_of_which_the_same_is_told_are_one_event_and_others_are_not(part: Part, feed: AccessLog) -> None:
    for stream in range(1010, 1020):
        await ask(part, stream=stream)
    batch = joined(
        entry(1010, sent=10), entry(1011, sent=99, received=5), entry(1012, reset=True), entry(1013, status=201),
        entry(1014, status=500), entry(1015, policy="bytes", sent=7), entry(1016, policy="bytes", sent=8),
        entry(1017, policy="bytes", sent=7), entry(1018, status=503), entry(1019), entry(9999, grant=False),
    )  # fmt: skip
    feed.receive(batch)
    rid = {stream: a_call_of(stream).rid for stream in range(1010, 1020)}
    found = {event.rid: ([*event.alike], used(event), [*event.flags], event.status) for event in events(part)}
    assert found == {
        rid[1010]: ([rid[1011], rid[1019]], {"api_requests": 1}, [], 200),  # bytes are nothing that is charged there
        rid[1012]: ([], {"api_requests": 1}, ["aborted"], 200),
        rid[1013]: ([], {"api_requests": 1}, [], 201),
        rid[1015]: ([rid[1017]], {"api_requests": 1, "egress": 7}, [], 200),
        rid[1016]: ([], {"api_requests": 1, "egress": 8}, [], 200),
    }
    voided = [fields[1:] for kind, fields in part.records() if kind == b"V"]
    assert sorted(voided) == sorted([[rid[1014]], [rid[1018]]])
    assert feed.counts["entries"] == 10
    await settled(part)
    assert await part.counter() == {"api_requests": 8}


async def test_where_the_body_settles_each_request_waits_for_itself(
    part: Part, feed: AccessLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_log, "SAFETY_NET_S", 0.05)
    for stream in (1030, 1031):
        await ask(part, stream=stream)
    grant = Grant(a_call_of(1030).rid, "acct1", "sub1", "key1", "chat")
    part.settlements.settle([Settlement(grant, 200, {"api_requests": 1, "tokens": 7})])
    await settled(part)
    feed.receive(joined(entry(1030, policy="chat", held="tokens=5"), entry(1031, policy="chat", held="tokens=5")))
    async with asyncio.timeout(5):
        while not feed.is_idle:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert [(event.rid, used(event)["tokens"]) for event in events(part)] == [
        (a_call_of(1030).rid, 7), (a_call_of(1031).rid, 5)
    ]  # fmt: skip


async def test_an_entry_of_a_request_that_was_not_let_in_is_ignored(part: Part, feed: AccessLog) -> None:
    feed.receive(entry(1001, grant=False).SerializeToString())
    assert part.records() == []


async def test_a_request_that_is_still_running_is_not_settled(part: Part, feed: AccessLog) -> None:
    feed.receive(entry(1002, kind=DownstreamPeriodic).SerializeToString())
    assert part.records() == []


async def test_bytes_that_are_no_entries_do_no_harm(part: Part, feed: AccessLog) -> None:
    feed.receive(b"\xff\xff")
    assert part.records() == []
    assert feed.counts["undecodable"] == 1


async def test_an_entry_that_comes_before_the_policies_are_known_is_kept(part: Part) -> None:
    await part.publish(an_account(limit=100), *POLICIES)
    young = AccessLog(part.link, part.directory, part.settlements)
    await ask(part, stream=1003)
    young.receive(entry(1003).SerializeToString())
    async with asyncio.timeout(5):
        while not young.is_idle:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert [used(event) for event in events(part)] == [{"api_requests": 1}]
    await settled(part)


@pytest.fixture
def quick_safety_net(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "SAFETY_NET_S", 0.1)


@pytest.mark.usefixtures("quick_safety_net")
async def test_where_ext_proc_has_settled_the_entry_adds_nothing(part: Part, feed: AccessLog) -> None:
    await ask(part, stream=1004)
    feed.receive(entry(1004, policy="chat").SerializeToString())
    grant = Grant(a_call_of(1004).rid, "acct1", "sub1", "key1", "chat")
    part.settlements.settle([Settlement(grant, 200, {"api_requests": 1, "tokens": 7})])
    async with asyncio.timeout(5):
        while not feed.is_idle:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    await settled(part)
    assert [used(event) for event in events(part)] == [{"api_requests": 1, "tokens": 7}]


@pytest.mark.usefixtures("quick_safety_net")
async def test_where_ext_proc_was_lost_the_hold_is_charged_and_flagged(part: Part, feed: AccessLog) -> None:
    await ask(part, stream=1005)
    feed.receive(entry(1005, policy="chat", held="api_requests=1,tokens=40").SerializeToString())
    async with asyncio.timeout(5):
        while not feed.is_idle:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    (event,) = events(part)
    assert used(event) == {"api_requests": 1, "tokens": 40}
    assert "estimated" in event.flags
    await settled(part)


async def test_a_failed_response_of_a_body_policy_is_voided_at_once(part: Part, feed: AccessLog) -> None:
    await ask(part, stream=1006)
    feed.receive(entry(1006, policy="chat", status=502).SerializeToString())
    assert part.records()[-1] == (b"V", ["acct1", a_call_of(1006).rid])
    await settled(part)

"""The h2 transport as a gRPC server: messages, flow control, endings; against a peer in memory."""

import contextlib
from collections.abc import Iterator
from itertools import pairwise

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, ResponseReceived, StreamEnded, TrailersReceived
from h2.settings import SettingCodes
from hpack import Encoder
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    WindowUpdateFrame,
)
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from builders.h2_peer import STREAM, UNARY, Peer, data_frame, grpc
from farebox_plugin.transport.h2 import frames
from farebox_plugin.transport.h2.calls import MESSAGE_BYTES_MAX
from farebox_plugin.transport.h2.connection import CALL_WINDOW, UNFINISHED_BYTES_MAX
from farebox_plugin.transport.h2.frames import ConnectionFault, StreamFault
from farebox_plugin.transport.h2.headers import HeaderReader, read_head
from farebox_plugin.transport.h2.sending import BACKLOG_BYTES_MAX, CALL_BACKLOG_BYTES_MAX

MIB = 1024 * 1024


@pytest.fixture
def peer() -> Peer:
    """Stream 1 is running."""
    peer = Peer()
    peer.send(peer.head(1, STREAM))
    return peer


# Messages.


@given(st.lists(st.binary(max_size=40), max_size=8), st.lists(st.integers(0, 400), max_size=12))
@hypothesis_settings(max_examples=150, deadline=None)
def test_messages_are_the_same_wherever_frames_cut_them(messages: list[bytes], cuts: list[int]) -> None:
    peer = Peer()
    peer.send(peer.head(1, STREAM))
    whole = b"".join(map(grpc, messages))
    edges = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    peer.send(*(data_frame(1, whole[start:end]) for start, end in pairwise(edges)))
    expected = messages[: messages.index(b"finish") + 1] if b"finish" in messages else messages
    assert peer.listeners[0].messages == expected
    assert peer.connection.unfinished.used == 0


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (grpc(b"abc", compressed=1), "12"),
        (grpc(b"a") + grpc(b"b"), "12"),
        (b"", "12"),
        (grpc(b"abc", size=4), "13"),
        (b"\0\0\0", "13"),
        (grpc(b"", size=MESSAGE_BYTES_MAX + 1), "8"),
    ],
    ids=["compressed", "two", "none", "cut short", "half a prefix", "too large"],
)
def test_a_unary_call_without_one_good_message_never_reaches_its_servicer(data: bytes, status: str) -> None:
    peer = Peer()
    peer.send(peer.head(1) + data_frame(1, data, end=True))
    assert peer.status() == status
    assert (peer.asked, peer.connection.unfinished.used) == ([], 0)


def test_a_message_too_large_is_refused_before_it_is_here(peer: Peer) -> None:
    peer.send(data_frame(1, grpc(b"ok") + grpc(b"", size=MESSAGE_BYTES_MAX + 1)))
    assert peer.status() == "8"
    assert (peer.listeners[0].messages, peer.listeners[0].closed_count) == ([b"ok"], 1)


def test_unfinished_messages_are_held_up_to_a_limit(peer: Peer) -> None:
    """Over it, the stream that asks for more loses; the others keep what they have."""
    start = grpc(b"", size=MESSAGE_BYTES_MAX)
    peer.send(data_frame(1, start))
    stream_id = 1
    while not peer.listeners[-1].closed_count:
        stream_id += 2
        peer.send(peer.head(stream_id, STREAM) + data_frame(stream_id, start))
        for _ in range(MESSAGE_BYTES_MAX // 16_384 - 1):
            peer.send(data_frame(stream_id, b"a" * 16_384))
        assert peer.connection.unfinished.used <= UNFINISHED_BYTES_MAX
        assert stream_id < 100
    assert peer.reset_code() == frames.ENHANCE_YOUR_CALM
    assert [listener.closed_count for listener in peer.listeners] == [0] * (len(peer.listeners) - 1) + [1]
    peer.connection.connection_lost(None)
    assert peer.connection.unfinished.used == 0


def test_windows_are_topped_up_so_that_a_long_stream_never_waits(peer: Peer) -> None:
    left, total_left = CALL_WINDOW, peer.connection._window
    for _ in range(2000):
        peer.send(data_frame(1, grpc(b"a" * 16_000)))
        left, total_left = left - 16_005, total_left - 16_005
        for frame in peer.received():
            assert isinstance(frame, WindowUpdateFrame)
            if frame.stream_id:
                left += frame.window_increment
            else:
                total_left += frame.window_increment
        assert left > CALL_WINDOW // 3
        assert total_left > CALL_WINDOW


# Requests that nobody serves.


def test_a_request_that_is_not_grpc_gets_an_http_status(peer: Peer) -> None:
    peer.send(peer.head(3, content_type="application/json"), peer.head(5, content_type="application/grpcx"))
    peer.send(peer.head(7, content_type="application/grpc+proto"))
    heads = [frame for frame in peer.received() if isinstance(frame, HeadersFrame)]
    assert [(head.stream_id, peer.fields(head)) for head in heads] == [(3, {":status": "415"}), (5, {":status": "415"})]


def test_an_unknown_method_is_unimplemented_and_its_data_ignored(peer: Peer) -> None:
    peer.send(peer.head(3, "/no.Such/Method"))
    head, reset = peer.received()
    assert isinstance(head, HeadersFrame)
    assert peer.fields(head)["grpc-status"] == "12"
    assert isinstance(reset, RstStreamFrame)
    assert reset.error_code == frames.NO_ERROR
    peer.send(data_frame(3, grpc(b"a")), data_frame(3, grpc(b"a"), end=True), peer.call(5, b"b"))
    assert [message for message, _ in peer.asked] == [b"b"]


# Endings.


def test_a_stream_that_its_servicer_finishes_hears_nothing_more_and_is_closed_once(peer: Peer) -> None:
    peer.send(data_frame(1, grpc(b"finish") + grpc(b"unheard")), data_frame(1, grpc(b"unheard"), end=True))
    assert (peer.listeners[0].messages, peer.listeners[0].closed_count) == ([b"finish"], 1)
    assert peer.status() == "0"
    peer.listeners[0].reply.send(b"unsaid")
    peer.listeners[0].reply.finish()
    peer.connection.connection_lost(None)
    assert (peer.received(), peer.listeners[0].closed_count) == ([], 1)


def test_a_reset_closes_a_stream_before_anything_else_happens(peer: Peer) -> None:
    peer.connection.data_received(frames.rst_stream(1, frames.CANCEL))
    assert peer.listeners[0].closed_count == 1


def test_a_reset_that_crosses_an_answer_says_that_it_was_not_read(peer: Peer) -> None:
    unread: list[int] = []
    peer.send(peer.call(3), peer.call(5), peer.call(7))
    for stream_id, (_, reply) in zip((3, 5, 7), peer.asked, strict=True):
        reply.send(b"yes", lambda stream_id=stream_id: unread.append(stream_id))  # type: ignore[misc]
    peer.send(*(frames.rst_stream(stream_id, frames.CANCEL) for stream_id in (5, 5, 7)))
    assert unread == [5, 7]


def test_an_answer_that_the_peer_has_no_room_for_is_not_read_either_when_it_resets_the_call() -> None:
    unread: list[bool] = []
    peer = Peer()
    peer.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 3}), peer.call(1))
    ((_, reply),) = peer.asked
    reply.send(b"more than fits", lambda: unread.append(True))
    peer.send(frames.rst_stream(1, frames.CANCEL))
    assert unread == [True]


def test_a_servicer_that_fails_ends_its_stream_alone(peer: Peer) -> None:
    peer.send(data_frame(1, grpc(b"fail")))
    assert (peer.status(), peer.listeners[0].closed_count) == ("13", 1)
    peer.send(peer.call(3, b"b"))
    assert [message for message, _ in peer.asked] == [b"b"]


def test_all_answers_of_one_turn_leave_in_one_write(peer: Peer) -> None:
    peer.send(*(peer.call(stream_id) for stream_id in range(3, 203, 2)))
    peer.received()
    for _, reply in peer.asked:
        reply.send(b"yes")
    assert peer.socket.written == []
    peer.turn()
    assert len(peer.socket.written) == 1
    assert len(peer.received()) == 300


def test_draining_serves_what_was_on_its_way_and_then_closes(peer: Peer) -> None:
    peer.send(peer.call(3))
    peer.received()
    peer.connection.drain()
    peer.turn()
    first, ping = peer.received()
    assert isinstance(first, GoAwayFrame)
    assert isinstance(ping, PingFrame)
    assert (first.last_stream_id, first.error_code) == (frames.STREAM_ID_MAX, frames.NO_ERROR)
    peer.send(peer.call(5))  # it crossed our goodbye
    peer.send(frames.frame(frames.PING, frames.ACK, 0, ping.opaque_data))
    (second,) = peer.received()
    assert isinstance(second, GoAwayFrame)
    assert second.last_stream_id == 5
    peer.send(peer.call(7), frames.rst_stream(1, frames.CANCEL))
    assert len(peer.asked) == 2
    assert not peer.socket.is_closed
    for _, reply in peer.asked:
        reply.send(b"")
    peer.turn()
    assert peer.socket.is_closed


def test_a_peer_that_says_goodbye_gets_its_answers_first(peer: Peer) -> None:
    peer.send(frames.rst_stream(1, 0), peer.call(3), frames.goaway(0, frames.NO_ERROR))
    assert not peer.socket.is_closed
    peer.asked[0][1].send(b"yes")
    peer.turn()
    assert peer.data(3) == grpc(b"yes")
    assert peer.socket.is_closed


# Flow control of what we send.


def test_an_answer_waits_for_the_windows_and_its_end_for_it(peer: Peer) -> None:
    peer.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 10}), peer.call(3))
    peer.received()
    peer.asked[0][1].send(b"a" * 95)
    peer.turn()
    assert peer.data(3) == grpc(b"a" * 95)[:10]
    peer.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}))  # 10 less: the window is -10
    peer.send(frames.window_update(3, 10))
    assert peer.data(3) == b""
    peer.send(frames.window_update(3, 1))
    assert len(peer.data(3)) == 1
    peer.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 89}))
    *data, trailers = (frame for frame in peer.received() if frame.stream_id == 3)
    assert sum(len(frame.data) for frame in data) == 89  # type: ignore[attr-defined]
    assert isinstance(trailers, HeadersFrame)
    assert peer.connection.sending.backlog.used == 0


def test_calls_share_the_connections_window(peer: Peer) -> None:
    peer.send(frames.settings({frames.INITIAL_WINDOW_SIZE: MIB}), peer.head(3, STREAM))
    for listener in peer.listeners:
        listener.reply.send(b"a" * 100_000)
    peer.turn()
    sent = [frame for frame in peer.received() if isinstance(frame, DataFrame)]
    assert sum(len(frame.data) for frame in sent) == frames.WINDOW_DEFAULT
    peer.send(frames.window_update(0, 4 * 16_384))
    again = [frame.stream_id for frame in peer.received() if isinstance(frame, DataFrame)]
    assert sorted(again) == [1, 1, 3, 3]


def test_a_larger_frame_is_used_where_the_peer_allows_it(peer: Peer) -> None:
    peer.send(frames.settings({frames.MAX_FRAME_SIZE: 32_768}))
    peer.received()
    peer.listeners[0].reply.send(b"a" * 30_000)
    peer.turn()
    assert [len(frame.data) for frame in peer.received() if isinstance(frame, DataFrame)] == [30_005]


def test_a_stream_that_is_not_read_is_reset_when_its_backlog_is_full(peer: Peer) -> None:
    while not peer.listeners[0].closed_count:
        peer.listeners[0].reply.send(b"a" * MIB)
        peer.turn()
        assert peer.connection.sending.backlog.used <= CALL_BACKLOG_BYTES_MAX + MIB + 5
    assert peer.reset_code() == frames.ENHANCE_YOUR_CALM
    assert (peer.listeners[0].closed_count, peer.connection.sending.backlog.used) == (1, 0)


def test_all_streams_together_are_held_up_to_a_limit(peer: Peer) -> None:
    peer.send(*(peer.head(stream_id, STREAM) for stream_id in range(3, 41, 2)))
    for listener in peer.listeners:
        for _ in range(6):
            listener.reply.send(b"a" * MIB)
        peer.turn()
        assert peer.connection.sending.backlog.used <= BACKLOG_BYTES_MAX
    lost = [listener.closed_count for listener in peer.listeners]
    assert (lost[:10], lost[-1]) == ([0] * 10, 1)


def test_a_unary_answer_that_has_no_room_resets_its_call_alone(peer: Peer) -> None:
    peer.send(*(peer.call(stream_id) for stream_id in range(3, 33, 2)))
    for _, reply in peer.asked:
        reply.send(b"a" * (6 * MIB))
    peer.turn()
    resets = [frame for frame in peer.received() if isinstance(frame, RstStreamFrame)]
    assert [frame.error_code for frame in resets] == [frames.ENHANCE_YOUR_CALM] * 5
    assert peer.connection.sending.backlog.used <= BACKLOG_BYTES_MAX


def test_a_peer_that_does_not_read_is_not_read_from(peer: Peer) -> None:
    peer.received()
    peer.connection.pause_writing()
    assert not peer.socket.is_reading
    peer.listeners[0].reply.send(b"held")
    peer.turn()
    assert peer.data() == b""
    peer.connection.resume_writing()
    assert peer.socket.is_reading
    peer.turn()
    assert peer.data() == grpc(b"held")


# Header blocks.


def test_a_smaller_header_table_is_acknowledged_in_the_next_block(peer: Peer) -> None:
    """RFC 7541, 4.2; a decoder may insist."""
    peer.send(peer.call(3), frames.settings({frames.HEADER_TABLE_SIZE: 0}))
    peer.decoder.max_allowed_table_size = 0
    peer.asked[0][1].send(b"")
    peer.turn()
    heads = [frame for frame in peer.received() if isinstance(frame, HeadersFrame)]
    assert [peer.fields(head) for head in heads] == [
        {":status": "200", "content-type": "application/grpc"},
        {"grpc-status": "0"},
    ]


_FIELD = st.tuples(st.sampled_from(["a", "b", "traceparent"]), st.text("xyz", max_size=3), st.booleans())


@given(
    st.lists(
        st.tuples(st.sampled_from("pq"), st.lists(_FIELD, max_size=3), st.sampled_from([4096, 60, 0])), max_size=30
    )
)
@hypothesis_settings(max_examples=200, deadline=None)
def test_a_remembered_block_means_what_it_meant_to_its_sender(
    requests: list[tuple[str, list[tuple[str, str, bool]], int]],
) -> None:
    """Whatever the sender indexes, and however it resizes its table."""
    encoder, reader = Encoder(), HeaderReader()
    for path, fields, size in requests:
        if encoder.header_table_size != size:
            encoder.header_table_size = size
        sent = [(":method", "POST", False), (":scheme", "http", False), (":path", path, False), *fields]
        block = bytes(encoder.encode(sent, huffman=False))
        assert reader.head(block) == read_head([(name.encode(), value.encode()) for name, value, _ in sent])


def test_a_block_without_news_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Peer()
    peer.send(peer.call(1), peer.call(3))
    decoded: list[bytes] = []
    monkeypatch.setattr(peer.connection._headers, "fields", decoded.append)
    peer.send(peer.call(5), peer.call(7))
    assert (len(peer.asked), decoded) == (4, [])


# A fussy peer, and a mad one.


def test_the_h2_library_accepts_all_of_it() -> None:
    client = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
    client.initiate_connection()
    client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 3, SettingCodes.HEADER_TABLE_SIZE: 128})
    peer = Peer(shake_hands=False)
    head = [(":method", "POST"), (":scheme", "http"), (":authority", "x"), ("content-type", "application/grpc")]
    client.send_headers(1, [*head[:3], (":path", UNARY), head[3]])
    client.send_data(1, grpc(b"abc"), end_stream=True, pad_length=9)
    client.send_headers(3, [*head[:3], (":path", STREAM), head[3]])
    client.send_data(3, grpc(b"finish"))
    client.ping(b"12345678")
    events = list(_talk(client, peer))
    peer.asked[0][1].fail(5, "nie da")
    peer.turn()
    events += _talk(client, peer)
    trailers = {event.stream_id: dict(event.headers) for event in events if isinstance(event, TrailersReceived)}
    heads = {event.stream_id: dict(event.headers) for event in events if isinstance(event, ResponseReceived)}
    assert (trailers, heads[1]["grpc-message"], heads[3]["grpc-status"]) == ({}, "nie da", "0")
    client.send_headers(5, [*head[:3], (":path", UNARY), head[3]])
    client.send_data(5, grpc(b"abc"), end_stream=True)
    list(_talk(client, peer))
    peer.asked[1][1].send(b"x" * 1000)
    peer.turn()
    events = list(_talk(client, peer))
    assert b"".join(event.data for event in events if isinstance(event, DataReceived)) == grpc(b"x" * 1000)
    assert [event.stream_id for event in events if isinstance(event, StreamEnded)] == [5]


def _talk(client: H2Connection, peer: Peer) -> Iterator[Event]:
    """Carry bytes between the two until both are silent."""
    while True:
        peer.send(client.data_to_send())
        answer = b"".join(peer.socket.written)
        peer.socket.written.clear()
        if not answer:
            return
        for event in client.receive_data(answer):
            if isinstance(event, DataReceived):
                client.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            yield event


def _conversation() -> bytes:
    """A bit of everything."""
    peer = Peer()
    return b"".join([
        frames.PREFACE,
        frames.settings({frames.INITIAL_WINDOW_SIZE: 40, frames.HEADER_TABLE_SIZE: 100}),
        peer.call(1, b"a"),
        peer.head(3, STREAM),
        data_frame(3, grpc(b"m") + grpc(b"cut")[:-1]),
        frames.frame(frames.PING, 0, 0, b"12345678"),
        frames.window_update(3, 1000),
        data_frame(3, b"t" + grpc(b"finish")),
        peer.head(5, "/no.Such/Method"),
        data_frame(5, grpc(b"unheard"), end=True),
        frames.rst_stream(1, frames.CANCEL),
        peer.call(7, b"b" * 300),
        frames.frame(0xFA, 0, 0, b"unknown"),
    ])  # fmt: skip


def test_frames_may_be_cut_at_every_byte() -> None:
    whole, conversation = Peer(shake_hands=False), _conversation()
    whole.send(conversation)
    expected = _summary(whole.received())
    for cut in range(1, len(conversation)):
        peer = Peer(shake_hands=False)
        peer.send(conversation[:cut], conversation[cut:])
        assert _summary(peer.received()) == expected
        assert [message for message, _ in peer.asked] == [b"a", b"b" * 300]
    single = Peer(shake_hands=False)
    single.send(*(bytes([byte]) for byte in conversation))
    assert _summary(single.received()) == expected


def _summary(found: list[Frame]) -> list[tuple[str, int, bytes]]:
    return [(type(frame).__name__, frame.stream_id, frame.serialize()) for frame in found]


_EDIT = st.tuples(st.integers(24, 600), st.sampled_from(["set", "cut", "insert"]), st.binary(min_size=1, max_size=12))
_FRAME = st.builds(
    frames.frame, st.integers(0, 10), st.integers(0, 255), st.sampled_from([0, 1, 2, 3, 5, 9]), st.binary(max_size=60)
)


@given(st.one_of(st.lists(_EDIT, max_size=6), st.binary(max_size=400), st.lists(_FRAME, max_size=30)))
@hypothesis_settings(max_examples=500, deadline=None)
def test_no_bytes_bring_it_down(noise: list[tuple[int, str, bytes]] | bytes | list[bytes]) -> None:
    """A conversation with random edits, random bytes, random frames: it goes on, or ends by GOAWAY; it holds little."""
    data = _conversation()
    if isinstance(noise, bytes):
        data = data[:70] + noise
    for each in noise if isinstance(noise, list) else []:
        data = data + each if isinstance(each, bytes) else _edited(data, *each)
    peer = Peer(shake_hands=False)
    peer.send(data[:100], data[100:300], data[300:])
    last = peer.received()[-1:]
    if peer.socket.is_closed and peer.connection._final_id == frames.STREAM_ID_MAX:
        assert isinstance(last[0], GoAwayFrame)
        assert last[0].error_code not in (frames.NO_ERROR, frames.INTERNAL_ERROR)
    assert len(peer.connection._rest) < frames.HEAD_BYTES + frames.FRAME_BYTES_DEFAULT
    peer.connection.connection_lost(None)
    peer.turn()
    assert all(listener.closed_count == 1 for listener in peer.listeners)
    assert (peer.connection.unfinished.used, peer.connection.sending.backlog.used) == (0, 0)


def _edited(data: bytes, at: int, how: str, new: bytes) -> bytes:
    if how == "set":
        return data[:at] + new + data[at + len(new) :]
    return data[:at] + data[at + len(new) :] if how == "cut" else data[:at] + new + data[at:]


@given(st.binary(max_size=200))
@hypothesis_settings(max_examples=500, deadline=None)
def test_no_header_block_raises_anything_but_a_fault(block: bytes) -> None:
    with contextlib.suppress(ConnectionFault, StreamFault):
        HeaderReader().head(block)

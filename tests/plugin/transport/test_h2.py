"""The h2 transport against peers that are wrong or hostile: one connection in memory, frames in, frames out.

Errors are those of RFC 9113; the table names its sections.
"""

import pytest
from h2.settings import SettingCodes
from hyperframe.frame import DataFrame, RstStreamFrame

from builders.h2_peer import STREAM, UNARY, Peer, data_frame, grpc
from farebox_plugin.transport.h2 import frames
from farebox_plugin.transport.h2.connection import CALL_WINDOW, CALLS_MAX, CONNECTION_WINDOW, PATIENCE_FRAMES

END_BOTH = frames.END_HEADERS | frames.END_STREAM

# Wrong in a way that ends the connection. Stream 1 is a running stream; 3 was answered; 5 and up are idle.
F = frames
CONNECTION_FAULTS: list[tuple[str, bytes, int]] = [
    ("4.2 a frame too large", F.HEAD.pack(0x40, 1, F.DATA, 0, 1), F.FRAME_SIZE_ERROR),
    ("4.3 a block that cannot be decoded", F.frame(F.HEADERS, END_BOTH, 5, b"\xff\xff\xff\x7f"), F.COMPRESSION_ERROR),
    ("4.3 an entry that no table has", F.frame(F.HEADERS, END_BOTH, 5, b"\xfe"), F.COMPRESSION_ERROR),
    ("5.1 DATA on an idle stream", data_frame(5, b""), F.PROTOCOL_ERROR),
    ("5.1 DATA on a stream of ours", data_frame(2, b""), F.PROTOCOL_ERROR),
    ("5.1 DATA on a closed stream", data_frame(3, b""), F.STREAM_CLOSED),
    ("5.1 RST_STREAM on an idle stream", F.rst_stream(5, F.CANCEL), F.PROTOCOL_ERROR),
    ("5.1 WINDOW_UPDATE on an idle stream", F.window_update(5, 1), F.PROTOCOL_ERROR),
    ("5.1.1 an even stream id", F.frame(F.HEADERS, END_BOTH, 6, b"\x82"), F.PROTOCOL_ERROR),
    ("5.1.1 a stream id that was passed", F.frame(F.HEADERS, END_BOTH, 3, b"\x82"), F.PROTOCOL_ERROR),
    ("6.1 DATA on stream 0", data_frame(0, b""), F.PROTOCOL_ERROR),
    ("6.1 padding longer than DATA", F.frame(F.DATA, F.PADDED, 1, b"\x03ab"), F.PROTOCOL_ERROR),
    ("6.1 padding without its length", F.frame(F.DATA, F.PADDED, 1, b""), F.PROTOCOL_ERROR),
    ("6.2 HEADERS on stream 0", F.frame(F.HEADERS, END_BOTH, 0, b"\x82"), F.PROTOCOL_ERROR),
    ("6.2 padding longer than HEADERS", F.frame(F.HEADERS, END_BOTH | F.PADDED, 5, b"\x09\x82"), F.PROTOCOL_ERROR),
    ("6.2 half a priority", F.frame(F.HEADERS, END_BOTH | F.PRIORITIZED, 5, b"\x82"), F.FRAME_SIZE_ERROR),
    ("6.2 a block interrupted", F.frame(F.HEADERS, 0, 5, b"\x82") + F.frame(F.PING, 0, 0, b"8" * 8), F.PROTOCOL_ERROR),
    (
        "6.2 a block continued elsewhere",
        F.frame(F.HEADERS, 0, 5, b"\x82") + F.frame(F.CONTINUATION, F.END_HEADERS, 7, b""),
        F.PROTOCOL_ERROR,
    ),
    ("6.3 PRIORITY on stream 0", F.frame(F.PRIORITY, 0, 0, b"12345"), F.PROTOCOL_ERROR),
    ("6.3 PRIORITY of four bytes", F.frame(F.PRIORITY, 0, 1, b"1234"), F.FRAME_SIZE_ERROR),
    ("6.4 RST_STREAM on stream 0", F.rst_stream(0, F.CANCEL), F.PROTOCOL_ERROR),
    ("6.4 RST_STREAM of three bytes", F.frame(F.RST_STREAM, 0, 1, b"123"), F.FRAME_SIZE_ERROR),
    ("6.5 SETTINGS on a stream", F.frame(F.SETTINGS, 0, 1), F.PROTOCOL_ERROR),
    ("6.5 SETTINGS of five bytes", F.frame(F.SETTINGS, 0, 0, b"12345"), F.FRAME_SIZE_ERROR),
    ("6.5 an acknowledgement with settings", F.frame(F.SETTINGS, F.ACK, 0, b"123456"), F.FRAME_SIZE_ERROR),
    ("6.5.2 ENABLE_PUSH 2", F.settings({F.ENABLE_PUSH: 2}), F.PROTOCOL_ERROR),
    ("6.5.2 INITIAL_WINDOW_SIZE 2^31", F.settings({F.INITIAL_WINDOW_SIZE: 1 << 31}), F.FLOW_CONTROL_ERROR),
    ("6.5.2 MAX_FRAME_SIZE small", F.settings({F.MAX_FRAME_SIZE: 16_383}), F.PROTOCOL_ERROR),
    ("6.5.2 MAX_FRAME_SIZE large", F.settings({F.MAX_FRAME_SIZE: 1 << 24}), F.PROTOCOL_ERROR),
    ("6.6 PUSH_PROMISE", F.frame(F.PUSH_PROMISE, F.END_HEADERS, 1, b"\0\0\0\x02"), F.PROTOCOL_ERROR),
    ("6.7 PING on a stream", F.frame(F.PING, 0, 1, b"8" * 8), F.PROTOCOL_ERROR),
    ("6.7 PING of seven bytes", F.frame(F.PING, 0, 0, b"7" * 7), F.FRAME_SIZE_ERROR),
    ("6.8 GOAWAY on a stream", F.frame(F.GOAWAY, 0, 1, b"8" * 8), F.PROTOCOL_ERROR),
    ("6.8 GOAWAY of seven bytes", F.frame(F.GOAWAY, 0, 0, b"7" * 7), F.FRAME_SIZE_ERROR),
    ("6.9 the connection widened by nothing", F.window_update(0, 0), F.PROTOCOL_ERROR),
    ("6.9 WINDOW_UPDATE of three bytes", F.frame(F.WINDOW_UPDATE, 0, 0, b"123"), F.FRAME_SIZE_ERROR),
    ("6.9.1 the connection's window overflows", F.window_update(0, F.WINDOW_MAX), F.FLOW_CONTROL_ERROR),
    (
        "6.9.2 a stream's window overflows by a setting",
        F.window_update(1, F.WINDOW_MAX - F.WINDOW_DEFAULT) + F.settings({F.INITIAL_WINDOW_SIZE: 65_536}),
        F.FLOW_CONTROL_ERROR,
    ),
    ("6.10 CONTINUATION of nothing", F.frame(F.CONTINUATION, F.END_HEADERS, 1, b""), F.PROTOCOL_ERROR),
    (
        "10.5 a block without end",
        F.frame(F.HEADERS, 0, 5, b"") + F.frame(F.CONTINUATION, 0, 5, b"\x82" * 16_000) * 3,
        F.ENHANCE_YOUR_CALM,
    ),
    (
        "10.5 a block of nothing without end",
        F.frame(F.HEADERS, 0, 5, b"") + F.frame(F.CONTINUATION, 0, 5, b"") * 9,
        F.ENHANCE_YOUR_CALM,
    ),
    ("10.5.1 a header list too large", F.frame(F.HEADERS, END_BOTH, 5, b"\x82" * 1000), F.ENHANCE_YOUR_CALM),
]

FLOODS = {
    "SETTINGS": F.settings({}),
    "PING": F.frame(F.PING, 0, 0, b"8" * 8),
    "answers to no PING": F.frame(F.PING, F.ACK, 0, b"8" * 8),
    "empty DATA": data_frame(1, b""),
    "empty DATA with padding": F.frame(F.DATA, F.PADDED, 1, b"\x02\0\0"),
    "PRIORITY": F.frame(F.PRIORITY, 0, 1, b"12345"),
    "unknown": F.frame(0xFA, 0, 0, b""),
    "GOAWAY": F.goaway(0, F.NO_ERROR),
}


@pytest.fixture
def peer() -> Peer:
    """Stream 1 is running, 3 was answered."""
    peer = Peer()
    peer.send(peer.head(1, STREAM), peer.call(3))
    peer.asked.pop()[1].send(b"")
    peer.turn()
    peer.received()
    return peer


@pytest.mark.parametrize(
    ("data", "code"), [row[1:] for row in CONNECTION_FAULTS], ids=[r[0] for r in CONNECTION_FAULTS]
)
def test_a_connection_ends_with_the_error_of_the_rfc(peer: Peer, data: bytes, code: int) -> None:
    peer.send(data)
    assert peer.goaway().error_code == code
    peer.connection.connection_lost(None)
    assert peer.listeners[0].closed_count == 1


def test_a_window_that_no_stream_could_have_is_refused_before_there_is_one() -> None:
    peer = Peer()
    peer.send(F.settings({F.INITIAL_WINDOW_SIZE: F.WINDOW_MAX + 1}))
    assert peer.goaway().error_code == F.FLOW_CONTROL_ERROR


@pytest.mark.parametrize("name", FLOODS)
def test_frames_that_carry_nothing_are_borne_for_a_while(peer: Peer, name: str) -> None:
    peer.send(FLOODS[name] * PATIENCE_FRAMES)
    assert not peer.socket.is_closed
    peer.now += 1
    peer.send(FLOODS[name] * 199)  # of 200, and of what floating point makes of a second
    assert not peer.socket.is_closed
    peer.send(FLOODS[name] * 3)
    assert peer.goaway().error_code == F.ENHANCE_YOUR_CALM


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\n", F.PREFACE + F.frame(F.PING, 0, 0, b"8" * 8), b"\0" * 24])
def test_what_does_not_begin_as_http2_ends_at_once(first: bytes) -> None:
    peer = Peer(shake_hands=False)
    peer.send(*(bytes([byte]) for byte in first))
    assert peer.goaway().error_code == F.PROTOCOL_ERROR


def test_our_settings_and_window_come_first() -> None:
    peer = Peer(shake_hands=False)
    peer.turn()
    first, second = peer.received()
    assert first.settings == {  # type: ignore[attr-defined]
        SettingCodes.MAX_CONCURRENT_STREAMS: CALLS_MAX,
        SettingCodes.INITIAL_WINDOW_SIZE: CALL_WINDOW,
        SettingCodes.MAX_HEADER_LIST_SIZE: 32 * 1024,
    }
    assert second.window_increment == CONNECTION_WINDOW - F.WINDOW_DEFAULT  # type: ignore[attr-defined]


# Wrong in a way that ends one stream.


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (F.window_update(1, 0), F.PROTOCOL_ERROR),
        (F.window_update(1, F.WINDOW_MAX), F.FLOW_CONTROL_ERROR),
        (F.frame(F.HEADERS, F.END_HEADERS, 1, b"\x0f\x01\x01a"), F.PROTOCOL_ERROR),  # trailers, and more to come
        (F.frame(F.HEADERS, END_BOTH, 1, b"\x82"), F.PROTOCOL_ERROR),  # a pseudo-header field in trailers
    ],
    ids=["a window widened by nothing", "a window that overflows", "trailers that end nothing", "a method in trailers"],
)
def test_a_stream_ends_with_the_error_of_the_rfc_and_the_others_go_on(peer: Peer, data: bytes, code: int) -> None:
    peer.send(data)
    assert peer.reset_code() == code
    assert peer.listeners[0].closed_count == 1
    peer.send(data_frame(1, grpc(b"in flight")), peer.call(5, b"other"))
    assert [message for message, _ in peer.asked] == [b"other"]


def test_data_after_the_end_of_a_stream_resets_it(peer: Peer) -> None:
    peer.send(peer.call(5), data_frame(5, b"more"))
    assert peer.reset_code() == F.STREAM_CLOSED
    assert peer.asked[0][1].is_abandoned


MALFORMED = {
    "no path": [(":method", "POST"), (":scheme", "http")],
    "an empty path": [(":method", "POST"), (":scheme", "http"), (":path", "")],
    "two methods": [(":method", "POST"), (":method", "GET"), (":scheme", "http"), (":path", UNARY)],
    "an unknown pseudo-header": [(":method", "POST"), (":scheme", "http"), (":path", UNARY), (":status", "200")],
    "a pseudo-header too late": [(":method", "POST"), (":scheme", "http"), ("a", "b"), (":path", UNARY)],
    "an uppercase name": [(":method", "POST"), (":scheme", "http"), (":path", UNARY), ("Te", "trailers")],
    "a connection header": [(":method", "POST"), (":scheme", "http"), (":path", UNARY), ("connection", "close")],
    "another te": [(":method", "POST"), (":scheme", "http"), (":path", UNARY), ("te", "gzip")],
    "a timeout of nine digits": [
        (":method", "POST"), (":scheme", "http"), (":path", UNARY), ("grpc-timeout", "123456789m"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_request_is_reset(peer: Peer, name: str) -> None:
    block = peer.encoder.encode(MALFORMED[name])
    peer.send(F.frame(F.HEADERS, F.END_HEADERS, 5, block))
    assert peer.reset_code() == F.PROTOCOL_ERROR
    peer.send(data_frame(5, grpc(b"in flight"), end=True), peer.call(7, b"other"))
    assert [message for message, _ in peer.asked] == [b"other"]


# What is right, and rare.


@pytest.mark.parametrize(
    "data",
    [
        F.frame(0xFA, 0xFF, 1, b"unknown"),
        F.frame(F.PRIORITY, 0, 99, b"12345"),
        F.rst_stream(3, F.CANCEL),
        F.window_update(3, 1),
        F.frame(F.SETTINGS, F.ACK, 0),
        F.settings({0xF0: 7}),
    ],
    ids=["an unknown frame", "a priority", "a reset too late", "a window too late", "an acknowledgement", "a setting"],
)
def test_what_must_be_ignored_is_ignored(peer: Peer, data: bytes) -> None:
    peer.send(data, data_frame(1, grpc(b"after")))
    assert not peer.socket.is_closed
    assert peer.listeners[0].messages == [b"after"]


def test_a_ping_is_answered_with_its_bytes(peer: Peer) -> None:
    peer.send(F.frame(F.PING, 0, 0, b"12345678"))
    (answer,) = peer.received()
    assert (answer.opaque_data, set(answer.flags)) == (b"12345678", {"ACK"})  # type: ignore[attr-defined]


def test_padding_priority_and_continuation_are_taken_off(peer: Peer) -> None:
    block = peer.block()
    start = F.frame(F.HEADERS, F.PADDED | F.PRIORITIZED, 5, b"\x04" + b"prior" + block[:3] + b"\0" * 4)
    rest = F.frame(F.CONTINUATION, 0, 5, block[3:9]) + F.frame(F.CONTINUATION, F.END_HEADERS, 5, block[9:])
    message = F.frame(F.DATA, F.PADDED | F.END_STREAM, 5, b"\x03" + grpc(b"abc") + b"\0\0\0")
    peer.send(start + rest + message)
    assert [message for message, _ in peer.asked] == [b"abc"]


def test_trailers_of_the_peer_end_its_half(peer: Peer) -> None:
    trailers = F.frame(F.HEADERS, END_BOTH, 1, bytes(peer.encoder.encode([("a", "b")])))
    peer.send(data_frame(1, grpc(b"m")) + trailers)
    assert (peer.listeners[0].messages, peer.listeners[0].closed_count) == ([b"m"], 1)
    assert peer.status() == "0"


# Limits on calls.


def test_calls_over_the_limit_are_refused_and_the_rest_served(peer: Peer) -> None:
    ids = range(5, 5 + 2 * CALLS_MAX, 2)  # one too many: stream 1 is running
    peer.send(b"".join(peer.call(stream_id) for stream_id in ids))
    assert len(peer.asked) == CALLS_MAX - 1
    assert peer.reset_code() == F.REFUSED_STREAM
    peer.asked[0][1].send(b"")
    peer.send(peer.call(ids[-1] + 2))
    assert len(peer.asked) == CALLS_MAX


def test_a_cancelled_call_counts_until_its_servicer_lets_go_of_it(peer: Peer) -> None:
    """Rapid reset: opening and cancelling in a circle gets no more work done at one time than waiting does."""
    for stream_id in range(5, 5 + 6 * CALLS_MAX, 2):
        peer.connection.data_received(peer.call(stream_id) + F.rst_stream(stream_id, F.CANCEL))
        if peer.socket.is_closed:
            break
    assert len(peer.asked) == CALLS_MAX - 1
    assert all(reply.is_abandoned for _, reply in peer.asked)
    assert peer.goaway().error_code == F.ENHANCE_YOUR_CALM  # so many refusals tell that it does not listen
    for _, reply in peer.asked:
        reply.send(b"")
        reply.fail(13, "twice")
    assert peer.connection.abandoned == 0


def test_cancelled_calls_that_are_let_go_of_make_room(peer: Peer) -> None:
    for stream_id in range(5, 5 + 4 * CALLS_MAX, 2):
        peer.connection.data_received(peer.call(stream_id) + F.rst_stream(stream_id, F.CANCEL))
        peer.asked.pop()[1].send(b"")
    assert (peer.connection.abandoned, peer.socket.is_closed) == (0, False)
    peer.turn()
    assert not [frame for frame in peer.received() if isinstance(frame, RstStreamFrame | DataFrame)]


def test_a_deadline_is_known_to_the_call(peer: Peer) -> None:
    peer.send(peer.head(5, grpc_timeout="250m") + data_frame(5, grpc(b""), end=True))
    ((_, reply),) = peer.asked
    assert not reply.is_abandoned
    peer.now += 0.215
    assert not reply.is_abandoned
    peer.now += 0.01
    assert reply.is_abandoned

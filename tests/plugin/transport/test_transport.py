"""What every transport owes to the servicers and to a gRPC peer, driven by a real grpcio client.

Every test runs over each transport.
"""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from farebox_plugin.transport import UNAVAILABLE, Services, StreamReply, Transport, UnaryReply, grpcio, h2
from rig.ports import free_port

UNARY, ECHO, COUNT = "/test.Service/Unary", "/test.Service/Echo", "/test.Service/Count"
DETAIL = "nicht jetzt: 100 % voll, später\nwieder"

Serve = Callable[[Services, str], Awaitable[Transport]]
# The client's own limits out of the way.
OPTIONS = [("grpc.max_receive_message_length", -1)]


class Servicer:
    """Answers unary calls by their first byte; echoes a stream; counts another."""

    def __init__(self) -> None:
        self.pending: list[UnaryReply] = []
        self.were_abandoned: list[bool] = []
        self.arrived = asyncio.Event()
        self.streams: list[Counted] = []

    def unary(self, message: bytes, reply: UnaryReply) -> None:
        if message[:1] == b"!":
            reply.fail(UNAVAILABLE, DETAIL)
        elif message[:1] == b"#":
            raise ValueError("a servicer's own fault")
        elif message[:1] == b"?":
            self.pending.append(reply)
            self.were_abandoned.append(reply.is_abandoned)
            self.arrived.set()
        else:
            reply.send(message[::-1])

    def echo(self, reply: StreamReply) -> "Echo":
        return Echo(reply)

    def count(self, reply: StreamReply) -> "Counted":
        self.streams.append(Counted())
        return self.streams[-1]


class Echo:
    def __init__(self, reply: StreamReply) -> None:
        self.reply = reply

    def receive(self, message: bytes) -> None:
        self.reply.send(message)
        if message == b"end":
            self.reply.finish()

    def closed(self) -> None:
        pass


class Counted:
    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.closed_count = 0
        self.over = asyncio.Event()

    def receive(self, message: bytes) -> None:
        assert not self.closed_count
        self.messages.append(message)

    def closed(self) -> None:
        self.closed_count += 1
        self.over.set()


@pytest.fixture
def address() -> Iterator[str]:
    folder = tempfile.mkdtemp(prefix="fbt-", dir="/tmp")
    yield f"unix:{folder}/w0.sock"
    shutil.rmtree(folder)


@pytest.fixture(params=["grpcio", "h2"])
def serve(request: pytest.FixtureRequest) -> Serve:
    transports: dict[str, Serve] = {"grpcio": grpcio.serve, "h2": h2.serve}
    return transports[request.param]


@pytest.fixture
def servicer() -> Servicer:
    return Servicer()


@pytest.fixture
async def transport(serve: Serve, address: str, servicer: Servicer) -> AsyncIterator[Transport]:
    services = Services({UNARY: servicer.unary}, {ECHO: servicer.echo, COUNT: servicer.count})
    running = await serve(services, address)
    yield running
    await running.stop(0)


@pytest.fixture
async def channel(transport: Transport, address: str) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(address, options=OPTIONS) as opened:
        yield opened


async def test_a_unary_call_is_answered(channel: grpc.aio.Channel) -> None:
    assert await channel.unary_unary(UNARY)(b"abc") == b"cba"


async def test_a_failure_arrives_with_its_status_and_words(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary(UNARY)(b"!")
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.UNAVAILABLE, DETAIL)


@pytest.mark.parametrize("message", [b"", b"a", b"a" * 16_379, b"a" * 16_380, b"a" * 65_535, b"a" * 70_000])
async def test_a_message_of_any_size_is_answered(channel: grpc.aio.Channel, message: bytes) -> None:
    """Around one frame of data, and around the window a stream begins with."""
    assert await channel.unary_unary(UNARY)(message) == message


async def test_a_servicer_that_fails_ends_its_call_and_no_other(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary(UNARY)(b"#")
    assert caught.value.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
    assert await channel.unary_unary(UNARY)(b"abc") == b"cba"


async def test_a_method_that_nobody_serves_is_unimplemented(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary("/test.Service/Nothing")(b"")
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_a_call_that_the_peer_cancels_is_known_to_be_abandoned(
    channel: grpc.aio.Channel, servicer: Servicer
) -> None:
    call = channel.unary_unary(UNARY)(b"?")
    await servicer.arrived.wait()
    (reply,) = servicer.pending
    assert not reply.is_abandoned
    call.cancel()
    async with asyncio.timeout(5):
        while not reply.is_abandoned:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    reply.send(b"too late, and harmless")


async def test_a_deadline_abandons_the_call_too(channel: grpc.aio.Channel, servicer: Servicer) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary(UNARY)(b"?", timeout=0.1)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    async with asyncio.timeout(5):
        while not servicer.pending[0].is_abandoned:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_call_without_time_for_an_answer_is_abandoned_when_it_comes(
    channel: grpc.aio.Channel, servicer: Servicer
) -> None:
    await channel.unary_unary(UNARY)(b"connected")
    with pytest.raises(grpc.aio.AioRpcError):
        await channel.unary_unary(UNARY)(b"?", timeout=0.025)
    if servicer.were_abandoned:  # on a busy machine the client may have given up before it sent anything
        assert servicer.were_abandoned == [True]
    servicer.arrived.clear()
    call = channel.unary_unary(UNARY)(b"?", timeout=30)
    await servicer.arrived.wait()
    assert servicer.were_abandoned[-1] is False
    call.cancel()


async def test_a_stream_is_answered_message_by_message_and_ended_by_the_servicer(channel: grpc.aio.Channel) -> None:
    call = channel.stream_stream(ECHO)()
    for message in (b"a", b"b", b"end"):
        await call.write(message)
        assert await call.read() == message
    assert await call.read() == grpc.aio.EOF
    assert await call.code() == grpc.StatusCode.OK


async def test_a_stream_that_the_peer_ends_is_closed_once_after_its_last_message(
    channel: grpc.aio.Channel, servicer: Servicer
) -> None:
    call = channel.stream_stream(COUNT)()
    for number in range(100):
        await call.write(str(number).encode())
    await call.done_writing()
    assert await call.code() == grpc.StatusCode.OK
    (stream,) = servicer.streams
    assert [int(message) for message in stream.messages] == list(range(100))
    assert stream.closed_count == 1


async def test_a_stream_that_the_peer_cancels_is_closed_once(channel: grpc.aio.Channel, servicer: Servicer) -> None:
    call = channel.stream_stream(COUNT)()
    await call.write(b"a")
    while not (servicer.streams and servicer.streams[0].messages):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    call.cancel()
    async with asyncio.timeout(5):
        await servicer.streams[0].over.wait()
    await asyncio.sleep(0.05)
    assert servicer.streams[0].closed_count == 1


async def test_messages_of_four_megabytes_pass_and_of_nine_do_not(channel: grpc.aio.Channel) -> None:
    call = channel.unary_unary(UNARY)
    assert len(await call(b"a" * (4 * 1024 * 1024 - 64))) == 4 * 1024 * 1024 - 64
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"a" * (9 * 1024 * 1024))
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_large_messages_cross_in_both_directions_of_a_stream(channel: grpc.aio.Channel) -> None:
    call = channel.stream_stream(ECHO)()
    for number in range(8):
        message = bytes([number]) * (1024 * 1024 + number)
        await call.write(message)
        assert await call.read() == message
    await call.done_writing()
    assert await call.read() == grpc.aio.EOF


async def test_what_a_servicer_said_before_the_end_still_arrives(channel: grpc.aio.Channel) -> None:
    """More than any window: the end waits for it."""
    call = channel.stream_stream(ECHO)()
    message = b"a" * (3 * 1024 * 1024)
    await call.write(message)
    await call.done_writing()
    assert await call.read() == message
    assert await call.read() == grpc.aio.EOF
    assert await call.code() == grpc.StatusCode.OK


async def test_a_thousand_streams_at_once(channel: grpc.aio.Channel, servicer: Servicer) -> None:
    calls = [channel.stream_stream(COUNT)() for _ in range(1000)]
    await asyncio.gather(*(call.write(b"a") for call in calls))
    async with asyncio.timeout(30):
        while sum(len(stream.messages) for stream in servicer.streams) < 1000:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    for call in calls[:500]:
        await call.done_writing()
    for call in calls[500:]:
        call.cancel()
    async with asyncio.timeout(30):
        await asyncio.gather(*(stream.over.wait() for stream in servicer.streams))
    assert [stream.closed_count for stream in servicer.streams] == [1] * 1000


async def test_a_thousand_calls_at_once(channel: grpc.aio.Channel) -> None:
    call = channel.unary_unary(UNARY)
    answers = await asyncio.gather(*(call(f"x{number}".encode()) for number in range(1000)))
    assert answers == [f"x{number}".encode()[::-1] for number in range(1000)]


async def test_an_address_that_cannot_be_bound_is_an_error(serve: Serve, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="cannot listen"):
        await serve(Services({}, {}), f"unix:{tmp_path}/no/such/folder/w0.sock")


async def test_it_listens_on_tcp_too(serve: Serve, servicer: Servicer) -> None:
    address = f"127.0.0.1:{free_port()}"
    transport = await serve(Services({UNARY: servicer.unary}, {}), address)
    async with grpc.aio.insecure_channel(address) as channel:
        assert await channel.unary_unary(UNARY)(b"abc") == b"cba"
    await transport.stop(0)


async def test_stopping_lets_running_calls_finish(
    channel: grpc.aio.Channel, transport: Transport, servicer: Servicer
) -> None:
    call = channel.unary_unary(UNARY)(b"?")
    await servicer.arrived.wait()
    stopping = asyncio.ensure_future(transport.stop(5))
    await asyncio.sleep(0.05)
    servicer.pending[0].send(b"done")
    assert await call == b"done"
    await stopping


async def test_stopping_ends_what_is_still_there_after_its_grace(
    channel: grpc.aio.Channel, transport: Transport, servicer: Servicer
) -> None:
    endless = channel.stream_stream(COUNT)()
    await endless.write(b"a")
    unanswered = channel.unary_unary(UNARY)(b"?")
    await servicer.arrived.wait()
    await transport.stop(0.1)
    async with asyncio.timeout(5):
        assert await unanswered.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        assert await endless.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        while not servicer.pending[0].is_abandoned:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert [stream.closed_count for stream in servicer.streams] == [1]


async def test_a_stopped_transport_takes_no_calls(channel: grpc.aio.Channel, transport: Transport) -> None:
    assert await channel.unary_unary(UNARY)(b"abc") == b"cba"
    await transport.stop(1)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary(UNARY)(b"abc")
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_a_peer_that_dies_closes_its_streams_and_abandons_its_calls(
    transport: Transport, address: str, servicer: Servicer
) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        stream = channel.stream_stream(COUNT)()
        await stream.write(b"a")
        call = channel.unary_unary(UNARY)(b"?")
        await servicer.arrived.wait()
    async with asyncio.timeout(5):
        await servicer.streams[0].over.wait()
        while not servicer.pending[0].is_abandoned:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert call.cancelled()
    assert servicer.streams[0].closed_count == 1

"""What every transport owes to the servicers and to a gRPC peer, driven by a real grpcio client."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from farebox_plugin.transport import UNAVAILABLE, Services, StreamReply, UnaryReply
from farebox_plugin.transport.grpcio import serve

UNARY, ECHO, COUNT = "/test.Service/Unary", "/test.Service/Echo", "/test.Service/Count"


class Servicer:
    """Answers unary calls by their first byte; echoes a stream; counts another."""

    def __init__(self) -> None:
        self.pending: list[UnaryReply] = []
        self.arrived = asyncio.Event()
        self.streams: list[Counted] = []

    def unary(self, message: bytes, reply: UnaryReply) -> None:
        if message[:1] == b"!":
            reply.fail(UNAVAILABLE, "not now")
        elif message[:1] == b"?":
            self.pending.append(reply)
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


@pytest.fixture
def servicer() -> Servicer:
    return Servicer()


@pytest.fixture
async def channel(address: str, servicer: Servicer) -> AsyncIterator[grpc.aio.Channel]:
    services = Services({UNARY: servicer.unary}, {ECHO: servicer.echo, COUNT: servicer.count})
    transport = await serve(services, address)
    async with grpc.aio.insecure_channel(address) as opened:
        yield opened
    await transport.stop(0)


async def test_a_unary_call_is_answered(channel: grpc.aio.Channel) -> None:
    assert await channel.unary_unary(UNARY)(b"abc") == b"cba"


async def test_a_failure_arrives_with_its_status_and_words(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary(UNARY)(b"!")
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.UNAVAILABLE, "not now")


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


async def test_a_thousand_calls_at_once(channel: grpc.aio.Channel) -> None:
    call = channel.unary_unary(UNARY)
    answers = await asyncio.gather(*(call(f"x{number}".encode()) for number in range(1000)))
    assert answers == [f"x{number}".encode()[::-1] for number in range(1000)]


async def test_an_address_that_cannot_be_bound_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="cannot listen"):
        await serve(Services({}, {}), f"unix:{tmp_path}/no/such/folder/w0.sock")


async def test_stopping_lets_running_calls_finish(address: str, servicer: Servicer) -> None:
    transport = await serve(Services({UNARY: servicer.unary}, {}), address)
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary(UNARY)(b"?")
        await servicer.arrived.wait()
        stopping = asyncio.ensure_future(transport.stop(5))
        await asyncio.sleep(0.05)
        servicer.pending[0].send(b"done")
        assert await call == b"done"
        await stopping

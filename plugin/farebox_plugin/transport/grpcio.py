"""The transport on grpc.aio: the reference, and the one for TLS and TCP.

Messages stay bytes here (no serializers), so that servicers parse with our own, smaller messages. Service names are
only strings on the wire.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from farebox_plugin.transport import MESSAGE_BYTES_MAX, TOO_LATE_S, Opener, Services, Unary

_OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.so_reuseport", 0),
    # Envoy pings every connection; without this the server takes pings without a call for abuse and hangs up.
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.keepalive_permit_without_calls", 1),
]


async def serve(services: Services, address: str) -> "GrpcioTransport":
    """Listen on ``unix:/path`` or ``host:port``. Raises OSError when the address cannot be bound."""
    server = grpc.aio.server(options=_OPTIONS)
    server.add_generic_rpc_handlers([_Handlers(services)])
    try:
        bound = server.add_insecure_port(address)
    except RuntimeError as fault:
        raise OSError(f"cannot listen on {address}") from fault
    if not bound:
        raise OSError(f"cannot listen on {address}")
    await server.start()
    return GrpcioTransport(server)


class GrpcioTransport:
    def __init__(self, server: Any) -> None:
        self._server = server

    async def stop(self, grace_s: float) -> None:
        await self._server.stop(grace_s)


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, services: Services) -> None:
        self._methods: dict[str, Any] = {
            name: grpc.unary_unary_rpc_method_handler(_unary(handler)) for name, handler in services.unary.items()
        }
        for name, opener in services.streams.items():
            self._methods[name] = grpc.stream_stream_rpc_method_handler(_stream(opener))

    def service(self, handler_call_details: Any) -> Any:
        return self._methods.get(handler_call_details.method)


class _UnaryReply:
    def __init__(self, context: Any) -> None:
        self.is_cancelled = False
        self._context = context
        self.outcome: asyncio.Future[bytes | tuple[int, str]] = asyncio.get_running_loop().create_future()

    @property
    def is_abandoned(self) -> bool:
        if self.is_cancelled:
            return True
        left_s = self._context.time_remaining()
        return left_s is not None and left_s < TOO_LATE_S

    def send(self, message: bytes, unread: Callable[[], None] | None = None) -> None:
        if not self.outcome.done():
            self.outcome.set_result(message)

    def fail(self, status: int, detail: str) -> None:
        if not self.outcome.done():
            self.outcome.set_result((status, detail))


def _unary(handler: Unary) -> Callable[[bytes, Any], Awaitable[bytes]]:
    async def call(message: bytes, context: Any) -> bytes:
        reply = _UnaryReply(context)
        handler(message, reply)
        try:
            outcome = await reply.outcome
        except asyncio.CancelledError:
            reply.is_cancelled = True
            raise
        if isinstance(outcome, bytes):
            return outcome
        await context.abort(_STATUS[outcome[0]], outcome[1])
        raise AssertionError("abort raises")

    return call


class _StreamReply:
    def __init__(self) -> None:
        self.outbox: list[bytes] = []
        self.is_finished = False
        self.wake = asyncio.Event()

    def send(self, message: bytes) -> None:
        self.outbox.append(message)
        self.wake.set()

    def finish(self) -> None:
        self.is_finished = True
        self.wake.set()


def _stream(opener: Opener) -> Callable[[Any, Any], Awaitable[None]]:
    async def call(_: Any, context: Any) -> None:
        reply = _StreamReply()
        stream = opener(reply)
        ended = False

        async def listen() -> None:
            nonlocal ended
            # read(), not the iterator: the iterator shows a cancelled call as a clean end.
            while not reply.is_finished and (message := await context.read()) is not grpc.aio.EOF:
                stream.receive(message)
            ended = True

        listener = asyncio.ensure_future(listen())
        listener.add_done_callback(lambda _: reply.wake.set())
        try:
            while True:
                await reply.wake.wait()
                reply.wake.clear()
                while reply.outbox:
                    await context.write(reply.outbox.pop(0))
                if listener.done() and not ended:
                    listener.result()  # a servicer that failed ends the call with its fault, not silently
                if ended or reply.is_finished:
                    break
        finally:
            listener.cancel()
            stream.closed()
            await asyncio.gather(listener, return_exceptions=True)

    return call


_STATUS = {code.value[0]: code for code in grpc.StatusCode}

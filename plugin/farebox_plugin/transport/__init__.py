"""How messages come and go. The servicers know this file alone, and not which transport carries them.

Callbacks rather than coroutines: a request that is answered out of a batch needs no task of its own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

MESSAGE_BYTES_MAX = 8 * 1024 * 1024
# An answer that leaves this close to the peer's deadline arrives after it.
TOO_LATE_S = 0.03

# Status codes of gRPC that we send. Source: https://grpc.github.io/grpc/core/md_doc_statuscodes.html
INVALID_ARGUMENT, INTERNAL, UNAVAILABLE = 3, 13, 14


class UnaryReply(Protocol):
    """The answer to one request: exactly one of `send` and `fail`, once."""

    @property
    def is_abandoned(self) -> bool:
        """The peer has cancelled the call, or will have given up before an answer can arrive: nobody reads it."""
        ...

    def send(self, message: bytes, unread: Callable[[], None] | None = None) -> None:
        """Answer. `unread` is called, later and at most once, if it turns out that the peer had reset the call before
        it read the answer. A transport that cannot know (grpcio) never calls it."""
        ...

    def fail(self, status: int, detail: str) -> None: ...


class StreamReply(Protocol):
    """What a stream may say while it listens."""

    def send(self, message: bytes) -> None: ...

    def finish(self) -> None:
        """End the call with status OK. In ext_proc's guarding mode that lets the rest of the response pass."""
        ...


class Stream(Protocol):
    """One incoming stream, made by the servicer when the call begins."""

    def receive(self, message: bytes) -> None:
        """The next whole message."""
        ...

    def closed(self) -> None:
        """No more messages come: the peer ended the stream, cancelled it, or is gone. Called exactly once."""
        ...


Unary = Callable[[bytes, UnaryReply], None]
Opener = Callable[[StreamReply], Stream]


@dataclass(frozen=True, slots=True)
class Services:
    """Everything one worker serves, by full method name (``/package.Service/Method``)."""

    unary: Mapping[str, Unary]
    streams: Mapping[str, Opener]


class Transport(Protocol):
    """A running server."""

    async def stop(self, grace_s: float) -> None:
        """Take no new calls, let running ones finish for `grace_s` seconds, then end them."""
        ...

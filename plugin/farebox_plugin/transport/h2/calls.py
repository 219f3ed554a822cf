"""gRPC on one stream: messages out of DATA frames, calls into the servicers, answers back.

Source: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

from collections.abc import Callable
from struct import Struct
from typing import Protocol

import structlog

from farebox_plugin.recent import Recent
from farebox_plugin.transport import INTERNAL, MESSAGE_BYTES_MAX, TOO_LATE_S, Opener, Stream, Unary
from farebox_plugin.transport.h2.frames import ENHANCE_YOUR_CALM, StreamFault
from farebox_plugin.transport.h2.headers import RESOURCE_EXHAUSTED, UNIMPLEMENTED
from farebox_plugin.transport.h2.sending import Budget, Outgoing, Sending

log = structlog.get_logger()

_PREFIX = Struct(">BI")  # whether the message is compressed, and its length


class CallFault(Exception):
    """The call ends with a gRPC status."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


def whole_message(data: bytes) -> bytes | None:
    """The message, if ``data`` is exactly one. It nearly always is, and then nothing has to be remembered."""
    if len(data) < _PREFIX.size:
        return None
    compressed, size = _PREFIX.unpack_from(data)
    return data[_PREFIX.size :] if not compressed and size == len(data) - _PREFIX.size else None


class Messages:
    """Cuts what arrives on one stream into messages. ``budget`` counts the bytes of unfinished ones."""

    __slots__ = ("_budget", "_rest")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._rest = bytearray()

    @property
    def is_unfinished(self) -> bool:
        return bool(self._rest)

    def add(self, data: bytes) -> None:
        """Any piece. Raises StreamFault when the budget is spent."""
        if not self._budget.has_room(len(data)):
            raise StreamFault(ENHANCE_YOUR_CALM, "too many unfinished messages")
        self._budget.used += len(data)
        self._rest += data

    def cut(self) -> bytes | None:
        """The next message, once all of it is here. Raises CallFault as soon as it is known not to be acceptable."""
        rest = self._rest
        if len(rest) < _PREFIX.size:
            return None
        compressed, size = _PREFIX.unpack_from(rest)
        if compressed:
            raise CallFault(UNIMPLEMENTED, "compressed messages are not supported")
        if size > MESSAGE_BYTES_MAX:
            raise CallFault(RESOURCE_EXHAUSTED, f"a message of {size} bytes; the most are {MESSAGE_BYTES_MAX}")
        end = _PREFIX.size + size
        if len(rest) < end:
            return None
        message = bytes(rest[_PREFIX.size : end])
        del rest[:end]
        self._budget.used -= end
        return message

    def discard(self) -> None:
        self._budget.used -= len(self._rest)
        self._rest.clear()


class Owner(Protocol):
    """What a call needs of its connection."""

    sending: Sending
    unfinished: Budget
    abandoned: int  # calls that are gone for the peer, and that a servicer still works on
    answered: Recent[int, Callable[[], None]]  # what to call if a reset of this stream crosses its answer

    def clock(self) -> float: ...
    def call_soon(self, callback: Callable[[], None]) -> object: ...
    def reset(self, call: "Call", code: int) -> None:
        """RST_STREAM, and `Call.cancel`."""
        ...


class Call(Outgoing):
    """One call. Its connection tells it what comes (`take`), and when it is over (`cancel`, `give_up`)."""

    __slots__ = ("_messages", "_owner", "is_over", "receive_window")

    def __init__(self, owner: Owner, stream_id: int, receive_window: int) -> None:
        super().__init__(stream_id, owner.sending.initial_window)
        self._owner = owner
        self._messages: Messages | None = None  # only for calls whose frames do not carry whole messages
        self.receive_window = receive_window
        self.is_over = False  # nothing more is heard, and nothing more is said

    def take(self, data: bytes, *, ends: bool) -> None:
        """What one DATA frame carries. Raises StreamFault."""
        self.is_peer_done = ends
        if self.is_over:
            return
        try:
            self._read(data)
            if ends and not self.is_over:
                if self._messages is not None and self._messages.is_unfinished:
                    raise CallFault(INTERNAL, "the last message is cut short")
                self._completed()
        except CallFault as fault:
            self.give_up(fault.status, fault.detail)

    def cancel(self) -> None:
        """The stream was reset, or the connection is lost: whatever is still said goes nowhere."""
        self._discard()
        self._owner.sending.forget(self)
        self._ended()

    def give_up(self, status: int, detail: str) -> None:
        """End it without waiting for the servicer."""
        if self.is_over:
            return
        self._discard()
        self._owner.sending.end(self, status, detail)
        self._ended()

    def _read(self, data: bytes) -> None:
        messages = self._messages
        if messages is None or not messages.is_unfinished:
            message = whole_message(data)
            if message is not None:
                self._received(message)
                return
        if messages is None:
            messages = self._messages = Messages(self._owner.unfinished)
        messages.add(data)
        while not self.is_over and (message := messages.cut()) is not None:
            self._received(message)
        if self.is_over:
            self._discard()

    def _discard(self) -> None:
        if self._messages is not None:
            self._messages.discard()

    def _no_room(self, fault: StreamFault) -> None:
        """The peer does not read. Later, because the servicer is in the middle of saying something."""
        self.is_over = True
        self._owner.call_soon(lambda: self._owner.reset(self, fault.code))

    def _received(self, message: bytes) -> None:
        raise NotImplementedError

    def _completed(self) -> None:
        """The peer has said all."""
        raise NotImplementedError

    def _ended(self) -> None:
        """Once or more: from now on this call `is_over`."""
        raise NotImplementedError


class UnaryCall(Call):
    """One message in; one message, or a failure, out. It is the `UnaryReply` of its own call."""

    __slots__ = ("_deadline", "_handler", "_is_asked", "_message")

    def __init__(
        self, owner: Owner, stream_id: int, receive_window: int, handler: Unary, deadline: float | None
    ) -> None:
        super().__init__(owner, stream_id, receive_window)
        self._handler = handler
        self._deadline = deadline
        self._message: bytes | None = None
        self._is_asked = False  # and the servicer has not answered yet

    @property
    def is_abandoned(self) -> bool:
        return self.is_over or (self._deadline is not None and self._deadline - self._owner.clock() < TOO_LATE_S)

    def send(self, message: bytes, unread: Callable[[], None] | None = None) -> None:
        if not self._may_answer():
            return
        if unread is not None:
            self._owner.answered[self.id] = unread
        try:
            self._owner.sending.answer(self, message)
        except StreamFault as fault:
            self._no_room(fault)

    def fail(self, status: int, detail: str) -> None:
        if self._may_answer():
            self._owner.sending.end(self, status, detail)

    def _may_answer(self) -> bool:
        """For the first answer, if anybody is still there to read it."""
        if not self._is_asked:
            return False
        self._is_asked = False
        if self.is_over:
            self._owner.abandoned -= 1
            return False
        self.is_over = True
        return True

    def take(self, data: bytes, *, ends: bool) -> None:
        """Nearly always all of the call in one frame: then nothing has to be remembered."""
        if ends and not self.is_over and self._message is None and self._messages is None:
            message = whole_message(data)
            if message is not None:
                self.is_peer_done = True
                self._ask(message)
                return
        super().take(data, ends=ends)

    def _received(self, message: bytes) -> None:
        if self._message is not None:
            raise CallFault(UNIMPLEMENTED, "more than one message for a unary call")
        self._message = message

    def _completed(self) -> None:
        message, self._message = self._message, None
        if message is None:
            raise CallFault(UNIMPLEMENTED, "no message for a unary call")
        self._ask(message)

    def _ask(self, message: bytes) -> None:
        self._is_asked = True
        try:
            self._handler(message, self)
        except Exception:
            log.exception("unary_call_failed")
            self.fail(INTERNAL, "internal error")

    def _ended(self) -> None:
        if not self.is_over and self._is_asked:
            self._owner.abandoned += 1
        self.is_over = True


class StreamCall(Call):
    """Messages both ways. It is the `StreamReply` of its own stream."""

    __slots__ = ("_stream",)

    def __init__(self, owner: Owner, stream_id: int, receive_window: int) -> None:
        super().__init__(owner, stream_id, receive_window)
        self._stream: Stream | None = None

    def open(self, opener: Opener) -> None:
        """Apart from making it: the opener may speak at once, and then the connection must know this call."""
        try:
            stream = opener(self)
        except Exception:
            log.exception("stream_failed")
            self.give_up(INTERNAL, "internal error")
            return
        self._stream = stream
        if self.is_over:
            self._ended()

    def send(self, message: bytes) -> None:
        if self.is_over:
            return
        try:
            self._owner.sending.message(self, message)
        except StreamFault as fault:
            self._no_room(fault)

    def finish(self) -> None:
        if self.is_over:
            return
        self.is_over = True
        self._owner.sending.end(self, 0, "")
        self._owner.call_soon(self._ended)  # not now: the servicer is in the middle of something

    def _received(self, message: bytes) -> None:
        assert self._stream is not None
        try:
            self._stream.receive(message)
        except Exception:
            log.exception("stream_failed")
            self.give_up(INTERNAL, "internal error")

    def _completed(self) -> None:
        self.give_up(0, "")

    def _ended(self) -> None:
        """Whatever ends it, the servicer hears of it once."""
        self.is_over = True
        stream, self._stream = self._stream, None
        if stream is None:
            return
        try:
            stream.closed()
        except Exception:
            log.exception("stream_failed")

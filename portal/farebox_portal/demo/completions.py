"""A language model that costs nothing: answers of a known length, in the shapes of OpenAI and Anthropic.

One word is one token, in and out. A request therefore has one right token count that anybody can work out by hand, and
the answer says it in each provider's own ``usage`` fields. Shapes: OpenAI chat completions, Anthropic messages, as
their API references give them.
"""

from collections.abc import Iterator
from typing import Any, Literal

import orjson
from pydantic import BaseModel, Field

OUTPUT_TOKENS_DEFAULT = 16
OUTPUT_TOKENS_MAX = 100_000
_WORDS = ("every", "request", "has", "a", "price", "and", "somebody", "has", "to", "count", "it")


class Part(BaseModel):
    type: str = "text"
    text: str = ""


class Turn(BaseModel):
    role: str = "user"
    content: str | list[Part] | None = ""


class StreamOptions(BaseModel):
    include_usage: bool = True


class Chat(BaseModel):
    """The body of an OpenAI chat completion; what is not named here is accepted and ignored."""

    model: str = "sample-small"
    messages: list[Turn] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=0, le=OUTPUT_TOKENS_MAX)
    max_completion_tokens: int | None = Field(default=None, ge=0, le=OUTPUT_TOKENS_MAX)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    delay_ms: int = Field(default=0, ge=0, le=60_000, description="Pause between two chunks of a stream.")

    @property
    def limit(self) -> int | None:
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def input_tokens(self) -> int:
        return _words(self.messages)

    @property
    def output_tokens(self) -> int:
        return OUTPUT_TOKENS_DEFAULT if self.limit is None else self.limit


class Messages(BaseModel):
    """The body of an Anthropic message request; ``max_tokens`` may be left out here, unlike there."""

    model: str = "sample-small"
    system: str | list[Part] | None = None
    messages: list[Turn] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=0, le=OUTPUT_TOKENS_MAX)
    stream: bool = False
    delay_ms: int = Field(default=0, ge=0, le=60_000, description="Pause between two chunks of a stream.")

    @property
    def input_tokens(self) -> int:
        return _words([Turn(content=self.system), *self.messages])

    @property
    def output_tokens(self) -> int:
        return OUTPUT_TOKENS_DEFAULT if self.max_tokens is None else self.max_tokens

    @property
    def stop_reason(self) -> Literal["end_turn", "max_tokens"]:
        return "end_turn" if self.max_tokens is None else "max_tokens"


def openai_answer(chat: Chat, answer_id: str, created_s: int) -> dict[str, Any]:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "".join(_tokens(chat.output_tokens))},
        "finish_reason": _finish_reason(chat),
    }
    head = _openai_head(chat, answer_id, created_s, "chat.completion")
    return head | {"choices": [choice], "usage": _openai_usage(chat)}


def openai_events(chat: Chat, answer_id: str, created_s: int) -> Iterator[bytes]:
    """The answer as server-sent events, one token each; the last one before ``[DONE]`` carries the usage."""
    head = _openai_head(chat, answer_id, created_s, "chat.completion.chunk")

    def chunk(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
        return _event(head | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]})

    yield chunk({"role": "assistant", "content": ""})
    for token in _tokens(chat.output_tokens):
        yield chunk({"content": token})
    yield chunk({}, _finish_reason(chat))
    if chat.stream_options.include_usage:
        yield _event(head | {"choices": [], "usage": _openai_usage(chat)})
    yield b"data: [DONE]\n\n"


def anthropic_answer(messages: Messages, answer_id: str) -> dict[str, Any]:
    head = _anthropic_head(messages, answer_id)
    content = [{"type": "text", "text": "".join(_tokens(messages.output_tokens))}]
    usage = {"input_tokens": messages.input_tokens, "output_tokens": messages.output_tokens}
    return head | {"content": content, "stop_reason": messages.stop_reason, "usage": usage}


def anthropic_events(messages: Messages, answer_id: str) -> Iterator[bytes]:
    """The answer as server-sent events: the first carries the input tokens, the last but one the output tokens."""
    started = _anthropic_head(messages, answer_id) | {
        "usage": {"input_tokens": messages.input_tokens, "output_tokens": min(1, messages.output_tokens)}
    }
    yield _named_event({"type": "message_start", "message": started})
    yield _named_event({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
    yield _named_event({"type": "ping"})
    for token in _tokens(messages.output_tokens):
        delta = {"type": "text_delta", "text": token}
        yield _named_event({"type": "content_block_delta", "index": 0, "delta": delta})
    yield _named_event({"type": "content_block_stop", "index": 0})
    end = {"stop_reason": messages.stop_reason, "stop_sequence": None}
    usage = {"output_tokens": messages.output_tokens}
    yield _named_event({"type": "message_delta", "delta": end, "usage": usage})
    yield _named_event({"type": "message_stop"})


def _openai_head(chat: Chat, answer_id: str, created_s: int, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{answer_id}", "object": kind, "created": created_s, "model": chat.model}


def _openai_usage(chat: Chat) -> dict[str, int]:
    counts = {"prompt_tokens": chat.input_tokens, "completion_tokens": chat.output_tokens}
    return counts | {"total_tokens": chat.input_tokens + chat.output_tokens}


def _finish_reason(chat: Chat) -> str:
    return "stop" if chat.limit is None else "length"


def _anthropic_head(messages: Messages, answer_id: str) -> dict[str, Any]:
    return {
        "id": f"msg_{answer_id}",
        "type": "message",
        "role": "assistant",
        "model": messages.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _words(turns: list[Turn]) -> int:
    return sum(len(text.split()) for turn in turns for text in _texts(turn.content))


def _texts(content: str | list[Part] | None) -> list[str]:
    if isinstance(content, list):
        return [part.text for part in content]
    return [content or ""]


def _tokens(count: int) -> Iterator[str]:
    for position in range(count):
        yield " " * (position > 0) + _WORDS[position % len(_WORDS)]


def _event(document: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(document) + b"\n\n"


def _named_event(document: dict[str, Any]) -> bytes:
    return f"event: {document['type']}\n".encode() + _event(document)

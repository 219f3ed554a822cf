"""Response bodies as the providers document them, and what each of them states."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from farebox_plugin.measure.body import BodyMeter, Reading, Wants
from farebox_plugin.measure.providers import Usage

CONTENT_TYPES = {
    ".json": "application/json; charset=utf-8",
    ".sse": "text/event-stream",
    ".ndjson": "application/x-ndjson",
    ".eventstream": "application/vnd.amazon.eventstream",
}
# file: model, generated deltas, then input, output, total, cached input, cache creation, reasoning
STATED = {
    "openai_chat.json": ("gpt-4.1-2025-04-14", 0, 1117, 46, 1163, 1024, 0, 12),
    "openai_chat.sse": ("gpt-4.1-2025-04-14", 3, 19, 10, 29, 0, 0, 0),
    "openai_responses.json": ("gpt-5.4", 0, 328, 52, 380, 64, 0, 32),
    "openai_responses.sse": ("gpt-5.4", 3, 328, 52, 380, 64, 0, 32),
    "openai_embeddings.json": ("text-embedding-3-small", 0, 8, 0, 8, 0, 0, 0),
    "anthropic.json": ("claude-sonnet-4-5", 0, 1233, 393, 1626, 1024, 188, 0),
    "anthropic.sse": ("claude-sonnet-4-5", 2, 30, 15, 45, 5, 0, 0),
    "gemini.json": ("gemini-2.5-flash", 0, 274, 102, 376, 200, 0, 32),
    "gemini_array.json": ("gemini-2.5-flash", 0, 274, 102, 376, 200, 0, 32),
    "gemini.sse": ("gemini-2.5-flash", 2, 274, 102, 376, 200, 0, 32),
    "gemini_blocked.json": ("gemini-2.5-flash", 0, 12, 0, 12, 0, 0, 0),
    "cohere_v2.json": (None, 0, 5, 418, 423, 0, 0, 0),
    "cohere_v2.sse": (None, 1, 3, 4, 7, 0, 0, 0),
    "cohere_v1.ndjson": (None, 2, 8, 9, 17, 0, 0, 0),
    "cohere_embed.json": (None, 0, 3, 0, 3, 0, 0, 0),
    "mistral.json": ("mistral-small-latest", 0, 16, 34, 50, 0, 0, 0),
    "xai.json": ("grok-4", 0, 32, 103, 135, 6, 0, 94),
    "bedrock_converse.json": (None, 0, 130, 628, 758, 60, 40, 0),
    "bedrock_converse.eventstream": (None, 1, 13, 5, 18, 0, 0, 0),
    "bedrock_invoke.eventstream": ("claude-sonnet-4-5", 1, 9, 12, 21, 0, 0, 0),
}


@dataclass(frozen=True)
class Golden:
    content_type: str
    body: bytes
    model: str | None
    delta_count: int
    usage: Usage


@pytest.fixture(params=STATED)
def golden(request: pytest.FixtureRequest) -> Golden:
    """One documented response body after the other."""
    path = Path(__file__).parent / "bodies" / request.param
    model, delta_count, *counts = STATED[request.param]
    return Golden(CONTENT_TYPES[path.suffix], path.read_bytes(), model, delta_count, Usage(*counts))


@pytest.fixture
def read() -> Callable[..., Reading]:
    """A whole body -> Reading."""

    def read(
        body: bytes | list[bytes],
        content_type: str = "application/json",
        encoding: str = "",
        *,
        complete: bool = True,
        wants: Wants = Wants(usage=True, document=True),  # noqa: B008  (frozen)
    ) -> Reading:
        meter = BodyMeter(content_type, encoding, wants)
        for chunk in [body] if isinstance(body, bytes) else body:
            meter.feed(chunk)
        return meter.finish(complete=complete)

    return read

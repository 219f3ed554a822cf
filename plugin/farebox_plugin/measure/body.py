"""One response body, chunk by chunk as it passes -> Reading.

The body is somebody else's: nothing in it can raise here, and whatever it is, no more memory is held than one JSON
document of `DOCUMENT_BYTES_MAX` or one event of a stream. What cannot be read is said in `Reading.flags`; that it is
then charged by its hold is decided in `quantity`.

Most events of a stream say nothing but the next word. They are searched for a few names and never decoded.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import orjson

from farebox_plugin.measure.decoding import Decoder, Undecodable, decoder
from farebox_plugin.measure.framing import AwsEventStream, Framer, Lines, ServerSentEvents, Sink, Text
from farebox_plugin.measure.providers import DELTA, MODEL_NEEDLES, NEEDLES, Tally, Usage, model

DOCUMENT_BYTES_MAX = 8 << 20

_FRAMERS: dict[str, Callable[[Sink], Framer]] = {
    "text/event-stream": ServerSentEvents,
    "application/vnd.amazon.eventstream": AwsEventStream,
    "application/x-ndjson": Lines,
    "application/ndjson": Lines,
    "application/jsonl": Lines,
    "application/x-jsonlines": Lines,
    "application/jsonlines": Lines,
    "application/stream+json": Lines,  # cohere v1
}


@dataclass(frozen=True, slots=True)
class Wants:
    """What a policy's expressions need to know of the body; `roots` are the members that they name."""

    usage: bool = False
    document: bool = False
    roots: frozenset[str] = frozenset()

    @property
    def body(self) -> bool:
        """Whether the body has to be read at all."""
        return self.usage or self.document

    def __or__(self, other: "Wants") -> "Wants":
        return Wants(self.usage or other.usage, self.document or other.document, self.roots | other.roots)


@dataclass(frozen=True, slots=True)
class Reading:
    """What one response body said.

    `document` is the JSON document; of a stream, the last object that states usage (or the last object, if none does),
    with the wanted roots as they were last seen laid over it. `delta_count` is the number of events with generated
    text, `uncounted_deltas` those of them that came after the last statement of output tokens.
    """

    usage: Usage | None = None
    model: str | None = None
    document: object = None
    delta_count: int = 0
    uncounted_deltas: int = 0
    body_bytes: int = 0  # as they were sent, before any decoding
    complete: bool = True
    flags: tuple[str, ...] = field(default=())


class BodyMeter:
    """Reads one response body. `content_type` and `content_encoding` are its headers, "" where there is none."""

    def __init__(self, content_type: str, content_encoding: str, wants: Wants) -> None:
        self._wants = wants
        self._body_bytes = 0
        self._flags: set[str] = set()
        self._tally = Tally()
        self._model: str | None = None
        self._delta_count = self._uncounted_deltas = 0
        self._roots: dict[str, object] = {}
        self._stating: dict[str, object] | None = None  # the last event that states usage
        self._last_text: Text = b""
        self._interesting = _needles(wants, model_is_known=False)
        self._buffer: bytearray | None = None
        self._framer: Framer | None = None
        self._decoder: Decoder | None = self._start(content_type, content_encoding) if wants.body else None

    def feed(self, chunk: bytes) -> None:
        """Take in the next chunk, cut anywhere. Never raises."""
        self._body_bytes += len(chunk)
        if self._decoder is not None:
            try:
                self._decoder.feed(chunk)
            except Undecodable:
                self._decoder = None
                self._flags.add("undecodable")

    def so_far(self) -> Reading:
        """What has passed until now: counts alone, without the document."""
        return Reading(
            usage=self._tally.usage(),
            delta_count=self._delta_count,
            uncounted_deltas=self._uncounted_deltas,
            body_bytes=self._body_bytes,
            complete=False,
        )

    def finish(self, *, complete: bool) -> Reading:
        """What the body said. `complete`: its end was seen, neither side cut it off. To be called once."""
        if not complete:
            self._flags.add("aborted")
        document = self._finish_stream() if self._framer is not None else self._finish_document(complete)
        if self._tally.is_invalid:
            self._flags.add("invalid_usage")
        return Reading(
            usage=self._tally.usage(),
            model=self._model,
            document=document,
            delta_count=self._delta_count,
            uncounted_deltas=self._uncounted_deltas,
            body_bytes=self._body_bytes,
            complete=complete and "undecodable" not in self._flags,
            flags=tuple(sorted(self._flags)),
        )

    def _start(self, content_type: str, content_encoding: str) -> Decoder | None:
        media_type = content_type.partition(";")[0].strip().lower()
        sink: Callable[[bytes], None]
        if make := _FRAMERS.get(media_type):
            self._framer = make(self._read_event)
            sink = self._framer.feed
        elif media_type == "application/json" or media_type.endswith("+json"):
            self._buffer = bytearray()
            sink = self._keep
        else:
            self._flags.add("unsupported_content_type")
            return None
        try:
            return decoder(content_encoding, sink)
        except Undecodable:
            self._flags.add("undecodable")
            return None

    def _keep(self, piece: bytes) -> None:
        if self._buffer is None:
            return
        if len(self._buffer) + len(piece) > DOCUMENT_BYTES_MAX:
            self._buffer = None
            self._flags.add("oversized")
            return
        self._buffer += piece

    def _finish_document(self, complete: bool) -> object:
        if not self._buffer or "undecodable" in self._flags:
            return None
        document, self._buffer = _parse(self._buffer), None
        if document is None:
            if complete:
                self._flags.add("unparsable")
            return None
        # Gemini streams without `alt=sse` as one JSON array of what would have been the events.
        for part in document if isinstance(document, list) else [document]:
            self._tally.add(part)
            self._model = self._model or model(part)
        return document

    def _read_event(self, text: Text) -> None:
        if not text:
            return
        if DELTA.search(text) is not None:
            self._delta_count += 1
            self._uncounted_deltas += 1
        if self._wants.document:
            self._last_text = text
        if self._interesting.search(text) is None:
            return
        event = _parse(text)
        if not isinstance(event, dict):
            self._flags.add("unparsable")
            return
        if self._model is None:
            self._model = model(event)
            if self._model is not None:
                self._interesting = _needles(self._wants, model_is_known=True)
        if stated := self._tally.add(event):
            self._stating = event if self._wants.document else None
            if not stated.isdisjoint(("output", "total")):
                self._uncounted_deltas = 0
        for root in self._wants.roots & event.keys():
            self._roots[root] = event[root]

    def _finish_stream(self) -> object:
        assert self._framer is not None
        self._framer.finish()
        if self._framer.oversized:
            self._flags.add("oversized")
        if not self._wants.document:
            return None
        last = self._stating if self._stating is not None else _parse(self._last_text)
        if not isinstance(last, dict):
            return self._roots or None
        return {**last, **self._roots}


def _parse(text: Text) -> object:
    """A JSON text as Python objects; None if it is none, or is `null`."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


@lru_cache(maxsize=1024)
def _needles(wants: Wants, model_is_known: bool) -> re.Pattern[bytes]:
    """Finds the events that have to be decoded."""
    names = [NEEDLES] + [re.escape(orjson.dumps(root)) for root in sorted(wants.roots)]
    if not model_is_known:
        names.append(MODEL_NEEDLES)
    return re.compile(b"|".join(names))

"""Microseconds per chunk of a typical response stream. Run: .venv/bin/python tests/bench/measure.py"""

from time import perf_counter

import orjson

from farebox_plugin.measure.body import BodyMeter, Wants
from farebox_plugin.measure.quantity import body_wants

EVENTS = 20_000
POLICIES = {
    "tokens and model": body_wants({"in": "usage.inputTokens", "out": "usage.outputTokens"}, {"model": "usage.model"}),
    "json path": body_wants({"cost": "json:cost.units"}, {}),
    "bytes only": body_wants({"egress": "response.bytes"}, {}),
}


def main() -> None:
    chunks = [_chunk(f" word{number}") for number in range(EVENTS)]
    print(f"{EVENTS} events of about {len(chunks[0])} bytes, one a chunk")
    for name, wants in POLICIES.items():
        best_s = min(_run(chunks, "text/event-stream", wants) for _ in range(5))
        print(f"{name:20} {best_s / EVENTS * 1e6:6.2f} µs a chunk")


def _run(chunks: list[bytes], content_type: str, wants: Wants) -> float:
    meter = BodyMeter(content_type, "", wants)
    started = perf_counter()
    for chunk in chunks:
        meter.feed(chunk)
    meter.finish(complete=True)
    return perf_counter() - started


def _chunk(text: str) -> bytes:
    delta = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}
    event = {
        "id": "chatcmpl-B9MBs8CjcqOU2jLn4n570S5qMJKcT",
        "object": "chat.completion.chunk",
        "created": 1741569952,
        "model": "gpt-4.1-2025-04-14",
        "service_tier": "default",
        "system_fingerprint": "fp_44709d6fcb",
        "choices": [delta],
        "usage": None,
    }
    return b"data: " + orjson.dumps(event) + b"\n\n"


if __name__ == "__main__":
    main()

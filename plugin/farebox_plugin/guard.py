"""Ending a response where its limit ends, for policies with `cutOff`: what may pass, and the words that end it.

Envoy holds back each piece of the body until it is answered. A piece that is not covered by what is held is answered
only when more is held (extension.py), so a client never gets more than its limit has: bytes are cut at the byte, tokens
before the event that would be one too many. What cannot be seen passing (tokens of the prompt, several tokens in one
event, a document that is not streamed) is settled when it is known, and is the over-run that is left.
"""

from collections.abc import Mapping

import orjson

from farebox.v1.envoy_ext_proc_pb2 import ProcessingResponse
from farebox_plugin.answer import PROBLEM_TYPE, PROBLEMS, problem
from farebox_plugin.measure.body import Reading
from farebox_plugin.terms import SEEN_WHILE_IT_PASSES, Policy

BYTES = "response.bytes"
# Asked for beyond what is needed: a share of what has passed, so that a long response asks seldom.
AHEAD_SHARE = 4
AHEAD_LEAST = {BYTES: 64 * 1024, "usage.outputTokens": 64, "usage.totalTokens": 64}


class Guard:
    """What one response has used and what is held for it. `held` grows as more is granted."""

    def __init__(self, policy: Policy, held: Mapping[str, int]) -> None:
        self.policy = policy
        self.held = held
        self._rules = {meter: rule for meter, rule in policy.meters.items() if rule in SEEN_WHILE_IT_PASSES}

    def lacks(self, before: Reading, after: Reading) -> dict[str, tuple[int, int]]:
        """What has to be held before the piece between these two readings may pass: meter -> (at least, better).

        A piece without generated text needs no tokens: the statement of the whole usage at a stream's end is settled,
        not cut off.
        """
        has_text = after.delta_count > before.delta_count
        found: dict[str, tuple[int, int]] = {}
        for meter, rule in self._rules.items():
            units = _passed(str(rule), after)
            if units > self.held.get(meter, 0) and (has_text or rule == BYTES):
                # Of bytes a part of the piece may pass.
                least = max(self.held.get(meter, 0), before.body_bytes) + 1 if rule == BYTES else units
                found[meter] = (least, units + max(units // AHEAD_SHARE, AHEAD_LEAST[str(rule)]))
        return found

    def covered(self, piece: bytes, before: Reading) -> bytes:
        """The part of a piece that may pass although more was refused: up to the last byte held, or nothing."""
        bytes_held = [self.held.get(meter, 0) for meter, rule in self._rules.items() if rule == BYTES]
        if len(bytes_held) < len(self._rules):
            return b""  # in the middle of a piece there is no telling which token it is
        return piece[: max(min(bytes_held) - before.body_bytes, 0)]

    def charge(self, used: Mapping[str, int]) -> dict[str, int]:
        """What a response that was cut off costs: of what is counted while it passes, no more than was held."""
        return {
            meter: min(units, self.held.get(meter, 0)) if meter in self._rules else units
            for meter, units in used.items()
        }


def next_stop(piece: bytes, start: int) -> int:
    """Where the event that begins or goes on at `start` ends in a piece of an SSE stream."""
    ends = [at + len(mark) for mark in (b"\n\n", b"\r\n\r\n") if (at := piece.find(mark, start)) >= 0]
    return min(ends, default=len(piece))


def _passed(rule: str, reading: Reading) -> int:
    if rule == BYTES:
        return reading.body_bytes
    usage = reading.usage
    output = (usage.output_tokens or 0 if usage is not None else 0) + reading.uncounted_deltas
    if rule == "usage.outputTokens":
        return output
    return output + (usage.input_tokens or 0 if usage is not None else 0)


def cut(covered: bytes, code: str, *, explain: bool, is_last: bool) -> tuple[list[bytes], int]:
    """What ends a response: the part of the piece that is still covered, a last event that says why, and the end; and
    how many bytes of the piece pass with it.

    After an ImmediateResponse that comes when the response has begun, Envoy resets the stream to the upstream, and to
    the client, whose response is visibly not complete; one that has not begun becomes the refusal itself. `code` is one
    of `ENDS`. `explain` where an event can stand (an SSE stream that is not compressed).

    `is_last`: Envoy ends the response, as a whole one, with whatever is answered to its last piece, and that may be its
    only one. Where an event can tell, the covered part passes with it; elsewhere nothing passes, and the end tells.
    """
    event, end = ENDS[code]
    if is_last and not explain:
        return [end], 0
    piece = ProcessingResponse()
    piece.response_body.response.body_mutation.body = covered + (event if explain else b"")
    return [piece.SerializeToString(), *([] if is_last else [end])], len(covered)


def _ends(code: str, detail: str) -> tuple[bytes, bytes]:
    """The event and the ImmediateResponse that end a response."""
    event = b"event: error\ndata: " + orjson.dumps({"error": {"code": code, "message": detail}}) + b"\n\n"
    response = ProcessingResponse()
    end = response.immediate_response
    end.status.code = PROBLEMS[code][0]
    header = end.headers.set_headers.add().header
    header.key, header.raw_value = "content-type", PROBLEM_TYPE.encode()
    end.body = problem(code, detail, end.status.code)
    end.details = f"farebox_{code}"
    return event, response.SerializeToString()


ENDS = {
    "quota_exceeded": _ends("quota_exceeded", "The plan's limit is used up; the response ends."),
    "metering_unavailable": _ends("metering_unavailable", "The rest cannot be counted now; the response ends."),
}

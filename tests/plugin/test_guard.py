"""What may pass of a response, piece by piece."""

import pytest

from builders.plugin import a_policy
from farebox_plugin.directory import read_policy
from farebox_plugin.guard import Guard, next_stop
from farebox_plugin.measure.body import Reading
from farebox_plugin.measure.providers import Usage

TOKENS = read_policy(a_policy("t", {"api_requests": 1, "tokens": "usage.outputTokens"}, cut_off=True))
TOTAL = read_policy(a_policy("t", {"tokens": "usage.totalTokens"}, cut_off=True))
BYTES = read_policy(a_policy("b", {"bytes": "response.bytes"}, cut_off=True))
BOTH = read_policy(a_policy("x", {"bytes": "response.bytes", "tokens": "usage.outputTokens"}, cut_off=True))


def text(events: int, usage: Usage | None = None, body_bytes: int = 0) -> Reading:
    return Reading(usage=usage, delta_count=events, uncounted_deltas=events, body_bytes=body_bytes)


def test_each_event_of_text_is_at_least_one_token() -> None:
    guard = Guard(TOKENS, {"tokens": 10})
    assert guard.lacks(text(9), text(10)) == {}
    assert guard.lacks(text(10), text(11)) == {"tokens": (11, 75)}


def test_what_the_provider_states_stands_and_later_text_comes_on_top() -> None:
    guard = Guard(TOKENS, {"tokens": 10})
    stated = Reading(usage=Usage(output_tokens=10), delta_count=5, uncounted_deltas=1)
    assert guard.lacks(text(4), stated) == {"tokens": (11, 75)}
    assert Guard(TOTAL, {"tokens": 100}).lacks(text(0), text(5, Usage(input_tokens=200))) == {"tokens": (205, 269)}


def test_a_statement_without_text_is_settled_and_not_cut_off() -> None:
    last = Reading(usage=Usage(output_tokens=900), delta_count=10, uncounted_deltas=0)
    assert Guard(TOKENS, {"tokens": 10}).lacks(text(10), last) == {}


def test_of_bytes_a_part_of_the_piece_may_pass() -> None:
    guard = Guard(BYTES, {"bytes": 150})
    before, after = Reading(body_bytes=100), Reading(body_bytes=300)
    ((least, better),) = guard.lacks(before, after).values()
    assert (least, better) == (151, 300 + 64 * 1024)
    assert guard.covered(b"x" * 200, before) == b"x" * 50


def test_of_a_piece_that_is_sold_by_tokens_too_nothing_passes() -> None:
    guard = Guard(BOTH, {"bytes": 1000, "tokens": 1})
    assert guard.covered(b"x" * 200, Reading(body_bytes=100)) == b""


def test_what_was_cut_off_is_charged_at_most_at_its_hold_and_the_rest_as_it_is() -> None:
    assert Guard(TOKENS, {"tokens": 10}).charge({"tokens": 14, "api_requests": 1}) == {"tokens": 10, "api_requests": 1}


@pytest.mark.parametrize(
    ("piece", "start", "stop"),
    [
        (b"data: a\n\ndata: b\n\n", 0, 9),
        (b"data: a\n\ndata: b\n\n", 9, 18),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", 0, 11),
        (b"data: a", 0, 7),
        (b"\n\ndata: a", 0, 2),
        (b"data: a\n\ndata: b\r\n\r\n", 9, 20),
    ],
)
def test_an_event_ends_at_its_empty_line(piece: bytes, start: int, stop: int) -> None:
    assert next_stop(piece, start) == stop

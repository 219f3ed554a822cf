from collections.abc import Callable

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox_plugin.measure.body import BodyMeter, Reading, Wants
from farebox_plugin.measure.expression import UNITS_MAX
from farebox_plugin.measure.providers import Usage
from farebox_plugin.measure.quantity import Facts, body_wants, dimensions, quantities
from farebox_plugin.terms import FIRST_ESTIMATE

TOKENS = {"requests": 1, "input": "usage.inputTokens", "output": "usage.outputTokens", "total": "usage.totalTokens"}
HELD = {"requests": 1, "input": 100, "output": 500, "total": 600}
Read = Callable[..., Reading]


def facts(reading: Reading | None) -> Facts:
    return Facts(status=200, reading=reading)


def test_what_was_measured_is_charged_whatever_was_held() -> None:
    reading = Reading(usage=Usage(3, 4, 7, 0, 0, 0))
    assert quantities(TOKENS, facts(reading), HELD) == ({"requests": 1, "input": 3, "output": 4, "total": 7}, ())
    assert quantities({"checks": 0}, facts(None), {"checks": 0}) == ({"checks": 0}, ())


@pytest.mark.parametrize("reading", [None, Reading(), Reading(flags=("unparsable",))])
def test_what_was_not_measured_is_charged_as_it_was_held_and_flagged(reading: Reading | None) -> None:
    flags = ("estimated", "unparsable") if reading is not None and reading.flags else ("estimated",)
    assert quantities(TOKENS, facts(reading), HELD) == (HELD, flags)


def test_a_measured_zero_is_zero() -> None:
    reading = Reading(usage=Usage(8, 0, 8, 0, 0, 0))
    assert quantities({"output": "usage.outputTokens"}, facts(reading), HELD) == ({"output": 0}, ())


def test_an_aborted_stream_is_charged_for_the_text_that_passed() -> None:
    reading = Reading(delta_count=40, uncounted_deltas=40, complete=False, flags=("aborted",))
    assert quantities(TOKENS, facts(reading), HELD) == (
        {"requests": 1, "input": 100, "output": 40, "total": 600},
        ("aborted", "estimated"),
    )


def test_text_after_the_last_statement_is_added_to_it() -> None:
    """Anthropic states the input and a first output token at the start, and the rest only at the end."""
    reading = Reading(usage=Usage(25, 1, 26, 0, 0, 0), delta_count=40, uncounted_deltas=40, complete=False)
    measured, flags = quantities(TOKENS, facts(reading), HELD)
    assert (measured, flags) == ({"requests": 1, "input": 25, "output": 41, "total": 66}, ("estimated",))
    assert quantities({"input": "usage.inputTokens"}, facts(reading), HELD) == ({"input": 25}, ())


def test_a_stream_aborted_behind_its_last_statement_is_measured_exactly() -> None:
    reading = Reading(usage=Usage(3, 4, 7, 0, 0, 0), delta_count=4, complete=False, flags=("aborted",))
    measured, flags = quantities(TOKENS, facts(reading), HELD)
    assert (measured, flags) == ({"requests": 1, "input": 3, "output": 4, "total": 7}, ("aborted",))


def test_a_complete_stream_without_usage_is_charged_the_hold_but_no_less_than_what_passed() -> None:
    reading = Reading(delta_count=40, uncounted_deltas=40)
    assert quantities({"o": "usage.outputTokens"}, facts(reading), {"o": 500}) == ({"o": 500}, ("estimated",))
    assert quantities({"o": "usage.outputTokens"}, facts(reading), {"o": 1}) == ({"o": 40}, ("estimated",))
    assert quantities({"i": "usage.inputTokens"}, facts(reading), {"i": 1}) == ({"i": 1}, ("estimated",))


def test_a_hostile_count_is_not_made_honest_by_extrapolation() -> None:
    reading = Reading(
        usage=Usage(25, None, None, 0, 0, None), delta_count=9, uncounted_deltas=9, flags=("invalid_usage",)
    )
    assert quantities({"output": "usage.outputTokens"}, facts(reading), HELD)[0] == {"output": 500}


def test_a_meter_without_a_hold_is_charged_the_first_estimate() -> None:
    assert quantities({"credits": "header:x"}, facts(None), {}) == ({"credits": FIRST_ESTIMATE}, ("estimated",))


def test_a_broken_expression_charges_the_hold_and_is_flagged() -> None:
    assert quantities({"m": "usage.nonsense"}, facts(Reading()), {"m": 7}) == (
        {"m": 7},
        ("estimated", "invalid_expression"),
    )


def test_dimensions_are_short_texts_and_unknown_ones_are_left_out() -> None:
    document = {"long": "é" * 999, "empty": "", "tier": 3, "flag": True, "list": []}
    rules = {"model": "usage.model", "route": "header:x-route", "bad": "nonsense"} | {n: f"json:{n}" for n in document}
    known = Facts(status=200, reading=Reading(document=document), headers={"x-route": "007"})
    assert dimensions(rules, known) == {"route": "007", "long": "é" * 128, "tier": "3"}
    assert dimensions(rules, facts(None)) == {}


def test_a_policy_says_what_it_wants_of_the_body() -> None:
    assert body_wants({"requests": 1, "bytes": "response.bytes"}, {"tier": "header:x"}) == Wants()
    assert body_wants({"requests": 1}, {"model": "usage.model"}) == Wants(usage=True)
    assert body_wants({"images": "json:data.length", "broken": "x"}, {}) == Wants(
        document=True, roots=frozenset({"data"})
    )


@pytest.mark.parametrize("golden", ["anthropic.sse", "openai_chat.sse", "gemini.sse"], indirect=True)
def test_wherever_a_stream_is_cut_the_charge_is_between_one_token_and_what_it_would_have_been(
    golden, read: Read
) -> None:
    final, _ = quantities({"output": "usage.outputTokens"}, facts(read(golden.body, golden.content_type)), {})
    for at in range(len(golden.body)):
        reading = read(golden.body[:at], golden.content_type, complete=False)
        charged, flags = quantities({"output": "usage.outputTokens"}, facts(reading), {"output": 1})
        assert 1 <= charged["output"] <= final["output"]
        assert "estimated" in flags or reading.usage is not None
        assert "aborted" in flags


hostile = st.one_of(
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.none(),
    st.text(alphabet="0123456789", max_size=20),
    st.lists(st.integers(0, 5), max_size=2),
)
RULES = {
    "requests": 1,
    "input": "usage.inputTokens",
    "output": "usage.outputTokens",
    "total": "usage.totalTokens",
    "cached": "usage.cachedInputTokens",
    "cost": "json:cost",
    "items": "json:cost.length",
    "bytes": "response.bytes",
    "credits": "header:x-credits",
    "broken": "usage.",
}


@given(
    st.dictionaries(st.sampled_from(["prompt_tokens", "completion_tokens", "total_tokens"]), hostile),
    hostile,
    st.text(max_size=10),
    st.dictionaries(st.sampled_from(list(RULES)), st.integers(0, UNITS_MAX)),
    st.booleans(),
    st.integers(0, 5),
)
def test_quantities_are_never_missing_and_never_negative(
    report: dict[str, object], cost: object, header: str, held: dict[str, int], complete: bool, words: int
) -> None:
    meter = BodyMeter("text/event-stream", "", body_wants(RULES, {}))
    for event in [{"delta": {"content": "x"}}] * words + [{"usage": report}, {"cost": cost}]:
        meter.feed(b"data: " + orjson.dumps(event) + b"\n\n")
    known = Facts(status=200, reading=meter.finish(complete=complete), headers={"x-credits": header})
    measured, flags = quantities(RULES, known, held)
    assert measured.keys() == RULES.keys()
    assert all(type(amount) is int and 0 <= amount <= UNITS_MAX for amount in measured.values())
    assert measured["bytes"] == held.get("bytes", FIRST_ESTIMATE)
    assert "estimated" in flags

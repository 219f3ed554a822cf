import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox_plugin.measure.providers import COUNT_MAX, SHAPES, Tally, Usage, model, strict_count


def usage_of(*documents: object) -> tuple[Usage | None, bool]:
    tally = Tally()
    for document in documents:
        tally.add(document)
    return tally.usage(), tally.is_invalid


HOSTILE = [
    *[True, False, -1, -0.5, 1.5, "5", "", [], [5], {}, {"n": 5}, COUNT_MAX + 1, 2**64, 1e300],
    *map(orjson.loads, (b"18446744073709551616", b"99999999999999999999999999", b"-1e2")),
]


@pytest.mark.parametrize("hostile", HOSTILE, ids=repr)
@pytest.mark.parametrize(
    ("field", "left"),
    [
        ("prompt_tokens", Usage(None, 7, 12, None, None, 0)),
        ("completion_tokens", Usage(5, None, 12, 0, 0, None)),
        ("total_tokens", Usage(5, 7, None, 0, 0, 0)),
    ],
)
def test_a_hostile_number_is_no_number_and_never_derived_from_the_others(field: str, left: Usage, hostile) -> None:
    honest = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    assert usage_of({"usage": honest}) == (Usage(5, 7, 12, 0, 0, 0), False)
    assert usage_of({"usage": {**honest, field: hostile}}) == (left, True)
    # Wherever in a stream it comes: an honest number before or behind does not heal it.
    spoiled = {"prompt_tokens": 5, field: hostile}
    assert usage_of({"usage": honest}, {"usage": spoiled}) == (left, True)
    assert usage_of({"usage": spoiled}, {"usage": honest}) == (left, True)


@pytest.mark.parametrize("hostile", HOSTILE, ids=repr)
def test_a_hostile_part_spoils_what_it_is_a_part_of_only_where_it_would_be_added(hostile) -> None:
    anthropic = {"input_tokens": 5, "output_tokens": 7, "cache_read_input_tokens": hostile}
    assert usage_of({"usage": anthropic}) == (Usage(None, 7, None, None, None, 0), True)
    openai = {"prompt_tokens": 5, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": hostile}}
    assert usage_of({"usage": openai}) == (Usage(5, 7, 12, None, 0, 0), True)


@pytest.mark.parametrize("report", ["many", 5, [], True, [{"prompt_tokens": 1}]])
def test_a_report_that_is_no_object_is_flagged(report: object) -> None:
    assert usage_of({"usage": report}) == (None, True)
    assert usage_of({"response": {"usageMetadata": report}}) == (None, True)


@pytest.mark.parametrize(
    "document",
    [{}, [], None, 5, "usage", {"usage": None}, {"usage": {}}, {"usage": {"seconds": 3}}, {"meta": "x"}, {"usage":
     {"prompt_tokens": None}}, {"meta": {"billed_units": {"search_units": 1}}}, {"usage": {"tokens": 5}}],
)  # fmt: skip
def test_a_document_that_states_no_tokens_has_no_usage(document: object) -> None:
    assert usage_of(document) == (None, False)


@pytest.mark.parametrize(
    ("value", "count"), [(0, 0), (12, 12), (12.0, 12), (COUNT_MAX, COUNT_MAX), (float(COUNT_MAX), COUNT_MAX)]
)
def test_integers_are_counts_also_if_written_with_a_point(value: object, count: int) -> None:
    assert strict_count(value) == count


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_finite_number_is_no_count(value: float) -> None:
    assert strict_count(value) is None


def test_usage_split_over_events_is_put_together_before_it_is_summed() -> None:
    started = {"message": {"usage": {"input_tokens": 25, "output_tokens": 1}}}
    ended = {"usage": {"cache_read_input_tokens": 100, "cache_creation_input_tokens": 10, "output_tokens": 40}}
    assert usage_of(started, ended) == (Usage(135, 40, 175, 100, 10, 0), False)


def test_what_was_stated_and_is_no_number_is_not_taken_for_absent() -> None:
    assert usage_of({"meta": {"billed_units": {"input_tokens": 3, "output_tokens": -1}}}) == (
        Usage(3, None, None, 0, 0, None),
        True,
    )


def test_a_total_that_leaves_the_cache_out_is_completed() -> None:
    report = {"inputTokens": 10, "outputTokens": 5, "totalTokens": 15, "cacheReadInputTokens": 100}
    assert usage_of({"usage": report}) == (Usage(110, 5, 115, 100, 0, 0), False)


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ({"completion_tokens": 7, "total_tokens": 12}, Usage(5, 7, 12, 0, 0, 0)),
        ({"prompt_tokens": 7, "total_tokens": 12}, Usage(7, 5, 12, 0, 0, 0)),
        ({"completion_tokens": 7, "total_tokens": 5}, Usage(0, 7, 7, 0, 0, 0)),
        ({"prompt_tokens": 7, "total_tokens": 5}, Usage(7, 0, 7, 0, 0, 0)),
    ],
)
def test_what_is_not_stated_is_the_rest_of_the_total(report: dict[str, int], expected: Usage) -> None:
    assert usage_of({"usage": report}) == (expected, False)


def test_a_total_alone_is_a_total_alone() -> None:
    assert usage_of({"usage": {"total_tokens": 15}}) == (Usage(None, None, 15, None, None, None), False)


def test_cumulative_statements_count_once() -> None:
    reports = [{"usage": {"prompt_tokens": 9, "completion_tokens": n, "total_tokens": 9 + n}} for n in range(1, 20)]
    assert usage_of(*reports) == (Usage(9, 19, 28, 0, 0, 0), False)


def test_cache_names_beside_openai_counts_are_parts_of_them() -> None:
    """LiteLLM and others add Anthropic's names to a prompt_tokens that already contains them."""
    report = {"prompt_tokens": 100, "completion_tokens": 5, "cache_read_input_tokens": 60}
    assert usage_of({"usage": report}) == (Usage(100, 5, 105, 60, 0, 0), False)


def test_a_part_larger_than_its_whole_is_not_believed() -> None:
    report = {
        "prompt_tokens": 5,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 6},
        "completion_tokens_details": {"reasoning_tokens": 6},
    }
    assert usage_of({"usage": report}) == (Usage(5, 5, 10, None, 0, None), False)


def test_billed_units_are_taken_before_tokens() -> None:
    tokens = {"input_tokens": 70, "output_tokens": 80}
    both = {"usage": {"billed_units": {"input_tokens": 1, "output_tokens": 2}, "tokens": tokens}}
    assert usage_of(both) == (Usage(1, 2, 3, 0, 0, 0), False)
    assert usage_of({"meta": {"tokens": tokens}}) == (Usage(70, 80, 150, 0, 0, 0), False)


@pytest.mark.parametrize(
    ("document", "name"),
    [({"model": "a"}, "a"), ({"message": {"model": "b"}}, "b"), ({"response": {"model": "c"}}, "c"),
     ({"modelVersion": "d"}, "d"), ({"model": ""}, None), ({"model": 5}, None), ([], None)],
)  # fmt: skip
def test_the_model_is_found_where_a_provider_names_it(document: object, name: str | None) -> None:
    assert model(document) == name


def test_every_count_of_every_shape_reaches_the_usage() -> None:
    """A count whose name nobody sums up would be lost without a word."""
    known = "input output total cached created reasoning cached_beside created_beside tools_beside reasoning_beside"
    assert {name for shape in SHAPES for name in shape.counts} <= set(known.split())


reports = st.fixed_dictionaries(
    {},
    optional={
        name: st.integers(0, 1000)
        for name in ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    },
)


@given(st.lists(reports, max_size=5), st.randoms())
def test_the_order_and_repetition_of_statements_make_no_difference(reports: list[dict[str, int]], random) -> None:
    documents = [{"usage": report} for report in reports]
    shuffled = documents + documents
    random.shuffle(shuffled)
    assert usage_of(*documents) == usage_of(*shuffled)


@given(reports)
def test_parts_never_exceed_their_whole_and_the_total_is_their_sum(report: dict[str, int]) -> None:
    usage, _ = usage_of({"usage": report})
    if usage is None or usage.input_tokens is None:
        return
    assert usage.cached_input_tokens is not None
    assert usage.cache_creation_tokens is not None
    assert usage.cached_input_tokens + usage.cache_creation_tokens <= usage.input_tokens
    if usage.output_tokens is not None:
        assert usage.total_tokens == usage.input_tokens + usage.output_tokens

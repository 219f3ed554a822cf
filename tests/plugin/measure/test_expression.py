import sys
from importlib.util import find_spec

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox_plugin.measure.body import Reading, Wants
from farebox_plugin.measure.expression import UNITS_MAX, Expression, ExpressionError, Facts, parse, units, value, wants
from farebox_plugin.measure.providers import Usage

DOCUMENT = {"data": {"images": [{"cost": 3}, {"cost": 4.0}], "length": 77}, "name": "abc", "n": 5, "half": 2.5}
FACTS = Facts(
    status=200,
    request_bytes=11,
    response_bytes=22,
    reading=Reading(usage=Usage(1, 2, 3, 4, 5, 6), model="m-1", document=DOCUMENT),
    headers={"x-credits": "12", "x-tier": "gold", "x-padded": " 7 "},
)
NOTHING = Facts(status=200)
needs_cel = pytest.mark.skipif(find_spec("cel") is None, reason="common-expression-language is not installed")


def charge_by_status(facts: Facts) -> int:
    """What a `python:` expression of an operator looks like."""
    return facts.status * 2


def broken(facts: Facts) -> int:
    raise RuntimeError


class Panic(BaseException):
    """What a panic in a native library looks like to Python."""


def panicking(facts: Facts) -> int:
    raise Panic


@pytest.fixture(autouse=True)
def tariff(monkeypatch: pytest.MonkeyPatch) -> None:
    """This file as the module that an operator installed beside the plugin."""
    monkeypatch.setitem(sys.modules, "tariff", sys.modules[__name__])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("usage.inputTokens", 1),
        ("usage.outputTokens", 2),
        ("usage.totalTokens", 3),
        ("usage.cachedInputTokens", 4),
        ("usage.cacheCreationTokens", 5),
        ("usage.reasoningTokens", 6),
        ("request.bytes", 11),
        ("response.bytes", 22),
        ("json:n", 5),
        ("json:data.images.length", 2),
        ("json:data.length", 77),  # a member of that name goes first
        ("json:name.length", 3),
        ("json:data.images[0].cost", 3),
        ("json:data.images[-1].cost", 4),
        ("header:X-Credits", 12),
        ("header: x-padded", 7),
        ("python:tariff:charge_by_status", 400),
    ],
)
def test_an_expression_gives_its_units_and_nothing_where_nothing_is_known(text: str, expected: int) -> None:
    assert units(parse(text), FACTS) == expected
    if not text.startswith("python:"):
        assert units(parse(text), NOTHING) is None


@pytest.mark.parametrize(
    "text",
    ["json:missing", "json:n.deeper", "json:data.images[2]", "json:data.images[-3]", "json:n[0]", "json:data.images",
     "json:name", "json:half", "json:[0]", "header:x-tier", "header:x-none", "usage.model",
     "python:tariff:broken", "python:tariff:panicking"],
)  # fmt: skip
def test_what_is_no_quantity_is_none(text: str) -> None:
    assert units(parse(text), FACTS) is None


@pytest.mark.parametrize(
    ("text", "expected"), [("usage.model", "m-1"), ("json:name", "abc"), ("header:x-tier", "gold"), ("json:n", 5)]
)
def test_a_value_may_be_text(text: str, expected: object) -> None:
    assert value(parse(text), FACTS) == expected
    assert value(parse(text), NOTHING) is None


@pytest.mark.parametrize(
    ("number", "expected"),
    [(0, 0), (UNITS_MAX, UNITS_MAX), (UNITS_MAX + 1, None), (-1, None), (3.0, 3), (3.5, None), (-3.0, None),
     (float("nan"), None), (float("inf"), None), (1e18, None), (True, None), (None, None), ("5", None), ([1], None)],
)  # fmt: skip
def test_units_are_strict(number: object, expected: int | None) -> None:
    assert units(Expression("python:a:b", Wants(), lambda _: number), FACTS) == expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [("0", 0), (str(UNITS_MAX), UNITS_MAX), (str(UNITS_MAX + 1), None), ("1.0", None), ("-1", None), ("1e3", None),
     ("3, 4", None), ("", None), ("٣", None), ("9" * 5000, None)],
)  # fmt: skip
def test_a_header_is_a_quantity_if_it_is_all_digits(header: str, expected: int | None) -> None:
    assert units(parse("header:x-n"), Facts(status=200, headers={"x-n": header})) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is none of usage.inputTokens"),
        ("usage.tokens", "is none of usage.inputTokens"),
        ("response.status", "is none of usage.inputTokens"),
        ("yaml:a", "none of json, header, cel and python"),
        ("json:", "says nothing"),
        ("header: ", "says nothing"),
        ("json:a..b", "from '..b' on"),
        ("json:a[x]", r"from '\[x\]' on"),
        ("json:a.", "from '.' on"),
        ("json:a[0]b", "from 'b' on"),
        ("python:tariff", "python:package.module:function"),
        ("python:no.such.module:f", "No module named"),
        ("python:tariff:no_such", "no_such"),
        ("python:tariff:DOCUMENT", "is no function"),
    ],
)
def test_an_expression_that_means_nothing_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ExpressionError, match=reason):
        parse(text)


@given(st.text(max_size=40) | st.text(alphabet="json:ab.[]0-length", max_size=30).map("json:".__add__))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        expression = parse(text)
    except ExpressionError:
        return
    units(expression, FACTS)
    value(expression, NOTHING)


def test_an_expression_is_parsed_once() -> None:
    assert parse("json:a.b") is parse("json:a.b")


def test_expressions_say_what_they_need_of_the_body() -> None:
    assert not wants([parse("request.bytes"), parse("response.bytes"), parse("header:x")]).body
    assert wants([parse("usage.model"), parse("json:a.b"), parse("json:c[0]"), parse("json:[0]")]) == Wants(
        usage=True, document=True, roots=frozenset({"a", "c"})
    )
    assert parse("python:tariff:broken").wants == Wants(usage=True, document=True)


# ---- CEL


def test_without_the_library_a_cel_expression_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cel", None)
    with pytest.raises(ExpressionError, match="needs the package common-expression-language"):
        parse("cel:usage.inputTokens + 1 + 1")


@needs_cel
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cel:usage.inputTokens + 3 * usage.outputTokens", 7),
        ("cel:usage.model == 'm-1' ? 10 : 1", 10),
        ("cel:json.data.images.size()", 2),
        ("cel:request.bytes + response.bytes + response.status", 233),
        ("cel:int(response.headers['x-credits']) * 2", 24),
        ("cel:json.half * 2.0", 5),
        ("cel:json.half", None),
        ("cel:usage.inputTokens - 2", None),
        ("cel:usage.missing", None),
        ("cel:usage.inputTokens / 0", None),
        ("cel:usage.outputTokens * 9223372036854775807", None),
        ("cel:json.name", None),
        ("cel:usage.inputTokens == 1", None),
    ],
)
def test_cel_computes_over_what_is_known(text: str, expected: int | None) -> None:
    assert units(parse(text), FACTS) == expected
    assert units(parse("cel:has(usage.inputTokens) ? 1 : 0"), NOTHING) == 0


@needs_cel
@pytest.mark.parametrize(("text", "reason"), [("cel:1 +", "parse"), ("cel:use.tokens", "looks at none of")])
def test_cel_that_means_nothing_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ExpressionError, match=reason):
        parse(text)


@needs_cel
def test_cel_says_what_it_needs_of_the_body() -> None:
    assert parse("cel:usage.inputTokens").wants == Wants(usage=True)
    assert parse("cel:json.n").wants == Wants(document=True)
    assert not parse("cel:response.status").wants.body

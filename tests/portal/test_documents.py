import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox_portal.checking import shape_faults
from farebox_portal.clock import from_ms, to_ms
from farebox_portal.documents import Input, Instant, Key, parse_json
from farebox_portal.errors import pointer
from farebox_portal.ids import is_id, new_id


class Weight(Input):
    grams: int | str


class Order(Input):
    the_key: Key
    at: Instant | None = None
    weights: list[int | Weight] | None = None


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "Infinity"),
        (b'{"a": 1e999}', "out of range"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b"[" * 100_000, "nested"),
        (b"9" * 5000, "digits"),
        (rb'"\u0000"', "NUL"),
        (rb'"\ud800"', "surrogate"),
        (b'"\xff"', "UTF-8"),
        (b"{", "Expecting"),
    ],
)
def test_json_that_breaks_later_is_refused_now(body: bytes, reason: str) -> None:
    with pytest.raises(json.JSONDecodeError, match=reason):
        parse_json(body)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x)))
def test_all_other_json_comes_through(value: object) -> None:
    try:
        body = json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return
    if "\\u0000" not in json.dumps(value):
        assert parse_json(body) == value


def test_json_written_with_escapes_comes_through() -> None:
    assert parse_json(rb'"\u00e9\ud83d\ude00"') == "é😀"


@pytest.mark.parametrize("key", ["", "A", "a-b", "_a", "a__b", "a_", "a" * 65, "ä", "a\n"])
def test_a_key_is_lower_case_letters_digits_and_underscores(key: str) -> None:
    assert [fault["pointer"] for fault in shape_faults(Order, {"theKey": key})] == ["/theKey"]


def test_an_unknown_field_is_a_fault() -> None:
    assert shape_faults(Order, {"theKey": "a", "other": 1}) == [{"pointer": "/other", "detail": "is not a known field"}]


def test_an_instant_needs_its_zone_and_comes_out_in_utc() -> None:
    assert shape_faults(Order, {"theKey": "a", "at": "2026-01-01T00:00:00"})[0]["pointer"] == "/at"
    order = Order.model_validate({"theKey": "a", "at": "2026-01-01T02:00:00+02:00"})
    assert order.at == datetime(2026, 1, 1, tzinfo=UTC)
    assert order.at is not None
    assert order.at.tzinfo is UTC


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:01"])
def test_an_instant_beyond_the_calendar_is_a_fault(text: str) -> None:
    (fault,) = shape_faults(Order, {"theKey": "a", "at": text})
    assert fault == {"pointer": "/at", "detail": "must lie in the years 1 to 9999 of UTC"}


@pytest.mark.parametrize(
    ("weight", "places"),
    [
        ("x", {"/weights/1"}),
        (None, {"/weights/1"}),
        ([], {"/weights/1"}),
        ({}, {"/weights/1", "/weights/1/grams"}),
        ({"grams": {}}, {"/weights/1", "/weights/1/grams"}),
        ({"grams": 1, "x": 2}, {"/weights/1", "/weights/1/x"}),
    ],
)
def test_a_place_is_one_of_the_document_and_not_of_what_it_might_be(weight: object, places: set[str]) -> None:
    found = shape_faults(Order, {"theKey": "a", "weights": [1, weight]})
    assert {fault["pointer"] for fault in found} == places


def test_pointers_escape_what_rfc_6901_says() -> None:
    assert pointer("phases", 0, "a/b~c") == "/phases/0/a~1b~0c"


@given(st.integers(min_value=0, max_value=4_000_000_000_000))
def test_milliseconds_there_and_back(milliseconds: int) -> None:
    assert to_ms(from_ms(milliseconds)) == milliseconds


def test_milliseconds_are_of_the_instant_not_of_the_zone() -> None:
    assert to_ms(datetime(1970, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))) == 0


def test_ids_sort_by_creation_and_are_known_as_ids() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    ids = [new_id(start + timedelta(milliseconds=step)) for step in range(50)]
    assert ids == sorted(ids)
    assert all(is_id(one) and is_id(one.lower()) and len(one) == 26 for one in ids)
    assert not is_id("acme")

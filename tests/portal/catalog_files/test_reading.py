import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from farebox_portal.catalog_files.reading import DEPTH_MAX, read_yaml
from farebox_portal.catalog_files.writing import write_yaml
from farebox_portal.errors import Invalid


def value(text: str) -> object:
    (read,) = read_yaml(text)
    return read.value


def refusal(text: str) -> str:
    with pytest.raises(Invalid) as refused:
        read_yaml(text)
    return "; ".join(f"{fault['pointer']} {fault['detail']}".strip() for fault in refused.value.errors)


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        *(
            (word, word)
            for word in ("no", "off", "Yes", "NULL", "True", "1_000", "0x1F", "010", "+1", ".5", "12:30:45")
        ),
        *((word, word) for word in ("2026-01-01", "P1M", "NaN", ".inf", "1.", "-", "$.total")),
        ("null", None),
        ("~", None),
        ("", None),
        ("true", True),
        ("false", False),
        ("15", 15),
        ("-3", -3),
        ("0.10", 0.1),
        ("2e-06", 2e-06),
        ('"0.10"', "0.10"),
        ("'true'", "true"),
        ("9223372036854775807", 9223372036854775807),
    ],
)
def test_a_word_is_what_json_would_read_and_text_otherwise(word: str, meant: object) -> None:
    if word == "-":
        word = "'-'"
    assert value(f"field: {word}\n") == {"field": meant}
    found = value(f"field: {word}\n")
    assert isinstance(found, dict)
    assert type(found["field"]) is type(meant)


def test_a_price_that_a_number_cannot_hold_is_refused_and_not_rounded() -> None:
    assert refusal("price:\n  amount: 0.1234567890123456789\n") == (
        '/price/amount line 2: cannot be kept exactly as a number; write it as text: "0.1234567890123456789"'
    )
    assert value('amount: "0.1234567890123456789"') == {"amount": "0.1234567890123456789"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: 1\na: 2\n", "/a line 2: stands here twice"),
        ("a: !!python/name:os.system x", "/a line 1: has a tag, which is not understood"),
        ("a: !!binary aGk=", "has a tag"),
        ("? [a]\n: 1\n", "line 1: has a field whose name is not a text"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", "/c/<< line 3: is not JSON"),
        ("a: [1\nb: 2", "is not YAML"),
        ("a: *none", "is not YAML"),
        ("a: \x07", "is not YAML"),
        ('a: "\\0"', "/a line 1: contains a NUL character"),
        ("&a [*a]", f"is nested more than {DEPTH_MAX} deep"),
        ("[" * 5000 + "]" * 5000, "nested"),
    ],
)
def test_what_cannot_be_json_is_refused_with_its_line(text: str, reason: str) -> None:
    assert reason in refusal(text)


def test_a_file_of_a_kilobyte_does_not_become_a_terabyte() -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 20))
    assert "has more than" in refusal(bomb)


def test_every_fault_is_told_at_once() -> None:
    assert refusal("a: !x 1\nb: 0.1234567890123456789\nb: 3\n").count("line") == 3


def test_anchors_and_several_documents_are_read() -> None:
    assert [read.value for read in read_yaml("a: &x {b: 1}\nc: *x\n---\n---\nd: 2\n")] == [
        {"a": {"b": 1}, "c": {"b": 1}},
        {"d": 2},
    ]


def test_a_place_has_a_line_or_that_of_what_it_lies_in() -> None:
    (read,) = read_yaml("# said first\nplans:\n  - key: pro\n    name: Pro\n    a/b: 1\n")
    lines = {place: read.line(place) for place in ("", "/plans", "/plans/0", "/plans/0/name", "/plans/0/a~1b")}
    assert lines == {"": 2, "/plans": 2, "/plans/0": 3, "/plans/0/name": 4, "/plans/0/a~1b": 5}
    assert read.line("/plans/0/price/amount") == 3
    assert read.line("/none") == 2


_TEXT = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), max_size=12)
_WORDS = st.sampled_from(["no", "1e5", "0.10", "~", "null", "", "true", "2026-01-01", "-1", "1.0", "<<", "=", "0o7"])
_NAMES = _TEXT.filter(lambda name: name != "<<")
_NUMBERS = st.integers(-(1 << 53), 1 << 53) | st.floats(allow_nan=False, allow_infinity=False)
_JSON = st.recursive(
    st.none() | st.booleans() | _NUMBERS | _TEXT | _WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_NAMES, inner, max_size=4),
    max_leaves=12,
)


@given(document=st.dictionaries(_NAMES, _JSON, min_size=1))
def test_what_is_written_is_read_again_by_us_and_by_other_yaml(document: dict[str, object]) -> None:
    text = write_yaml(document)
    assert value(text) == document
    assert yaml.safe_load(text) == document


@given(document=_JSON)
def test_json_is_read_as_json(document: object) -> None:
    text = json.dumps(document, ensure_ascii=False)
    found = [read.value for read in read_yaml(text)]
    assert found == ([] if document is None else [document])


def test_what_is_written_reads_well() -> None:
    document = {"plans": [{"key": "pro", "price": "0.10", "cadence": "P1M"}]}
    assert write_yaml(document) == 'plans:\n  - key: pro\n    price: "0.10"\n    cadence: P1M\n'

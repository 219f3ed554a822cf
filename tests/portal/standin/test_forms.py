"""Stripe's bracketed forms, and what an operation reads from them."""

from decimal import Decimal
from typing import Any

import pytest
import stripe
from hypothesis import given
from hypothesis import strategies as st
from stripe._encode import _api_encode  # the client's own encoder: what really comes in

from farebox_portal.standin.forms import DEPTH_MAX, parse_form
from farebox_portal.standin.shapes import Choice, Each, Exact, Flag, Metadata, Needed, Range, Shape, Text, Whole, read
from farebox_portal.standin.wire import Refused

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=8)
NAME = st.text("abcdefgh_", min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("form", "nested"),
    [
        ("", {}),
        ("a=1&b=", {"a": "1", "b": ""}),
        ("a[b]=1&a[c]=2", {"a": {"b": "1", "c": "2"}}),
        ("a[0]=x&a[1]=y", {"a": {"0": "x", "1": "y"}}),
        ("a[]=x&a[]=y", {"a": {"0": "x", "1": "y"}}),
        ("a[][b]=1&a[][c]=2", {"a": {"0": {"b": "1", "c": "2"}}}),
        ("m%5Bk%5D=%C3%A4+%26", {"m": {"k": "ä &"}}),
    ],
)
def test_a_form_is_nested(form: str, nested: dict[str, Any]) -> None:
    assert parse_form(form) == nested


@pytest.mark.parametrize(
    "form",
    [
        "a=1&a=2",
        "a=1&a[b]=2",
        "a[b]=2&a=1",
        "a[b=1",
        "[a]=1",
        "a]=1",
        "a[b]c=1",
        "a" + "[b]" * DEPTH_MAX + "=1",
        "a=%ff",
        "&".join(f"a{number}=1" for number in range(6000)),
    ],
    ids=lambda form: form[:20],
)
def test_what_cannot_be_nested_is_refused(form: str) -> None:
    with pytest.raises(Refused) as caught:
        parse_form(form)
    assert caught.value.status == 400


NESTED = st.recursive(
    TEXT | st.integers(-9, 99),  # no booleans: within a list the client writes them as Python does
    lambda inner: st.dictionaries(NAME, inner, min_size=1, max_size=3) | st.lists(inner, min_size=1, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(NAME, NESTED, max_size=4))
def test_what_the_client_encodes_is_what_is_parsed(params: dict[str, Any]) -> None:
    form = stripe._api_requestor.urlencode(list(_api_encode(params)))  # type: ignore[attr-defined]
    assert parse_form(form) == as_text(params)


def as_text(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: as_text(each) for name, each in value.items()}
    if isinstance(value, list):
        return {str(place): as_text(each) for place, each in enumerate(value)}
    return str(value)


# ---- shapes

SHAPE: dict[str, Shape] = {
    "amount": Whole(-5, 100), "flag": Flag(), "kind": Choice("a", "b"), "name": Text(3), "price": Exact(),
    "created": Range(), "metadata": Metadata(), "lines": Each({"amount": Needed(Whole()), "tags": Each(Text())}, 2),
}  # fmt: skip


@pytest.mark.parametrize(
    ("form", "given"),
    [
        ("amount=-5", {"amount": -5}),
        ("flag=true", {"flag": True}),
        ("kind=b&name=abc", {"kind": "b", "name": "abc"}),
        ("price=0.0000001", {"price": Decimal("0.0000001")}),
        ("created=7", {"created": {"gte": 7, "lte": 7}}),
        ("created[gt]=1&created[lt]=9", {"created": {"gt": 1, "lt": 9}}),
        ("metadata[0]=x&metadata[k]=", {"metadata": {"0": "x", "k": ""}}),
        ("metadata=", {"metadata": {}}),
        ("lines[1][amount]=2&lines[0][amount]=1", {"lines": [{"amount": 1}, {"amount": 2}]}),
        ("lines[0][amount]=1&lines[0][tags][]=x", {"lines": [{"amount": 1, "tags": ["x"]}]}),
        ("lines=", {"lines": []}),
    ],
)
def test_parameters_are_read_by_their_kind(form: str, given: dict[str, Any]) -> None:
    assert read(SHAPE, parse_form(form)) == given


@pytest.mark.parametrize(
    ("form", "code", "param"),
    [
        ("amont=1", "parameter_unknown", "amont"),
        ("lines[0][amount]=1&lines[0][x]=1", "parameter_unknown", "lines[0][x]"),
        ("lines[0][tags][]=x", "parameter_missing", "lines[0][amount]"),
        ("lines[0][amount]=", "parameter_missing", "lines[0][amount]"),
        ("amount=1.5", "parameter_invalid_integer", "amount"),
        ("amount=101", None, "amount"),
        ("amount=-6", None, "amount"),
        ("amount[a]=1", None, "amount"),
        ("flag=yes", None, "flag"),
        ("kind=c", None, "kind"),
        ("name=abcd", None, "name"),
        ("price=1E-7", "parameter_invalid_decimal", "price"),
        ("price=0.0000000000001", "parameter_invalid_decimal", "price"),
        ("created=-1", None, "created[gte]"),
        ("lines=x", None, "lines"),
        ("lines[a]=x", None, "lines"),
        ("&".join(f"lines[{each}][amount]=1" for each in range(3)), None, "lines"),
        ("metadata[k][l]=1", None, "metadata"),
        (f"metadata[{'k' * 41}]=1", None, f"metadata[{'k' * 41}]"),
        (f"metadata[k]={'v' * 501}", None, "metadata[k]"),
        ("&".join(f"metadata[k{each}]=1" for each in range(51)), None, "metadata"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_not_accepted_is_named(form: str, code: str | None, param: str) -> None:
    with pytest.raises(Refused) as caught:
        read(SHAPE, parse_form(form))
    error = caught.value.body["error"]
    assert (caught.value.status, error.get("code"), error["param"]) == (400, code, param)

from typing import Any

import pytest

from farebox_portal.catalog_files.compare import differences


@pytest.mark.parametrize(
    ("before", "after", "places"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1, "b": None}, {"a": 1}, []),
        ({"a": 1}, {"a": 2}, ["/a"]),
        ({"a": True}, {"a": 1}, ["/a"]),
        ({}, {"a/b": 2}, ["/a~1b"]),
        ({"a": {"b": 1}}, {"a": {}}, ["/a/b"]),
        ({"price": {"amount": "0.10"}}, {"price": {"amount": 0.1}}, []),
        ({"price": {"amount": "0.10"}}, {"price": {"amount": "0.11"}}, ["/price/amount"]),
        ({"price": {"amount": "1"}}, {"price": {"amount": True}}, ["/price/amount"]),
        ({"percentOff": "12.50"}, {"percentOff": 12.5}, []),
        ({"amountOff": "5.00"}, {"amountOff": 5}, []),
        ({"config": "0.10"}, {"config": "0.1"}, ["/config"]),
        ({"tiers": [{"upToAmount": 5}, {}]}, {"tiers": [{"upToAmount": "5.0"}, {}]}, []),
        ({"tiers": [{"upToAmount": 5}, {}]}, {"tiers": [{"upToAmount": 6}, {}]}, ["/tiers/0/upToAmount"]),
        ({"tiers": [{}]}, {"tiers": [{}, {}]}, ["/tiers"]),
        ({"phases": [{"key": "a", "x": 1}, {"key": "b"}]}, {"phases": [{"key": "b"}]}, ["/phases/a"]),
        ({"phases": [{"key": "b"}]}, {"phases": [{"key": "a"}, {"key": "b", "x": 1}]}, ["/phases/b/x", "/phases/a"]),
        ({"phases": [{"key": "a"}, {"key": "b"}]}, {"phases": [{"key": "b"}, {"key": "a"}]}, ["/phases"]),
    ],
)
def test_differences_have_places(before: Any, after: Any, places: list[str]) -> None:
    assert [part.pointer for part in differences(before, after)] == places

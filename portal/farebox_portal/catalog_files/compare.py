"""What differs between two documents, place by place. Pure.

Two ways to write the same amount are no difference: "0.10", 0.1 and "0.1000". Nor is a field that is left out one that
is null. Lists whose items have keys (phases, rate cards) are compared by these.
"""

from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from farebox_portal.catalog_files.document import ChangedPart
from farebox_portal.errors import pointer

_AMOUNTS = frozenset(
    {
        *("amount", "upToAmount", "flatPrice", "unitPrice", "multiplier", "percentage", "quantity", "usage"),
        *("quantityPerPackage", "quantityPerUnit", "minimumAmount", "maximumAmount", "conversionFactor"),
        *("percentOff", "amountOff"),
    }
)
_Path = tuple[str | int, ...]


def differences(before: Any, after: Any) -> list[ChangedPart]:
    """In the order of the documents."""
    return list(_differences(before, after, ()))


def _differences(before: Any, after: Any, path: _Path) -> Iterator[ChangedPart]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in {**before, **after}:
            yield from _differences(before.get(name), after.get(name), (*path, name))
    elif isinstance(before, list) and isinstance(after, list):
        yield from _list_differences(before, after, path)
    elif not _same(before, after, path):
        yield ChangedPart(pointer=pointer(*path), before=before, after=after)


def _list_differences(before: list[Any], after: list[Any], path: _Path) -> Iterator[ChangedPart]:
    if not (_are_keyed(before) and _are_keyed(after)):
        if len(before) == len(after):
            for index, pair in enumerate(zip(before, after, strict=True)):
                yield from _differences(*pair, (*path, index))
        else:
            yield ChangedPart(pointer=pointer(*path), before=before, after=after)
        return
    old, new = ({item["key"]: item for item in items} for items in (before, after))
    for key in old | new:
        yield from _differences(old.get(key), new.get(key), (*path, key))
    if [key for key in old if key in new] != [key for key in new if key in old]:
        yield ChangedPart(pointer=pointer(*path), before=list(old), after=list(new))


def _are_keyed(items: list[Any]) -> bool:
    keys = [item.get("key") for item in items if isinstance(item, Mapping)]
    return len(keys) == len(items) == len(set(map(str, keys))) and all(isinstance(key, str) for key in keys)


def _same(before: Any, after: Any, path: _Path) -> bool:
    if before == after and isinstance(before, bool) == isinstance(after, bool):
        return True
    if path and path[-1] in _AMOUNTS:
        old, new = _amount(before), _amount(after)
        return old is not None and old == new
    return False


def _amount(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        return Decimal(str(value))
    except InvalidOperation:
        return None

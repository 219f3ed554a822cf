"""The last entries of a mapping, for what has to be remembered for a moment and never grows.

Two dicts that take turns, because one that is emptied from its front gets slower: what was deleted there is stepped
over each time somebody looks for the oldest entry (7 us with 8192 entries, at every request).
"""

from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """Remembers the last `size` entries at least (with those taken out since), and twice as many at most."""

    __slots__ = ("_new", "_old", "_size")

    def __init__(self, size: int) -> None:
        self._size = size
        self._new: dict[K, V] = {}
        self._old: dict[K, V] = {}

    def __contains__(self, key: K) -> bool:
        return key in self._new or key in self._old

    def __setitem__(self, key: K, value: V) -> None:
        if len(self._new) >= self._size:
            self._old, self._new = self._new, {}
        self._new[key] = value

    def get(self, key: K) -> V | None:
        value = self._new.get(key)
        return self._old.get(key) if value is None else value

    def pop(self, key: K) -> V | None:
        """Take it out; None if it is not (or no longer) known."""
        value, before = self._new.pop(key, None), self._old.pop(key, None)
        return before if value is None else value

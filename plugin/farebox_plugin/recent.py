"""The last entries of a mapping, for what has to be remembered for a moment and never grows.

Two dicts that take turns, because one that is emptied from its front gets slower: what was deleted there is stepped
over each time somebody looks for the oldest entry (7 us with 8192 entries, at every request).
"""

from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """Remembers the last `size` entries at least (with those taken out since), and twice as many at most.

    Who writes at every request writes into `new`, and calls `turn` now and then: as much as was written meanwhile may
    then be remembered beyond that.
    """

    __slots__ = ("_old", "_size", "new")

    def __init__(self, size: int) -> None:
        self._size = size
        self.new: dict[K, V] = {}
        self._old: dict[K, V] = {}

    def turn(self) -> None:
        if len(self.new) >= self._size:
            self._old, self.new = self.new, {}

    def __contains__(self, key: K) -> bool:
        return key in self.new or key in self._old

    def __setitem__(self, key: K, value: V) -> None:
        self.turn()
        self.new[key] = value

    def get(self, key: K) -> V | None:
        value = self.new.get(key)
        return self._old.get(key) if value is None else value

    def pop(self, key: K) -> V | None:
        """Take it out; None if it is not (or no longer) known."""
        value, before = self.new.pop(key, None), self._old.pop(key, None)
        return before if value is None else value

"""How often Python looks for garbage that refers to itself.

A request leaves none (tests/plugin/test_garbage.py): what it made is gone when the last name for it is. But it leaves
things that live for seconds: tombstones, what was let in, the index of the spools. Python's collector looks at all of
them after every few hundred objects made, for nothing. That was 12 of a worker's 67 us a request, and a quarter of
what its caches hold. It still looks, only less often: errors with their tracebacks do leave cycles.
"""

import gc

YOUNG = 20_000  # objects more than before: some thousand requests
_MIDDLE, _OLD = 20, 100  # times the one before


def collect_seldom() -> None:
    """For the rest of this process."""
    gc.set_threshold(YOUNG, _MIDDLE, _OLD)

"""What is remembered for a moment: the last entries, however many came before."""

from hypothesis import given
from hypothesis import strategies as st

from farebox_plugin.recent import Recent


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.integers(1, 99)), max_size=60), st.integers(1, 4))
def test_the_last_entries_are_known_and_twice_as_many_at_most(steps: list[tuple[bool, int, int]], size: int) -> None:
    recent: Recent[int, int] = Recent(size)
    last: dict[int, int | None] = {}  # in the order of their last writing; None: taken out since
    for writes, key, value in steps:
        if writes:
            recent[key] = value
            last.pop(key, None)
            last[key] = value
            for kept in list(last)[-size:]:
                assert recent.get(kept) == last[kept]
        else:
            taken = recent.pop(key)
            assert taken in (None, last.get(key))
            if key in last:
                last[key] = None
            assert key not in recent
            assert recent.get(key) is None
        assert sum(each in recent for each in range(10)) <= 2 * size

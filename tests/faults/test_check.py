"""The oracle finds what it is there to find: one piece of sound evidence, and everything that can be wrong with it."""

from dataclasses import replace

import pytest

from faults.check import Customer, Evidence, Period, Row, judge

SOLD = Customer("customer_a", "id", "sub", "key", "keyid", limit=3)
PATHS = ("/v1/echo/customer_a/1", "/v1/echo/customer_a/2", "/v1/echo/customer_a/3")
ROWS = (Row("r1", 1, 10), Row("r2", 1, 11), Row("r3", 1, 12))
SOUND = Evidence(
    customer=SOLD,
    answered=frozenset(PATHS),
    served=dict.fromkeys(PATHS, 1),
    reached=frozenset(PATHS),
    let_in=frozenset({"r1", "r2", "r3"}),
    ended=frozenset({"r1", "r2", "r3"}),
    rows=ROWS,
    hourly=3,
    periods=(Period("q", 0, 100, 3, 3), Period("q", 100, 200, 3, 0)),
    is_full=True,
)
FLAGGED = (*ROWS[:2], Row("r3", 1, 12, frozenset({"ambiguous"})))
MORE = {**SOUND.served, "/v1/echo/customer_a/4": 1}


def test_sound_evidence_breaks_nothing() -> None:
    assert judge(SOUND) == []


@pytest.mark.parametrize(
    ("change", "invariant"),
    [
        ({"served": MORE, "reached": frozenset(MORE)}, "I1"),
        ({"customer": replace(SOLD, limit=2)}, "I1"),
        ({"periods": (Period("q", 0, 100, 2, 3),)}, "I1"),
        ({"periods": (Period("q", 0, 100, 4, 3),)}, "I2"),
        ({"served": MORE}, "I3"),
        ({"rows": ROWS[:2], "hourly": 2}, "I3"),
        ({"served": dict.fromkeys(PATHS[:2], 1)}, "I3"),
        ({"hourly": 4}, "I3"),
        ({"let_in": frozenset({"r1", "r2", "r3", "r4"})}, "I3"),
        ({"periods": (Period("q", 0, 100, 3, 4),)}, "I6"),
        ({"periods": (Period("q", 0, 100, 3, 2), Period("q", 100, 200, 3, 1))}, "I6"),
        ({"held": frozenset({"r9"})}, "I6"),
        ({"is_loaded": False}, "I6"),
        ({"rows": (*ROWS[:2], Row("r8", 1, 12))}, "I9"),
        ({"reached": frozenset((*PATHS, "/v1/status/500?customer_a=4"))}, "I11"),
        ({"answered": frozenset((*PATHS, "/v1/echo/customer_a/9"))}, "I11"),
        ({"misnamed": 1}, "I11"),
    ],
)
def test_each_lie_is_found_out(change: dict[str, object], invariant: str) -> None:
    assert any(f" {invariant}: " in fault for fault in judge(replace(SOUND, **change)))  # type: ignore[arg-type]


def test_an_ambiguous_row_may_be_of_a_request_that_was_served_or_not() -> None:
    assert judge(replace(SOUND, rows=FLAGGED)) == []
    assert judge(replace(SOUND, rows=FLAGGED, served=dict.fromkeys(PATHS[:2], 1), answered=frozenset(PATHS[:2]))) == []


def test_who_hung_up_need_not_be_billed_but_who_got_the_answer_must() -> None:
    left = replace(SOUND, rows=ROWS[:2], hourly=2, hung_up=frozenset({PATHS[2]}), is_full=False,
                   let_in=frozenset({"r1", "r2", "r3"}), periods=(Period("q", 0, 100, 3, 2),))  # fmt: skip
    assert judge(replace(left, answered=frozenset(PATHS[:2]))) == []
    assert any(" I3: " in fault for fault in judge(left))


def test_a_second_limit_may_be_the_one_that_is_full() -> None:
    two = (Period("day", 0, 100, 3, 3), Period("month", 0, 1000, 9, 3))
    assert judge(replace(SOUND, periods=two)) == []

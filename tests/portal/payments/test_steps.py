"""The next step, from whatever is there: pure, and always the same way out."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox_portal.payments import dunning
from farebox_portal.payments.gateway import Line, RemoteInvoice
from farebox_portal.payments.steps import CREDITED, LINES_MAX, Claim, Rest, Send, Stop, folded, is_done, next_step

NOW = datetime(2026, 4, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def a_line(id_: str, amount_minor: int = 100) -> Line:
    return Line(id_, amount_minor, id_, NOW, NOW + DAY)


CLAIM = Claim("i1", "us", "cus", "INV-1", "USD", (a_line("a", 100), a_line("b", 250)), "collect", True)
LESS = (*CLAIM.lines, a_line(f"i1{CREDITED}", -50))  # what is left once a credit note has taken back 50
DRAFT = RemoteInvoice("in_1", "i1", "cus", "draft", "USD", 350, lines=(("a", 100), ("b", 250)))


@pytest.mark.parametrize(
    ("claim", "found", "expected"),
    [
        ({}, [], "invoice"),
        ({}, [{"lines": ()}], "line"),
        ({}, [{"lines": (("b", 250),)}], "line"),
        ({}, [{}], "finalize"),
        ({}, [{"status": "open"}], "pay"),
        ({"is_due": False}, [{"status": "open"}], None),
        ({"wish": "give_up"}, [{"status": "open"}], "uncollectible"),
        ({"wish": "give_up"}, [{"status": "uncollectible"}], None),
        ({"wish": "cancel"}, [{}], "delete"),
        ({"wish": "cancel"}, [{"status": "open"}], "void"),
        ({"wish": "cancel"}, [{"status": "void"}], None),
        ({"wish": "cancel"}, [], None),
        ({"wish": "keep"}, [{"status": "paid"}], None),
        ({}, [{"status": "paid"}], None),
        ({}, [{"status": "void"}], None),
        # Credited since it was made there:
        ({"lines": LESS}, [{}], "line"),
        ({"lines": LESS}, [{"lines": (("a", 100), ("b", 250), (f"i1{CREDITED}", -20))}], "delete"),
        ({}, [{"lines": (("a", 100), ("b", 250), (f"i1{CREDITED}", -20))}], "delete"),
        ({"lines": LESS}, [{"status": "open"}], "void"),
        ({"lines": LESS}, [{"status": "uncollectible"}], "void"),
        ({"lines": LESS}, [{"status": "open", "total_minor": 300}], "pay"),
        ({"lines": LESS}, [{"status": "open", "total_minor": 351}], "total_differs"),
        ({"lines": LESS}, [{"status": "paid"}], "total_differs"),
        ({"lines": LESS}, [{"status": "void"}], None),
        # Of a customer who was deleted since:
        ({}, [{"customer": "gone", "status": "open"}], "void"),
        ({}, [{"customer": "gone", "status": "void"}], "invoice"),
        ({}, [{"customer": "gone", "status": "void"}, {"status": "open"}], "pay"),
        # What cannot come from us:
        ({}, [{}, {"id": "in_2"}], "several_invoices"),
        ({}, [{"lines": (("a", 100), ("c", 250))}], "lines_differ"),
        ({}, [{"lines": (("a", 101), ("b", 250))}], "lines_differ"),
        ({}, [{"lines": (("a", 100), ("a", 100), ("b", 250))}], "lines_differ"),
        ({}, [{"status": "open", "total_minor": 351}], "total_differs"),
        ({}, [{"currency": "EUR"}], "currency_differs"),
        ({"wish": "cancel"}, [{"status": "paid"}], "paid_twice"),
        ({}, [{"customer": "gone", "status": "paid"}], "paid_by_another_customer"),
    ],
)
def test_the_next_step(claim: dict[str, object], found: list[dict[str, object]], expected: str | None) -> None:
    step = next_step(replace(CLAIM, **claim), [replace(DRAFT, **each) for each in found])  # type: ignore[arg-type]
    match step:
        case Send(name, _, _):
            assert name == expected
        case Stop(reason):
            assert reason == expected
        case Rest():
            assert expected is None


@pytest.mark.parametrize(
    ("step", "remote", "expected"),
    [
        ("invoice", {}, True),
        ("line:a", {}, True),
        ("line:c", {}, False),
        ("line:c", {"status": "open", "lines": ()}, True),
        ("finalize", {}, False),
        ("finalize", {"status": "open"}, True),
        ("pay", {"status": "open"}, False),
        ("pay", {"status": "paid"}, True),
        ("void:in_1", {"status": "void"}, True),
        ("void:in_2", {"status": "void"}, False),
        ("void:in_1", {"status": "open"}, False),
    ],
)
def test_what_an_operation_was_for_is_seen_in_what_is_there(
    step: str, remote: dict[str, object], expected: bool
) -> None:
    assert is_done(step, replace(DRAFT, **remote)) == expected  # type: ignore[arg-type]


@given(st.permutations(["a", "b"]), st.sets(st.sampled_from(["a", "b"])))
def test_a_draft_is_final_after_exactly_the_lines_that_were_missing(order: list[str], there: set[str]) -> None:
    amounts = {"a": 100, "b": 250}
    draft = replace(DRAFT, lines=tuple((id_, amounts[id_]) for id_ in order if id_ in there))
    added = []
    while (step := next_step(CLAIM, [draft])) != Send("finalize", {"id": "in_1"}):
        assert isinstance(step, Send)
        assert step.step == "line"
        added.append(step.part)
        draft = replace(draft, lines=(*draft.lines, (step.part, step.request["amount_minor"])))
    assert sorted(added) == sorted(set(amounts) - there)


@given(st.lists(st.integers(-(10**6), 10**6), max_size=600))
def test_folding_keeps_the_sum_and_never_has_more_lines_than_fit(amounts: list[int]) -> None:
    lines = [a_line(str(place), amount) for place, amount in enumerate(amounts)]
    found = folded(lines)
    assert len(found) <= LINES_MAX
    assert sum(line.amount_minor for line in found) == sum(amounts)
    assert len(lines) > LINES_MAX or found == tuple(lines)


@given(st.integers(0, 20 * 24))
def test_tries_come_on_their_days_and_end(hours: int) -> None:
    now = NOW + timedelta(hours=hours)
    at = dunning.next_try(NOW, now)
    if now >= dunning.ends_at(NOW):
        assert at is None
    else:
        assert at is not None
        assert now < at <= now + 2 * DAY
        assert (at - NOW) in (DAY, 3 * DAY, 5 * DAY, 7 * DAY)

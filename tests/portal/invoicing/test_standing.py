"""Whether a subscription is refused for its invoices, and from when on: pure."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox_portal.invoicing.standing import Owed, Standing, standing

START = datetime(2026, 4, 1, tzinfo=UTC)
DAY = timedelta(days=1)
GRACE = 3 * DAY


def owed(status: str, *, first: bool = False, collected: bool = True, failed: int | None = None) -> Owed:
    return Owed(status, first, collected, None if failed is None else START + failed * DAY)


@pytest.mark.parametrize(
    ("invoices", "expected"),
    [
        ([], ("not_required", None)),
        ([owed("void")], ("not_required", None)),
        ([owed("paid")], ("paid", None)),
        ([owed("paid"), owed("void")], ("paid", None)),
        # A renewal passes; the first fee does not, unless it is paid by transfer.
        ([owed("paid", first=True), owed("issued")], ("pending", None)),
        ([owed("issued", first=True)], ("pending", START)),
        ([owed("issued", first=True, collected=False)], ("pending", None)),
        ([owed("issued", first=True, failed=2)], ("failed", START)),
        # The days of grace run from the first failure of whatever is still open.
        ([owed("paid"), owed("issued", failed=30)], ("failed", START + 33 * DAY)),
        ([owed("paid"), owed("issued", failed=40), owed("overdue", failed=30)], ("failed", START + 33 * DAY)),
        ([owed("paid", failed=30), owed("issued", failed=60)], ("failed", START + 63 * DAY)),
        ([owed("paid", failed=30)], ("paid", None)),
        ([owed("paid"), owed("uncollectible", failed=30)], ("uncollectible", START)),
        ([owed("uncollectible"), owed("issued", failed=60)], ("uncollectible", START)),
    ],
)
def test_the_worst_of_the_invoices_decides(invoices: list[Owed], expected: tuple[str, datetime | None]) -> None:
    assert standing(invoices, START, GRACE) == Standing(*expected)


STATUSES = st.sampled_from(["issued", "overdue", "paid", "void", "uncollectible"])
INVOICES = st.lists(st.builds(owed, STATUSES, first=st.booleans(), failed=st.none() | st.integers(0, 60)), max_size=5)


@given(INVOICES, st.integers(0, 30), st.integers(0, 30))
def test_more_grace_never_refuses_earlier(invoices: list[Owed], less: int, more: int) -> None:
    least, most = sorted((less, more))
    early, late = (standing(invoices, START, days * DAY).refused_at for days in (least, most))
    assert (early is None) == (late is None)
    assert early is None or late is None or early <= late


@given(INVOICES)
def test_paying_what_is_open_restores_access(invoices: list[Owed]) -> None:
    settled = [owed("paid") if one.status in ("issued", "overdue", "uncollectible") else one for one in invoices]
    assert standing(settled, START, GRACE).refused_at is None

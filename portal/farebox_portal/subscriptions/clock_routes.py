"""The test clock over HTTP. What it moves and what not stands in `testclock.py`."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from farebox_portal.auth import AdminOnly, ClockDep, PartsDep, ReadSessionDep
from farebox_portal.documents import JsonRoute
from farebox_portal.idempotency import OnceDep
from farebox_portal.problems import RESPONSES
from farebox_portal.subscriptions import advance


def clock_router(invoice: advance.Invoice) -> APIRouter:
    """The routes, with what makes the invoices that come due on the way."""
    router = APIRouter(
        prefix="/v1/test-clock",
        tags=["test-clock"],
        route_class=JsonRoute,
        dependencies=[AdminOnly],
        responses=RESPONSES,
    )

    @router.get("")
    def get_test_clock(session: ReadSessionDep, clock: ClockDep) -> advance.ClockDocument:
        return advance.show(session, advance.test_clock(clock))

    @router.post("/advance", response_model=advance.AdvanceDocument)
    def advance_test_clock(body: advance.AdvanceInput, once: OnceDep, parts: PartsDep) -> JSONResponse:
        """Put the portal's time forward: `{"by": "P1M"}` or `{"to": "2027-01-01T00:00:00Z"}`. Never back."""
        clock = advance.test_clock(parts.clock)
        return once.answer(200, lambda: advance.advance(once.session, clock, body, invoice))

    return router

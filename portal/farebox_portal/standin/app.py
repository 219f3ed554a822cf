"""The stand-in as a whole: its parts, its application, and how it is served."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route

from farebox_portal.clock import Clock, SystemClock
from farebox_portal.standin import (
    account,
    billing_portal,
    checkout,
    credit_notes,
    customers,
    events,
    invoice_items,
    invoices,
    payments,
    refunds,
    tax,
    webhook_endpoints,
)
from farebox_portal.standin.api import Api
from farebox_portal.standin.books import Books
from farebox_portal.standin.clock import StandinClock
from farebox_portal.standin.connections import Connection
from farebox_portal.standin.control import Control
from farebox_portal.standin.deliveries import Deliveries
from farebox_portal.standin.faults import Faults
from farebox_portal.standin.journal import Journal
from farebox_portal.standin.pages import Pages

OPERATIONS = (
    *account.OPERATIONS,
    *customers.OPERATIONS,
    *checkout.OPERATIONS,
    *billing_portal.OPERATIONS,
    *invoices.OPERATIONS,
    *invoice_items.OPERATIONS,
    *payments.OPERATIONS,
    *credit_notes.OPERATIONS,
    *refunds.OPERATIONS,
    *tax.OPERATIONS,
    *webhook_endpoints.OPERATIONS,
    *events.OPERATIONS,
)


class Standin:
    """`state`: the file that keeps the records over a restart. Raises CannotStart for a file that is none of ours."""

    def __init__(self, base_url: str, *, state: Path | None = None, wall: Clock | None = None) -> None:
        self.books = Books(StandinClock(wall or SystemClock()), Journal(state) if state else None)
        self.books.base_url = base_url
        self.books.views |= {
            "billing_portal.session": billing_portal.show_portal,
            "checkout.session": checkout.show_session,
            "credit_note": credit_notes.show_note,
            "invoice": invoices.show_invoice,
        }
        self.books.clock.ahead_ms = self.books.settings("clock", ahead_ms=0)["ahead_ms"]
        billing_portal.ensure_default(self.books)
        self.faults = Faults()
        self.deliveries = Deliveries(self.books)
        self.api = Api(self.books, OPERATIONS, self.faults, self.deliveries)
        self.app = self._create_app()

    def add_webhook(self, url: str, secret: str) -> None:
        """An endpoint for all events that a person configured on both sides, or this secret for the one there is."""
        known = next(self.books.all("webhook_endpoint", url=url), None)
        endpoint = known or webhook_endpoints.add_endpoint(self.books, url, enabled_events=["*"])
        webhook_endpoints.set_secret(self.books, endpoint, secret)
        self.books.commit()

    def _create_app(self) -> Starlette:
        control = Control(self.books, self.api, self.faults, self.deliveries)
        pages = Pages(self.books, self.deliveries)
        routes = [Route("/v1/{path:path}", self.api), *control.routes(), *pages.routes()]
        return Starlette(routes=routes, lifespan=self._live)

    @asynccontextmanager
    async def _live(self, _: Starlette) -> AsyncIterator[None]:
        sending = asyncio.create_task(self.deliveries.run())
        try:
            yield
        finally:
            sending.cancel()
            with suppress(asyncio.CancelledError):
                await sending
            self.books.close()


def server(standin: Standin, host: str, port: int) -> uvicorn.Server:
    """Ready to `run`, on this address or on sockets of the caller's."""
    config = uvicorn.Config(
        standin.app,
        host=host,
        port=port,
        http=Connection,
        ws="none",
        log_level="warning",
        access_log=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=2,
    )
    return uvicorn.Server(config)

"""The portal as one ASGI application: what it is made of, and nothing about how any of it works."""

from fastapi import FastAPI
from sqlalchemy import Engine

from farebox_portal import audit, health, problems
from farebox_portal.auth import Credentials, Parts
from farebox_portal.body_limit import BodyLimit
from farebox_portal.catalog.routes import router as catalog
from farebox_portal.catalog_files.routes import router as catalog_files
from farebox_portal.clock import Clock
from farebox_portal.customers.routes import router as customers
from farebox_portal.entitlements.routes import router as entitlements
from farebox_portal.invoicing.close import close_all
from farebox_portal.invoicing.routes import router as invoices
from farebox_portal.invoicing.terms import terms_of
from farebox_portal.metrics import Metrics
from farebox_portal.payments.orders import require_payment
from farebox_portal.payments.profile_routes import router as billing_profiles
from farebox_portal.payments.purchase import preview_change
from farebox_portal.payments.purchase import router as purchases
from farebox_portal.payments.routes import public as paying
from farebox_portal.payments.routes import router as payments
from farebox_portal.prepaid.routes import router as prepaid
from farebox_portal.quotes.routes import router as quotes
from farebox_portal.request_log import RequestLog
from farebox_portal.settings import Settings
from farebox_portal.subscriptions.change_routes import change_router, migration_router
from farebox_portal.subscriptions.clock_routes import clock_router
from farebox_portal.subscriptions.routes import order_router
from farebox_portal.subscriptions.routes import router as subscriptions
from farebox_portal.usage.access import used_share
from farebox_portal.usage.routes import router as usage

_DESCRIPTION = """
Plans, customers, subscriptions and API keys of an API behind Envoy; what they used, and what they may use.

Errors are `application/problem+json` (RFC 9457) with a stable `code`. POSTs may carry an `Idempotency-Key`.
Lists are paged: `{items, page, pageSize, totalCount}`.
"""


def create_app(settings: Settings, engine: Engine, clock: Clock) -> FastAPI:
    """The application on this database and clock. Opens nothing and starts nothing."""
    app = FastAPI(
        title="Farebox",
        version="1",
        description=_DESCRIPTION,
        docs_url=None,  # FastAPI's pages load their scripts from a CDN
        redoc_url=None,
    )
    app.state.parts = Parts(settings, engine, clock, Credentials(settings))
    app.state.metrics = Metrics()
    app.add_middleware(BodyLimit)
    app.add_middleware(RequestLog, metrics=app.state.metrics)  # added last is outermost
    problems.install(app)
    terms = terms_of(settings)
    test_clock = clock_router(lambda session, now: close_all(session, now, terms))
    for router in (
        catalog,
        catalog_files,
        migration_router,
        customers,
        order_router(require_payment),
        subscriptions,
        change_router(used_share, require_payment, preview_change),
        test_clock,
        invoices,
        payments,
        billing_profiles,
        prepaid,
    ):
        app.include_router(router, dependencies=[audit.NotesCaller])
    for router in (health.router, usage, quotes, entitlements, audit.router, purchases, paying):
        app.include_router(router)
    return app

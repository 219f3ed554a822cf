"""What the jobs do for payments, each a little at a time; True: there may be more."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

import structlog
from sqlalchemy import Engine

from farebox_portal.db import transaction
from farebox_portal.errors import NotFound
from farebox_portal.invoicing.terms import Terms, terms_of
from farebox_portal.payments import collect, events, webhook_endpoint
from farebox_portal.payments.account import usable
from farebox_portal.payments.advance import Desk
from farebox_portal.payments.checkout import advance_checkout, due_checkout, postpone
from farebox_portal.payments.gateway import Gateway, GatewayFailure
from farebox_portal.payments.open import RETRIES_OF_JOBS, jobs_per_s, open_gateway
from farebox_portal.payments.payers import refresh
from farebox_portal.payments.progress import progress
from farebox_portal.payments.refunds import refund_due
from farebox_portal.payments.tax import unsupported
from farebox_portal.settings import Settings

log = structlog.get_logger(__name__)

TAX_LOOKED_AT_EVERY = timedelta(minutes=10)
COLLECTORS = 3
"""So many invoices are collected at the same time: of different customers, as each is worked on by one."""

WORTH_TELLING = 20


@dataclass(frozen=True)
class Till:
    engine: Engine
    gateway: Gateway
    terms: Terms
    per_s: float | None = None
    settings: Settings | None = None

    @classmethod
    def of(cls, engine: Engine, settings: Settings) -> Self | None:
        """None: everything is paid by hand."""
        gateway = open_gateway(settings, RETRIES_OF_JOBS)
        return None if gateway is None else cls(engine, gateway, terms_of(settings), jobs_per_s(settings), settings)

    def enroll(self, now: datetime) -> bool:
        return collect.enroll(self.engine, now) > 0

    def collect(self, now: datetime) -> bool:
        return collect.collect_due(Desk(self.engine, self.gateway, self.terms), now)

    def apply_event(self, now: datetime) -> bool:
        return events.apply_one(self.engine, self.gateway, now, self.terms)

    def look_at_checkout(self, now: datetime) -> bool:
        with transaction(self.engine, read_only=True) as session:
            account, checkout_id = usable(session, self.gateway), due_checkout(session, now)
        if account is None or checkout_id is None:
            return False
        try:
            advance_checkout(self.engine, self.gateway, account, checkout_id, now)
        except NotFound:
            return False
        except GatewayFailure:
            postpone(self.engine, checkout_id, now)
            raise
        return True

    def tell_progress(self, now: datetime) -> None:
        """A line in the log while more wait than a moment's work."""
        with transaction(self.engine, read_only=True) as session:
            found = progress(session, now, self.per_s)
        if found.waiting > WORTH_TELLING:
            log.info("collecting", **found.wire())

    def refund(self, now: datetime) -> bool:
        return refund_due(self.engine, self.gateway, now)

    def look_after_webhooks(self, now: datetime) -> None:
        """An endpoint that the provider has disabled is noticed, and made anew."""
        with transaction(self.engine, read_only=True) as session:
            account = usable(session, self.gateway)
        if account is not None and self.settings is not None:
            webhook_endpoint.look_after(self.engine, self.gateway, self.settings, account, now)

    def look_at_taxes(self, now: datetime) -> bool:
        """Where tax is enforced: whether it can be worked out by now for those for whom it could not."""
        with transaction(self.engine, read_only=True) as session:
            account = usable(session, self.gateway)
        waiting = [] if account is None else unsupported(self.engine, now - TAX_LOOKED_AT_EVERY)
        for customer_id in waiting:
            assert account is not None
            refresh(self.engine, self.gateway, account, customer_id, now)
        return bool(waiting)

    def forget(self, now: datetime) -> None:
        events.forget_old(self.engine, now)

"""What happens by the clock: invoices are made, entitlements are published, and a Valkey that has lost its memory gets
it back.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog
from redis import RedisError
from sqlalchemy import Engine

from farebox_portal.clock import Clock
from farebox_portal.db import transaction
from farebox_portal.entitlements.publish import ensure_directory, publish_pending, publish_policies
from farebox_portal.entitlements.store import Store
from farebox_portal.invoicing.actions import mark_overdue
from farebox_portal.invoicing.close import close_slice
from farebox_portal.invoicing.terms import terms_of
from farebox_portal.payments.work import COLLECTORS, Till
from farebox_portal.prepaid.booking import book_slice
from farebox_portal.prepaid.recharge import recharge_slice
from farebox_portal.settings import Settings

log = structlog.get_logger(__name__)

TRY_AGAIN_S = 0.5
_PAYMENTS_END_S = 0.8  # what is under way then is found again as "sent", and asked for
_SLICE_S = 0.15  # a key that is revoked while everything is republished must be gone within a second


@dataclass
class Job:
    """Something to be done again and again. Whatever it raises is logged, and it is tried again.

    Work that returns True may not be through: it goes on at once, after whatever else is due.
    """

    name: str
    every_s: float
    work: Callable[[], object]
    due_s: float = 0.0  # on the monotonic clock
    fault: str = ""  # what it failed with last; "" = it worked

    def run_if_due(self) -> None:
        if time.monotonic() < self.due_s:
            return
        try:
            goes_on = self.work() is True
        except Exception as error:
            self._failed(error)
        else:
            self._worked(goes_on)

    def _failed(self, error: Exception) -> None:
        self.due_s = time.monotonic() + max(self.every_s, TRY_AGAIN_S)
        # A store that is away for an hour is one line in the log, not seven thousand.
        fault = f"{type(error).__name__}: {error}"
        if fault != self.fault:
            is_outage = isinstance(error, RedisError)
            log.error("job_failed", job=self.name, error=fault, exc_info=None if is_outage else error)
        self.fault = fault

    def _worked(self, goes_on: bool) -> None:
        self.due_s = time.monotonic() + (0.0 if goes_on else self.every_s)
        if self.fault:
            log.info("job_recovered", job=self.name)
        self.fault = ""


def run_jobs(engine: Engine, clock: Clock, settings: Settings, stop: threading.Event) -> None:
    """Run every job when it is due, until `stop` is set. Without FAREBOX_REDIS_URL nothing is published, and without
    FAREBOX_STRIPE_API_KEY nothing collected.
    """
    with _collecting(engine, clock, settings, stop):
        _publish_and_invoice(engine, clock, settings, stop)


@contextmanager
def _collecting(engine: Engine, clock: Clock, settings: Settings, stop: threading.Event) -> Iterator[None]:
    """In threads of their own: a payment takes seconds, and a key that is revoked must be gone within one."""
    till = Till.of(engine, settings)
    threads: list[threading.Thread] = []
    if till is not None:
        lists = [
            [
                Job("payment_events", 0.2, lambda: till.apply_event(clock.now())),
                Job("checkouts", 1.0, lambda: till.look_at_checkout(clock.now())),
                Job("tell_progress", 30.0, lambda: till.tell_progress(clock.now())),
                Job("refund", 2.0, lambda: till.refund(clock.now())),
                Job("look_after_webhooks", 900.0, lambda: till.look_after_webhooks(clock.now())),
                Job("look_at_taxes", 60.0, lambda: till.look_at_taxes(clock.now())),
                Job("forget_payment_events", 3600.0, lambda: till.forget(clock.now())),
            ],
            [
                Job("enroll_invoices", 0.2, lambda: till.enroll(clock.now())),
                Job("collect", 0.2, lambda: till.collect(clock.now())),
            ],
            *([Job("collect", 0.5, lambda: till.collect(clock.now()))] for _ in range(COLLECTORS - 1)),
        ]
        threads = [
            threading.Thread(target=run_until, args=(stop, each), name="payments", daemon=True) for each in lists
        ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for thread in threads:
            thread.join(_PAYMENTS_END_S)


def _publish_and_invoice(engine: Engine, clock: Clock, settings: Settings, stop: threading.Event) -> None:
    terms = terms_of(settings)
    invoicing = [
        Job("close_invoices", 1.0, lambda: close_slice(engine, clock.now(), terms)),
        Job("mark_overdue", 60.0, lambda: _mark_overdue(engine, clock)),
        Job("recharge", 0.5, lambda: recharge_slice(engine, settings, clock.now())),
        Job("book_credit", 1.0, lambda: book_slice(engine, clock.now())),
    ]
    if settings.redis_url is None:
        run_until(stop, invoicing)
        return
    with Store(settings.redis_url) as store:
        run_until(
            stop,
            [
                Job("ensure_directory", 0.5, lambda: ensure_directory(engine, store.client(), clock.now(), _SLICE_S)),
                Job("publish_pending", 0.2, lambda: publish_pending(engine, store.client(), clock.now())),
                Job("publish_policies", 0.5, lambda: publish_policies(engine, store.client())),
                *invoicing,
            ],
        )


def _mark_overdue(engine: Engine, clock: Clock) -> None:
    with transaction(engine) as session:
        mark_overdue(session, clock.now())


def run_until(stop: threading.Event, jobs: list[Job]) -> None:
    while not stop.is_set():
        for job in jobs:
            if not stop.is_set():
                job.run_if_due()
        stop.wait(max(min(job.due_s for job in jobs) - time.monotonic(), 0))

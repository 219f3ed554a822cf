"""Is what is due being done? Only their work says that the jobs run: what is due for minutes was left undone."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlmodel import Session, col, func, or_, select

from farebox_portal.customers.tables import Customer
from farebox_portal.doctor.report import Check, Finding, check, fail, warn
from farebox_portal.invoicing.tables import Invoice
from farebox_portal.payments.tables import Collection, Operation, Payer
from farebox_portal.subscriptions.tables import AT_ONCE, Subscription
from farebox_portal.usage.tables import QuarantinedEvent

LATE = timedelta(minutes=10)
_JOBS = "run `farebox jobs`, or `farebox portal` without --no-jobs; its log says what stops it"


@dataclass(frozen=True, slots=True)
class Facts:
    """Counts. `uninvoiced`, `uncollected`: due for more than LATE. `waiting` and `unpublished` are dated nowhere: what
    has just changed is to be invoiced, and told to the gateway.
    """

    subscriptions: int
    uninvoiced: int
    waiting: int
    held: int
    uncollected: int
    stopped: int
    unsure: int
    unpublished: int
    quarantined: int
    publishes: bool


def read(session: Session, now: datetime, *, publishes: bool, collects: bool) -> Facts:
    late = now - LATE
    due = (
        select(func.count()).select_from(Collection).outerjoin(Payer, col(Payer.customer_id) == Collection.customer_id)
        .where(col(Collection.look_at) < late, or_(col(Payer.leased_until).is_(None), col(Payer.leased_until) < late))
    )  # fmt: skip
    unsure = col(Operation.state).in_(("sent", "unknown")), col(Operation.updated_at) < now - timedelta(hours=23)
    return Facts(
        subscriptions=_count(session, Subscription),
        uninvoiced=_count(
            session, Subscription, col(Subscription.invoice_due_at) < late,
            col(Subscription.invoice_due_at) > AT_ONCE,
        ),
        waiting=_count(session, Subscription, col(Subscription.invoice_due_at) == AT_ONCE),
        held=_count(session, Invoice, col(Invoice.status) == "held"),
        uncollected=session.exec(due).one() if collects else 0,
        stopped=_count(session, Collection, col(Collection.state) == "stopped"),
        unsure=_count(session, Operation, *unsure),
        unpublished=_count(session, Customer, col(Customer.published_version) != col(Customer.entitlements_version)),
        quarantined=_count(session, QuarantinedEvent),
        publishes=publishes,
    )  # fmt: skip


def examine(facts: Facts) -> Check:
    summary = f"{facts.subscriptions} subscriptions: invoices, payments and entitlements that are due"
    return check("lifecycle", "Lifecycle", summary, _findings(facts))


def _findings(facts: Facts) -> Iterator[Finding]:
    if facts.uninvoiced:
        yield fail(f"{facts.uninvoiced} subscriptions were due to be invoiced more than 10 minutes ago", _JOBS)
    if facts.uncollected:
        yield fail(f"{facts.uncollected} invoices were due to be collected more than 10 minutes ago", _JOBS)
    again = f"look again in a second; if it stays so, {_JOBS}"
    if facts.waiting:
        yield warn(f"{facts.waiting} subscriptions have changed, and were not looked at for an invoice yet", again)
    if facts.publishes and facts.unpublished:
        yield warn(f"{facts.unpublished} customers have changed, and the gateway has not been told yet", again)
    if facts.stopped:
        yield fail(
            f"{facts.stopped} invoices are not collected before somebody has looked at them",
            "GET /v1/payment-collections?status=stopped, then POST /v1/invoices/{id}/collect",
        )
    if facts.unsure:
        yield fail(
            f"of {facts.unsure} requests to the provider nobody knows for a day whether they were done",
            "GET /v1/payment-operations?status=unknown, then POST …/replay",
        )
    if facts.held:
        yield warn(
            f"{facts.held} invoices wait for somebody to look at them", "GET /v1/invoices?status=held, then …/finalize"
        )
    if facts.quarantined:
        yield warn(
            f"{facts.quarantined} usage events could not be booked and were put aside",
            "the portal's log says why (usage_quarantined)",
        )


def _count(session: Session, table: type, *where: object) -> int:
    rows = select(func.count()).select_from(table)
    for each in where:
        rows = rows.where(each)  # type: ignore[arg-type]
    return session.exec(rows).one()

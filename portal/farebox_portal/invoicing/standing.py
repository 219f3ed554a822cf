"""Whether a subscription's invoices are paid, and from when on it is refused because they are not.

    nothing was ever owed             not_required
    open, and not tried or not due    pending         passes; but the first fee is paid before the first request
    open, and a try failed, or overdue  failed        passes for the days of grace, counted from the first failure
    given up, or taken back by the payer's bank where that is to count   uncollectible   refused
    otherwise                         paid

The instant of refusal lies ahead and is published with the rest, so it comes also while the portal is away. What takes
money and could not reach the provider is no failure: then nothing here changes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlmodel import Session, col, or_, select

from farebox_portal.catalog import configuration
from farebox_portal.catalog.plan_metadata import overdue_days
from farebox_portal.catalog.tables import Plan
from farebox_portal.customers import accounts
from farebox_portal.customers.tables import Customer
from farebox_portal.invoicing.minimum import minimum_minor
from farebox_portal.invoicing.status import OPEN
from farebox_portal.invoicing.tables import TOP_UP, Invoice
from farebox_portal.pricing.money import currency
from farebox_portal.subscriptions.rows import read_life
from farebox_portal.subscriptions.tables import Subscription


@dataclass(frozen=True, slots=True)
class Owed:
    """An issued invoice. `failed_at`: since when it is known that it will not be paid by itself."""

    status: str
    is_first_fee: bool
    is_collected: bool  # by a provider: paid in a moment, or not
    failed_at: datetime | None
    is_disputed: bool = False  # and refused because of it


@dataclass(frozen=True, slots=True)
class Standing:
    """`refused_at` None: it is not refused, unless the status is `uncollectible`."""

    status: str
    refused_at: datetime | None = None


def standing(owed: Sequence[Owed], start: datetime, grace: timedelta) -> Standing:
    """The worst of the invoices decides. Pure; `start` is the subscription's."""
    statuses = {one.status for one in owed}
    if "uncollectible" in statuses or any(one.is_disputed for one in owed):
        return Standing("uncollectible", start)
    unpaid = [one for one in owed if one.status in OPEN]
    never_paid = "paid" not in statuses
    refusals = [start for one in unpaid if one.is_first_fee and one.is_collected and never_paid]
    failures = [one.failed_at for one in unpaid if one.failed_at is not None]
    refusals += [at + grace for at in failures]
    if failures:
        return Standing("failed", min(refusals))
    if unpaid:
        return Standing("pending", min(refusals, default=None))
    return Standing("paid" if "paid" in statuses else "not_required")


def tell(session: Session, subscription_id: str) -> None:
    """Write it to the subscription. What changes access has the account published anew."""
    row = session.get_one(Subscription, subscription_id)
    found = standing(_owed(session, row), row.active_from, _grace(session, row))
    changes_access = found.refused_at != row.payment_refused_at or (
        found.status != row.payment_status and "uncollectible" in (found.status, row.payment_status)
    )
    if changes_access:
        accounts.touch(session, row.customer_id)
    url = _payment_url(session, row) if found.status == "failed" else None
    if changes_access or (found.status, url) != (row.payment_status, row.payment_url):
        row.payment_status, row.payment_refused_at, row.payment_url = found.status, found.refused_at, url
        session.add(row)
        session.flush()


def _payment_url(session: Session, row: Subscription) -> str | None:
    """Of the invoice that failed first, before all the one that only its payer can go on with."""
    rows = (
        select(Invoice.provider_url)
        .where(Invoice.subscription_id == row.id, col(Invoice.status).in_(OPEN))
        .where(col(Invoice.failed_at).is_not(None), col(Invoice.provider_url).is_not(None))
        .order_by(col(Invoice.needs_action).desc(), col(Invoice.failed_at), col(Invoice.sequence))
    )
    return session.exec(rows.limit(1)).first()


def _owed(session: Session, row: Subscription) -> list[Owed]:
    is_known = or_(col(Invoice.issued_at).is_not(None), col(Invoice.tax_status).is_not(None))
    issued = select(Invoice).where(Invoice.subscription_id == row.id, is_known)
    # Credit that is not paid for is not there, so nothing is owed for it.
    issued = issued.where(or_(Invoice.kind != TOP_UP, col(Invoice.is_dispute_refused)))
    least = minimum_minor
    return [
        Owed(
            # Only its tax is not known yet: it is owed, and nobody is late.
            status="issued" if invoice.status == "held" else invoice.status,
            is_first_fee=invoice.kind == "start",
            is_collected=invoice.provider != "manual" or invoice.status == "held",
            is_disputed=invoice.is_dispute_refused,
            failed_at=invoice.failed_at or (invoice.due_at if invoice.status == "overdue" else None),
        )
        for invoice in session.exec(issued)
        # What is too little to be charged is nobody's fault.
        if invoice.status not in OPEN or invoice.outstanding_minor >= least(currency(invoice.currency))
    ]


def _grace(session: Session, row: Subscription) -> timedelta:
    """The customer's metadata before the plan's before the configuration's."""
    customer = session.get_one(Customer, row.customer_id)
    plan = session.get_one(Plan, read_life(session, row).segments[-1].plan_id)
    for metadata in (customer.metadata_, plan.metadata_):
        days = overdue_days(metadata)
        if days is not None:
            return timedelta(days=days)
    return timedelta(days=configuration.read(session).max_payment_overdue_days)

"""How long an overdue payment is borne before requests are refused, and whether the tries to collect it fit in."""

from collections.abc import Iterator
from dataclasses import dataclass

from sqlmodel import Session, col, select

from farebox_portal.catalog import configuration, plans
from farebox_portal.catalog.plan_metadata import overdue_days
from farebox_portal.customers.tables import Customer
from farebox_portal.doctor.report import Check, Finding, check, warn
from farebox_portal.payments.account import connected
from farebox_portal.payments.dunning import AFTER_DAYS

_LONG_DAYS = 30


@dataclass(frozen=True, slots=True)
class Facts:
    """`plans` and `customers`: those that say otherwise than the configuration, with their days."""

    default_days: int
    plans: tuple[tuple[str, int], ...]
    customers: int
    is_collected: bool


def read(session: Session) -> Facts:
    sold = ((plan.key, overdue_days(plan.metadata_)) for plan in session.exec(plans.every(status="active")))
    customers = session.exec(select(Customer.metadata_).where(col(Customer.deleted_at).is_(None)))
    return Facts(
        default_days=configuration.read(session).max_payment_overdue_days,
        plans=tuple((key, days) for key, days in sold if days is not None),
        customers=sum(overdue_days(metadata) is not None for metadata in customers),
        is_collected=connected(session) is not None,
    )


def examine(facts: Facts) -> Check:
    others = f"; {len(facts.plans)} plans and {facts.customers} customers have their own"
    return check("grace", "Grace", f"{facts.default_days} days{others}", _findings(facts))


def _findings(facts: Facts) -> Iterator[Finding]:
    said = [("the configuration", facts.default_days), *((f"the plan '{key}'", days) for key, days in facts.plans)]
    first_try = AFTER_DAYS[0]
    for who, days in said:
        if facts.is_collected and days < first_try:
            yield warn(
                f"{who} bears {days} days, and the first new try to collect comes after {first_try}: one declined "
                "card, and access is gone",
                f"maxPaymentOverdueDays: {first_try} or more, in the configuration or the plan's metadata",
            )
        elif days > _LONG_DAYS:
            yield warn(f"{who} bears {days} days without payment", "maxPaymentOverdueDays: 3 is usual")

"""What is sold in the tests of invoicing, and invoices as a few words."""

from datetime import timedelta

from sqlmodel import Session, col, select

from builders.portal import a_feature, a_meter, a_plan
from builders.quotes import a_price, included
from builders.subscriptions import APRIL, a_fee, a_trial
from farebox_portal.catalog import configuration
from farebox_portal.invoicing.tables import Invoice, InvoiceLine
from farebox_portal.invoicing.terms import Terms

TERMS = Terms(window=timedelta(hours=1), due_after=timedelta(days=30))
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def a_shelf(session: Session) -> None:
    """`pro` $29 and `max` $99, each with 1000 requests included; `flat` $10 and no usage; `free`, `trial`, `volume`;
    `tokens` by model; `cents`, whose requests cost a cent each and nothing else; `bounded` with a minimum, a fee in
    arrears and a set-up fee.
    """
    a_meter(session)
    a_meter(session, "tokens", group_by={"model": "$.model"})
    a_feature(session, meter_slug="api_requests")
    for model in ("large", "small"):
        a_feature(session, model, "tokens", filters={"model": [model]})
    a_plan(session)
    a_plan(session, a_fee("29"), a_price(included(1000, "0.01")), key="pro")
    a_plan(session, a_fee("99"), a_price(included(1000, "0.005")), key="max")
    a_plan(session, a_fee("10"), key="flat")
    a_plan(session, key="trial", phases=a_trial())
    by_model = [
        a_price({"type": "unit", "amount": amount}, model) for model, amount in (("large", "0.10"), ("small", "0.01"))
    ]
    a_plan(session, *by_model, key="tokens")
    a_plan(session, a_price({"type": "unit", "amount": "0.01"}), key="cents")
    tiers = [{"upToAmount": 1000, "unitPrice": "0.10"}, {"unitPrice": "0.01"}]
    a_plan(session, a_price({"type": "tiered", "mode": "volume", "tiers": tiers}), key="volume")
    bounded = a_price({"type": "unit", "amount": "0.01", "minimumAmount": "5"})
    arrears = a_fee("10", key="arrears", price={"type": "flat", "amount": "10", "paymentTerm": "in_arrears"})
    once = a_fee("50", key="setup", billingCadence=None)
    a_plan(session, bounded, arrears, once, key="bounded")
    configuration.change(session, {"planOrder": ["free", "flat", "pro", "max"]}, APRIL)


def lines_of(session: Session, invoice: Invoice) -> list[InvoiceLine]:
    rows = select(InvoiceLine).where(InvoiceLine.invoice_id == invoice.id).order_by(col(InvoiceLine.position))
    return list(session.exec(rows))


def told(session: Session, invoice: Invoice) -> list[tuple[str, int]]:
    """Description and amount of each line that costs something."""
    return [(line.description, line.amount_minor) for line in lines_of(session, invoice) if line.amount_minor]

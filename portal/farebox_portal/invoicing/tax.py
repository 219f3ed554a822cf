"""Tax that the provider works out. Its figures become ours before the invoice is issued, so that what is frozen is what
is charged, to the cent.

    close ── held, tax `pending` ── the provider's invoice is finalized ── `complete`: its taxes on our lines, issued
                                 └─ it cannot be worked out ┬─ best effort ── `left_out`: issued without, and flagged
                                                            └─ strict ── `failed`: stays held, and is tried again

So nobody owes an invoice of which the tax is not known, no days of grace run while the provider is away, and a crash
between its invoice and ours leaves one that is found again and taken over as it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlmodel import Session, col, select

from farebox_portal.catalog.tables import Addon, Plan
from farebox_portal.customers.tables import Customer
from farebox_portal.errors import Conflict
from farebox_portal.invoicing import actions, profiles
from farebox_portal.invoicing.checks import check_paper
from farebox_portal.invoicing.paper import Columns, read_paper
from farebox_portal.invoicing.status import after
from farebox_portal.invoicing.tables import Invoice
from farebox_portal.invoicing.terms import Terms
from farebox_portal.invoicing.write import Work, write

PENDING, COMPLETE, FAILED, LEFT_OUT = "pending", "complete", "failed", "left_out"
AWAITED = (PENDING, FAILED)

Config = Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class TaxTerms:
    """How a line is taxed; what is None is for the provider's own default. `code`: Stripe's, such as txcd_10103001."""

    behavior: str | None = None
    code: str | None = None


def tax_terms(*configs: Config) -> TaxTerms:
    """Of `taxConfig` documents, the nearest first. Behaviour and code each come from the first that says one."""
    said = [config for config in configs if config]
    behavior = next((one["behavior"] for one in said if one.get("behavior")), None)
    code = next((one["stripe"]["code"] for one in said if (one.get("stripe") or {}).get("code")), None)
    return TaxTerms(behavior, code)


@dataclass(frozen=True, slots=True)
class CardPlace:
    """Where a rate card stands."""

    plan_id: str
    phase_key: str
    card_key: str
    addon_id: str | None = None


def terms_of_cards(session: Session, places: Sequence[CardPlace]) -> list[TaxTerms]:
    """Of each rate card: its own, the plan's, the billing profile's."""
    plan_ids = {one.plan_id for one in places}
    plans = {row.id: row for row in session.exec(select(Plan).where(col(Plan.id).in_(plan_ids)))}
    wanted = {one.addon_id for one in places if one.addon_id is not None}
    addons = {row.id: row for row in session.exec(select(Addon).where(col(Addon.id).in_(wanted)))}
    default = default_config(session)
    found = []
    for place in places:
        plan = plans[place.plan_id]
        cards = _cards(plan, place.phase_key) if place.addon_id is None else addons[place.addon_id].rate_cards
        card = next((one for one in cards if one["key"] == place.card_key), {})
        found.append(tax_terms(card.get("taxConfig"), (plan.terms or {}).get("defaultTaxConfig"), default))
    return found


def default_config(session: Session) -> Config:
    profile = profiles.default(session)
    return None if profile is None else profile.document["defaultTaxConfig"]


def _cards(plan: Plan, phase_key: str) -> Sequence[Mapping[str, Any]]:
    return next((phase["rateCards"] for phase in plan.phases if phase["key"] == phase_key), ())


def is_awaited(invoice: Invoice) -> bool:
    """Whether it is held for its tax alone."""
    return invoice.status == "held" and invoice.tax_status in AWAITED


def adopt(
    session: Session, invoice: Invoice, taxes: Mapping[str, Sequence[Columns]], terms: Terms, now: datetime
) -> Invoice:
    """Issue it with the taxes, by line, that the provider charges. Raises Conflict when it is not awaiting them, and
    MoneyFault where the sums do not add up.
    """
    return _issue(session, invoice, COMPLETE, None, taxes, terms, now)


def leave_out(session: Session, invoice: Invoice, fault: str, terms: Terms, now: datetime) -> Invoice:
    """Issue it without tax; `fault` is why. Raises Conflict when it is not awaiting any."""
    return _issue(session, invoice, LEFT_OUT, fault, {}, terms, now)


def fail(session: Session, invoice: Invoice, fault: str, now: datetime) -> None:
    """It stays held until the tax can be worked out, or an operator has it issued without."""
    actions.lock(session, invoice)
    if not is_awaited(invoice) or (invoice.tax_status, invoice.tax_fault) == (FAILED, fault):
        return
    invoice.tax_status, invoice.tax_fault, invoice.reasons = FAILED, fault, ["tax_failed"]
    actions.stepped(session, "tax_failed", invoice, invoice.status, now, {"fault": fault})


def _issue(
    session: Session,
    invoice: Invoice,
    status: str,
    fault: str | None,
    taxes: Mapping[str, Sequence[Columns]],
    terms: Terms,
    now: datetime,
) -> Invoice:
    actions.lock(session, invoice)
    if not is_awaited(invoice):
        raise Conflict("The invoice does not wait for its tax.", code="invoice_not_awaiting_tax")
    before = invoice.status
    paper = read_paper(invoice, actions.lines_of(session, invoice))
    for entry in paper.entries:
        entry.columns["taxes"] = [dict(one) for one in taxes.get(entry.columns["id"], ())]
    found = [one for entry in paper.entries for one in entry.columns["taxes"]]
    on_top = sum(one["amountMinor"] for one in found if not one["isInclusive"])
    paper.columns |= {
        "tax_minor": sum(one["amountMinor"] for one in found),
        "total_minor": paper.columns["subtotal_minor"] + on_top,
        "tax_status": status,
        "tax_fault": fault,
        "reasons": [],
        "status": after(before, "issue"),
    }
    check_paper(paper)
    work = Work(now, terms)
    work.issue(paper, session.get_one(Customer, invoice.customer_id))
    work.put(paper)
    write(session, work)
    session.expire_all()
    said = {"taxStatus": status} | ({"taxFault": fault} if fault else {})
    return actions.stepped(session, "issue", invoice, before, now, said)

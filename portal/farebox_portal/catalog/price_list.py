"""The price list: what a visitor, or a customer who is signed in, can choose from."""

from sqlmodel import Session

from farebox_portal.catalog import configuration, invites, plans
from farebox_portal.catalog.plan_document import PlanDocument
from farebox_portal.catalog.tables import Plan


def price_list(session: Session, email: str | None = None) -> list[PlanDocument]:
    """The plans on sale in the operator's order, with the phases that he shows; private ones for those invited."""
    configured = configuration.read(session)
    on_sale = session.exec(plans.every(status="active", order=configured.plan_order)).all()
    return [
        _shown(plan, configured.visible_phases(plan.key)) for plan in on_sale if invites.may_buy(session, plan, email)
    ]


def _shown(plan: Plan, visible_phases: list[str] | None) -> PlanDocument:
    document = plans.show(plan)
    if visible_phases is not None:
        document.phases = [phase for phase in document.phases if phase["key"] in visible_phases]
    return document

"""Which add-ons the subscribers of a plan version may have: offered from one instant on, and withdrawn at another.

An offer names one version of an add-on. A plan offers one version of a key at a time: offering another one withdraws
the one before. Who has an add-on keeps it when its offer is withdrawn, and can have less of it, not more.
"""

from collections.abc import Iterator
from datetime import datetime

from sqlmodel import Session, col, select

from farebox_portal.catalog import addon_document
from farebox_portal.catalog.addon_document import OfferDocument, OfferInput
from farebox_portal.catalog.addon_rules import offer_faults
from farebox_portal.catalog.tables import Addon, Plan, PlanAddon
from farebox_portal.errors import Conflict, Fault, Invalid, NotFound
from farebox_portal.ids import new_id

Offered = tuple[PlanAddon, Addon]


def show(offered: Offered) -> OfferDocument:
    offer, addon = offered
    return OfferDocument(
        addon=addon_document.show(addon),
        from_plan_phase=offer.from_plan_phase,
        max_quantity=offer.max_quantity,
        metadata=offer.metadata_,
        created_at=offer.created_at,
    )


def every(session: Session, plan: Plan) -> list[Offered]:
    """Those that stand, by key."""
    rows = select(PlanAddon, Addon).join(Addon).where(PlanAddon.plan_id == plan.id)
    return list(session.exec(rows.where(col(PlanAddon.withdrawn_at).is_(None)).order_by(col(Addon.key))))


def get(session: Session, plan: Plan, id_or_key: str) -> Offered:
    """By the add-on's id or key. Raises NotFound."""
    for offer, addon in every(session, plan):
        if id_or_key in (addon.id, addon.key):
            return offer, addon
    raise NotFound("The plan does not offer such an add-on.", code="plan_addon_not_found")


def create(session: Session, plan: Plan, addon: Addon, wanted: OfferInput, now: datetime) -> Offered:
    """`addon` is on sale. Raises Invalid with every fault; Conflict when the plan is archived, or offers it already."""
    if plan.status == "archived":
        raise Conflict("An archived plan is not sold any more.", code="plan_archived")
    found = list(offer_faults(plan, addon, wanted.from_plan_phase, wanted.max_quantity))
    if found:
        raise Invalid(found)
    for other, theirs in every(session, plan):
        if theirs.id == addon.id:
            raise Conflict("The plan offers this add-on already; withdraw that offer first.", code="plan_addon_exists")
        if theirs.key == addon.key:
            withdraw(session, plan, other, now)
    offer = PlanAddon(
        id=new_id(now),
        plan_id=plan.id,
        addon_id=addon.id,
        from_plan_phase=wanted.from_plan_phase,
        max_quantity=wanted.max_quantity,
        metadata_=wanted.metadata or {},
        created_at=now,
    )
    session.add(offer)
    return offer, addon


def withdraw(session: Session, plan: Plan, offer: PlanAddon, now: datetime) -> None:
    """Nobody can have more of it; who has it keeps it. A draft's offer is forgotten: nobody ever bought by it."""
    if plan.status == "draft":
        session.delete(offer)
    else:
        offer.withdrawn_at = now
        session.add(offer)


# --- a plan's versions -----------------------------------------------------------------------------------------------


def carry_over(session: Session, before: Plan, draft: Plan, now: datetime) -> None:
    """A plan's next version begins with the offers of the one before, as far as they still fit it."""
    for offer, addon in every(session, before):
        if addon.status == "active" and not any(_faults(draft, (offer, addon))):
            given = offer.model_dump(exclude={"id", "plan_id", "created_at"})
            session.add(PlanAddon(id=new_id(now), plan_id=draft.id, created_at=now, **given))


def faults(session: Session, plan: Plan) -> list[Fault]:
    """What a draft's offers find wrong with it, since it may have changed after they were made."""
    found = [
        (addon.key, fault["detail"]) for offer, addon in every(session, plan) for fault in _faults(plan, (offer, addon))
    ]
    return [{"pointer": "", "detail": f"offers the add-on '{key}', but {detail}"} for key, detail in found]


def forget(session: Session, draft: Plan) -> None:
    """Before the draft is deleted."""
    for offer, _ in every(session, draft):
        session.delete(offer)
    session.flush()


def _faults(plan: Plan, offered: Offered) -> Iterator[Fault]:
    offer, addon = offered
    return offer_faults(plan, addon, offer.from_plan_phase, offer.max_quantity)

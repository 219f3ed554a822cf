"""Invitations: who may see and buy a private plan, by e-mail address.

Whoever is invited need not be known yet: it counts who signs in with that address. An invitation is for the plan in
whatever version of it is on sale. The operator needs none: what he sells to whom is his business.
"""

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from farebox_portal.catalog import plans
from farebox_portal.catalog.plan_metadata import plan_marks
from farebox_portal.catalog.tables import Plan, PlanInvite
from farebox_portal.documents import Input, Instant, Output
from farebox_portal.errors import Conflict, Invalid, NotFound
from farebox_portal.ids import new_id

# Addresses are compared without regard to case: nobody knows of two people whose addresses differ in nothing else.
Email = Annotated[str, StringConstraints(pattern=r"^[^@\s]+@[^@\s]+$", max_length=254), AfterValidator(str.lower)]


class InviteInput(Input):
    email: Email
    plan_id: Annotated[str, Field(max_length=64, description="A version's id, or a plan's key")]


class InviteDocument(Output):
    id: str
    email: str
    plan_id: str
    plan_key: str
    created_at: Instant


def show(invite: PlanInvite) -> InviteDocument:
    return InviteDocument.model_validate(invite, from_attributes=True)


def create(session: Session, wanted: InviteInput, now: datetime) -> PlanInvite:
    """Raises Invalid when there is no such plan, Conflict when it is not private, or this address is invited."""
    try:
        plan = plans.get(session, wanted.plan_id)
    except NotFound:
        raise Invalid([{"pointer": "/planId", "detail": "there is no such plan"}]) from None
    if not plan_marks(plan.metadata_).is_private:
        raise Conflict("The plan is public: everybody may buy it, without being invited.", code="plan_not_private")
    if session.exec(every(plan_key=plan.key, email=wanted.email)).first() is not None:
        raise Conflict("This address is invited to this plan already.", code="invite_exists")
    invite = PlanInvite(id=new_id(now), email=wanted.email, plan_key=plan.key, plan_id=plan.id, created_at=now)
    session.add(invite)
    return invite


def every(*, plan_key: str | None = None, email: str | None = None) -> SelectOfScalar[PlanInvite]:
    """Those that stand, by address and plan."""
    rows = select(PlanInvite).where(col(PlanInvite.revoked_at).is_(None))
    rows = rows.order_by(col(PlanInvite.email), col(PlanInvite.plan_key))
    if plan_key is not None:
        rows = rows.where(PlanInvite.plan_key == plan_key)
    if email is not None:
        rows = rows.where(PlanInvite.email == email.lower())
    return rows


def get(session: Session, invite_id: str) -> PlanInvite:
    """Also a revoked one. Raises NotFound."""
    invite = session.get(PlanInvite, invite_id)
    if invite is None:
        raise NotFound("There is no such invitation.", code="invite_not_found")
    return invite


def revoke(session: Session, invite: PlanInvite, now: datetime) -> None:
    """It cannot be used any more; a subscription that came of it goes on. Does nothing to a revoked one."""
    if invite.revoked_at is None:
        invite.revoked_at = now
        session.add(invite)


def may_buy(session: Session, plan: Plan, email: str | None) -> bool:
    """Whether a customer with this proven address may; None: nobody is signed in. The operator does not ask."""
    if not plan_marks(plan.metadata_).is_private:
        return True
    return email is not None and session.exec(every(plan_key=plan.key, email=email)).first() is not None

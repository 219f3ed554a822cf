"""Plans: what is sold. A plan has versions; a version is a draft, then active and immutable, then archived.

    POST of a key             a draft: version 1, or the next version beside the one that is on sale
    PUT, PATCH, DELETE        of a draft only
    publish                   on sale from now on; the version that was on sale until now is archived by it
    archive                   not sold any more; who has it keeps it

So at most one version of a key is on sale, and `effectiveFrom` and `effectiveTo` of its versions never overlap.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from sqlmodel import Session, case, col, select
from sqlmodel.sql.expression import SelectOfScalar

from farebox_portal.catalog import addon_offers
from farebox_portal.catalog.plan_document import PlanDocument, PlanInput, without_ours
from farebox_portal.catalog.plan_rules import FeatureFacts, faults
from farebox_portal.catalog.tables import Feature, Meter, Plan
from farebox_portal.errors import Conflict, Fault, Invalid, NotFound
from farebox_portal.ids import new_id

PlanStatus = Literal["draft", "active", "archived"]

_TERMS = ("defaultTaxConfig", "alignment", "settlementMode")
_CURRENCY_FIXED: Fault = {
    "pointer": "/currency",
    "detail": "cannot change, and is the same over all versions; use another plan key",
}


def show(plan: Plan) -> PlanDocument:
    terms = plan.terms or {}
    return PlanDocument(
        id=plan.id,
        key=plan.key,
        version=plan.version,
        name=plan.name,
        description=plan.description,
        currency=plan.currency,
        billing_cadence=plan.billing_cadence,
        phases=plan.phases,
        pro_rating_config=plan.pro_rating_config,
        rate_limit=plan.rate_limit,
        concurrency_limit=plan.concurrency_limit,
        default_tax_config=terms.get("defaultTaxConfig"),
        alignment=terms.get("alignment"),
        settlement_mode=terms.get("settlementMode"),
        metadata=plan.metadata_,
        status=plan.status,
        effective_from=plan.published_at,
        effective_to=plan.archived_at,
        created_at=plan.created_at,
        updated_at=plan.updated_at,
        published_at=plan.published_at,
        archived_at=plan.archived_at,
    )


# --- from draft to archive -------------------------------------------------------------------------------------------


def create(session: Session, document: dict[str, Any], now: datetime) -> Plan:
    """A draft: version 1 of a new key, or the next of one there is. Raises Invalid with every fault, Conflict."""
    wanted = _require_valid(session, document)
    latest = session.exec(_versions(wanted.key)).first()
    if latest is not None and latest.status == "draft":
        raise Conflict(
            f"Version {latest.version} of '{wanted.key}' is still a draft ({latest.id}); replace or publish that.",
            code="plan_draft_exists",
        )
    if latest is not None and latest.currency != wanted.currency:
        raise Invalid([_CURRENCY_FIXED])
    # Also the numbers of deleted drafts stay free to take again: nobody ever bought one.
    version = 1 if latest is None else latest.version + 1
    plan = Plan(id=new_id(now), version=version, created_at=now, updated_at=now, **_columns(wanted, document))
    session.add(plan)
    if latest is not None:
        session.flush()
        addon_offers.carry_over(session, latest, plan, now)
    return plan


def replace(session: Session, plan: Plan, document: dict[str, Any], now: datetime) -> Plan:
    """Put another document in a draft's place. Raises Conflict when it was published, Invalid with every fault."""
    _require_draft(plan)
    wanted = _require_valid(session, document)
    fixed: list[Fault] = []
    if wanted.key != plan.key:
        fixed.append({"pointer": "/key", "detail": "cannot change"})
    if wanted.currency != plan.currency:
        fixed.append(_CURRENCY_FIXED)
    if fixed:
        raise Invalid(fixed)
    for name, value in _columns(wanted, document).items():
        setattr(plan, name, value)
    plan.updated_at = now
    session.add(plan)
    return plan


def change(session: Session, plan: Plan, changes: dict[str, Any], now: datetime) -> Plan:
    """Change parts of a draft: what is left out stays, null clears, a list or an object is replaced as a whole."""
    _require_draft(plan)
    whole = {name: value for name, value in (document_of(plan) | changes).items() if value is not None}
    return replace(session, plan, whole, now)


def publish(session: Session, plan: Plan, now: datetime) -> Plan:
    """From now on it is what is sold under its key, and cannot change. Does nothing to an active one.

    Raises Conflict for an archived one, Invalid when it has become unsound since it was written.
    """
    if plan.status == "archived":
        raise Conflict("An archived plan cannot be published; make a new version of it.", code="plan_archived")
    if plan.status == "draft":
        _require_valid(session, document_of(plan))
        if found := addon_offers.faults(session, plan):
            raise Invalid(found)
        for predecessor in session.exec(every(key=plan.key, status="active")):
            archive(session, predecessor, now)
        plan.published_at = plan.updated_at = now
        session.add(plan)
    return plan


def archive(session: Session, plan: Plan, now: datetime) -> Plan:
    """No new subscriptions; those there are go on. Does nothing to an archived one. Raises Conflict for a draft."""
    if plan.status == "draft":
        raise Conflict("A draft is not archived but deleted.", code="plan_is_draft")
    if plan.archived_at is None:
        plan.archived_at = plan.updated_at = now
        session.add(plan)
    return plan


def delete(session: Session, plan: Plan) -> None:
    """Raises Conflict unless it is a draft."""
    _require_draft(plan)
    addon_offers.forget(session, plan)
    session.delete(plan)


# --- finding ---------------------------------------------------------------------------------------------------------


def get(session: Session, id_or_key: str, version: int | None = None) -> Plan:
    """One version by its id, or by key and number; by key alone the active one, or the newest. Raises NotFound."""
    plan = session.get(Plan, id_or_key)
    if plan is None and version is None:
        plan = newest_active(session, id_or_key) or session.exec(_versions(id_or_key)).first()
    elif plan is None and version is not None:
        plan = get_version(session, id_or_key, version)
    if plan is None or version not in (None, plan.version):
        raise NotFound("There is no such plan.", code="plan_not_found")
    return plan


def get_by_id(session: Session, plan_id: str) -> Plan:
    """One version, for whoever is about to change it: a key would leave open which. Raises NotFound."""
    plan = session.get(Plan, plan_id)
    if plan is None:
        raise NotFound("There is no plan version of this id.", code="plan_not_found")
    return plan


def get_version(session: Session, key: str, version: int) -> Plan | None:
    return session.exec(select(Plan).where(Plan.key == key, Plan.version == version)).first()


def newest_active(session: Session, key: str) -> Plan | None:
    """What a new subscription gets."""
    return session.exec(every(key=key, status="active").order_by(None).order_by(col(Plan.version).desc())).first()


def every(
    *,
    key: str | None = None,
    status: PlanStatus | None = None,
    currency: str | None = None,
    order: Sequence[str] = (),
) -> SelectOfScalar[Plan]:
    """The versions, by `order` of their keys (see `configuration`), the other keys after these, then by number."""
    place = {listed: number for number, listed in enumerate(order)}
    ranks = (case(place, value=col(Plan.key), else_=len(place)),) if place else ()
    rows = select(Plan).order_by(*ranks, col(Plan.key), col(Plan.version))
    if key is not None:
        rows = rows.where(Plan.key == key)
    if currency is not None:
        rows = rows.where(Plan.currency == currency)
    if status == "draft":
        rows = rows.where(col(Plan.published_at).is_(None))
    elif status == "active":
        rows = rows.where(col(Plan.published_at).is_not(None), col(Plan.archived_at).is_(None))
    elif status == "archived":
        rows = rows.where(col(Plan.archived_at).is_not(None))
    return rows


def _versions(key: str) -> SelectOfScalar[Plan]:
    """The newest first."""
    return select(Plan).where(Plan.key == key).order_by(col(Plan.version).desc())


# --- document and row ------------------------------------------------------------------------------------------------


def document_of(plan: Plan) -> dict[str, Any]:
    """The document as it was accepted, without what was left out or null at its top."""
    document = {
        "key": plan.key,
        "name": plan.name,
        "description": plan.description,
        "currency": plan.currency,
        "billingCadence": plan.billing_cadence,
        "phases": plan.phases,
        "proRatingConfig": plan.pro_rating_config,
        "rateLimit": plan.rate_limit,
        "concurrencyLimit": plan.concurrency_limit,
        "metadata": plan.metadata_,
        **(plan.terms or {}),
    }
    return {name: value for name, value in document.items() if value is not None}


def _columns(wanted: PlanInput, document: dict[str, Any]) -> dict[str, Any]:
    """The table's columns. Phases are kept as they were written: "0.010" stays that, and what was left out, out."""
    said = wanted.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)
    return {
        "key": wanted.key,
        "name": wanted.name,
        "description": wanted.description,
        "currency": wanted.currency,
        "billing_cadence": wanted.billing_cadence,
        "phases": document["phases"],
        "pro_rating_config": said.get("proRatingConfig"),
        "rate_limit": said.get("rateLimit"),
        "concurrency_limit": wanted.concurrency_limit,
        "metadata_": wanted.metadata or {},
        "terms": {name: said[name] for name in _TERMS if name in said},
    }


def _require_draft(plan: Plan) -> None:
    if plan.status != "draft":
        raise Conflict(
            "A published plan cannot change; make a new version by POST of the same key.", code="plan_published"
        )


def known_features(session: Session) -> dict[str, FeatureFacts]:
    """What a plan may name: the features that are not archived, by key."""
    rows = select(Feature, Meter).join(Meter, isouter=True).where(col(Feature.archived_at).is_(None))
    return {
        feature.key: FeatureFacts(None if meter is None else meter.aggregation, bool(feature.filters))
        for feature, meter in session.exec(rows)
    }


def _require_valid(session: Session, document: dict[str, Any]) -> PlanInput:
    found = faults(document, known_features(session))
    if found:
        raise Invalid(found)
    return PlanInput.model_validate(without_ours(document))

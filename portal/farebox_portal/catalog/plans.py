"""Plans: what is sold, in versions (see `versions`), each with the add-ons that it offers (see `addon_offers`)."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlmodel import Session, case, col, select
from sqlmodel.sql.expression import SelectOfScalar

from farebox_portal.catalog import addon_offers, versions
from farebox_portal.catalog.plan_document import PlanDocument, PlanInput, without_ours
from farebox_portal.catalog.plan_rules import FeatureFacts, faults
from farebox_portal.catalog.tables import Feature, Meter, Plan
from farebox_portal.catalog.versions import Versions
from farebox_portal.errors import Fault

PlanStatus = versions.Status

_TERMS = ("defaultTaxConfig", "alignment", "settlementMode")


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


def every(
    *,
    key: str | None = None,
    status: PlanStatus | None = None,
    currency: str | None = None,
    order: Sequence[str] = (),
) -> SelectOfScalar[Plan]:
    """The versions, by `order` of their keys (see `configuration`), the other keys after these, then by number."""
    rows = VERSIONS.every(key=key, status=status, currency=currency)
    place = {listed: number for number, listed in enumerate(order)}
    if not place:
        return rows
    rank = case(place, value=col(Plan.key), else_=len(place))
    return rows.order_by(None).order_by(rank, col(Plan.key), col(Plan.version))


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


def _columns(document: dict[str, Any]) -> dict[str, Any]:
    """The table's columns. Phases are kept as they were written: "0.010" stays that, and what was left out, out."""
    wanted = PlanInput.model_validate(without_ours(document))
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


def _faults(session: Session, document: Any) -> list[Fault]:
    return faults(document, known_features(session))


def known_features(session: Session) -> dict[str, FeatureFacts]:
    """What a plan may name: the features that are not archived, by key."""
    rows = select(Feature, Meter).join(Meter, isouter=True).where(col(Feature.archived_at).is_(None))
    return {
        feature.key: FeatureFacts(None if meter is None else meter.aggregation, bool(feature.filters))
        for feature, meter in session.exec(rows)
    }


class _PlanVersions(Versions[Plan]):
    """With what a plan offers beside itself: a new version begins with it, and it has to fit."""

    def create(self, session: Session, document: dict[str, Any], now: datetime) -> Plan:
        plan = super().create(session, document, now)
        before = self.get_version(session, plan.key, plan.version - 1)
        if before is not None:
            addon_offers.carry_over(session, before, plan, now)
        return plan

    def unsound(self, session: Session, draft: Plan) -> list[Fault]:
        return [*super().unsound(session, draft), *addon_offers.faults(session, draft)]

    def delete(self, session: Session, row: Plan) -> None:
        self.require_draft(row)
        addon_offers.forget(session, row)
        super().delete(session, row)


VERSIONS = _PlanVersions(Plan, "plan", "plan", _faults, _columns, document_of)
create, replace, change, publish = VERSIONS.create, VERSIONS.replace, VERSIONS.change, VERSIONS.publish
archive, delete = VERSIONS.archive, VERSIONS.delete
get, get_by_id, get_version, newest_active = (
    VERSIONS.get,
    VERSIONS.get_by_id,
    VERSIONS.get_version,
    VERSIONS.on_sale,
)

"""The catalog as a document that another portal takes."""

from collections.abc import Mapping
from typing import Any

from sqlmodel import Session

from farebox_portal.catalog import features, meters, plans, policies
from farebox_portal.catalog.tables import Plan
from farebox_portal.catalog_files.document import CatalogDocument

_OURS = ("id", "createdAt", "updatedAt", "archivedAt", "advancedMeterGroupByFilters")
_DRAFT_AND_ON_SALE: tuple[plans.PlanStatus, ...] = ("draft", "active")


def export(session: Session) -> CatalogDocument:
    return CatalogDocument(
        meters=[stored(meters.show(meter).wire()) for meter in session.exec(meters.every())],
        features=[stored(features.show(feature).wire()) for feature in session.exec(features.every())],
        policies=[stored(policy.wire()) for policy in policies.every(session) if policy.created_at is not None],
        plans=[plans.document_of(plan) for plan in _current_plans(session)],
    )


def current_plan(session: Session, key: str) -> Plan | None:
    """The version on sale, or the draft where none is."""
    return plans.newest_active(session, key) or session.exec(plans.every(key=key, status="draft")).first()


def _current_plans(session: Session) -> list[Plan]:
    """The same for every key."""
    drafts, on_sale = (session.exec(plans.every(status=status)).all() for status in _DRAFT_AND_ON_SALE)
    found = {plan.key: plan for plan in [*drafts, *on_sale]}
    return [plan for _, plan in sorted(found.items())]


def stored(shown: Mapping[str, Any]) -> dict[str, Any]:
    """What was shown, without what is ours to say."""
    return {name: value for name, value in shown.items() if name not in _OURS and value != {}}

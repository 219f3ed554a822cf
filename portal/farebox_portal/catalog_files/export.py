"""The catalog as a document that another portal takes."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlmodel import Session

from farebox_portal.catalog import addon_offers, addons, coupons, features, meters, plans, policies
from farebox_portal.catalog.addon_offers import Offered
from farebox_portal.catalog.tables import Coupon, Plan
from farebox_portal.catalog.versions import Row, Status, Versions
from farebox_portal.catalog_files.document import CatalogDocument

OURS = ("id", "status", "timesRedeemed", "createdAt", "updatedAt", "archivedAt")
"""What we say of meters, features, policies and coupons, beside what they say. Of versions: `without_ours`."""
_TWICE = "advancedMeterGroupByFilters"  # `filters` say the same
_DRAFT_AND_ON_SALE: tuple[Status, ...] = ("draft", "active")


def export(session: Session, now: datetime) -> CatalogDocument:
    current_plans = _current(session, plans.VERSIONS)
    return CatalogDocument(
        meters=[stored(meters.show(meter).wire()) for meter in session.exec(meters.every())],
        features=[stored(features.show(feature).wire()) for feature in session.exec(features.every())],
        policies=[stored(policy.wire()) for policy in policies.every(session) if policy.created_at is not None],
        addons=[addons.document_of(addon) for addon in _current(session, addons.VERSIONS)],
        plans=[plans.document_of(plan) for plan in current_plans],
        plan_addons=[
            offer_of(plan, offered) for plan in current_plans for offered in addon_offers.every(session, plan)
        ],
        coupons=[stored(coupons.show(coupon).wire()) for coupon in redeemable(session, now)],
    )


def redeemable(session: Session, now: datetime) -> list[Coupon]:
    """Those that anybody may still redeem. The others are history, and no other portal would take them."""
    standing = session.exec(coupons.every(status="active"))
    return [coupon for coupon in standing if coupon.redeem_by is None or now < coupon.redeem_by]


def offer_of(plan: Plan, offered: Offered) -> dict[str, Any]:
    """As a `PlanAddonInput`."""
    offer, addon = offered
    said = {
        "plan": plan.key,
        "addon": addon.key,
        "fromPlanPhase": offer.from_plan_phase,
        "maxQuantity": offer.max_quantity,
        "metadata": offer.metadata_ or None,
    }
    return {name: value for name, value in said.items() if value is not None}


def _current(session: Session, versions: Versions[Row]) -> Sequence[Row]:
    """Of every key the version on sale, or the draft where none is."""
    found = {row.key: row for status in _DRAFT_AND_ON_SALE for row in session.exec(versions.every(status=status))}
    return [row for _, row in sorted(found.items())]


def stored(shown: Mapping[str, Any]) -> dict[str, Any]:
    """What was shown, without what is ours to say."""
    return {name: value for name, value in shown.items() if name not in (*OURS, _TWICE) and value != {}}

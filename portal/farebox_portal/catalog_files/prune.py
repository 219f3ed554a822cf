"""What a catalog document leaves out of a section goes, in an order in which nothing is still needed by what stays."""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import partial

from sqlmodel import Session, col, select

from farebox_portal.catalog import addon_offers, addons, coupons, features, meters, plans, policies
from farebox_portal.catalog.tables import Policy
from farebox_portal.catalog.versions import Row, Versions
from farebox_portal.catalog_files.document import AppliedItem, Kind
from farebox_portal.catalog_files.export import redeemable

Step = tuple[str, AppliedItem, Callable[[], object]]
"""(section, what is taken away, how)"""


def left_over(session: Session, kept: Mapping[str, set[str]], now: datetime) -> Iterator[Step]:
    """`kept`: the keys that each section names; what is in a section that is not there stays."""
    for section, kind, key, version, remove in _everything(session, now):
        if section in kept and key not in kept[section]:
            yield section, AppliedItem(kind=kind, key=key, action="removed", version=version), remove


_Thing = tuple[str, Kind, str, int | None, Callable[[], object]]


def _everything(session: Session, now: datetime) -> Iterator[_Thing]:
    for plan in [one for one in session.exec(plans.VERSIONS.every()) if one.status != "archived"]:
        for offer, addon in addon_offers.every(session, plan):
            withdraw = partial(addon_offers.withdraw, session, plan, offer, now)
            yield "planAddons", "plan_addon", f"{plan.key}/{addon.key}", None, withdraw
    yield from _versions(session, "plans", "plan", plans.VERSIONS, now)
    yield from _versions(session, "addons", "addon", addons.VERSIONS, now)
    for coupon in redeemable(session, now):
        yield "coupons", "coupon", coupon.code, None, partial(coupons.archive, session, coupon, now)
    for policy in session.exec(select(Policy).order_by(col(Policy.key))).all():
        yield "policies", "policy", policy.key, None, partial(policies.delete, session, policy.key)
    for feature in session.exec(features.every()).all():
        yield "features", "feature", feature.key, None, partial(features.archive, session, feature, now)
    for meter in session.exec(meters.every()).all():
        yield "meters", "meter", meter.slug, None, partial(meters.delete, session, meter, now)


def _versions(session: Session, section: str, kind: Kind, versions: Versions[Row], now: datetime) -> Iterator[_Thing]:
    for row in [one for one in session.exec(versions.every()) if one.status != "archived"]:
        is_draft = row.status == "draft"
        remove = partial(versions.delete, session, row) if is_draft else partial(versions.archive, session, row, now)
        yield section, kind, row.key, row.version, remove

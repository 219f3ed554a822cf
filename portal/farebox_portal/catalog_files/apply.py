"""A catalog document becomes the catalog: in one transaction, so all of it or nothing, and in the order that it needs.

What is there already is not written again: whoever applies the same files twice changes nothing, and leaves no trace in
the audit log. Every item is checked by the catalog's own rules; all faults of all items come in one answer.

    meters → features → policies → addons → plans → planAddons → coupons      what is new or different
    planAddons → plans → addons → coupons → policies → features → meters      what goes, see `prune`
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from pydantic import BaseModel
from sqlmodel import Session, select

from farebox_portal.catalog import addon_offers, addons, coupons, features, meters, plans, policies
from farebox_portal.catalog.addon_document import AddonInput, OfferInput
from farebox_portal.catalog.addon_rules import offer_faults
from farebox_portal.catalog.plan_document import PlanInput, without_ours
from farebox_portal.catalog.tables import Coupon, Feature, Plan, Policy
from farebox_portal.catalog.versions import Row, Versions
from farebox_portal.catalog_files.compare import differences
from farebox_portal.catalog_files.document import (
    AppliedDocument,
    AppliedItem,
    CatalogInput,
    Kind,
    PlanAddonInput,
)
from farebox_portal.catalog_files.export import OURS, offer_of, stored
from farebox_portal.catalog_files.prune import left_over
from farebox_portal.checking import shape_faults
from farebox_portal.errors import Conflict, Fault, Invalid, NotFound, pointer

_Apply = Callable[[Any], AppliedItem]


def apply(session: Session, wanted: CatalogInput, now: datetime) -> AppliedDocument:
    """Raises Invalid with every fault; the caller then rolls back, and also after a dry run."""
    run = _Run(session, wanted, now)
    sections: tuple[tuple[str, list[Any] | None, tuple[str, ...], _Apply], ...] = (
        ("meters", wanted.meters, ("slug",), run.meter),
        ("features", wanted.features, ("key",), run.feature),
        ("policies", wanted.policies, ("key",), run.policy),
        ("addons", wanted.addons, ("key",), run.addon),
        ("plans", wanted.plans, ("key",), run.plan),
        ("planAddons", wanted.plan_addons, ("plan", "addon"), run.plan_addon),
        ("coupons", wanted.coupons, ("code",), run.coupon),
    )
    items = [item for section in sections for item in run.each(*section)]
    # What is left out may be what the faulty items are about, so nothing is taken away beside a fault.
    if wanted.prune and not run.faults:
        items += run.prune()
    if run.faults:
        raise Invalid(run.faults)
    return AppliedDocument(dry_run=wanted.dry_run, items=items)


class _Run:
    """One application: what is wanted, the faults found so far, and what each section names."""

    def __init__(self, session: Session, wanted: CatalogInput, now: datetime) -> None:
        self.session = session
        self.wanted = wanted
        self.now = now
        self.faults: list[Fault] = []
        self.named: dict[str, set[str]] = {}
        self.plans: dict[str, Plan] = {}  # the versions that the document is about, by key

    def each(
        self, section: str, documents: list[Any] | None, names: tuple[str, ...], take: _Apply
    ) -> Iterator[AppliedItem]:
        """`names`: the fields that name an item."""
        if documents is None:
            return
        named = self.named[section] = set[str]()
        for index, document in enumerate(documents):
            place = pointer(section, index)
            key = _key(document, names)
            if key in named:
                self.faults.append({"pointer": f"{place}/{names[-1]}", "detail": "stands on an earlier one already"})
                continue
            if key is not None:
                named.add(key)
            with self._faults_at(place):
                yield take(document)
                self.session.flush()

    def prune(self) -> Iterator[AppliedItem]:
        for section, item, remove in left_over(self.session, self.named, self.now):
            with self._faults_at(pointer(section)):
                remove()
                self.session.flush()
            yield item

    @contextmanager
    def _faults_at(self, place: str) -> Iterator[None]:
        try:
            yield
        except Invalid as error:
            self.faults += [{"pointer": place + fault["pointer"], "detail": fault["detail"]} for fault in error.errors]
        except Conflict as error:
            self.faults.append({"pointer": place, "detail": error.detail})

    # --- what changes in place, or never -----------------------------------------------------------------------------

    def meter(self, document: Any) -> AppliedItem:
        wanted = _shaped(meters.MeterInput, _without_ours(document))
        new = {
            **_said(wanted),
            "name": wanted.name or wanted.slug,
            "eventType": wanted.event_type or wanted.slug,
        }
        try:
            meter = meters.get(self.session, wanted.slug)
        except NotFound:
            meters.create(self.session, wanted, self.now)
            return AppliedItem(kind="meter", key=wanted.slug, action="created")
        item = _compared("meter", wanted.slug, stored(meters.show(meter).wire()), new)
        if item.is_news:
            meters.change(self.session, meter, new, self.now)
        return item

    def feature(self, document: Any) -> AppliedItem:
        wanted = _shaped(features.FeatureInput, _without_ours(document))
        new = {
            **{name: value for name, value in _said(wanted).items() if not name.endswith("GroupByFilters")},
            "filters": next(iter(wanted.said_filters.values()), None),
        }
        standing = self.session.exec(features.every().where(Feature.key == wanted.key)).first()
        if standing is None:
            features.create(self.session, wanted, self.now)
            return AppliedItem(kind="feature", key=wanted.key, action="created")
        item = _compared("feature", wanted.key, stored(features.show(standing).wire()), new)
        _require_same(item, "cannot change: a feature is what was sold; archive it and make another of another key")
        return item

    def policy(self, document: Any) -> AppliedItem:
        document = _without_ours(document)
        wanted = _shaped(policies.PolicyInput, document)
        standing = self.session.get(Policy, wanted.key)
        if standing is None and not _is_built_in(wanted):
            policies.create(self.session, document, self.now)
            return AppliedItem(kind="policy", key=wanted.key, action="created")
        before = policies.get(self.session, wanted.key).wire()
        item = _compared("policy", wanted.key, stored(before), _said(wanted))
        if item.is_news:
            policies.put(self.session, wanted.key, document, self.now)
        return item

    def coupon(self, document: Any) -> AppliedItem:
        wanted = _shaped(coupons.CouponInput, _without_ours(document))
        standing = self.session.exec(select(Coupon).where(Coupon.code == wanted.code)).first()
        if standing is None:
            coupons.create(self.session, wanted, self.now)
            return AppliedItem(kind="coupon", key=wanted.code, action="created")
        if standing.status == "archived":
            raise Invalid(
                [{"pointer": "/code", "detail": "was archived, and nobody can redeem it; choose another code"}]
            )
        new = {**_said(wanted), "name": wanted.name or wanted.code}
        item = _compared("coupon", wanted.code, stored(coupons.show(standing).wire()), new)
        _require_same(item, "cannot change: who has redeemed it was promised this; archive it and choose another code")
        return item

    # --- what has versions -------------------------------------------------------------------------------------------

    def addon(self, document: Any) -> AppliedItem:
        _, item = self._version("addon", addons.VERSIONS, AddonInput, without_ours(document))
        return item

    def plan(self, document: Any) -> AppliedItem:
        plan, item = self._version("plan", plans.VERSIONS, PlanInput, without_ours(document))
        self.plans[plan.key] = plan
        return item

    def _version(
        self, kind: Kind, versions: Versions[Row], model: type[BaseModel], document: Any
    ) -> tuple[Row, AppliedItem]:
        """The version that says what the document says: the one on sale, the draft, or else a new one."""
        session, now = self.session, self.now
        if shape_faults(model, document):
            raise Invalid(versions.faults(session, document))
        on_sale, draft = versions.on_sale(session, document["key"]), versions.draft(session, document["key"])
        standing = [row for row in (on_sale, draft) if row is not None]
        changes = [_compared(kind, row.key, *_both(versions, model, row, document)) for row in standing]
        item = changes[0] if changes else AppliedItem(kind=kind, key=document["key"], action="created")
        row = next((row for row, found in zip(standing, changes, strict=True) if not found.is_news), None)
        if row is not None:
            item = AppliedItem(kind=kind, key=row.key, action="unchanged")
        elif draft is not None:
            row = versions.replace(session, draft, document, now)
        else:
            row = versions.create(session, document, now)
        if self.wanted.publish and row.status == "draft":
            session.flush()
            versions.publish(session, row, now)
            item.published = True
        item.version, item.status = row.version, row.status
        return row, item

    def plan_addon(self, document: Any) -> AppliedItem:
        """Of the plan version that the document is about, or else the current one; of the add-on on sale."""
        session, wanted = self.session, _shaped(PlanAddonInput, document)
        plan = self.plans.get(wanted.plan) or plans.VERSIONS.current(session, wanted.plan)
        addon = addons.VERSIONS.current(session, wanted.addon)
        if plan is None or addon is None:
            names = (("/plan", plan), ("/addon", addon))
            detail = "there is none on sale, and no draft"
            raise Invalid([{"pointer": at, "detail": detail} for at, found in names if found is None])
        item = AppliedItem(kind="plan_addon", key=f"{plan.key}/{addon.key}", action="created", version=addon.version)
        if addon.status == "draft":
            if faults := list(offer_faults(plan, addon, wanted.from_plan_phase, wanted.max_quantity)):
                raise Invalid(faults)
            item.action = "pending"
            return item
        for offer, theirs in addon_offers.every(session, plan):
            if theirs.key != addon.key:
                continue
            before = {**offer_of(plan, (offer, theirs)), "version": theirs.version}
            item = _compared("plan_addon", item.key, before, {**_said(wanted), "version": addon.version})
            item.version = addon.version
            if not item.is_news:
                return item
            addon_offers.withdraw(session, plan, offer, self.now)
            session.flush()
        terms = _said(wanted) | {"addon": {"key": addon.id}}
        del terms["plan"]
        addon_offers.create(session, plan, addon, OfferInput.model_validate(terms), self.now)
        return item


def _key(document: Any, names: tuple[str, ...]) -> str | None:
    """What names an item; None while that is at fault."""
    fields = document if isinstance(document, dict) else {}
    said = [part for name in names if isinstance(part := fields.get(name), str)]
    if len(said) < len(names):
        return None
    return "/".join(said).upper() if names == ("code",) else "/".join(said)


def _shaped(model: type[Any], document: Any) -> Any:
    found = shape_faults(model, document)
    if found:
        raise Invalid(found)
    return model.model_validate(document)


def _without_ours(document: Any) -> Any:
    if not isinstance(document, dict):
        return document
    return {name: value for name, value in document.items() if name not in OURS}


def _said(wanted: BaseModel) -> dict[str, Any]:
    """As it will be shown."""
    return stored(wanted.model_dump(mode="json", by_alias=True, exclude_none=True))


def _both(
    versions: Versions[Row], model: type[BaseModel], row: Row, document: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A version and a document, with the defaults said, so that saying one is no change."""
    before, after = (_said(model.model_validate(one)) for one in (versions.document_of(row), document))
    return before, after


def _is_built_in(wanted: policies.PolicyInput) -> bool:
    return wanted == policies.PolicyInput.model_validate(policies.DEFAULT_DOCUMENT)


def _compared(kind: Kind, key: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> AppliedItem:
    changes = differences(before, after)
    return AppliedItem(kind=kind, key=key, action="changed" if changes else "unchanged", changes=changes)


def _require_same(item: AppliedItem, detail: str) -> None:
    """Raises Invalid at each place that would change."""
    if item.changes:
        raise Invalid([{"pointer": part.pointer, "detail": detail} for part in item.changes])

"""A catalog document becomes the catalog: in one transaction, so all of it or nothing, and in the order that it needs.

What is there already is not written again: whoever applies the same files twice changes nothing, and leaves no trace in
the audit log. Every item is checked by the catalog's own rules; all faults of all items come in one answer.

    meters → features → policies → plans      what is new or different
    plans → policies → features → meters      what goes, with `prune`
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from pydantic import BaseModel
from sqlmodel import Session, col, select

from farebox_portal.catalog import features, meters, plans, policies
from farebox_portal.catalog.plan_document import PlanInput, without_ours
from farebox_portal.catalog.tables import Feature, Plan, Policy
from farebox_portal.catalog_files.compare import differences
from farebox_portal.catalog_files.document import AppliedDocument, AppliedItem, CatalogInput, Kind
from farebox_portal.catalog_files.export import current_plan, stored
from farebox_portal.checking import shape_faults
from farebox_portal.errors import Conflict, Fault, Invalid, NotFound, pointer

_Apply = Callable[[Any], AppliedItem]
_Row = TypeVar("_Row")
_SECTION_OF: dict[Kind, str] = {"meter": "/meters", "feature": "/features", "policy": "/policies", "plan": "/plans"}


def apply(session: Session, wanted: CatalogInput, now: datetime) -> AppliedDocument:
    """Raises Invalid with every fault; the caller then rolls back, and also after a dry run."""
    run = _Run(session, wanted, now)
    items: list[AppliedItem] = []
    sections = (
        ("meters", "slug", run.meter),
        ("features", "key", run.feature),
        ("policies", "key", run.policy),
        ("plans", "key", run.plan),
    )
    for section, name, take in sections:
        items += run.each(section, name, take)
    # What is left out may be what the faulty items are about, so nothing is taken away beside a fault.
    if wanted.prune and not run.faults:
        items += run.prune()
    if run.faults:
        raise Invalid(run.faults)
    return AppliedDocument(dry_run=wanted.dry_run, items=items)


class _Run:
    """One application: what is wanted, and the faults found so far."""

    def __init__(self, session: Session, wanted: CatalogInput, now: datetime) -> None:
        self.session = session
        self.wanted = wanted
        self.now = now
        self.faults: list[Fault] = []

    def each(self, section: str, name: str, take: _Apply) -> Iterator[AppliedItem]:
        seen: set[str] = set()
        for index, document in enumerate(getattr(self.wanted, section) or []):
            place = pointer(section, index)
            key = document.get(name) if isinstance(document, dict) else None
            if isinstance(key, str) and key in seen:
                self.faults.append({"pointer": f"{place}/{name}", "detail": "stands on an earlier one already"})
                continue
            seen.add(str(key))
            with self._faults_at(place):
                yield take(document)
                self.session.flush()

    @contextmanager
    def _faults_at(self, place: str) -> Iterator[None]:
        try:
            yield
        except Invalid as error:
            self.faults += [{"pointer": place + fault["pointer"], "detail": fault["detail"]} for fault in error.errors]
        except Conflict as error:
            self.faults.append({"pointer": place, "detail": error.detail})

    # --- what is wanted ----------------------------------------------------------------------------------------------

    def meter(self, document: Any) -> AppliedItem:
        wanted = _shaped(meters.MeterInput, _without(document, "id", "createdAt", "updatedAt"))
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
        ours = ("id", "createdAt", "updatedAt", "archivedAt")
        wanted = _shaped(features.FeatureInput, _without(document, *ours))
        new = {
            **{name: value for name, value in _said(wanted).items() if not name.endswith("GroupByFilters")},
            "filters": next(iter(wanted.said_filters.values()), None),
        }
        standing = self.session.exec(features.every().where(Feature.key == wanted.key)).first()
        if standing is None:
            features.create(self.session, wanted, self.now)
            return AppliedItem(kind="feature", key=wanted.key, action="created")
        item = _compared("feature", wanted.key, stored(features.show(standing).wire()), new)
        if item.is_news:
            detail = "cannot change: a feature is what was sold; archive it and make another of another key"
            raise Invalid([{"pointer": part.pointer, "detail": detail} for part in item.changes])
        return item

    def policy(self, document: Any) -> AppliedItem:
        document = _without(document, "createdAt", "updatedAt")
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

    def plan(self, document: Any) -> AppliedItem:
        document = without_ours(document)
        key = document.get("key") if isinstance(document, dict) else None
        standing = current_plan(self.session, key) if isinstance(key, str) else None
        changes = None
        if standing is not None and not shape_faults(PlanInput, document):
            changes = differences(_plan_parts(plans.document_of(standing)), _plan_parts(document))
        plan = standing if standing is not None and changes == [] else self._write_plan(key, document)
        item = AppliedItem(kind="plan", key=plan.key, action="created" if standing is None else "changed")
        item.changes = changes or []
        if changes == []:
            item.action = "unchanged"
        if self.wanted.publish and plan.status == "draft":
            self.session.flush()
            plans.publish(self.session, plan, self.now)
            item.published = True
        item.version, item.status = plan.version, plan.status
        return item

    def _write_plan(self, key: Any, document: Any) -> Plan:
        """Into the draft that is open, or as a new version."""
        drafts = plans.every(key=key, status="draft") if isinstance(key, str) else None
        draft = None if drafts is None else self.session.exec(drafts).first()
        if draft is not None:
            return plans.replace(self.session, draft, document, self.now)
        return plans.create(self.session, document, self.now)

    # --- what goes ---------------------------------------------------------------------------------------------------

    def prune(self) -> Iterator[AppliedItem]:
        session, now = self.session, self.now
        for plan in self._left_over("plans", [one for one in session.exec(plans.every()) if one.status != "archived"]):
            yield self._removed("plan", plan.key, partial(self._remove_plan, plan), plan.version)
        for policy in self._left_over("policies", session.exec(select(Policy).order_by(col(Policy.key)))):
            yield self._removed("policy", policy.key, partial(policies.delete, session, policy.key))
        for feature in self._left_over("features", session.exec(features.every())):
            yield self._removed("feature", feature.key, partial(features.archive, session, feature, now))
        for meter in self._left_over("meters", session.exec(meters.every()), "slug"):
            yield self._removed("meter", meter.slug, partial(meters.delete, session, meter, now))

    def _left_over(self, section: str, rows: Iterable[_Row], name: str = "key") -> list[_Row]:
        """Those that the section does not name; none if there is no such section."""
        wanted = getattr(self.wanted, section)
        if wanted is None:
            return []
        kept = {document[name] for document in wanted}
        return [row for row in rows if getattr(row, name) not in kept]

    def _remove_plan(self, plan: Plan) -> None:
        if plan.status == "draft":
            plans.delete(self.session, plan)
        else:
            plans.archive(self.session, plan, self.now)

    def _removed(self, kind: Kind, key: str, remove: Callable[[], None], version: int | None = None) -> AppliedItem:
        with self._faults_at(_SECTION_OF[kind]):
            remove()
            self.session.flush()
        return AppliedItem(kind=kind, key=key, action="removed", version=version)


def _shaped(model: type[Any], document: Any) -> Any:
    found = shape_faults(model, document)
    if found:
        raise Invalid(found)
    return model.model_validate(document)


def _without(document: Any, *names: str) -> Any:
    if not isinstance(document, dict):
        return document
    return {name: value for name, value in document.items() if name not in names}


def _said(wanted: BaseModel) -> dict[str, Any]:
    """As it will be shown."""
    return stored(wanted.model_dump(mode="json", by_alias=True, exclude_none=True))


def _is_built_in(wanted: policies.PolicyInput) -> bool:
    return wanted == policies.PolicyInput.model_validate(policies.DEFAULT_DOCUMENT)


def _compared(kind: Kind, key: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> AppliedItem:
    changes = differences(before, after)
    return AppliedItem(kind=kind, key=key, action="changed" if changes else "unchanged", changes=changes)


def _plan_parts(document: dict[str, Any]) -> dict[str, Any]:
    """With the defaults said, so that saying one is no change."""
    return stored(PlanInput.model_validate(document).model_dump(mode="json", by_alias=True, exclude_none=True))

"""Add-ons: what may be bought beside a plan. Versioned as plans are: draft, then active and immutable, then archived.

A new version is made by POST of the same key, and its publication archives the one before. Which plans offer an add-on
says `addon_offers`; who has it keeps the version that was bought.
"""

from datetime import datetime
from typing import Any, Literal

from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from farebox_portal.catalog.addon_document import AddonChoice, AddonInput
from farebox_portal.catalog.addon_rules import faults
from farebox_portal.catalog.plan_document import without_ours
from farebox_portal.catalog.plans import known_features
from farebox_portal.catalog.tables import Addon
from farebox_portal.errors import Conflict, Fault, Invalid, NotFound
from farebox_portal.ids import new_id

AddonStatus = Literal["draft", "active", "archived"]

_CURRENCY_FIXED: Fault = {
    "pointer": "/currency",
    "detail": "cannot change, and is the same over all versions; use another add-on key",
}


def create(session: Session, document: dict[str, Any], now: datetime) -> Addon:
    """A draft: version 1 of a new key, or the next of one there is. Raises Invalid with every fault, Conflict."""
    wanted = _require_valid(session, document)
    latest = session.exec(_versions(wanted.key)).first()
    if latest is not None and latest.status == "draft":
        raise Conflict(
            f"Version {latest.version} of '{wanted.key}' is still a draft ({latest.id}); replace or publish that.",
            code="addon_draft_exists",
        )
    if latest is not None and latest.currency != wanted.currency:
        raise Invalid([_CURRENCY_FIXED])
    version = 1 if latest is None else latest.version + 1
    addon = Addon(id=new_id(now), version=version, created_at=now, updated_at=now, **_columns(wanted, document))
    session.add(addon)
    return addon


def replace(session: Session, addon: Addon, document: dict[str, Any], now: datetime) -> Addon:
    """Put another document in a draft's place. Raises Conflict when it was published, Invalid with every fault."""
    _require_draft(addon)
    wanted = _require_valid(session, document)
    fixed: list[Fault] = []
    if wanted.key != addon.key:
        fixed.append({"pointer": "/key", "detail": "cannot change"})
    if wanted.currency != addon.currency:
        fixed.append(_CURRENCY_FIXED)
    if fixed:
        raise Invalid(fixed)
    for name, value in _columns(wanted, document).items():
        setattr(addon, name, value)
    addon.updated_at = now
    session.add(addon)
    return addon


def change(session: Session, addon: Addon, changes: dict[str, Any], now: datetime) -> Addon:
    """Change parts of a draft: what is left out stays, null clears, a list or an object is replaced as a whole."""
    _require_draft(addon)
    whole = {name: value for name, value in (document_of(addon) | changes).items() if value is not None}
    return replace(session, addon, whole, now)


def publish(session: Session, addon: Addon, now: datetime) -> Addon:
    """From now on it is what is sold under its key, and cannot change. Does nothing to an active one.

    Raises Conflict for an archived one, Invalid when it has become unsound since it was written.
    """
    if addon.status == "archived":
        raise Conflict("An archived add-on cannot be published; make a new version of it.", code="addon_archived")
    if addon.status == "draft":
        _require_valid(session, document_of(addon))
        for predecessor in session.exec(every(key=addon.key, status="active")):
            archive(session, predecessor, now)
        addon.published_at = addon.updated_at = now
        session.add(addon)
    return addon


def archive(session: Session, addon: Addon, now: datetime) -> Addon:
    """Not sold any more; who has it keeps it. Does nothing to an archived one. Raises Conflict for a draft."""
    if addon.status == "draft":
        raise Conflict("A draft is not archived but deleted.", code="addon_is_draft")
    if addon.archived_at is None:
        addon.archived_at = addon.updated_at = now
        session.add(addon)
    return addon


def delete(session: Session, addon: Addon) -> None:
    """Raises Conflict unless it is a draft."""
    _require_draft(addon)
    session.delete(addon)


def get(session: Session, id_or_key: str, version: int | None = None) -> Addon:
    """One version by its id, or by key and number; by key alone the active one, or the newest. Raises NotFound."""
    addon = session.get(Addon, id_or_key)
    if addon is None:
        rows = _versions(id_or_key)
        rows = rows.order_by(None).order_by(
            (col(Addon.published_at).is_not(None) & col(Addon.archived_at).is_(None)).desc(), col(Addon.version).desc()
        )
        addon = session.exec(rows if version is None else rows.where(Addon.version == version)).first()
    if addon is None or version not in (None, addon.version):
        raise NotFound("There is no such add-on.", code="addon_not_found")
    return addon


def choose(session: Session, choice: AddonChoice) -> Addon:
    """One that is on sale. Raises Invalid at /addon when there is none of this name, Conflict."""
    try:
        addon = get(session, choice.key, choice.version)
    except NotFound:
        raise Invalid([{"pointer": "/addon", "detail": "there is no such add-on"}]) from None
    if addon.status != "active":
        raise Conflict(
            "This add-on is not published, or was archived; choose a version that is on sale.", code="addon_not_active"
        )
    return addon


def get_by_id(session: Session, addon_id: str) -> Addon:
    """One version, for whoever is about to change it: a key would leave open which. Raises NotFound."""
    addon = session.get(Addon, addon_id)
    if addon is None:
        raise NotFound("There is no add-on version of this id.", code="addon_not_found")
    return addon


def every(
    *, key: str | None = None, status: AddonStatus | None = None, currency: str | None = None
) -> SelectOfScalar[Addon]:
    """The versions, by key and number."""
    rows = select(Addon).order_by(col(Addon.key), col(Addon.version))
    if key is not None:
        rows = rows.where(Addon.key == key)
    if currency is not None:
        rows = rows.where(Addon.currency == currency)
    if status == "draft":
        rows = rows.where(col(Addon.published_at).is_(None))
    elif status == "active":
        rows = rows.where(col(Addon.published_at).is_not(None), col(Addon.archived_at).is_(None))
    elif status == "archived":
        rows = rows.where(col(Addon.archived_at).is_not(None))
    return rows


def _versions(key: str) -> SelectOfScalar[Addon]:
    """The newest first."""
    return select(Addon).where(Addon.key == key).order_by(col(Addon.version).desc())


def document_of(addon: Addon) -> dict[str, Any]:
    """The document as it was accepted, without what was left out or null at its top."""
    document = {
        "key": addon.key,
        "name": addon.name,
        "description": addon.description,
        "instanceType": addon.instance_type,
        "currency": addon.currency,
        "rateCards": addon.rate_cards,
        "metadata": addon.metadata_,
    }
    return {name: value for name, value in document.items() if value is not None}


def _columns(wanted: AddonInput, document: dict[str, Any]) -> dict[str, Any]:
    """The table's columns. Rate cards are kept as they were written: "0.010" stays that."""
    return {
        "key": wanted.key,
        "name": wanted.name,
        "description": wanted.description,
        "instance_type": wanted.instance_type,
        "currency": wanted.currency,
        "rate_cards": document["rateCards"],
        "metadata_": wanted.metadata or {},
    }


def _require_draft(addon: Addon) -> None:
    if addon.status != "draft":
        raise Conflict(
            "A published add-on cannot change; make a new version by POST of the same key.", code="addon_published"
        )


def _require_valid(session: Session, document: dict[str, Any]) -> AddonInput:
    found = faults(document, known_features(session))
    if found:
        raise Invalid(found)
    return AddonInput.model_validate(without_ours(document))

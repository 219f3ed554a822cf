"""Add-ons: what may be bought beside a plan, in versions (see `versions`).

Which plans offer an add-on says `addon_offers`; who has it keeps the version that was bought.
"""

from typing import Any

from sqlmodel import Session

from farebox_portal.catalog import versions
from farebox_portal.catalog.addon_document import AddonChoice, AddonInput
from farebox_portal.catalog.addon_rules import faults
from farebox_portal.catalog.plan_document import without_ours
from farebox_portal.catalog.plans import known_features
from farebox_portal.catalog.tables import Addon
from farebox_portal.catalog.versions import Versions
from farebox_portal.errors import Conflict, Fault, Invalid, NotFound

AddonStatus = versions.Status


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


def _columns(document: dict[str, Any]) -> dict[str, Any]:
    """The table's columns. Rate cards are kept as they were written: "0.010" stays that."""
    wanted = AddonInput.model_validate(without_ours(document))
    return {
        "key": wanted.key,
        "name": wanted.name,
        "description": wanted.description,
        "instance_type": wanted.instance_type,
        "currency": wanted.currency,
        "rate_cards": document["rateCards"],
        "metadata_": wanted.metadata or {},
    }


def _faults(session: Session, document: Any) -> list[Fault]:
    return faults(document, known_features(session))


VERSIONS = Versions(Addon, "add-on", "addon", _faults, _columns, document_of)
create, replace, change, publish = VERSIONS.create, VERSIONS.replace, VERSIONS.change, VERSIONS.publish
archive, delete = VERSIONS.archive, VERSIONS.delete
get, get_by_id, every = VERSIONS.get, VERSIONS.get_by_id, VERSIONS.every

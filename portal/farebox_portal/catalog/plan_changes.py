"""What would change for whoever moves from one version of a plan to another. Pure; the preview of a migration.

Two ways to write the same thing are no change: "0.10" and 0.1, a hard limit said and a hard limit by default. Names,
descriptions and metadata change nothing for anybody. Phases are matched by their keys, and rate cards within them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from farebox_portal.pricing.documents import read_rate_card

_PLAN_FIELDS = ("billingCadence", "rateLimit", "concurrencyLimit", "proRatingConfig", "defaultTaxConfig")
_MONEY = ("type", "billingCadence", "price", "discounts", "spendCommitments", "commitments", "unitConfig")


@dataclass(frozen=True, slots=True)
class Change:
    """One part that differs, as both documents write it; None: it is not there. A whole phase or card, or a field."""

    field: str
    before: Any
    after: Any
    phase: str | None = None
    rate_card: str | None = None


def plan_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """In the order of the documents. Both are sound: they were accepted (see `plans.document_of`)."""
    changes = [
        Change(field, before.get(field), after.get(field))
        for field in _PLAN_FIELDS
        if before.get(field) != after.get(field)
    ]
    for key, (old, new) in _pairs(before["phases"], after["phases"]):
        if old is None or new is None:
            changes.append(Change("phase", old, new, key))
            continue
        if old.get("duration") != new.get("duration"):
            changes.append(Change("duration", old.get("duration"), new.get("duration"), key))
        for card_key, (old_card, new_card) in _pairs(old["rateCards"], new["rateCards"]):
            changes += _card_changes(key, card_key, old_card, new_card, before, after)
    return changes


def _pairs(before: list[Any], after: list[Any]) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Each key with what it has on either side, None where there is nothing."""
    old, new = ({item["key"]: item for item in items} for items in (before, after))
    for key in old | new:
        yield key, (old.get(key), new.get(key))


def _card_changes(
    phase: str, key: str, old: Any, new: Any, before: Mapping[str, Any], after: Mapping[str, Any]
) -> Iterator[Change]:
    if old is None or new is None:
        yield Change("rateCard", old, new, phase, key)
        return
    if _charge(old) != _charge(new):
        yield Change("price", _part(old, *_MONEY), _part(new, *_MONEY), phase, key)
    if _grant(old, before) != _grant(new, after):
        field = "entitlementTemplate"
        yield Change(field, old.get(field), new.get(field), phase, key)
    if (old.get("taxConfig") or {}) != (new.get("taxConfig") or {}):
        yield Change("taxConfig", old.get("taxConfig"), new.get("taxConfig"), phase, key)


def _charge(card: Mapping[str, Any]) -> Any:
    """What the invoice makes of it, whatever it is called."""
    read, faults = read_rate_card(card)
    assert read is not None, f"an accepted plan has no faults: {faults}"
    return replace(read, name="")


def _grant(card: Mapping[str, Any], plan: Mapping[str, Any]) -> Any:
    template = card.get("entitlementTemplate")
    if template is None:
        return card["type"], card.get("featureKey")  # a metered feature without a template: usage without limit
    if template["type"] != "metered":
        return template["type"], template.get("config") if template["type"] == "static" else None
    limit = template.get("issueAfterReset")
    return (
        None if limit is None else int(limit),
        bool(template.get("isSoftLimit")),
        bool(template.get("preserveOverageAtReset")),
        template.get("usagePeriod") or card.get("billingCadence") or plan["billingCadence"],
    )


def _part(card: Mapping[str, Any], *fields: str) -> dict[str, Any]:
    return {field: card[field] for field in fields if card.get(field) is not None}

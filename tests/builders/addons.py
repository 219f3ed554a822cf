"""Add-ons as an operator would write them, and offered in one step."""

from typing import Any

from sqlmodel import Session

from builders.subscriptions import APRIL
from farebox_portal.catalog import addon_offers, addons, plans
from farebox_portal.catalog.addon_document import OfferInput
from farebox_portal.catalog.tables import Addon


def a_seat_fee(amount: str = "10", term: str = "in_advance", **fields: Any) -> dict[str, Any]:
    """A month's fee for each."""
    price = {"type": "flat", "amount": amount, "paymentTerm": term}
    return {"type": "flat_fee", "key": "seat", "name": "Seat", "billingCadence": "P1M", "price": price} | fields


def an_addon_document(*cards: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Seats at $10 a month."""
    return {
        "key": "seats",
        "name": "Seats",
        "instanceType": "multiple",
        "currency": "USD",
        "rateCards": list(cards) or [a_seat_fee()],
    } | fields


def an_addon(session: Session, *cards: dict[str, Any], **fields: Any) -> Addon:
    """A published one."""
    row = addons.create(session, an_addon_document(*cards, **fields), APRIL)
    session.flush()
    return addons.publish(session, row, APRIL)


def offered(session: Session, addon: Addon, *plan_keys: str, phase: str = "default", most: int | None = None) -> Addon:
    """The add-on, which these plans offer from now on."""
    for key in plan_keys:
        wanted = {"addon": {"key": addon.key, "version": addon.version}, "fromPlanPhase": phase, "maxQuantity": most}
        addon_offers.create(session, plans.get(session, key), addon, OfferInput.model_validate(wanted), APRIL)
    session.flush()
    return addon

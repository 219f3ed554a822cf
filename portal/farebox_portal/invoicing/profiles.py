"""Billing profiles: made, changed, and the default one, by which everything is invoiced."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from sqlmodel import Session, col, select, update

from farebox_portal import audit
from farebox_portal.customers.accounts import is_by_hand
from farebox_portal.customers.tables import Customer
from farebox_portal.errors import NotFound
from farebox_portal.ids import new_id
from farebox_portal.invoicing.profile_document import ProfileInput, kept
from farebox_portal.invoicing.tables import BillingProfile
from farebox_portal.pricing.money import currency

TaxMode = Literal["off", "best_effort", "strict"]
"""Without tax; with it, and without where it cannot be worked out; with it or not at all."""


def every(session: Session) -> Sequence[BillingProfile]:
    """The default one first."""
    rows = select(BillingProfile).order_by(col(BillingProfile.is_default).desc(), col(BillingProfile.created_at))
    return session.exec(rows).all()


def get(session: Session, id_: str) -> BillingProfile:
    """Raises NotFound."""
    found = session.get(BillingProfile, id_)
    if found is None:
        raise NotFound("There is no such billing profile.", code="billing_profile_not_found")
    return found


def default(session: Session) -> BillingProfile | None:
    return session.exec(select(BillingProfile).where(col(BillingProfile.is_default))).first()


def create(session: Session, wanted: ProfileInput, account_id: str | None, now: datetime) -> BillingProfile:
    """The first one is the default."""
    is_default = wanted.default or default(session) is None
    row = BillingProfile(
        id=new_id(now), is_default=is_default, account_id=account_id, document=kept(wanted), created_at=now,
        updated_at=now,
    )  # fmt: skip
    return _put(session, row, None, now)


def replace(session: Session, id_: str, wanted: ProfileInput, now: datetime) -> BillingProfile:
    """The default one stays the default until another one is."""
    row = get(session, id_)
    before = row.document
    row.document, row.updated_at = kept(wanted), now
    row.is_default = row.is_default or wanted.default
    return _put(session, row, before, now)


def connect(session: Session, account_id: str, wanted: ProfileInput, now: datetime) -> BillingProfile:
    """A provider's account was connected: the default profile collects by it, and is made if there is none."""
    row = default(session)
    if row is None:
        return create(session, wanted, account_id, now)
    row.account_id, row.updated_at = account_id, now
    session.add(row)
    session.flush()
    return row


def of_provider(
    name: str | None = None, country: str = "US", *, is_taxed: bool = False, is_enforced: bool = False
) -> ProfileInput:
    """The profile that comes with an account."""
    return ProfileInput.model_validate(
        {
            "name": name or "Stripe Billing Profile",
            "default": True,
            "supplier": {"addresses": [{"country": country}]},
            "workflow": {"tax": {"enabled": is_taxed or is_enforced, "enforced": is_enforced}},
        }
    )


def tax_mode(profile: BillingProfile | None) -> TaxMode:
    if profile is None or profile.account_id is None or not profile.document["tax"]["enabled"]:
        return "off"
    return "strict" if profile.document["tax"]["enforced"] else "best_effort"


def tax_mode_for(profile: BillingProfile | None, customer: Customer, code: str) -> TaxMode:
    """Who pays by hand, or in what the provider does not charge, has nobody to work out the tax."""
    if is_by_hand(customer) or currency(code).stripe_exponent is None:
        return "off"
    return tax_mode(profile)


def tax_mode_of(session: Session, customer: Customer, code: str) -> TaxMode:
    """By the default profile, by which everything is invoiced."""
    return tax_mode_for(default(session), customer, code)


def seller(profile: BillingProfile | None, name: str, address: str) -> dict[str, str]:
    """Who stands on an invoice: the profile's supplier, else what the settings say."""
    supplier: Mapping[str, Any] = {} if profile is None else profile.document["supplier"]
    told = _told((supplier.get("addresses") or [{}])[0])
    return {"name": supplier.get("name") or name, "address": address or told}


def _told(address: Mapping[str, Any]) -> str:
    """On lines. Nothing but the country, which every profile has, is no address."""
    town = " ".join(part for part in (address.get("postalCode"), address.get("city"), address.get("state")) if part)
    lines = [part for part in (address.get("line1"), address.get("line2"), town) if part]
    return "\\n".join([*lines, address["country"]]) if lines else ""


def _put(session: Session, row: BillingProfile, before: dict[str, Any] | None, now: datetime) -> BillingProfile:
    if row.is_default:
        others = update(BillingProfile).where(col(BillingProfile.is_default), col(BillingProfile.id) != row.id)
        session.connection().execute(others.values(is_default=False, updated_at=now))
    session.add(row)
    session.flush()
    verb = "create" if before is None else "change"
    audit.record(
        session, f"billing_profile.{verb}", "billing_profile", row.id, now, before=before,
        after=row.document | {"default": row.is_default},
    )  # fmt: skip
    return row

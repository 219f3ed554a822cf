"""Billing profiles as documents, in OpenMeter's shape: who sells, how tax is dealt with, and by whom it is collected.

Of `workflow` the operator decides on `tax` and `invoicing.defaultTaxConfig`. The rest is how this installation works;
it is shown as it is, and a document that wants it otherwise is refused rather than taken and not followed. How long
usage is waited for and when an invoice is due come from the settings: what a document says of them is not kept.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StringConstraints, model_validator

from farebox_portal.catalog.plan_document import TaxConfig
from farebox_portal.documents import Input, Instant, Name, Output, Text
from farebox_portal.invoicing.tables import BillingProfile
from farebox_portal.invoicing.terms import Terms

Country = Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")]
_OURS = ("id", "apps", "createdAt", "updatedAt")
_Line = Annotated[str, StringConstraints(max_length=256)]


class Address(Input):
    """`country`: ISO 3166-1, two letters."""

    country: Country
    postal_code: _Line | None = None
    state: _Line | None = None
    city: _Line | None = None
    line1: _Line | None = None
    line2: _Line | None = None
    phone_number: _Line | None = None


class Supplier(Input):
    """Who sells; its name and address stand on each invoice. Left out: those of the settings."""

    id: Annotated[str, Field(max_length=64)] | None = None
    name: Name | None = None
    addresses: Annotated[list[Address], Field(min_length=1, max_length=1)] | None = None


class CollectionAlignment(Input):
    type: Literal["subscription"] = "subscription"


class Collection(Input):
    alignment: CollectionAlignment | None = None
    interval: Text | None = None


class Invoicing(Input):
    auto_advance: Literal[True] = True
    draft_period: Text | None = None
    due_after: Text | None = None
    progressive_billing: StrictBool = True
    subscription_end_proration_mode: Text | None = None
    default_tax_config: TaxConfig | None = None


class Payment(Input):
    """By invoice and bank transfer: for customers whose metadata say `payment_provider: manual`."""

    collection_method: Literal["charge_automatically"] = "charge_automatically"


class Tax(Input):
    """`enabled`: the provider works out the tax of each invoice. `enforced`: without it, nothing is sold or issued."""

    enabled: StrictBool = False
    enforced: StrictBool = False

    @model_validator(mode="after")
    def _fits_together(self) -> "Tax":
        if self.enforced and not self.enabled:
            raise ValueError("enforced needs enabled")
        return self


class Workflow(Input):
    collection: Collection | None = None
    invoicing: Invoicing = Field(default_factory=Invoicing)
    payment: Payment = Field(default_factory=Payment)
    tax: Tax = Field(default_factory=Tax)


class ProfileInput(Input):
    """`default`: the one that counts; it takes the place of the one before. What was read may be sent: what is ours of
    it is ignored.
    """

    name: Name
    description: Text | None = None
    default: StrictBool = False
    supplier: Supplier = Field(default_factory=Supplier)
    workflow: Workflow = Field(default_factory=Workflow)

    @model_validator(mode="before")
    @classmethod
    def _without_ours(cls, said: Any) -> Any:
        if not isinstance(said, dict):
            return said
        return {name: value for name, value in said.items() if name not in _OURS}


class App(Output):
    """`id`: the provider's account; `manual`: nobody but the operator."""

    id: str


class ProfileDocument(Output):
    id: str
    name: str
    description: str | None
    default: bool
    supplier: dict[str, Any]
    workflow: dict[str, Any]
    apps: dict[Literal["tax", "invoicing", "payment"], App]
    created_at: Instant
    updated_at: Instant


def kept(wanted: ProfileInput) -> dict[str, Any]:
    """What of it is stored: all that the operator decides on."""
    said = wanted.model_dump(by_alias=True, exclude_none=True, mode="json")
    workflow = said["workflow"]
    return {
        "name": said["name"],
        "description": said.get("description"),
        "supplier": said["supplier"],
        "tax": workflow["tax"],
        "defaultTaxConfig": workflow["invoicing"].get("defaultTaxConfig"),
    }


def show(row: BillingProfile, terms: Terms) -> ProfileDocument:
    said: Mapping[str, Any] = row.document
    invoicing: dict[str, Any] = {
        "autoAdvance": True, "draftPeriod": "P0D", "dueAfter": _duration(terms.due_after), "progressiveBilling": True,
    }  # fmt: skip
    if said["defaultTaxConfig"]:
        invoicing["defaultTaxConfig"] = said["defaultTaxConfig"]
    app = App(id=row.account_id or "manual")
    return ProfileDocument(
        id=row.id,
        name=said["name"],
        description=said["description"],
        default=row.is_default,
        supplier=said["supplier"],
        workflow={
            "collection": {"alignment": {"type": "subscription"}, "interval": _duration(terms.window)},
            "invoicing": invoicing,
            "payment": {"collectionMethod": "charge_automatically"},
            "tax": said["tax"],
        },
        apps={"tax": app, "invoicing": app, "payment": app},
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _duration(span: timedelta) -> str:
    """ISO 8601."""
    seconds = span.seconds
    return f"P{span.days}D" if not seconds else f"P{span.days}DT{seconds}S" if span.days else f"PT{seconds}S"

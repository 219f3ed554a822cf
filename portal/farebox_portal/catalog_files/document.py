"""The catalog as one document, and what came of applying it."""

from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool

from farebox_portal.catalog.addon_document import AddonInput, Quantity
from farebox_portal.catalog.coupons import CouponInput
from farebox_portal.catalog.features import FeatureInput
from farebox_portal.catalog.meters import MeterInput
from farebox_portal.catalog.plan_document import Metadata, PlanInput
from farebox_portal.catalog.policies import PolicyInput
from farebox_portal.checking import DocumentedAs
from farebox_portal.documents import Input, Key, Output

ITEMS_MAX = 1000

Kind = Literal["meter", "feature", "policy", "addon", "plan", "plan_addon", "coupon"]
Action = Literal["created", "changed", "unchanged", "pending", "removed"]


class PlanAddonInput(Input):
    """A plan offers an add-on from one of its phases on; both by their keys."""

    plan: Key
    addon: Key
    from_plan_phase: Key
    max_quantity: Quantity | None = None
    metadata: Metadata | None = None


class CatalogInput(Input):
    """A section that is left out is left alone. Items are taken as `POST` takes them, and as `GET` shows them.

    `publish`: plans and add-ons that are new or changed are on sale at once. `prune`: what is not in a section that is
    there goes: meters and policies are deleted, features and coupons archived, plans and add-ons archived or, as
    drafts, deleted, offers of add-ons withdrawn. `dryRun`: nothing is written.
    """

    meters: Annotated[list[Annotated[Any, DocumentedAs(MeterInput)]] | None, Field(max_length=ITEMS_MAX)] = None
    features: Annotated[list[Annotated[Any, DocumentedAs(FeatureInput)]] | None, Field(max_length=ITEMS_MAX)] = None
    policies: Annotated[list[Annotated[Any, DocumentedAs(PolicyInput)]] | None, Field(max_length=ITEMS_MAX)] = None
    addons: Annotated[list[Annotated[Any, DocumentedAs(AddonInput)]] | None, Field(max_length=ITEMS_MAX)] = None
    plans: Annotated[list[Annotated[Any, DocumentedAs(PlanInput)]] | None, Field(max_length=ITEMS_MAX)] = None
    plan_addons: Annotated[list[Annotated[Any, DocumentedAs(PlanAddonInput)]] | None, Field(max_length=ITEMS_MAX)] = (
        None
    )
    coupons: Annotated[list[Annotated[Any, DocumentedAs(CouponInput)]] | None, Field(max_length=ITEMS_MAX)] = None
    publish: StrictBool = False
    prune: StrictBool = False
    dry_run: StrictBool = False


class ChangedPart(Output):
    """`pointer` names phases and rate cards by their keys: /phases/default/rateCards/fee/price/amount.

    `before` and `after` are left out where there was nothing, or is nothing any more.
    """

    pointer: str
    before: Any = None
    after: Any = None


class AppliedItem(Output):
    """`version` and `status` are a plan's or an add-on's; `published`: by this very call. An offer's key is PLAN/ADDON.

    `pending`: an offer of an add-on that is a draft; it is made when that is published and the catalog applied again.
    """

    kind: Kind
    key: str
    action: Action
    changes: list[ChangedPart] = Field(default_factory=list)
    version: int | None = None
    status: str | None = None
    published: bool | None = None

    @property
    def is_news(self) -> bool:
        return self.action not in ("unchanged", "pending") or bool(self.published)


class AppliedDocument(Output):
    """What was done, or with `dryRun` would be; in the order in which it was done."""

    dry_run: bool
    items: list[AppliedItem]


class CatalogDocument(Output):
    """What `POST /v1/catalog/apply` takes. Of each plan and add-on the version on sale, or its draft if none is."""

    meters: list[dict[str, Any]]
    features: list[dict[str, Any]]
    policies: list[dict[str, Any]]
    addons: list[dict[str, Any]]
    plans: list[dict[str, Any]]
    plan_addons: list[dict[str, Any]]
    coupons: list[dict[str, Any]]

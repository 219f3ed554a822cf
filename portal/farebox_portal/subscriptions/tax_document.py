"""What an order would be charged, with its tax: the document that previews carry. Amounts in the provider's minor
units, as Zuplo's purchase details have them.
"""

from typing import Literal

from pydantic import Field

from farebox_portal.documents import Output


class AppliedTax(Output):
    """`type`: exclusive is added to the price, inclusive is within it. `percentage`: a decimal such as "20"."""

    name: str
    type: Literal["exclusive", "inclusive"]
    amount: int
    tax_type: str | None = None
    percentage: str | None = None
    jurisdiction: str | None = None
    code: str | None = None


class TaxedItem(Output):
    description: str
    amount: int
    tax_amount: int


class TaxDocument(Output):
    """`subtotal` is what prices say, so without a tax on top. `status` failed: there is no figure of a tax, and `fault`
    says why.
    """

    status: Literal["complete", "failed"] = "complete"
    fault: str | None = None
    currency: str
    subtotal: int
    total: int
    tax_amount: int
    tax_inclusive: bool
    taxes: list[AppliedTax] = Field(default_factory=list)
    items: list[TaxedItem] = Field(default_factory=list)

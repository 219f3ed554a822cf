"""What a payment provider does for us, in our words. `stripe_gateway.py` is the one there is beside paying by hand.

Reads are free to repeat. Whatever changes something there is one of STEPS: a request of plain JSON, stored before it is
sent (`operations.py`), and sent with a key under which the provider does it once. Amounts are our own minor units.

What can come of sending:

    done          the answer
    Unknown       no answer that says anything: it may have been done. The same request with the same key finds out.
    Busy          it was not begun; later
    Rejected      it was not done, and never will be under this key. `is_passing`: under another one it might be.
    Declined      the payer's bank, or the payer, has to act
    Unauthorized  the key is not (any more) good; Lacking: it may not do this
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol

# What everything that we make at the provider carries in its metadata: several installations may share an account.
INSTANCE = "fb_instance"
INVOICE = "fb_invoice_id"
LINE = "fb_line_id"
CUSTOMER = "fb_customer_id"
CREDIT_NOTE = "fb_credit_note_id"

Request = dict[str, Any]
Step = Literal[
    "customer",
    "method",
    "checkout",
    "invoice",
    "line",
    "finalize",
    "pay",
    "void",
    "delete",
    "uncollectible",
    "refund",
    "retries",
]
RemoteStatus = Literal["draft", "open", "paid", "uncollectible", "void"]


class GatewayFailure(Exception):
    """`code` is the provider's word for it."""

    def __init__(self, detail: str, *, code: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code


class Unknown(GatewayFailure):
    """Nobody knows whether it was done."""


class Busy(GatewayFailure):
    """It was not begun, as there was too much to do."""


class Rejected(GatewayFailure):
    """It was not done. `is_of_tax`: only because the tax could not be worked out."""

    @property
    def is_of_tax(self) -> bool:
        return "tax" in self.code

    def __init__(self, detail: str, *, code: str = "", is_passing: bool = False) -> None:
        super().__init__(detail, code=code)
        self.is_passing = is_passing


class Missing(Rejected):
    """There is no such object there (any more)."""


class Declined(GatewayFailure):
    """`needs_action`: the payer has to confirm it on a page, and nothing else helps."""

    def __init__(self, detail: str, *, code: str = "", needs_action: bool = False) -> None:
        super().__init__(detail, code=code)
        self.needs_action = needs_action


class Unauthorized(GatewayFailure):
    """The key is wrong, or was revoked."""


class Lacking(GatewayFailure):
    """`code`: the permission that is missing."""


@dataclass(frozen=True, slots=True)
class Line:
    """[start, end) is what it is charged for. `behavior` and `tax_code`: where the provider works out the tax."""

    id: str
    amount_minor: int
    description: str
    start: datetime
    end: datetime
    behavior: str | None = None
    tax_code: str | None = None


@dataclass(frozen=True, slots=True)
class RemoteInvoice:
    """An invoice as the provider has it. `lines`: our id of each with its amount, in their order; of a draft only.

    `is_retried`: the provider tries again by itself. `is_taxed`: it works out the tax, so that its total is not ours.
    """

    id: str
    invoice_id: str
    customer: str
    status: RemoteStatus
    currency: str
    total_minor: int
    url: str | None = None
    lines: tuple[tuple[str, int], ...] = ()
    is_taxed: bool = False
    is_retried: bool = False


@dataclass(frozen=True, slots=True)
class RemoteCustomer:
    id: str
    is_deleted: bool = False
    method: str | None = None
    metadata: Mapping[str, str] | None = None
    has_address: bool = True


@dataclass(frozen=True, slots=True)
class Method:
    """A way to pay. `label`: for people, such as "visa 4242". `address`: that of the bill, in the provider's words."""

    id: str
    label: str
    address: Mapping[str, str] | None = None


TaxStatus = Literal["supported", "not_collecting", "unrecognized_location", "failed"]
"""Whether tax can be worked out for a customer: yes; none is collected where they are; nobody knows where that is."""


@dataclass(frozen=True, slots=True)
class RemoteTax:
    """One tax on one line. `name`, `percentage` (a decimal), `jurisdiction` and `tax_type` where they are known."""

    amount_minor: int
    is_inclusive: bool
    reason: str
    name: str = "Tax"
    percentage: str | None = None
    jurisdiction: str | None = None
    tax_type: str | None = None


@dataclass(frozen=True, slots=True)
class TaxQuestion:
    """What tax there would be on these lines, none below 0. For a customer of the provider's, or somebody there."""

    currency: str
    lines: tuple[Line, ...]
    customer: str | None = None
    country: str | None = None
    postal_code: str | None = None


@dataclass(frozen=True, slots=True)
class RemoteCheckout:
    """A page on which somebody leaves a way to pay."""

    id: str
    customer: str
    status: Literal["open", "complete", "expired"]
    url: str | None


@dataclass(frozen=True, slots=True)
class Account:
    """Whose key it is. `answered_at`: the provider's time."""

    id: str
    name: str
    country: str
    answered_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where webhooks go. `secret`: only of one that was just made. `untold`: events that we understand and it omits.

    `is_current`: it tells of things in the words of the client that we use.
    """

    id: str
    url: str
    is_ours: bool
    secret: str | None = None
    is_enabled: bool = True
    is_current: bool = True
    untold: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Hint:
    """What a webhook is about; what has become of it is for us to read. `ours`: our ids in its metadata."""

    event_id: str
    kind: str
    object_type: str
    object_id: str
    customer: str | None
    ours: Mapping[str, str]
    is_live: bool = False


@dataclass(frozen=True, slots=True)
class RemoteDispute:
    """As an event told it. `payment`: which one. `is_inquiry`: the bank only asks, and has taken nothing."""

    id: str
    payment: str
    amount_minor: int
    currency: str
    reason: str
    is_inquiry: bool
    outcome: Literal["won", "lost"] | None  # None: it is not decided


@dataclass(frozen=True, slots=True)
class RemoteRefunds:
    """How much of a payment was given back in all, as an event told it."""

    payment: str
    amount_minor: int
    currency: str


@dataclass(frozen=True, slots=True)
class Done:
    """What was made or changed, and where a person may see it."""

    id: str
    url: str | None = None


class Gateway(Protocol):
    name: str
    is_live: bool
    fingerprint: str
    """Of the key: equal for the same one, and nobody finds the key by it."""

    def send(self, step: Step, request: Request, key: str) -> Done:
        """Raises GatewayFailure."""
        ...

    def account(self) -> Account: ...

    def lacking(self) -> list[str]:
        """The permissions that the key has not, by their names in the dashboard. Changes nothing."""
        ...

    def invoice(self, id_: str) -> RemoteInvoice: ...

    def invoices(self, customer: str, instance: str, invoice_id: str) -> list[RemoteInvoice]:
        """All that carry our id."""
        ...

    def customer(self, id_: str) -> RemoteCustomer: ...

    def customers(self, email: str | None) -> list[RemoteCustomer]:
        """All with this address; None: the latest ones, whatever theirs is."""
        ...

    def remove_customer(self, id_: str) -> None:
        """With whatever was left there to pay with. What was paid stays."""
        ...

    def methods(self, customer: str) -> Sequence[Method]:
        """The latest first."""
        ...

    def line_taxes(self, invoice: str) -> Mapping[str, Sequence[RemoteTax]]:
        """By our id of each line of an invoice that the provider has worked out the tax of; without names."""
        ...

    def assess(self, question: TaxQuestion) -> Mapping[str, Sequence[RemoteTax]]:
        """By line. Makes nothing that lasts."""
        ...

    def tax_status(self, customer: str) -> TaxStatus: ...

    def checkout(self, id_: str) -> RemoteCheckout: ...

    def portal_url(self, customer: str, return_url: str, *, to_card: bool = False) -> str:
        """A page on which the payer sees invoices and changes the way to pay; for a few minutes. `to_card`: at once."""
        ...

    def endpoints(self, instance: str) -> list[Endpoint]: ...

    def add_endpoint(self, url: str, instance: str, key: str) -> Endpoint: ...

    def remove_endpoint(self, id_: str) -> None: ...

    def hint(self, body: bytes) -> Hint:
        """Reads what `is_genuine` let pass."""
        ...

    def invoice_of(self, payment: str) -> str | None:
        """The provider's invoice that this payment was for."""
        ...

    def refund_of(self, invoice: str, credit_note: str) -> str | None:
        """The provider's credit note that was made for this one of ours."""
        ...

    def dispute(self, body: bytes) -> RemoteDispute | None:
        """Reads what `is_genuine` let pass: the key may not ask for disputes, so an event has to be believed."""
        ...

    def refunds(self, body: bytes) -> RemoteRefunds | None: ...

    def is_genuine(self, body: bytes, signature: str, secrets: Sequence[str]) -> bool: ...

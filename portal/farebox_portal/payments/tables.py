"""Who pays with what, what is being collected, everything that was asked of the provider, and every webhook it sent."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Index, LargeBinary
from sqlmodel import Field, SQLModel

from farebox_portal.db import UTCDateTime


class PaymentAccount(SQLModel, table=True):
    """The provider's account that this installation collects with: one row, `id` is the provider's name.

    `instance` marks everything that we make there, as several installations may share an account. The API key is not
    here: it comes from the environment, and `key_fingerprint` (a digest; null: connected before it was kept) says which
    one was checked. What a webhook's secret protects is a hint, so it is kept as it is.
    """

    __tablename__ = "payment_accounts"

    id: str = Field(primary_key=True)
    account_id: str
    is_live: bool
    instance: str
    key_fingerprint: str | None = None
    status: str = "ready"  # or why nothing is sent: `unauthorized`, `lacking`
    fault: str | None = None
    webhook_id: str | None = None
    webhook_secrets: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    connected_at: datetime = Field(sa_type=UTCDateTime)
    updated_at: datetime = Field(sa_type=UTCDateTime)


class Payer(SQLModel, table=True):
    """A customer at the provider. `leased_until`: somebody is collecting from it, and one does so at a time.

    `tax_status`: whether tax can be worked out there, as the provider said last; see `gateway.TaxStatus`.
    """

    __tablename__ = "payment_payers"

    customer_id: str = Field(primary_key=True, foreign_key="customers.id")
    provider_id: str | None = Field(default=None, unique=True)
    method_id: str | None = None
    method_label: str | None = None
    tax_status: str | None = None
    leased_until: datetime | None = Field(default=None, sa_type=UTCDateTime)
    updated_at: datetime = Field(sa_type=UTCDateTime)


class Checkout(SQLModel, table=True):
    """A page of the provider on which a customer leaves a way to pay. `order`: which plan it was opened for."""

    __tablename__ = "payment_checkouts"

    id: str = Field(primary_key=True)
    customer_id: str = Field(foreign_key="customers.id", index=True)
    order_key: str
    status: str
    url: str | None = None
    look_at: datetime | None = Field(default=None, sa_type=UTCDateTime, index=True)
    created_at: datetime = Field(sa_type=UTCDateTime)


class Collection(SQLModel, table=True):
    """An invoice that the provider collects. `state`: waiting, failed, action_required, stopped, done.

    `look_at`: when it is looked at next; null: only when something happens to it. `pay_at`: the next try to take the
    money; null: none is planned. `failed_at`: the first try that definitely failed. `troubles` counts answers that said
    nothing, since the last that did.
    """

    __tablename__ = "payment_collections"
    __table_args__ = (Index("payment_collections_due", "look_at"),)

    invoice_id: str = Field(primary_key=True, foreign_key="invoices.id")
    customer_id: str = Field(foreign_key="customers.id", index=True)
    state: str = "waiting"
    provider_id: str | None = Field(default=None, unique=True)
    look_at: datetime | None = Field(default=None, sa_type=UTCDateTime)
    pay_at: datetime | None = Field(default=None, sa_type=UTCDateTime)
    failed_at: datetime | None = Field(default=None, sa_type=UTCDateTime)
    tries: int = 0
    troubles: int = 0
    fault: str | None = None
    refunded_minor: int = Field(default=0, sa_type=BigInteger)  # by the provider in all, as it said
    created_at: datetime = Field(sa_type=UTCDateTime)
    updated_at: datetime = Field(sa_type=UTCDateTime)


class Dispute(SQLModel, table=True):
    """The payer's bank asks for the money back, or asks about it. `status`: see disputes.py."""

    __tablename__ = "payment_disputes"

    id: str = Field(primary_key=True)
    invoice_id: str = Field(foreign_key="invoices.id", index=True)
    status: str
    reason: str
    amount_minor: int = Field(sa_type=BigInteger)
    opened_at: datetime = Field(sa_type=UTCDateTime)
    updated_at: datetime = Field(sa_type=UTCDateTime)


class Refund(SQLModel, table=True):
    """Money that goes back to the payer, because of a credit note. `state`: see refunds.py."""

    __tablename__ = "payment_refunds"

    credit_note_id: str = Field(primary_key=True, foreign_key="credit_notes.id")
    invoice_id: str = Field(foreign_key="invoices.id", index=True)
    amount_minor: int = Field(sa_type=BigInteger)
    state: str
    provider_id: str | None = None
    fault: str | None = None
    troubles: int = 0
    look_at: datetime | None = Field(default=None, sa_type=UTCDateTime, index=True)
    created_at: datetime = Field(sa_type=UTCDateTime)
    updated_at: datetime = Field(sa_type=UTCDateTime)


class Operation(SQLModel, table=True):
    """One attempt to have the provider do one step, written before it is sent. `state`: see `operations.py`."""

    __tablename__ = "payment_operations"

    object_id: str = Field(primary_key=True)
    step: str = Field(primary_key=True)
    attempt: int = Field(primary_key=True)
    key: str = Field(unique=True)
    request: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    state: str
    result_id: str | None = None
    result_url: str | None = None
    error_code: str | None = None
    first_sent_at: datetime = Field(sa_type=UTCDateTime)
    updated_at: datetime = Field(sa_type=UTCDateTime)


class PaymentEvent(SQLModel, table=True):
    """A webhook as it came, stored once. `state`: pending, handled, ignored or dead."""

    __tablename__ = "payment_events"
    __table_args__ = (Index("payment_events_by_state", "state", "look_at"),)

    id: str = Field(primary_key=True)
    kind: str
    object_id: str
    body: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    state: str = "pending"
    tries: int = 0
    fault: str | None = None
    look_at: datetime = Field(sa_type=UTCDateTime)
    received_at: datetime = Field(sa_type=UTCDateTime)
    handled_at: datetime | None = Field(default=None, sa_type=UTCDateTime)

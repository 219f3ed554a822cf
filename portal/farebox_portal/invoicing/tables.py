"""Invoices, their lines, what is given back, and the ledger of money. Amounts are integers of minor units."""

from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Index, Text, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from farebox_portal.db import DecimalText, UTCDateTime

TOP_UP = "top_up"
"""The kind of an invoice by which credit is bought. It is for no period, and nobody's access depends on it."""


class Invoice(SQLModel, table=True):
    """What one subscription owes for what came due up to `closes_at`. `status`: see `status.py`.

    `sequence` counts a subscription's invoices, those of kind TOP_UP apart and downwards from -1, as no other refers to
    them; `number` those of the installation that were issued. While it is a
    draft, lines are added to it; after that only its status and what was paid and credited change. Its `document` is
    what was issued, to the byte; `sha256` is the document's.

    `is_rebilled`: it was voided so that its charges are made anew; its lines count as never billed.
    """

    __tablename__ = "invoices"
    __table_args__ = (
        UniqueConstraint("subscription_id", "sequence"),
        Index(
            "invoices_one_draft",
            "subscription_id",
            unique=True,
            sqlite_where=text("status = 'draft'"),
            postgresql_where=text("status = 'draft'"),
        ),
        Index(
            "invoices_one_for_a_period",
            "subscription_id",
            "kind",
            "period_start",
            unique=True,
            sqlite_where=text("kind IN ('start', 'period', 'final') AND status <> 'void'"),
            postgresql_where=text("kind IN ('start', 'period', 'final') AND status <> 'void'"),
        ),
        Index("invoices_by_status", "status", "due_at"),
    )

    id: str = Field(primary_key=True)
    subscription_id: str = Field(foreign_key="subscriptions.id")
    customer_id: str = Field(foreign_key="customers.id", index=True)
    sequence: int
    kind: str
    status: str
    number: str | None = Field(default=None, unique=True)
    currency: str
    period_start: datetime = Field(sa_type=UTCDateTime)
    period_end: datetime = Field(sa_type=UTCDateTime)
    closes_at: datetime = Field(sa_type=UTCDateTime)
    subtotal_minor: int = Field(default=0, sa_type=BigInteger)
    tax_minor: int = Field(default=0, sa_type=BigInteger)
    total_minor: int = Field(default=0, sa_type=BigInteger)
    paid_minor: int = Field(default=0, sa_type=BigInteger)
    credited_minor: int = Field(default=0, sa_type=BigInteger)
    refunded_minor: int = Field(default=0, sa_type=BigInteger)
    reasons: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    is_rebilled: bool = False
    document: str | None = Field(default=None, sa_column=Column(Text))
    sha256: str | None = None
    provider: str = "manual"
    provider_id: str | None = None
    provider_url: str | None = None
    payment_fault: str | None = None  # why the last try to collect it failed
    needs_action: bool = False  # nobody but the payer can go on, at `provider_url`
    dispute_status: str | None = None  # of what was paid: inquiry, open, won, lost
    is_dispute_refused: bool = False  # no access because of it
    tax_status: str | None = None  # where the provider works it out: pending, complete, failed, left_out
    tax_fault: str | None = None
    created_at: datetime = Field(sa_type=UTCDateTime)
    updated_at: datetime = Field(sa_type=UTCDateTime)
    issued_at: datetime | None = Field(default=None, sa_type=UTCDateTime)
    due_at: datetime | None = Field(default=None, sa_type=UTCDateTime)
    failed_at: datetime | None = Field(default=None, sa_type=UTCDateTime)  # the first try to collect it that did
    paid_at: datetime | None = Field(default=None, sa_type=UTCDateTime)
    voided_at: datetime | None = Field(default=None, sa_type=UTCDateTime)
    uncollectible_at: datetime | None = Field(default=None, sa_type=UTCDateTime)

    @property
    def outstanding_minor(self) -> int:
        """What is still to be paid; what was refunded of what was paid is not owed again."""
        return self.total_minor - self.credited_minor - (self.paid_minor - self.refunded_minor)


class InvoiceLine(SQLModel, table=True):
    """One line. (charge, line, revision) is its identity in the subscription: nothing can be on two invoices.

    `charge_key` names a rate card of a plan version for one period (`charges.charge_key`), `line_key` a part of its
    price. `revision` counts the times it was billed: 0 is the first; later ones are differences, of late usage or of
    time that was served after all. `metered` is all that was used for the charge when the line was made, and `share`
    all of its period that was served (of an add-on's fee see `count` and `earlier` in pricing.rate.Charge): from these
    the line can be rated again.

    [period_start, period_end) is what it is charged for; [rated_start, rated_end) the whole period of its rate card,
    and `ends_at` when nothing but usage that comes late can change the charge any more.
    """

    __tablename__ = "invoice_lines"
    __table_args__ = (
        UniqueConstraint("subscription_id", "charge_key", "line_key", "revision"),
        UniqueConstraint("invoice_id", "position"),
    )

    id: str = Field(primary_key=True)
    invoice_id: str = Field(foreign_key="invoices.id")
    subscription_id: str
    position: int
    charge_key: str
    line_key: str
    revision: int
    kind: str
    description: str
    quantity: Decimal = Field(sa_type=DecimalText)
    unit_amount: Decimal = Field(sa_type=DecimalText)
    gross_minor: int = Field(sa_type=BigInteger)
    amount_minor: int = Field(sa_type=BigInteger)
    credited_minor: int = Field(default=0, sa_type=BigInteger)  # by credit notes
    reductions: list[dict[str, Any]] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    taxes: list[dict[str, Any]] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    tier: int | None = None
    share: str = "1"
    count: int = 1
    earlier: str = "0"
    metered: Decimal | None = Field(default=None, sa_type=DecimalText)
    plan_id: str = Field(foreign_key="plans.id")
    phase_key: str
    card_key: str
    addon_id: str | None = Field(default=None, foreign_key="addons.id")
    feature_key: str | None = None
    meter: str | None = None
    period_start: datetime = Field(sa_type=UTCDateTime)
    period_end: datetime = Field(sa_type=UTCDateTime)
    rated_start: datetime = Field(sa_type=UTCDateTime)
    rated_end: datetime = Field(sa_type=UTCDateTime)
    ends_at: datetime = Field(sa_type=UTCDateTime)


class CreditRow(SQLModel, table=True):
    """Money on the customer's side: what a pause or a change of plan gave back of a fee, or an invoice below 0.

    `source` names what gave it, so that it is given once. Lines of the subscription that were made after it stand
    from (`from_sequence`, `from_position`) on.
    """

    __tablename__ = "invoice_credits"

    id: str = Field(primary_key=True)
    source: str = Field(unique=True)
    customer_id: str = Field(foreign_key="customers.id")
    subscription_id: str = Field(foreign_key="subscriptions.id", index=True)
    charge_key: str | None = None
    currency: str
    description: str
    fees_only: bool
    granted_minor: int = Field(sa_type=BigInteger)
    released_minor: int = Field(sa_type=BigInteger)  # of the charge as it was rated
    left_minor: int = Field(sa_type=BigInteger)
    from_sequence: int
    from_position: int
    granted_at: datetime = Field(sa_type=UTCDateTime)


class CreditNote(SQLModel, table=True):
    """Takes back a part of an issued invoice: first of what is still owed, then of what was paid (`refunded_minor`)."""

    __tablename__ = "credit_notes"
    __table_args__ = (UniqueConstraint("invoice_id", "position"),)

    id: str = Field(primary_key=True)
    invoice_id: str = Field(foreign_key="invoices.id")
    position: int
    number: str = Field(unique=True)
    reason: str
    amount_minor: int = Field(sa_type=BigInteger)
    tax_minor: int = Field(sa_type=BigInteger)
    total_minor: int = Field(sa_type=BigInteger)  # with tax that comes on top
    refunded_minor: int = Field(sa_type=BigInteger)
    lines: list[dict[str, Any]] = Field(sa_column=Column(JSON, nullable=False))
    created_at: datetime = Field(sa_type=UTCDateTime)


class LedgerEntry(SQLModel, table=True):
    """Money that moves from the account `credit` to the account `debit`: both legs in one row, so they sum to 0.

    `source` names the occasion; one occasion moves money between two accounts once.
    """

    __tablename__ = "ledger_entries"
    __table_args__ = (UniqueConstraint("source", "debit", "credit"),)

    number: int | None = Field(default=None, primary_key=True)
    source: str
    debit: str
    credit: str
    amount_minor: int = Field(sa_type=BigInteger)
    currency: str
    customer_id: str = Field(index=True)
    subscription_id: str
    invoice_id: str | None = Field(default=None, index=True)
    at: datetime = Field(sa_type=UTCDateTime)


class BillingProfile(SQLModel, table=True):
    """How is invoiced and collected: `document` is what was sent, see `profile_document.py`. The default one counts.

    `account_id`: the provider's account that it collects by, None: nobody's.
    """

    __tablename__ = "billing_profiles"
    __table_args__ = (
        Index(
            "billing_profiles_one_default",
            "is_default",
            unique=True,
            sqlite_where=text("is_default"),
            postgresql_where=text("is_default"),
        ),
    )

    id: str = Field(primary_key=True)
    is_default: bool
    account_id: str | None = None
    document: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    created_at: datetime = Field(sa_type=UTCDateTime)
    updated_at: datetime = Field(sa_type=UTCDateTime)


class InvoiceNumber(SQLModel, table=True):
    """The last number that was given. Whoever takes one keeps the row until the commit, so that there are no gaps."""

    __tablename__ = "invoice_numbers"

    name: str = Field(primary_key=True)
    last: int

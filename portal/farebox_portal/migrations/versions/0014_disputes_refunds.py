"""Disputes, and money that goes back to the payer."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.add_column("invoices", sa.Column("dispute_status", sa.String(), nullable=True))
    op.add_column("invoices", sa.Column("is_dispute_refused", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column(
        "payment_collections", sa.Column("refunded_minor", sa.BigInteger(), nullable=False, server_default="0")
    )
    op.create_table(
        "payment_disputes",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("invoice_id", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["invoice_id"], ["invoices.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_payment_disputes_invoice_id", "payment_disputes", ["invoice_id"])
    op.create_table(
        "payment_refunds",
        sa.Column("credit_note_id", sa.String(), nullable=False),
        sa.Column("invoice_id", sa.String(), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("provider_id", sa.String(), nullable=True),
        sa.Column("fault", sa.String(), nullable=True),
        sa.Column("troubles", sa.Integer(), nullable=False),
        sa.Column("look_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["credit_note_id"], ["credit_notes.id"]),
        sa.ForeignKeyConstraint(["invoice_id"], ["invoices.id"]),
        sa.PrimaryKeyConstraint("credit_note_id"),
    )
    op.create_index("ix_payment_refunds_invoice_id", "payment_refunds", ["invoice_id"])
    op.create_index("ix_payment_refunds_look_at", "payment_refunds", ["look_at"])

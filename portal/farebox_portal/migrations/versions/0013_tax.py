"""Billing profiles; what came of working out an invoice's tax, and whether that can be done for a customer."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.add_column("invoices", sa.Column("tax_status", sa.String(), nullable=True))
    op.add_column("invoices", sa.Column("tax_fault", sa.String(), nullable=True))
    op.add_column("payment_payers", sa.Column("tax_status", sa.String(), nullable=True))
    op.create_table(
        "billing_profiles",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("is_default", sa.Boolean(), nullable=False),
        sa.Column("account_id", sa.String(), nullable=True),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "billing_profiles_one_default",
        "billing_profiles",
        ["is_default"],
        unique=True,
        sqlite_where=sa.text("is_default"),
        postgresql_where=sa.text("is_default"),
    )

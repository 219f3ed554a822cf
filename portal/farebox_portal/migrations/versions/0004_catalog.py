"""Metadata of meters, further terms of plans, invitations to private ones, and how plans are sold."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("meters", sa.Column("metadata", sa.JSON(), nullable=True))
    op.add_column("plans", sa.Column("terms", sa.JSON(), nullable=True))
    op.create_table(
        "plan_invites",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("email", sa.String(), nullable=False),
        sa.Column("plan_key", sa.String(), nullable=False),
        sa.Column("plan_id", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["plan_id"], ["plans.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    standing = sa.text("revoked_at IS NULL")
    op.create_index(
        "plan_invites_standing",
        "plan_invites",
        ["email", "plan_key"],
        unique=True,
        sqlite_where=standing,
        postgresql_where=standing,
    )
    op.create_table(
        "monetization_configuration",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("multiple_subscriptions_enabled", sa.Boolean(), nullable=True),
        sa.Column("plan_order", sa.JSON(), nullable=True),
        sa.Column("plan_settings", sa.JSON(), nullable=True),
        sa.Column("max_payment_overdue_days", sa.Integer(), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )

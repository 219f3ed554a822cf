"""Hourly sums of the ledger."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "usage_hours",
        sa.Column("subscription_id", sa.String(), nullable=False),
        sa.Column("meter", sa.String(), nullable=False),
        sa.Column("hour_ms", sa.BigInteger(), nullable=False),
        sa.Column("quantity", sa.BigInteger().with_variant(sa.Numeric(38, 0), "postgresql"), nullable=False),
        sa.PrimaryKeyConstraint("subscription_id", "meter", "hour_ms"),
    )
    op.execute(
        "INSERT INTO usage_hours (subscription_id, meter, hour_ms, quantity) "
        "SELECT subscription_id, meter, admitted_at_ms - admitted_at_ms % 3600000, sum(quantity) "
        "FROM usage_events GROUP BY 1, 2, 3"
    )

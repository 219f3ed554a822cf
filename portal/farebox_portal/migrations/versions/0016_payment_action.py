"""What a payer has to do, and where."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    op.add_column("invoices", sa.Column("payment_fault", sa.String(), nullable=True))
    op.add_column("invoices", sa.Column("needs_action", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("subscriptions", sa.Column("payment_url", sa.String(), nullable=True))

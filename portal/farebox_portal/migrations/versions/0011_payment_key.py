"""Which key of the payment provider was checked."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.add_column("payment_accounts", sa.Column("key_fingerprint", sa.String(), nullable=True))

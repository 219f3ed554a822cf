"""How many requests of a plan may run at once."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("plans", sa.Column("concurrency_limit", sa.Integer(), nullable=True))

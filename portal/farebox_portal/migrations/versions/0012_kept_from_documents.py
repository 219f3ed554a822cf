"""What OpenMeter's meters and features say beside what we act on: kept, and shown as it was sent."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.add_column("meters", sa.Column("event_from", sa.DateTime(timezone=True), nullable=True))
    op.add_column("features", sa.Column("unit_cost", sa.JSON(), nullable=True))

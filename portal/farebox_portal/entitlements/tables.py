"""What the publisher remembers about each account between two rounds."""

from datetime import datetime

from sqlmodel import Field, SQLModel

from farebox_portal.db import UTCDateTime


class Publication(SQLModel, table=True):
    """The account document that lies in Valkey, as far as the next one depends on it."""

    __tablename__ = "publications"

    customer_id: str = Field(primary_key=True, foreign_key="customers.id")
    # Documents hold period boundaries for weeks ahead, and one phase of a plan. Before they run short, or when the
    # phase ends, the account is compiled again although nobody changed it. None: nothing in it runs out.
    recompile_at: datetime | None = Field(default=None, sa_type=UTCDateTime, index=True)
    # Names the set of counters that the document needs. When it changes, Valkey's counters are rebuilt from the ledger.
    counters_digest: str

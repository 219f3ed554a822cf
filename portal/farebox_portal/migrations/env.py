"""How Alembic runs here: on the connection that `migrate` hands over, so that all steps are one transaction."""

from typing import Any, Literal, cast

from alembic import context
from alembic.autogenerate.api import AutogenContext
from sqlalchemy import Connection
from sqlmodel import AutoString

from farebox_portal.db import DecimalText, UTCDateTime
from farebox_portal.tables import metadata


def plain_types(kind: str, item: Any, _: AutogenContext) -> str | Literal[False]:
    """Steps name SQL's types, not our classes: a step must still run when the code has moved on."""
    if kind == "type" and isinstance(item, UTCDateTime):
        return "sa.DateTime(timezone=True)"
    if kind == "type" and isinstance(item, AutoString | DecimalText):
        return "sa.String()"
    return False


connection = cast("Connection", context.config.attributes["connection"])
context.configure(
    connection=connection,
    target_metadata=metadata,
    render_item=plain_types,
    render_as_batch=context.config.attributes.get("render_as_batch", True),  # SQLite changes a table by copying it
)
with context.begin_transaction():
    context.run_migrations()

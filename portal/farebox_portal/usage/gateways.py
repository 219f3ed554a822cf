"""Which gateways there are, and which of them may still have usage that the ledger does not.

A gateway (a plugin's keeper with its workers) tells us every few seconds that it is there. Whoever rebuilds an
account's admission state asks every gateway for what the ledger does not have yet, and must not go on without the
answer of a live one. One that was silent for `LOST_AFTER` is waited for no longer; one that left has nothing to tell.

Times here are real ones: whether a process is there has nothing to do with the clock that periods are billed by.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

from sqlmodel import Session, col, delete, or_, select
from sqlmodel.sql.expression import SelectOfScalar

from farebox.v1.usage_pb2 import Gateway, Heartbeat, HeartbeatReceipt
from farebox_portal.db import insert_into
from farebox_portal.documents import Output
from farebox_portal.errors import Conflict
from farebox_portal.usage.tables import GatewayRow, SpoolCursor

LOST_AFTER = timedelta(seconds=60)
# Somebody may still listen under the name of one that is lost. After a month nobody asks any more.
GONE_AFTER = timedelta(days=30)


class GatewayDocument(Output):
    """What an operator sees of a gateway. `status`: live, lost (silent for a minute) or left."""

    name: str
    status: str
    last_seen_at: datetime
    left_at: datetime | None = None


def hear(session: Session, heartbeat: Heartbeat, now: datetime) -> HeartbeatReceipt:
    """Note that a gateway is there, or that it leaves. Raises Conflict when another one lives under its name."""
    values = {"name": heartbeat.gateway, "instance": heartbeat.instance, "boot": heartbeat.boot, "last_seen_at": now}
    inserted = session.connection().execute(
        insert_into(session, GatewayRow).values(values).on_conflict_do_nothing().returning(col(GatewayRow.name))
    )
    is_new = inserted.first() is not None
    row = session.exec(select(GatewayRow).where(GatewayRow.name == heartbeat.gateway).with_for_update()).one()
    was_away = is_new or _status(row, now) != "live"
    if not was_away:
        _refuse_impostor(row, heartbeat, now)
    row.instance, row.boot, row.last_seen_at = heartbeat.instance, heartbeat.boot, now
    row.left_at = now if heartbeat.is_leaving else None
    session.add(row)
    if heartbeat.retired:
        own = [spool for spool in heartbeat.retired if spool.startswith(f"{heartbeat.gateway}.")]
        session.exec(delete(SpoolCursor).where(col(SpoolCursor.spool).in_(own)))
    return HeartbeatReceipt(was_away=was_away)


def known_gateways(session: Session, now: datetime) -> list[Gateway]:
    """Every gateway that may have something to tell, by name."""
    asked = select(GatewayRow).where(col(GatewayRow.left_at).is_(None), GatewayRow.last_seen_at > now - GONE_AFTER)
    rows = session.exec(asked.order_by(GatewayRow.name))
    return [Gateway(name=row.name, is_live=_status(row, now) == "live") for row in rows]


def cursors_of(session: Session, gateways: Iterable[str]) -> dict[str, int]:
    """How far the ledger has read the spools of these gateways."""
    of_one = [col(SpoolCursor.spool).startswith(f"{name}.", autoescape=True) for name in sorted(set(gateways))]
    if not of_one:
        return {}
    return {cursor.spool: cursor.end for cursor in session.exec(select(SpoolCursor).where(or_(*of_one)))}


def every() -> SelectOfScalar[GatewayRow]:
    """All of them, also those that left."""
    return select(GatewayRow).order_by(GatewayRow.name)


def show(row: GatewayRow, now: datetime) -> GatewayDocument:
    status = _status(row, now)
    return GatewayDocument(name=row.name, status=status, last_seen_at=row.last_seen_at, left_at=row.left_at)


def _status(row: GatewayRow, now: datetime) -> str:
    if row.left_at is not None:
        return "left"
    return "live" if row.last_seen_at > now - LOST_AFTER else "lost"


def _refuse_impostor(row: GatewayRow, heartbeat: Heartbeat, now: datetime) -> None:
    """Two gateways of one name would answer for each other's spools. A plugin that was started again is no impostor."""
    if row.instance != heartbeat.instance:
        silent_s = (now - row.last_seen_at).total_seconds()
        raise Conflict(
            f"another plugin with another spool directory is the gateway '{row.name}', and was there {silent_s:.0f} s "
            f"ago: set FAREBOX_GATEWAY_NAME to a name of its own, or wait {LOST_AFTER.total_seconds():.0f} s if that "
            "one is gone for good",
            code="gateway_name_taken",
        )
    if row.boot != heartbeat.boot and not heartbeat.is_first:
        raise Conflict(
            f"another plugin was started as the gateway '{row.name}' with a copy of this spool directory: one of the "
            "two has to go; give the other one an empty spool directory and another FAREBOX_GATEWAY_NAME",
            code="gateway_superseded",
        )

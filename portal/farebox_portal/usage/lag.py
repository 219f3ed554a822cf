"""How far the ledger is taken to be complete, for what depends on units that were *not* used.

Usage comes a few seconds after it happened, and from a gateway that is cut off, when it is back. Of an instant it is
taken that everything before it is booked when LATE has passed since, and every gateway was heard of since then. One
that is silent is waited for GIVEN_UP at most. A request that was let in before the instant and is not over by then, or
a gateway that delivers even later, is booked all the same, and counts from then on.
"""

from datetime import datetime, timedelta

from sqlmodel import Session, col, select

from farebox_portal.usage.tables import GatewayRow

LATE = timedelta(minutes=1)
GIVEN_UP = timedelta(days=1)
LOOKS = (LATE, timedelta(hours=1), timedelta(days=1))
"""How long after an instant it is asked again what was used before it: for most, for what was late, and for all."""


def complete_to(session: Session, wall: datetime) -> datetime:
    """On the wall's clock, as usage is dated by it. `wall`: what it shows now."""
    heard = select(GatewayRow.last_seen_at).where(
        col(GatewayRow.left_at).is_(None), col(GatewayRow.last_seen_at) > wall - GIVEN_UP
    )
    seen: list[datetime] = list(session.exec(heard))
    return min([wall, *seen]) - LATE

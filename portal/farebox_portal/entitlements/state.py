"""An account and its counters as the ledger has them: what the plugin rebuilds admission from."""

from datetime import datetime

from sqlmodel import Session, select

from farebox.v1.entitlements_pb2 import Quota
from farebox.v1.usage_pb2 import AccountState, CounterValue
from farebox_portal.clock import to_ms
from farebox_portal.entitlements.compile import compile_account, serialized
from farebox_portal.entitlements.facts import read_facts
from farebox_portal.errors import NotFound
from farebox_portal.usage.tables import SpoolCursor
from farebox_portal.usage.totals import period_totals

_PERIODS_AHEAD = 2  # a gateway's clock may run ahead of ours


def account_state(session: Session, account_id: str, now: datetime) -> AccountState:
    """The account's document, its totals of the last, the current and the next period, and every spool's cursor.

    All of one snapshot: a batch that is booked in between must be in totals and cursor or in neither, else the plugin
    would count it twice or not at all. So `session` has to be a transaction that sees one state of the database from
    its first statement to its last (`db.transaction(read_only=True)`). Counters at zero are left out. Raises NotFound.
    """
    facts = read_facts(session, [account_id])
    if not facts:
        raise NotFound(f"There is no account {account_id}.")
    account = compile_account(facts[0], now)
    counters = [
        CounterValue(subscription_id=sold.id, quota_id=quota.id, period_start_ms=start_ms, used=used)
        for sold in account.subscriptions
        for quota in sold.quotas
        for start_ms, used in _totals(session, sold.id, quota, to_ms(now))
        if used
    ]
    cursors = {cursor.spool: cursor.end for cursor in session.exec(select(SpoolCursor))}
    return AccountState(account=serialized(account), counters=counters, cursors=cursors)


def _totals(session: Session, subscription_id: str, quota: Quota, now_ms: int) -> list[tuple[int, int]]:
    """(start, units used) of each period up to the next one."""
    begun = sum(reset <= now_ms for reset in quota.resets_ms)
    resets = quota.resets_ms[: begun + _PERIODS_AHEAD]
    return list(zip(resets, period_totals(session, subscription_id, quota.meter, resets), strict=False))

"""An account and its counters as the ledger has them: what the plugin rebuilds admission from."""

from collections.abc import Iterable
from datetime import datetime
from itertools import pairwise

from sqlmodel import Session

from farebox.v1.entitlements_pb2 import Quota
from farebox.v1.usage_pb2 import AccountState, CounterValue
from farebox_portal.clock import to_ms
from farebox_portal.entitlements.compile import compile_account, serialized
from farebox_portal.entitlements.facts import read_facts
from farebox_portal.errors import NotFound
from farebox_portal.usage.gateways import cursors_of, known_gateways
from farebox_portal.usage.totals import Span, totals

_PERIODS_AHEAD = 2  # a gateway's clock may run ahead of ours


def account_state(session: Session, account_id: str, now: datetime, asker: str, seen_at: datetime) -> AccountState:
    """The account's document, its totals of the last, the current and the next period; and for every gateway that may
    have more than that (as of `seen_at`, a real instant), and for the one that asks, the cursors of its spools.

    All of one snapshot: a batch that is booked in between must be in totals and cursor or in neither, else the plugin
    would count it twice or not at all. So `session` has to be a transaction that sees one state of the database from
    its first statement to its last (`db.transaction(read_only=True)`). Counters at zero are left out. Raises NotFound.
    """
    facts = read_facts(session, [account_id])
    if not facts:
        raise NotFound(f"There is no account {account_id}.")
    account = compile_account(facts[0], now)
    periods = [
        (sold.id, quota.id, Span(sold.id, quota.meter, start_ms, end_ms))
        for sold in account.subscriptions
        for quota in sold.quotas
        for start_ms, end_ms in _periods(quota, to_ms(now))
    ]
    used = totals(session, [span for _, _, span in periods])
    counters = [
        CounterValue(subscription_id=sold_id, quota_id=quota_id, period_start_ms=span.start_ms, used=units)
        for (sold_id, quota_id, span), units in zip(periods, used, strict=True)
        if units
    ]
    gateways = known_gateways(session, seen_at)
    cursors = cursors_of(session, [asker, *(gateway.name for gateway in gateways)])
    return AccountState(account=serialized(account), counters=counters, cursors=cursors, gateways=gateways)


def _periods(quota: Quota, now_ms: int) -> Iterable[tuple[int, int]]:
    """Each period from the last one to the next."""
    begun = sum(reset <= now_ms for reset in quota.resets_ms)
    return pairwise(quota.resets_ms[: begun + _PERIODS_AHEAD])

"""Accounts and their counters as the ledger has them: what the plugin rebuilds admission from."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import pairwise

import structlog
from sqlmodel import Session

from farebox.v1.entitlements_pb2 import Account, Quota, Stage, Subscription
from farebox.v1.usage_pb2 import AccountState, CounterValue
from farebox_portal.clock import to_ms
from farebox_portal.entitlements.compile import compile_account, serialized
from farebox_portal.entitlements.facts import read_facts
from farebox_portal.entitlements.used import with_usage
from farebox_portal.usage.gateways import cursors_of, known_gateways
from farebox_portal.usage.totals import Span, totals

log = structlog.get_logger()

_PERIODS_AHEAD = 2  # a gateway's clock may run ahead of ours


def account_states(
    session: Session, account_ids: Sequence[str], now: datetime, asker: str, seen_at: datetime
) -> list[AccountState]:
    """Of each account the document and its totals of the last, the current and the next period; and for every gateway
    that may have more than that (as of `seen_at`, a real instant), and for the one that asks, the cursors of its
    spools. An account that does not exist, or cannot be compiled, is left without a document.

    All of one snapshot: a batch that is booked in between must be in totals and cursor or in neither, else the plugin
    would count it twice or not at all. So `session` has to be a transaction that sees one state of the database from
    its first statement to its last (`db.transaction(read_only=True)`). Counters at zero are left out.
    """
    accounts = dict(_compiled(session, account_ids, now))
    spans = covered(accounts, to_ms(now))
    counters: dict[str, list[CounterValue]] = {}
    for (account_id, sold_id, quota_id, start_ms), units in zip(spans, totals(session, [*spans.values()]), strict=True):
        if units:
            value = CounterValue(subscription_id=sold_id, quota_id=quota_id, period_start_ms=start_ms, used=units)
            counters.setdefault(account_id, []).append(value)
    gateways = known_gateways(session, seen_at)
    cursors = cursors_of(session, [asker, *(gateway.name for gateway in gateways)])
    return [
        AccountState(
            account=serialized(accounts[account_id]) if account_id in accounts else b"",
            counters=counters.get(account_id, []),
            cursors=cursors,
            gateways=gateways,
        )
        for account_id in account_ids
    ]


def _compiled(session: Session, account_ids: Sequence[str], now: datetime) -> Iterator[tuple[str, Account]]:
    for facts in with_usage(session, read_facts(session, account_ids), now):
        try:
            yield facts.customer.id, compile_account(facts, now)
        except Exception:
            # One account's fault is not the others' outage.
            log.exception("account_not_compiled", account=facts.customer.id)


def covered(accounts: Mapping[str, Account], now_ms: int) -> dict[tuple[str, str, str, int], Span]:
    """The time that each counter covers, by account, subscription, quota and beginning.

    Several stages may count on one counter, and one of them may have begun anew in the middle of the period while a
    later one goes on with all of it: the counter has what the longest of them has.
    """
    found = [
        ((account_id, sold.id, quota.id, start_ms), Span(sold.id, quota.meter, start_ms, end_ms))
        for account_id, account in accounts.items()
        for sold in account.subscriptions
        for stage in _stages(sold)
        for quota in stage.quotas
        for start_ms, end_ms in _periods(quota, now_ms)
    ]
    return dict(sorted(found, key=lambda each: each[1].end_ms))


def _stages(sold: Subscription) -> list[Subscription | Stage]:
    return [sold, *sold.stages]


def _periods(quota: Quota, now_ms: int) -> Iterable[tuple[int, int]]:
    """Each period from the last one to the next."""
    begun = sum(reset <= now_ms for reset in quota.resets_ms)
    return pairwise(quota.resets_ms[: begun + _PERIODS_AHEAD])

"""What was used, added to the facts of those accounts whose limits depend on it."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from sqlmodel import Session

from farebox_portal.entitlements.compile import limits_of
from farebox_portal.entitlements.facts import AccountFacts
from farebox_portal.usage.lag import complete_to
from farebox_portal.usage.segment_totals import Wanted, segment_usage


def with_usage(session: Session, found: Sequence[AccountFacts], now: datetime) -> list[AccountFacts]:
    """The facts, ready to be compiled at `now`. Asks the ledger only if there is somebody whose limits depend on it."""
    wanted = [one for facts in found for one in _wanted(facts, now)]
    if not wanted:
        return list(found)
    timeline = found[0].timeline
    usages = segment_usage(session, wanted, timeline, now)
    used = {(one.subscription_id, one.allowance.feature_key): usage for one, usage in zip(wanted, usages, strict=True)}
    complete = complete_to(session, timeline.wall(now))
    return [replace(facts, used=used, complete_to=complete) for facts in found]


def _wanted(facts: AccountFacts, now: datetime) -> list[Wanted]:
    try:
        return _of_account(facts, now)
    except Exception:
        return []  # it cannot be compiled either, which holds up no other account and says what is wrong


def _of_account(facts: AccountFacts, now: datetime) -> list[Wanted]:
    return [
        Wanted(sold.id, allowance, times)
        for sold, plan in facts.subscriptions
        for limits, instants in [limits_of(facts, sold, plan, now)]
        for allowance, times in limits.times(instants)
    ]

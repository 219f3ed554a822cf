"""Five years of two hundred accounts in memory: every month somebody changes, pauses, cancels or comes back.

All of it follows from the seed: the same seed gives the same transcript to the byte, with every credit, every stretch
and every fee that was served. So nothing in the life or in its money depends on the wall's clock, on the order of a
dictionary, or on what ran before.
"""

import hashlib
import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import pairwise
from typing import Any

from builders.portal import a_card
from builders.subscriptions import a_fee, a_trial
from farebox_portal.catalog.tables import Plan
from farebox_portal.errors import Conflict
from farebox_portal.pricing.period import boundary, index_at
from farebox_portal.pricing.schedule import Span, service_periods
from farebox_portal.subscriptions.credit import credit
from farebox_portal.subscriptions.life import (
    Cancel,
    Change,
    Command,
    Life,
    Pause,
    Restore,
    Resume,
    UnscheduleCancelation,
    UnscheduleChange,
    apply,
    begun,
    events,
)
from farebox_portal.subscriptions.stretches import stretches

START = datetime(2026, 1, 31, 13, 37, tzinfo=UTC)
END = START.replace(year=2031)
ACCOUNTS = 200


def a_plan(key: str, phases: list[dict[str, Any]]) -> Plan:
    given = {"version": 1, "name": key, "currency": "USD", "billing_cadence": "P1M", "phases": phases}
    return Plan(id=key, key=key, created_at=START, updated_at=START, published_at=START, **given)


def one_phase(*cards: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": "default", "name": "Default", "rateCards": list(cards)}]


PLANS = {
    plan.id: plan
    for plan in (
        a_plan("free", one_phase(a_card())),
        a_plan("pro", one_phase(a_card(limit=10_000), a_fee("29"))),
        a_plan("max", one_phase(a_card(limit=100_000), a_fee("99"))),
        a_plan("trial", a_trial()),
    )
}


def a_command(chance: random.Random, life: Life, now: datetime) -> Command:
    earliest = max(now, life.start)
    at = chance.choice(
        [
            earliest,
            boundary(life.anchor, "P1M", index_at(life.anchor, "P1M", earliest) + 1),
            earliest + timedelta(seconds=chance.randrange(86_400 * 60)),
        ]
    )
    share = Fraction(chance.randrange(15_000), 10_000)
    plan = chance.choice(sorted(PLANS))
    return chance.choices(
        [
            Change(at, plan, is_fresh=chance.random() < 0.5, used_share=share),
            Cancel(at),
            Pause(at, chance.choice([None, at + timedelta(days=chance.randrange(1, 40))])),
            Resume(at),
            UnscheduleCancelation(),
            UnscheduleChange(),
            Restore(),
        ],
        [8, 2, 2, 3, 2, 1, 1],
    )[0]


def five_years(chance: random.Random) -> Iterator[Any]:
    """What happens to one account, as JSON."""
    now, life = START, begun(START, START, chance.choice(sorted(PLANS)))
    while now < END:
        now += timedelta(seconds=chance.randrange(86_400 * 40))
        if life.state(now) == "inactive":
            yield from told(life)
            life = begun(now, chance.choice([now, START]), chance.choice(sorted(PLANS)))
            continue
        command = a_command(chance, life, now)
        try:
            after = apply(life, command, now)
        except Conflict as refused:
            yield [now.isoformat(), type(command).__name__, refused.code]
            continue
        assert after is not None
        given_back = 0
        if isinstance(command, Change):
            given_back = credit(stretches(life, PLANS), life.anchor, command.at, command.used_share or Fraction(0))
            assert 0 <= given_back <= 9900
        yield [now.isoformat(), type(command).__name__, after.state(now), given_back]
        life = after
    yield from told(life)


def told(life: Life) -> Iterator[Any]:
    """A whole life: its events, its stretches, and every fee that was served in it."""
    yield [[event.at.isoformat(), event.kind] for event in events(life)]
    cut = stretches(life, PLANS)
    assert all(earlier.end == later.start for earlier, later in pairwise(cut)), "stretches tile the life"
    for stretch in cut:
        yield [stretch.start.isoformat(), stretch.plan.key, stretch.phase["key"], stretch.is_paused, stretch.is_fresh]
        if stretch.is_paused:
            continue
        span = Span(stretch.start, min(stretch.end or END, END))
        if span.end is not None and span.start < span.end:
            served = list(service_periods(life.anchor, "P1M", span, END))
            assert [served[0].served.start, served[-1].served.end] == [span.start, span.end]
            yield [[service.served.start.isoformat(), str(service.share)] for service in served]


def transcript(seed: int, accounts: int = ACCOUNTS) -> bytes:
    chance = random.Random(seed)
    return json.dumps([list(five_years(chance)) for _ in range(accounts)]).encode()


def test_five_years_replay_to_the_byte() -> None:
    first = transcript(7)
    assert hashlib.sha256(transcript(7)).hexdigest() == hashlib.sha256(first).hexdigest()
    assert transcript(8, accounts=1)[:200] != first[:200]
    told_of = {name for name in ("Change", "Cancel", "Pause", "Resume", "Restore") if f'"{name}"'.encode() in first}
    assert told_of == {"Change", "Cancel", "Pause", "Resume", "Restore"}

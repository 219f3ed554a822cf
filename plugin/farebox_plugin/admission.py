"""All requests of one turn of the event loop -> one frame in the spool, one script call, one decision each.

    intent (spool) -> ADMIT (Valkey) -> allowed (spool) -> the answer leaves

The order is the guarantee. Whatever dies in between, the spool knows who asked and who was let through, so that a hold
in Valkey can always be explained, given back or billed, and Valkey itself can be rebuilt.

What did not come back in time has an *unknown* outcome: the script may have run. The request is answered "unavailable",
and the hold it may have made is given back under its own rid, again and again until the server acknowledges; a
tombstone then keeps the delayed script from bringing it back. Nothing is ever retried that could count twice.
"""

import asyncio
from collections import Counter as Tally
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

import structlog

from farebox.v1 import layout
from farebox_plugin.directory import Directory
from farebox_plugin.link import Elsewhere, Link, Reply, StoreFault
from farebox_plugin.recent import Recent
from farebox_plugin.records import Call, Refusal, Unavailable
from farebox_plugin.scripts import ADMIT
from farebox_plugin.settlement import Settlements
from farebox_plugin.spool import ALLOWED, CLOSED, HELD, INTENT, SpoolFull, SpoolWriter, record
from farebox_plugin.terms import FOREVER_MS, Hold, Terms, held_by_meter, hold_for
from farebox_plugin.transport import UnaryReply

log = structlog.get_logger()

BATCH_MAX = 256
ATTEMPTS_MAX = 4
LET_IN_REMEMBERED = 8192
# Envoy waits half a second (envoy/filters.yaml), and its own answer would be a bare 503: ours, in time, says more.
DECIDE_WITHIN_S = 0.4
# A script call that reaches the server later than this admits nobody: its sender has long answered "unavailable".
LATE_AFTER_MS = 1000


# A tuple: it is made for every request, in a third of a frozen dataclass's time.
class Admitted(NamedTuple):
    terms: Terms
    committed: list[int]  # units of each of the terms' counters, this request included
    rate_left: int
    held: Mapping[str, int]  # meter -> units: what was asked for, or less of what may be held in part


@dataclass(frozen=True, slots=True)
class Refused:
    refusal: Refusal
    terms: Terms | None = None
    committed: list[int] | None = None


Decision = Admitted | Refused


@dataclass(slots=True)
class Ticket:
    """One request on its way through admission. `answered` is told what was decided, once, for all who wait."""

    call: Call
    terms: Terms
    hold: Hold
    waiting: list[UnaryReply]
    answered: Callable[["Ticket", Decision], None]
    attempts: int = 0

    @property
    def is_abandoned(self) -> bool:
        """Nobody waits for the answer any more."""
        for reply in self.waiting:  # noqa: SIM110 - all() over a generator costs 0.7 us more, twice a request
            if not reply.is_abandoned:
                return False
        return True


def unavailable(detail: str = "Usage cannot be metered at the moment.") -> Refusal:
    return Refusal("metering_unavailable", detail, retry_after_s=1)


class Admission:
    """Decides requests whose terms are known."""

    def __init__(
        self,
        link: Link,
        spool: SpoolWriter,
        directory: Directory,
        settlements: Settlements,
        load_account: Callable[[str], Awaitable[bytes]],
        owner: str,
        timeout_s: float,
    ) -> None:
        self._link = link
        self._spool = spool
        self._directory = directory
        self._settlements = settlements
        self._load_account = load_account
        self._owner = owner
        self._timeout_s = timeout_s
        self._turn: list[Ticket] = []
        self._pending: dict[str, Ticket] = {}  # by rid
        # rid -> answers that let it in, on their way; of those that have more than one. Hardly any has.
        self._let_in: Recent[str, int] = Recent(LET_IN_REMEMBERED)
        self._tasks: set[asyncio.Task[None]] = set()
        self.counts: Tally[str] = Tally()

    def submit(self, ticket: Ticket) -> None:
        """Decide with everything else that comes in this turn; it is answered exactly once, later.

        A Check that Envoy repeats while the first one is on its way is one request for which two wait.
        """
        known = self._pending.setdefault(ticket.call.rid, ticket)
        if known is ticket:
            self._enqueue(ticket)
        else:
            known.waiting += ticket.waiting

    def _enqueue(self, ticket: Ticket) -> None:
        self._turn.append(ticket)
        if len(self._turn) == 1:
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        turn, self._turn = self._turn, []
        for together in self._link.batches(turn, _counters_of):
            for start in range(0, len(together), BATCH_MAX):
                self._send(together[start : start + BATCH_MAX])

    def _send(self, batch: Sequence[Ticket]) -> None:
        server = self._link.server_of(_counters_of(batch[0]))
        can_ask = server.generation != "" and self._spool.is_accepting
        # Those that nobody waits for any more are not even asked about.
        dropped: list[Ticket] = []
        by_terms: dict[tuple[Terms, str], list[Ticket]] = {}
        for ticket in batch:
            if not can_ask or ticket.is_abandoned:
                dropped.append(ticket)
            else:
                by_terms.setdefault((ticket.terms, ticket.hold.text), []).append(ticket)
        self._drop(dropped)
        groups = list(by_terms.values())
        live = [ticket for group in groups for ticket in group]
        if not live:
            return
        intents = []
        keys: list[str] = []
        arguments: list[bytes | str | int] = [server.generation, int(server.now_ms()) + LATE_AFTER_MS]
        for group in groups:
            terms, hold = group[0].terms, self._hold_of(group[0])
            rids = [ticket.call.rid for ticket in group]
            intents.append(_intent(terms, hold, rids))
            keys += (layout.counters(terms.account), layout.holds(terms.account))
            arguments += _question(terms, group[0].hold, hold, rids)
        try:
            self._spool.append(intents)
        except SpoolFull as fault:
            log.error("spool_full", reason=str(fault))
            self._drop(live)
            return
        is_over = False

        def timed_out() -> None:
            nonlocal is_over
            is_over = True
            self._give_up(live, "timeout")

        def replied(reply: Reply | Exception) -> None:
            nonlocal is_over
            if is_over:
                return
            is_over = True
            timer.cancel()
            if isinstance(reply, Elsewhere) and not reply.is_moving:
                self._ask_elsewhere(live)
            elif isinstance(reply, Exception):
                if isinstance(reply, StoreFault):
                    log.error("admission_script_refused", reason=str(reply))
                self._give_up(live, "store")
            else:
                server.heard_time(reply[0])
                self._answers_came(groups, reply[1:])

        timer = asyncio.get_running_loop().call_later(self._timeout_s, timed_out)
        self._link.run(ADMIT, keys, arguments, replied)

    def _hold_of(self, ticket: Ticket) -> str:
        """As it stands in Valkey and in the spool: this worker is its owner."""
        return f"{self._owner};{ticket.hold.text}"

    def _answers_came(self, groups: Sequence[list[Ticket]], results: Sequence[Reply]) -> None:
        """The script's word on each request: note it in the spool, then let the answers go."""
        records: list[bytes] = []
        answers: list[tuple[Ticket, Decision]] = []
        taken_back: list[Ticket] = []
        for group, flat in zip(groups, results, strict=True):
            account = group[0].terms.account
            allowed, closed = [], []
            for ticket, result in zip(group, _results(group[0].terms, flat), strict=True):
                code, _, _, hold = result
                if code in (-3, -4) and ticket.attempts < ATTEMPTS_MAX:
                    self._spawn(self._try_again(ticket, is_loaded=code == -3))
                    continue
                decision = _decision(ticket, result)
                if isinstance(decision, Admitted) and ticket.is_abandoned:  # Envoy will not let it in any more
                    decision = Refused(unavailable())
                if isinstance(decision, Admitted):
                    if hold:
                        records.append(record(HELD, account, hold.decode(), ticket.call.rid))
                    if code == 3 or len(ticket.waiting) > 1:
                        self._count_answers(ticket, is_first=code != 3)
                    allowed.append(ticket.call.rid)
                else:
                    closed.append(ticket.call.rid)
                    if decision.refusal.code == "metering_unavailable":
                        taken_back.append(ticket)
                answers.append((ticket, decision))
            if allowed:
                records.append(record(ALLOWED, account, *allowed))
            if closed:
                records.append(record(CLOSED, account, *closed))
        if records:
            try:
                self._spool.append(records)
            except SpoolFull as fault:
                log.error("spool_full", reason=str(fault))
                taken_back = [ticket for ticket, decision in answers if isinstance(decision, Admitted)]
                answers = [(ticket, Refused(unavailable())) for ticket, _ in answers]
        for ticket in taken_back:
            self._settlements.take_back(ticket.call.rid, ticket.terms.account)
        for ticket, decision in answers:
            self._answer(ticket, decision)

    def _ask_elsewhere(self, batch: list[Ticket]) -> None:
        """The slot has another master now, whose generation these must name; nothing ran."""
        for ticket in batch:
            ticket.attempts += 1
            if ticket.attempts <= ATTEMPTS_MAX:
                self._enqueue(ticket)
        self._give_up([ticket for ticket in batch if ticket.attempts > ATTEMPTS_MAX], "store")

    def _drop(self, batch: list[Ticket]) -> None:
        """Answer without having asked (again)."""
        batch = self._let_pass(batch)
        self._retract([ticket for ticket in batch if ticket.attempts])
        self._answer_all(batch, Refused(unavailable()))

    def _let_pass(self, batch: list[Ticket]) -> list[Ticket]:
        """Let in what a policy lets in without the store (`onStoreFailure: allow`); the rest is returned.

        The spool has them as let in, so they are billed, and their account is rebuilt from it when the store is back.
        """
        passing = [each for each in batch if each.terms.policy.allow_on_store_failure and not each.is_abandoned]
        if not passing:
            return batch
        records = []
        for ticket in passing:
            terms, rid = ticket.terms, ticket.call.rid
            records += [_intent(terms, self._hold_of(ticket), [rid]), record(ALLOWED, terms.account, rid)]
        try:
            self._spool.append(records)
        except SpoolFull as fault:
            log.error("spool_full", reason=str(fault))
            return batch
        for ticket in passing:
            self.counts["let_pass_without_store"] += 1
            self._count_answers(ticket, is_first=ticket.call.rid not in self._let_in)
            self._settlements.distrust(ticket.terms.account)
            self._answer(ticket, Admitted(ticket.terms, [], 0, ticket.hold.units))
        passed = set(map(id, passing))
        return [each for each in batch if id(each) not in passed]

    def _retract(self, batch: list[Ticket]) -> None:
        """Give up on requests whose intent stands in the spool: they may be held, or a rebuild may have held them."""
        if batch:
            self._close([(ticket.call.rid, ticket.terms.account) for ticket in batch])

    def _close(self, requests: list[tuple[str, str]]) -> None:
        """Note that these were not let in, and give back what may be held for them."""
        try:
            self._spool.append([record(CLOSED, account, rid) for rid, account in requests])
        except SpoolFull as fault:
            log.error("spool_full", reason=str(fault))  # the keeper takes these for intents without an outcome
        for rid, account in requests:
            self._settlements.take_back(rid, account)

    def _give_up(self, batch: list[Ticket], reason: str) -> None:
        """The outcome is unknown: say no, and make it so."""
        self.counts[f"unknown_outcome_{reason}"] += len(batch)
        batch = self._let_pass(batch)
        self._retract(batch)
        self._answer_all(batch, Refused(unavailable()))

    async def _try_again(self, ticket: Ticket, *, is_loaded: bool) -> None:
        """The account changed since the terms were made, or this server does not know it (any more)."""
        ticket.attempts += 1
        account, call = ticket.terms.account, ticket.call
        try:
            async with asyncio.timeout(DECIDE_WITHIN_S):
                entry = await self._directory.load_account(account) if is_loaded else None
                if entry is None:
                    entry = self._directory.put_account(await self._load_account(account))
            fresh = self._directory.terms_of(entry, ticket.terms.key, ticket.terms.policy, call.admitted_at_ms)
            if isinstance(fresh, Terms):
                # The new terms may count on other counters; what was estimated stays as it was.
                ticket.terms, ticket.hold = fresh, hold_for(fresh, call.max_tokens(), ticket.hold.units)
                self._enqueue(ticket)
                return
        except (Unavailable, TimeoutError):
            self._drop([ticket])
            return
        self._retract([ticket])
        self._answer(ticket, Refused(fresh))

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _answer_all(self, batch: list[Ticket], decision: Decision) -> None:
        for ticket in batch:
            self._answer(ticket, decision)

    def _answer(self, ticket: Ticket, decision: Decision) -> None:
        self._pending.pop(ticket.call.rid, None)
        ticket.answered(ticket, decision)

    def _count_answers(self, ticket: Ticket, *, is_first: bool) -> None:
        """Note that this request is told more than once that it may pass."""
        rid = ticket.call.rid
        before = 0 if is_first else self._let_in.get(rid) or 1
        self._let_in[rid] = before + len(ticket.waiting)

    def unread(self, rid: str, account: str) -> None:
        """An answer that let this request in was not read any more: its client left just then, or Envoy gave up.

        If it was the only one, nobody was let in. (Envoy may have asked twice, and have read the other answer.)
        """
        others = (self._let_in.pop(rid) or 1) - 1
        if others:
            self._let_in[rid] = others
        else:
            self.counts["unread"] += 1
            self._close([(rid, account)])


def _intent(terms: Terms, hold: str, rids: Sequence[str]) -> bytes:
    return record(INTENT, terms.account, terms.subscription, terms.key, terms.policy.key, hold, *rids)


def _question(terms: Terms, hold: Hold, owned: str, rids: Sequence[str]) -> list[str | int]:
    """What the script is told of requests under the same terms (scripts/admit.lua). `owned`: the hold it stores."""
    told: list[str | int] = [terms.version, terms.rate_field, terms.emission_us, terms.tolerance_us, owned]
    told.append(len(terms.counters))
    for counter in terms.counters:
        units = hold.units[counter.meter]
        told += (counter.field, -units if counter.is_divisible else units, counter.limit)
    return [*told, len(rids), *rids]


def _counters_of(ticket: Ticket) -> str:
    return layout.counters(ticket.terms.account)


# What the script says of one request (scripts/admit.lua): code, detail, units of each of the terms' counters, and the
# hold where units may be held in part.
_Result = tuple[int, int, list[int], bytes]


def _results(terms: Terms, flat: Reply) -> list[_Result]:
    """A group's results, one by one."""
    n = len(terms.counters)
    if terms.is_divisible:
        places = range(0, len(flat), 3 + n)
        return [(flat[at], flat[at + 1], flat[at + 2 : at + 2 + n], flat[at + 2 + n]) for at in places]
    return [(flat[at], flat[at + 1], flat[at + 2 : at + 2 + n], b"") for at in range(0, len(flat), 2 + n)]


def _decision(ticket: Ticket, result: _Result) -> Decision:
    """The script's result in our words."""
    terms = ticket.terms
    code, detail, committed, hold = result
    if code > 0:
        return Admitted(terms, committed, detail, held_by_meter(hold.decode()) if hold else ticket.hold.units)
    if code == -1:
        refusal = _over_limit(ticket, detail, committed)
        return Refused(refusal, terms, committed if refusal.meter is not None else None)
    if code == -2:
        waits_s = max(ceil(detail / 1_000_000), 1)
        refusal = Refusal("rate_limited", "The plan's rate limit is reached.", retry_after_s=waits_s)
        return Refused(refusal, terms)
    # -3, -4: not settled in several attempts; -5: voided meanwhile; -6: came too late.
    return Refused(unavailable(), terms)


def _over_limit(ticket: Ticket, place: int, committed: list[int]) -> Refusal:
    """`place`: of the counter that is full, from 1."""
    counter = ticket.terms.counters[place - 1]
    if counter.meter == layout.OPEN_REQUEST:
        reason = f"The plan allows {counter.limit} requests at the same time."
        return Refusal("rate_limited", reason, retry_after_s=1)
    waits_ms = counter.resets_at_ms - ticket.call.admitted_at_ms
    return Refusal(
        "quota_exceeded",
        f"The plan's limit of {counter.quota} {counter.meter} is used up.",
        meter=counter.meter,
        limit=counter.quota,
        used=committed[place - 1],
        resets_at_ms=counter.resets_at_ms,
        retry_after_s=max(ceil(waits_ms / 1000), 1) if counter.resets_at_ms < FOREVER_MS else None,
    )

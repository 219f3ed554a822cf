"""What the other gateways have that the ledger does not: open requests, and usage on its way.

Several gateways may admit for one account, each with spools of its own. Whoever rebuilds the account's state puts the
truth of all of them into place, so it asks:

    claim a token -> the ledger's view L -> every gateway's spools, at some moment after L -> LOAD

Each gateway answers from its own spools, for a moment of its own; these moments need not be one. They all lie after
the token was claimed, and until LOAD the scripts refuse everything on this account: what is admitted or settled on a
gateway after its answer is told "not loaded", and applies when LOAD is done. What was in the spools before is in the
answer. An open request that is refused after the answer was held by LOAD all the same, so the gateway that answered
marks it as rebuilt, and its own sweeper gives it back (sweep.py).

Usage counts once: a gateway tells what lies behind *its* cursors in the asker's view L. If it has forgotten some of
that already, because it was shipped after L, it says so, and the asker takes a new view. That is also the answer to a
question whose answer would be too large: with the next view there is less.

Questions and answers travel over Valkey's pub/sub, where whoever is not connected at that moment hears nothing; so a
question is asked several times. A live gateway that does not answer leaves the account unloaded, and its requests
unavailable: to go on without it would let requests past the limit. One that has been silent for a minute (the portal
says so) is waited for no longer, and only asked in case it listens: what it admitted and did not deliver is missing
from the rebuilt state until it is back (membership.py), at most what it had open or undelivered when it was lost.
"""

import asyncio
import secrets
from collections import Counter as Tally
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog
from google.protobuf.message import DecodeError

from farebox.v1 import layout, usage_pb2
from farebox.v1.usage_pb2 import AccountState, PendingAnswer, PendingQuestion, UsageEvent
from farebox_plugin.keeper.index import Index, OpenRequest
from farebox_plugin.link import Link
from farebox_plugin.records import Grant, Unavailable
from farebox_plugin.spool import SpoolDamaged

log = structlog.get_logger()

# How long each of the tries is waited for; a worker gives up on a rebuild after 3 s, a client's request long before.
WAITS_S = (0.3, 0.3, 0.4)
# Of an answer. Valkey cuts off a subscriber for whom more than 32 MB wait.
ANSWER_BYTES_MAX = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Pending:
    """What gateways have of an account beyond a view of the ledger."""

    unshipped: list[UsageEvent] = field(default_factory=list)
    open_requests: list[OpenRequest] = field(default_factory=list)
    ended: dict[str, Mapping[str, int]] = field(default_factory=dict)  # rid -> quantities; of the requests asked about


def merged(parts: Sequence[Pending]) -> Pending:
    """What several gateways have, each request once. Pure.

    One request may be known to two of them: Envoy asked both, or another one settled it than the one that let it in.
    """
    unshipped = {event.rid: event for part in reversed(parts) for event in part.unshipped}
    ended = {rid: quantities for part in parts for rid, quantities in part.ended.items()}
    opened: dict[str, OpenRequest] = {}
    for part in parts:
        for request in part.open_requests:
            rid = request.grant.rid
            if rid in unshipped or rid in ended:
                continue
            known = opened.get(rid)
            if known is None:
                opened[rid] = request
                continue
            # Who let it in knows what is held.
            first, second = (request, known) if request.is_allowed else (known, request)
            claims = {**first.claims, **second.claims}
            opened[rid] = OpenRequest(first.grant, first.hold, first.seen_at, claims, is_rebuilt=True)
    return Pending(list(unshipped.values()), list(opened.values()), ended)


class Peers:
    """Asks the other gateways and answers them."""

    def __init__(self, link: Link, index: Index, name: str) -> None:
        self.name = name
        self._link = link
        self._index = index
        self._waiting: dict[tuple[str, str], asyncio.Future[PendingAnswer]] = {}  # question, gateway
        self._silent: set[str] = set()
        self.counts: Tally[str] = Tally()

    def listen(self) -> None:
        """Hear the others' questions and answers from now on."""
        self._link.subscribe(layout.questions(self.name), self._asked)
        self._link.subscribe(layout.answers(self.name), self._answered)

    async def gather(
        self, account: str, state: AccountState, *, is_rebuild: bool, holds: Iterable[str] = ()
    ) -> Pending | None:
        """What all gateways have beyond this view of the ledger; None: take another view. Raises Unavailable.

        `is_rebuild`: the answer becomes admission state. `holds`: requests of which to tell whether they just ended.
        """
        question = PendingQuestion(
            id=secrets.token_hex(8), asker=self.name, account=account, is_rebuild=is_rebuild, holds=holds
        )
        others = [gateway for gateway in state.gateways if gateway.name != self.name]
        asked = [self._ask(gateway, _to(gateway.name, question, state)) for gateway in others]
        parts: list[Pending | None] = []
        for answer in await asyncio.gather(*asked, return_exceptions=True):
            if isinstance(answer, BaseException):
                raise answer
            parts.append(_pending(answer))
        # Our own last: it needs no journey, so it need not be older than LOAD.
        question.cursors.update(state.cursors)
        parts.append(self.pending(question))
        found = [part for part in parts if part is not None]
        if len(found) < len(parts):
            self.counts["behind"] += 1
            return None
        return merged(found)

    def pending(self, question: PendingQuestion) -> Pending | None:
        """What the spools of this host say at this moment; None: the cursors are too old. Raises SpoolDamaged."""
        account, cursors = question.account, question.cursors
        self._index.catch_up(asyncio.get_running_loop().time())
        if self._index.is_behind(cursors):
            return None
        opened = self._index.open_of(account)
        if question.is_rebuild:
            for request in opened:
                request.is_rebuilt = True
        ended = self._index.ended_of(account) if question.holds else {}
        wanted = {rid: ended[rid] for rid in question.holds if rid in ended}
        return Pending(self._index.unshipped_of(account, cursors), opened, wanted)

    async def _ask(self, gateway: usage_pb2.Gateway, question: PendingQuestion) -> PendingAnswer:
        """Another gateway's answer; an empty one for a gateway that is lost and does not listen. Raises Unavailable."""
        name = gateway.name
        awaited = (question.id, name)
        future: asyncio.Future[PendingAnswer] = asyncio.get_running_loop().create_future()
        self._waiting[awaited] = future
        try:
            for wait_s in WAITS_S if gateway.is_live else WAITS_S[:1]:
                listeners = await self._link.ask("PUBLISH", layout.questions(name), question.SerializeToString())
                # A cluster's node counts only those who listen to itself.
                if not listeners and not gateway.is_live and not self._link.is_cluster:
                    break
                done, _ = await asyncio.wait([future], timeout=wait_s)
                if done:
                    self._heard_of(name)
                    return future.result()
        finally:
            del self._waiting[awaited]
        self._not_heard_of(gateway)
        if gateway.is_live:
            raise Unavailable(f"the gateway '{name}' does not answer")
        return PendingAnswer(id=question.id, gateway=name)

    def _heard_of(self, name: str) -> None:
        if name in self._silent:
            self._silent.discard(name)
            log.info("gateway_answers_again", gateway=name)

    def _not_heard_of(self, gateway: usage_pb2.Gateway) -> None:
        self.counts["no_answer" if gateway.is_live else "went_without_lost_gateway"] += 1
        if gateway.name in self._silent:
            return
        self._silent.add(gateway.name)
        if gateway.is_live:
            remedy = "start its plugin again, or wait a minute: then accounts are rebuilt without it"
            log.error("gateway_does_not_answer", gateway=gateway.name, remedy=remedy)
        else:
            remedy = "start its plugin again on its spool directory, to deliver what it had open"
            log.warning("rebuilding_without_lost_gateway", gateway=gateway.name, remedy=remedy)

    def _asked(self, message: bytes) -> None:
        try:
            question = PendingQuestion.FromString(message)
            pending = self.pending(question)
        except (DecodeError, SpoolDamaged) as fault:
            log.error("question_not_answered", reason=str(fault))
            return
        serialized = _answer(question, self.name, pending).SerializeToString()
        if len(serialized) > ANSWER_BYTES_MAX:
            log.warning("answer_too_large", account=question.account, bytes=len(serialized))
            serialized = _answer(question, self.name, None).SerializeToString()
        self.counts["answered"] += 1
        self._link.call(("PUBLISH", layout.answers(question.asker), serialized), lambda reply: None)

    def _answered(self, message: bytes) -> None:
        try:
            answer = PendingAnswer.FromString(message)
        except DecodeError as fault:
            log.error("answer_not_understood", reason=str(fault))
            return
        future = self._waiting.get((answer.id, answer.gateway))
        if future is not None and not future.done():
            future.set_result(answer)


def _to(gateway: str, question: PendingQuestion, state: AccountState) -> PendingQuestion:
    """The question with the cursors of this gateway's spools."""
    own = PendingQuestion()
    own.CopyFrom(question)
    own.cursors.update({spool: end for spool, end in state.cursors.items() if spool.startswith(f"{gateway}.")})
    return own


def _pending(answer: PendingAnswer) -> Pending | None:
    if answer.is_behind:
        return None
    return Pending(
        [UsageEvent.FromString(payload) for payload in answer.events],
        [_open_request(message) for message in answer.open],
        {ended.rid: {meter.meter: meter.quantity for meter in ended.meters} for ended in answer.ended},
    )


def _answer(question: PendingQuestion, gateway: str, pending: Pending | None) -> PendingAnswer:
    answer = PendingAnswer(id=question.id, gateway=gateway, is_behind=pending is None)
    if pending is None:
        return answer
    answer.events.extend(event.SerializeToString() for event in pending.unshipped)
    for request in pending.open_requests:
        grant = request.grant
        answer.open.add(
            rid=grant.rid,
            account_id=grant.account,
            subscription_id=grant.subscription,
            key_id=grant.key,
            policy=grant.policy,
            hold=request.hold,
            claims=request.claims,
        )
    for rid, quantities in pending.ended.items():
        meters = [usage_pb2.MeterQuantity(meter=meter, quantity=units) for meter, units in quantities.items()]
        answer.ended.add(rid=rid, meters=meters)
    return answer


def _open_request(message: usage_pb2.OpenRequest) -> OpenRequest:
    grant = Grant(message.rid, message.account_id, message.subscription_id, message.key_id, message.policy)
    return OpenRequest(grant, message.hold, 0.0, dict(message.claims), is_rebuilt=True)

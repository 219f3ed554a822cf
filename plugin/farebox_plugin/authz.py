"""Authorization/Check: read, look up, admit, answer.

Almost every request finds all it needs in memory and goes straight into this turn's batch, without a task of its own.
One that does not (a new key, a changed account) waits for its lookups first.
"""

import asyncio
from collections import Counter as Tally
from collections.abc import Awaitable, Callable
from functools import partial

import structlog
from google.protobuf.message import DecodeError

from farebox.v1.digest import digest, is_well_formed
from farebox_plugin.admission import DECIDE_WITHIN_S, Admission, Decision, Refused, Ticket, unavailable
from farebox_plugin.answer import allowed, denied, rate_limit_headers
from farebox_plugin.call import NOT_VALID, read_call
from farebox_plugin.directory import Directory
from farebox_plugin.estimates import RecentUse
from farebox_plugin.link import StoreFault
from farebox_plugin.records import NOTHING, Call, Refusal, Unavailable
from farebox_plugin.terms import Terms, hold_for
from farebox_plugin.transport import INVALID_ARGUMENT, UnaryReply

log = structlog.get_logger()

LOOKUPS_MAX = 6


class Authz:
    """Answers Envoy's question about each request."""

    def __init__(
        self,
        directory: Directory,
        admission: Admission,
        recent: RecentUse,
        load_account: Callable[[str], Awaitable[bytes]],
        pepper: bytes,
        public_url: str,
    ) -> None:
        self._directory = directory
        self._admission = admission
        self._recent = recent
        self._load_account = load_account
        self._pepper = pepper
        self._public_url = public_url
        self._tasks: set[asyncio.Task[None]] = set()
        self.counts: Tally[str] = Tally()

    def check(self, message: bytes, reply: UnaryReply) -> None:
        """One Check. Every path ends in exactly one answer; none of them allows by default."""
        try:
            call = read_call(message)
        except (DecodeError, ValueError):
            reply.fail(INVALID_ARGUMENT, "not a CheckRequest")
            return
        if call.api_key is None:
            self._refuse(call, _credential_refusal(call), reply)
            return
        key_digest = digest(call.api_key, self._pepper)
        found = self._directory.find_terms(key_digest, call.policy, call.admitted_at_ms) or self._look(call, key_digest)
        if found is None:
            task = asyncio.ensure_future(self._look_up(call, key_digest, reply))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self._proceed(call, found, reply)

    def _look(self, call: Call, key_digest: str) -> Terms | Refusal | None:
        """What memory knows about this call; None: something has to be asked first."""
        directory = self._directory
        try:
            policy = directory.find_policy(call.policy)
        except LookupError:
            return Refusal("policy_unknown", f"The route names the policy '{call.policy}', which does not exist.")
        record = directory.find_key(key_digest)
        if record is None:
            # The checksum spares the store a question about every typo and every scanner's guess.
            return None if is_well_formed(call.api_key or "") else Refusal("invalid_api_key", NOT_VALID)
        if isinstance(record, Refusal):
            return record
        entry = directory.find_account(record.account_id)
        if entry is None or policy is None:
            return None
        return directory.terms_of(entry, record.key_id, policy, call.admitted_at_ms)

    async def _look_up(self, call: Call, key_digest: str, reply: UnaryReply) -> None:
        """Fetch what memory lacks, then go on as if it had been there."""
        found: Terms | Refusal | None = None
        try:
            async with asyncio.timeout(DECIDE_WITHIN_S):
                for _ in range(LOOKUPS_MAX):
                    await self._fetch_missing(call, key_digest)
                    found = self._look(call, key_digest)
                    if found is not None:
                        break
        except (Unavailable, TimeoutError):
            self.counts["lookup_unavailable"] += 1
            policy = self._directory.known_policy(call.policy)
            if policy is not None and policy.allow_on_store_failure:
                found = self._directory.terms_before_loss(key_digest, policy, call.admitted_at_ms)
        except StoreFault as fault:
            log.error("lookup_refused", reason=str(fault))
        except Exception:
            log.exception("lookup_failed")
        self._proceed(call, found or unavailable(), reply)

    async def _fetch_missing(self, call: Call, key_digest: str) -> None:
        directory = self._directory
        try:
            if directory.find_policy(call.policy) is None:
                await directory.load_policies()
        except LookupError:
            return
        record = directory.find_key(key_digest)
        if record is None:
            await directory.load_key(key_digest)
            record = directory.find_key(key_digest)
        if record is None or isinstance(record, Refusal) or directory.find_account(record.account_id) is not None:
            return
        if await directory.load_account(record.account_id) is None:
            directory.put_account(await self._load_account(record.account_id))

    def _proceed(self, call: Call, found: Terms | Refusal, reply: UnaryReply) -> None:
        if isinstance(found, Refusal):
            self._refuse(call, found, reply)
            return
        hold = found.fixed_hold
        if hold is None:
            max_tokens = call.max_tokens() if found.policy.reserves_max_tokens else None
            hold = hold_for(found, max_tokens, self._recent.of(found.policy.key))
        self._admission.submit(Ticket(call, found, hold, [reply], self.answer))

    def answer(self, ticket: Ticket, decision: Decision) -> None:
        """Tell Envoy what was decided, once for each time it asked."""
        call = ticket.call
        if isinstance(decision, Refused):
            headers = None
            if decision.terms is not None and decision.committed:
                headers = rate_limit_headers(decision.terms, decision.committed, None, call.admitted_at_ms)
            for reply in ticket.waiting:
                self._refuse(call, decision.refusal, reply, headers)
            return
        terms, committed, rate_left, held = decision
        message = allowed(call, terms, committed, rate_left, held if terms.policy.settled_by_body else NOTHING)
        for reply in ticket.waiting:
            self.counts["allowed"] += 1
            reply.send(message, partial(self._admission.unread, call.rid, terms.account))  # no more: it is kept a while

    def _refuse(self, call: Call, refusal: Refusal, reply: UnaryReply, headers: tuple[str, str] | None = None) -> None:
        self.counts[refusal.code] += 1
        policy = self._directory.known_policy(call.policy)
        status = policy.status_codes.get(refusal.code) if policy is not None else None
        reply.send(denied(call, refusal, status, self._public_url, headers))


def _credential_refusal(call: Call) -> Refusal:
    if call.key_fault is not None:
        return Refusal("invalid_api_key", call.key_fault)
    return Refusal("missing_api_key", "Send an API key: 'Authorization: Bearer KEY' or 'x-api-key: KEY'.")

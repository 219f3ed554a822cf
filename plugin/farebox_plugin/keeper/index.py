"""What all spools of this host say together: which requests are open, and which usage the ledger does not have yet.

One request may appear in several spools: Envoy asks worker 0, which dies; asks worker 1, which lets it in; and worker
0's successor settles it. And spools are read one after the other, so a request's end may be read before its beginning.
So every spool has its own *claim* on an open request, and ends are remembered for a while.

`Index` is fed by `catch_up` and does not wait for anything: a rebuild calls it in the same breath as it computes.

Usage that the ledger has is kept for some seconds longer (`KEEP_SHIPPED_S`): whoever rebuilds an account, here or on
another gateway, compares it with a view of the ledger that was taken a moment ago, and which may not have it yet. Who
comes with an older view is told so (`is_behind`).
"""

from collections import OrderedDict, deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from farebox.v1.rid import singles
from farebox.v1.usage_pb2 import UsageEvent
from farebox_plugin.records import Grant
from farebox_plugin.spool import ALLOWED, CLOSED, HELD, INTENT, SETTLED, VOID, Frame, Record, SpoolReader, segments

# How long an end is remembered for a beginning that is read later. Both are on disk within one request's admission.
END_REMEMBERED_S = 15.0
# As long as a rebuild may take (rebuild.TOKEN_TTL_MS), so that a view of the ledger is hardly ever too old.
KEEP_SHIPPED_S = 10.0
# How long it is known what was forgotten. Longer than any view of the ledger is used; but not for ever: a ledger that
# was restored from a backup will never have it again.
FORGOTTEN_REMEMBERED_S = 30.0
# When nobody can have a view of the ledger any more for which a deleted spool's cursor matters.
RETIRE_AFTER_S = 60.0


@dataclass(slots=True)
class OpenRequest:
    """Asked for, and not yet over."""

    grant: Grant
    hold: str
    seen_at: float
    claims: dict[str, bool] = field(default_factory=dict)  # spool -> whether its worker let the request in
    is_rebuilt: bool = False  # a rebuild may have put a hold for it into Valkey

    @property
    def is_allowed(self) -> bool:
        return any(self.claims.values())

    @property
    def hold_of_all(self) -> str:
        """The hold with everybody who has a claim as its owner: a worker and its spool bear one name."""
        return "+".join(self.claims) + ";" + self.hold.partition(";")[2]


@dataclass(frozen=True, slots=True)
class Ended:
    """A request that is over; with what it used, should Valkey have to be told again.

    Those that say the same in one frame share one: a hundred thousand are remembered at any time.
    """

    at: float
    quantities: Mapping[str, int]
    sources: tuple[tuple[str, int], ...]  # the frames that say so: (spool, position behind it)


class _Ends(NamedTuple):
    """Requests of one account that ended alike; those that came again stand in a later one too."""

    account: str
    rids: Collection[str]
    ended: Ended


class Unshipped(NamedTuple):
    """The usage in a frame, or in several that are shipped together."""

    end: int  # the position behind it
    request_count: int
    events: list[bytes]
    accounts: Collection[str] = ()  # whose it is, of one frame


class Index:
    """Positions, open requests and unshipped usage of all spools in one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._readers: dict[str, SpoolReader] = {}
        self._from: dict[str, int] = {}  # below this position only unshipped usage is news (after a restart)
        self._shipped: dict[str, int] = {}
        self._open: dict[str, dict[str, OpenRequest]] = {}
        self._ended: dict[tuple[str, str], Ended] = {}
        self._ends: deque[_Ends] = deque()  # the same, in the order of their reading
        # In the order of their reading. Not dicts: one that is emptied from its front gets slower.
        # account, rid, spool -> when that was read, and whether a rebuild may have held it
        self._given_up: OrderedDict[tuple[str, str, str], tuple[float, bool]] = OrderedDict()
        self._early_holds: OrderedDict[tuple[str, str], tuple[float, str]] = OrderedDict()
        self.touched: set[str] = set()  # accounts in use since somebody took this
        self._frames: dict[str, deque[Unshipped]] = {}  # by spool
        # account -> spool -> of each frame its end, and the account's events in it
        self._unshipped: dict[str, dict[str, deque[tuple[int, list[bytes]]]]] = {}
        self._is_new = True  # until everything that was written before us has been read
        self._to_forget: deque[tuple[float, str, str, int]] = deque()  # shipped at, account, spool, end
        self._forgotten: dict[str, tuple[float, int]] = {}  # spool -> when, and up to where
        self._deleted: dict[str, tuple[float, int]] = {}  # spool -> when, and where it ended

    @property
    def open_count(self) -> int:
        return sum(len(requests) for requests in self._open.values())

    @property
    def unshipped_count(self) -> int:
        """Requests whose usage waits."""
        return sum(frame.request_count for frames in self._frames.values() for frame in frames)

    @property
    def spools(self) -> list[str]:
        return list(self._readers)

    def position(self, spool: str) -> int:
        """How far this spool has been read."""
        return self._readers[spool].position

    def shipped_to(self, spool: str) -> int:
        return self._shipped.get(spool, 0)

    def open_requests(self) -> Iterator[OpenRequest]:
        for requests in list(self._open.values()):
            yield from list(requests.values())

    def open_of(self, account: str) -> list[OpenRequest]:
        return list(self._open.get(account, {}).values())

    def ended_since(self, at: float) -> list[tuple[str, str, Mapping[str, int]]]:
        """(rid, account, quantities) of the requests whose end was read since."""
        return [
            (rid, each.account, each.ended.quantities)
            for each in self._ends
            if each.ended.at >= at
            for rid in each.rids
        ]

    def given_up_since(self, at: float, *, rebuilt: bool) -> list[tuple[str, str, str]]:
        """(rid, account, spool) of the requests whose worker refused them or gave up on them.

        `rebuilt`: only those that a rebuild held. A rebuild that crosses a refusal holds the intent, and the worker
        that was told no sees nothing to give back.
        """
        return [
            (rid, account, spool)
            for (account, rid, spool), (read_at, is_rebuilt) in self._given_up.items()
            if read_at >= at and (is_rebuilt or not rebuilt)
        ]

    def ended_of(self, account: str) -> dict[str, Mapping[str, int]]:
        """rid -> quantities of the account's requests that ended a moment ago."""
        return {rid: each.ended.quantities for each in self._ends if each.account == account for rid in each.rids}

    def take_touched(self) -> list[str]:
        """The accounts in use since the last time this was asked."""
        touched, self.touched = sorted(self.touched), set()
        return touched

    def unshipped_of(self, account: str, cursors: Mapping[str, int]) -> list[UsageEvent]:
        """The account's usage behind the ledger's cursors (a spool that is missing there is at 0), each request once.

        What two feeds settled at once stands in two spools; the ledger has it as soon as one of them is shipped.
        """
        found: dict[str, UsageEvent] = {}
        for spool, frames in self._unshipped.get(account, {}).items():
            cursor = cursors.get(spool, 0)
            for body in (body for end, events in frames if end > cursor for body in events):
                for event in singles(UsageEvent.FromString(body)):
                    ended = self._ended.get((account, event.rid))
                    copies = ended.sources if ended is not None else ()
                    if all(behind > cursors.get(source, 0) for source, behind in copies):
                        found.setdefault(event.rid, event)
        return list(found.values())

    def is_behind(self, cursors: Mapping[str, int]) -> bool:
        """Whether usage behind these cursors was forgotten, because the ledger has it meanwhile."""
        return any(end > cursors.get(spool, 0) for spool, (_, end) in self._forgotten.items())

    def pending_accounts(self) -> set[str]:
        """The accounts with open requests or with usage that the ledger may not have."""
        return self._open.keys() | self._unshipped.keys()

    def catch_up(self, at: float) -> None:
        """Read everything that stands in the spools at this moment. Raises SpoolDamaged."""
        for spool, parts in segments(self._directory).items():
            reader = self._readers.get(spool)
            if reader is None:
                start = max(parts[0][0], min(self._shipped.get(spool, 0), self._from.get(spool, 0)))
                reader = self._readers[spool] = SpoolReader(self._directory, spool, start)
            while frames := reader.read():
                for frame in frames:
                    self._take(spool, frame, at)
        self._is_new = False

    def next_batch(self, spool: str, requests_max: int) -> Unshipped | None:
        """A spool's oldest unshipped usage, in whole frames; None: all is shipped."""
        frames = self._frames.get(spool)
        if not frames:
            return None
        end = request_count = 0
        batch: list[bytes] = []
        for frame in frames:
            if batch and request_count + frame.request_count > requests_max:
                break
            end = frame.end
            request_count += frame.request_count
            batch += frame.events
        return Unshipped(end, request_count, batch)

    def shipped(self, spool: str, end: int, at: float) -> None:
        """The ledger has this spool up to `end`."""
        self._shipped[spool] = max(self._shipped.get(spool, 0), end)
        frames = self._frames.get(spool)
        while frames and frames[0].end <= end:
            frame = frames.popleft()
            for account in frame.accounts:
                self._to_forget.append((at, account, spool, frame.end))

    def forget_shipped(self, at: float) -> None:
        """Forget usage that the ledger has had for long enough."""
        while self._to_forget and self._to_forget[0][0] <= at - KEEP_SHIPPED_S:
            _, account, spool, end = self._to_forget.popleft()
            self._forget_unshipped(account, spool, end)
            self._forgotten[spool] = (at, max(end, self._forgotten.get(spool, (at, 0))[1]))
        for spool, (forgotten_at, _) in list(self._forgotten.items()):
            if forgotten_at < at - FORGOTTEN_REMEMBERED_S:
                del self._forgotten[spool]

    def forget_ends(self, before: float) -> None:
        """Forget ends that were read before this time. Ends are in the order of their reading."""
        while self._given_up:
            closing, (at, _) = next(iter(self._given_up.items()))
            if at >= before:
                break
            del self._given_up[closing]
        while self._early_holds:
            early, (at, _) = next(iter(self._early_holds.items()))
            if at >= before:
                break
            del self._early_holds[early]
        while self._ends and self._ends[0].ended.at < before:
            account, rids, _ = self._ends.popleft()
            for rid in rids:
                self._ended.pop((account, rid), None)

    def forget_spool(self, spool: str, at: float) -> None:
        """Its files are gone."""
        self._readers.pop(spool, None)
        self._frames.pop(spool, None)
        self._from.pop(spool, None)
        self._deleted[spool] = (at, self._shipped.pop(spool, 0))

    def retirable(self, at: float) -> list[str]:
        """Deleted spools whose cursor in the ledger nobody will ask for any more."""
        return [spool for spool, (deleted_at, _) in self._deleted.items() if deleted_at <= at - RETIRE_AFTER_S]

    def retired(self, spools: list[str]) -> None:
        """The ledger has dropped their cursors."""
        for spool in spools:
            self._deleted.pop(spool, None)

    def checkpoint(self) -> dict[str, Any]:
        """All of this but the unshipped usage, which stands in the spools behind `shipped`; as JSON."""
        return {
            "positions": {spool: reader.position for spool, reader in self._readers.items()},
            "shipped": self._shipped,
            "deleted": {spool: end for spool, (_, end) in self._deleted.items()},
            "open": [
                [each.grant.rid, each.grant.account, each.grant.subscription, each.grant.key, each.grant.policy,
                 each.hold, each.claims]
                for each in self.open_requests()
            ],
            "ends": [[account, rids, ended.quantities, ended.sources] for account, rids, ended in self._ends],
            "given_up": list(self._given_up),
        }  # fmt: skip

    def restore(self, document: dict[str, Any], at: float) -> None:
        """Go on from a checkpoint. Before the first `catch_up`."""
        there = segments(self._directory).keys()
        ends = {**dict.fromkeys(document["positions"], 0), **document["shipped"], **document.get("deleted", {})}
        self._from = {spool: position for spool, position in document["positions"].items() if spool in there}
        self._shipped = {spool: end for spool, end in document["shipped"].items() if spool in there}
        self._forgotten = {spool: (at, end) for spool, end in ends.items() if end}
        self._deleted = {spool: (at, end) for spool, end in ends.items() if spool not in there}
        for *identity, hold, claims in document["open"]:
            grant = Grant(*identity)
            self._open.setdefault(grant.account, {})[grant.rid] = OpenRequest(grant, hold, at, dict(claims), True)
        for account, rids, quantities, sources in document["ends"]:
            ended = Ended(at, quantities, tuple((spool, end) for spool, end in sources))
            self._ends.append(_Ends(account, rids, ended))
            self._ended.update(((account, rid), ended) for rid in rids)
        for account, rid, spool in document["given_up"]:
            self._given_up[(account, rid, spool)] = (at, True)

    def _take(self, spool: str, frame: Frame, at: float) -> None:
        is_known = frame.end <= self._from.get(spool, 0)
        is_shipped = frame.end <= self._shipped.get(spool, 0)
        bodies: list[bytes] = []
        request_count = 0
        by_account: dict[str, list[bytes]] = {}
        alike: dict[tuple[tuple[str, int], ...], Ended] = {}
        for record in frame.records:
            if record.kind != SETTLED:
                if not is_known:
                    self._apply(spool, record, at)
                continue
            event = UsageEvent.FromString(record.body)
            account, rids = event.account_id, [event.rid, *event.alike]
            if not is_shipped:
                bodies.append(record.body)
                request_count += len(rids)
                by_account.setdefault(account, []).append(record.body)
            if is_known:
                continue
            used = tuple([(meter.meter, meter.quantity) for meter in event.meters])
            ended = alike.get(used)
            if ended is None:
                ended = alike[used] = Ended(at, dict(used), ((spool, frame.end),))
            self._end(account, rids, ended)
        if bodies:
            unshipped = Unshipped(frame.end, request_count, bodies, by_account.keys())
            self._frames.setdefault(spool, deque()).append(unshipped)
        for account, events in by_account.items():
            self._unshipped.setdefault(account, {}).setdefault(spool, deque()).append((frame.end, events))

    def _apply(self, spool: str, record: Record, at: float) -> None:
        """A record that is no usage."""
        account, *fields = record.fields()
        self.touched.add(account)
        if record.kind == VOID:
            self._end(account, fields, Ended(at, {}, ()))
            return
        requests = self._open.setdefault(account, {})
        if record.kind == INTENT:
            subscription, key, policy, hold, *rids = fields
            for rid in rids:
                if (account, rid) not in self._ended:
                    self._intended(requests, spool, Grant(rid, account, subscription, key, policy), hold, at)
        elif record.kind == HELD:
            hold, rid = fields
            if rid in requests:
                requests[rid].hold = hold
            elif (account, rid) not in self._ended:
                # Another worker may watch the response, and its spool may be read before the one with the intent.
                self._early_holds[(account, rid)] = (at, hold)
        elif record.kind == ALLOWED:
            for rid in fields:
                if rid in requests:
                    requests[rid].claims[spool] = True
        elif record.kind == CLOSED:
            for rid in fields:
                if rid in requests:
                    self._closed(requests, spool, requests[rid], at)
        if not requests:
            del self._open[account]

    def _intended(self, requests: dict[str, OpenRequest], spool: str, grant: Grant, hold: str, at: float) -> None:
        found = requests.get(grant.rid)
        if found is None:
            requests[grant.rid] = found = OpenRequest(grant, hold, at, {spool: False}, self._is_new)
        else:
            if not found.is_allowed:
                found.hold = hold
            found.claims.setdefault(spool, False)
        if self._given_up:  # it is asked again, and may be let in this time
            self._given_up.pop((grant.account, grant.rid, spool), None)
        if self._early_holds and (early := self._early_holds.pop((grant.account, grant.rid), None)) is not None:
            found.hold = early[1]

    def _closed(self, requests: dict[str, OpenRequest], spool: str, request: OpenRequest, at: float) -> None:
        # Not an end to remember: another worker may have been asked, and its claim may be read later.
        request.claims.pop(spool, None)
        place = (request.grant.account, request.grant.rid, spool)
        self._given_up.pop(place, None)  # they stand in the order of their reading
        self._given_up[place] = (at, request.is_rebuilt)
        if not request.claims:
            del requests[request.grant.rid]

    def _end(self, account: str, rids: Collection[str], ended: Ended) -> None:
        """These are over. What was over before stays so, and has one more source that says so."""
        requests = self._open.get(account, {})
        new: list[str] = []
        for rid in rids:
            key = account, rid
            before = self._ended.get(key)
            if before is None:
                self._ended[key] = ended
                requests.pop(rid, None)
                new.append(rid)
            elif ended.sources:
                self._ended[key] = again = replace(before, sources=(*before.sources, *ended.sources))
                self._ends.append(_Ends(account, (rid,), again))
        if new:
            self._ends.append(_Ends(account, new, ended))
        if not requests:
            self._open.pop(account, None)

    def _forget_unshipped(self, account: str, spool: str, end: int) -> None:
        by_spool = self._unshipped.get(account)
        if by_spool is None or spool not in by_spool:
            return
        events = by_spool[spool]
        while events and events[0][0] <= end:
            events.popleft()
        if not events:
            del by_spool[spool]
            if not by_spool:
                del self._unshipped[account]

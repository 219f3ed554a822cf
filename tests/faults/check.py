"""The oracle: five accounts of the same requests are compared when everything is at rest.

    clients    what each was answered                            (load.py)
    upstream   what it served, by its own record                 the witness: it knows nothing of Farebox
    spools     who asked (I), was let in (A), used what (S), owes nothing (V): the segments' archived twins
    ledger     usage_events and usage_hours in SQL
    Valkey     counters and holds

A request has a *path* for client and upstream, and a *rid* for everybody else; Envoy tells nobody both. So the two
halves are matched by number and by units for each customer, whose tag is in the path; inside each half the comparison
is by request. An upstream that is asked again by Envoy's retry sees the same path: it is one request.

What must hold for every customer (DESIGN of the product, invariants; ``judge`` has them one function each)
    I1   the upstream served no more units than the limit, nor has the ledger more in any period
    I2   who was refused at the end was refused at the very last unit
    I3   what the upstream served and is billable is in the ledger: at least all rows that are not flagged `ambiguous`
         were served, and at most the ambiguous ones were not; everything let in has an end; the hourly sums agree
    I6   every counter equals the ledger, and nothing is held
    I9   no row without a request that was let in
    I11  nothing reached the upstream that was not let in, and nothing of a stranger
"""

from collections import Counter as Tally
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from sqlalchemy import text

from farebox.v1 import layout
from farebox.v1.entitlements_pb2 import Account
from farebox.v1.usage_pb2 import UsageEvent
from farebox_plugin.spool import ALLOWED, CLOSED, SETTLED, VOID, SpoolReader, segments
from faults.load import STRANGER, Answer
from faults.rig import Rig

METER = "api_requests"
AMBIGUOUS = "ambiguous"
HOUR_MS = 3_600_000
_ROWS = text(
    "SELECT rid, quantity, admitted_at_ms, flags FROM usage_events WHERE customer_id = :customer AND meter = :meter"
)
_HOURS = text(
    "SELECT coalesce(sum(quantity), 0) FROM usage_hours WHERE subscription_id = :subscription AND meter = :meter"
)


@dataclass(frozen=True)
class Customer:
    """Who is under test. ``limit``: units of METER that all of this customer's requests may use; None = no limit, or
    one that is moved during the experiment, which then judges it itself.
    """

    tag: str
    id: str
    subscription_id: str
    api_key: str
    key_id: str
    limit: int | None


@dataclass(frozen=True)
class Row:
    rid: str
    quantity: int
    admitted_at_ms: int
    flags: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Period:
    """One counter: the units that Valkey has for a quota and a period, and what it may have."""

    quota: str
    start_ms: int
    end_ms: int
    limit: int | None
    committed: int


@dataclass(frozen=True)
class Evidence:
    """All that is known of one customer, in units of METER where it is not a set."""

    customer: Customer
    answered: frozenset[str] = frozenset()  # paths that a client saw a 2xx of, whole
    hung_up: frozenset[str] = frozenset()  # paths whose client did not wait
    served: Mapping[str, int] = field(default_factory=dict)  # path -> units, of what the upstream answered with 2xx
    reached: frozenset[str] = frozenset()  # paths that reached the upstream, whatever came of it
    let_in: frozenset[str] = frozenset()  # rids with an A record that its worker has not taken back
    ended: frozenset[str] = frozenset()  # rids with an S or a V record
    rows: tuple[Row, ...] = ()
    hourly: int = 0  # the sum of usage_hours
    periods: tuple[Period, ...] = ()
    held: frozenset[str] = frozenset()  # rids of open holds
    is_loaded: bool = True  # Valkey's state is of the server that runs
    is_full: bool = False  # the last answer was "quota_exceeded"
    misnamed: int = 0  # requests that reached the upstream under another customer's name

    @property
    def billed(self) -> int:
        return sum(row.quantity for row in self.rows)

    @property
    def ambiguous(self) -> int:
        return sum(row.quantity for row in self.rows if AMBIGUOUS in row.flags)


@dataclass(frozen=True)
class Report:
    """What an experiment found. `violations` is empty, or something is wrong with the product."""

    experiment: str
    asked: int
    statuses: Mapping[int, int]
    served: int
    billed: int
    ambiguous: int
    violations: tuple[str, ...]
    notes: tuple[str, ...] = ()


# --- what must hold ---------------------------------------------------------------------------------------------------


def judge(evidence: Evidence) -> list[str]:
    """Every invariant that one customer's evidence breaks. Pure."""
    return [f"{evidence.customer.tag}: {fault}" for rule in RULES for fault in rule(evidence)]


def limit_is_kept(found: Evidence) -> Iterator[str]:
    units = sum(found.served.values())
    if found.customer.limit is None:
        return
    if units > found.customer.limit:
        yield f"I1: the upstream served {units} units on a limit of {found.customer.limit}"
    for period in found.periods:
        billed = _billed_in(found.rows, period)
        if period.limit is not None and billed > period.limit:
            yield f"I1: {billed} units are billed in the period from {period.start_ms} of {period.quota}"


def limit_is_reached(found: Evidence) -> Iterator[str]:
    """Refused only when nothing is left. Of several quotas one has to be full."""
    if not found.is_full:
        return
    left = [period.limit - period.committed for period in found.periods if period.limit is not None]
    if left and min(left) > 0:
        yield f"I2: refused although {min(left)} units are left"


def served_is_billed(found: Evidence) -> Iterator[str]:
    served = sum(found.served.values())
    due = {path: units for path, units in found.served.items() if not found.hung_up or path in found.answered}
    if sum(due.values()) > found.billed:
        yield f"I3: {sum(due.values())} units were served and {found.billed} are billed"
    if found.billed - found.ambiguous > served:
        yield f"I3: {found.billed - found.ambiguous} units are billed without a flag and {served} were served"
    if found.hourly != found.billed:
        yield f"I3: the hourly sums have {found.hourly} units and the rows {found.billed}"


def let_in_has_ended(found: Evidence) -> Iterator[str]:
    if lost := found.let_in - found.ended:
        yield f"I3: {len(lost)} requests were let in and have no end, such as {min(lost)}"


def counters_are_the_ledger(found: Evidence) -> Iterator[str]:
    if not found.is_loaded:
        yield "I6: the account is not loaded into this server"
    if found.held:
        yield f"I6: {len(found.held)} requests are still held, such as {min(found.held)}"
    for period in found.periods:
        if period.committed != (billed := _billed_in(found.rows, period)):
            yield f"I6: {period.quota} from {period.start_ms} counts {period.committed}, the ledger {billed}"


def billed_was_let_in(found: Evidence) -> Iterator[str]:
    if ghosts := {row.rid for row in found.rows} - found.let_in:
        yield f"I9: {len(ghosts)} rows are of requests that were never let in, such as {min(ghosts)}"


def reached_was_let_in(found: Evidence) -> Iterator[str]:
    if len(found.reached) > len(found.let_in):
        yield f"I11: {len(found.reached)} requests reached the upstream and {len(found.let_in)} were let in"
    if unseen := found.answered - found.reached:
        yield f"I11: {len(unseen)} requests were answered with 2xx and never reached the upstream"
    if found.misnamed:
        yield f"I11: {found.misnamed} requests reached the upstream under another customer's name"


RULES = (
    limit_is_kept,
    limit_is_reached,
    served_is_billed,
    let_in_has_ended,
    counters_are_the_ledger,
    billed_was_let_in,
    reached_was_let_in,
)


def _billed_in(rows: Iterable[Row], period: Period) -> int:
    return sum(row.quantity for row in rows if period.start_ms <= row.admitted_at_ms < period.end_ms)


def units_of(path: str) -> int:
    """What the route's policy charges for a request (rig.ROUTES)."""
    return 7 if path.startswith("/v1/echo/seven/") else 1


# --- gathering --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spools:
    """What all spools say, by account: rids."""

    let_in: Mapping[str, frozenset[str]]
    ended: Mapping[str, frozenset[str]]
    settled: Mapping[str, frozenset[str]]


def read_spools(rig: Rig) -> Spools:
    let_in: dict[str, set[tuple[str, str]]] = {}  # rids with the spool that says so
    ended: dict[str, set[str]] = {}
    settled: dict[str, set[str]] = {}
    for spool, parts in segments(rig.archive).items():
        reader = SpoolReader(rig.archive, spool, parts[0][0])
        while frames := reader.read():
            for record in (record for frame in frames for record in frame.records):
                if record.kind == SETTLED:
                    event = UsageEvent.FromString(record.body)
                    for of_account in (ended, settled):
                        of_account.setdefault(event.account_id, set()).update((event.rid, *event.alike))
                    continue
                account, *rids = record.fields()
                if record.kind == VOID:
                    ended.setdefault(account, set()).update(rids)
                elif record.kind == ALLOWED:
                    let_in.setdefault(account, set()).update((rid, spool) for rid in rids)
                elif record.kind == CLOSED:  # behind an A: its answer was not read any more
                    let_in.get(account, set()).difference_update((rid, spool) for rid in rids)
    return Spools(
        let_in={account: frozenset(rid for rid, _ in found) for account, found in let_in.items()},
        ended={account: frozenset(rids) for account, rids in ended.items()},
        settled={account: frozenset(rids) for account, rids in settled.items()},
    )


def gather(rig: Rig, customers: Sequence[Customer], answers: Sequence[Answer]) -> list[Evidence]:
    """Read all five accounts."""
    spools, entries = read_spools(rig), rig.upstream_server.entries()
    generation = layout.generation({name: str(value) for name, value in rig.store.info().items()})
    return [_of_one(rig, customer, answers, entries, spools, generation) for customer in customers]


def _of_one(
    rig: Rig,
    customer: Customer,
    answers: Sequence[Answer],
    entries: Sequence[dict[str, Any]],
    spools: Spools,
    generation: str,
) -> Evidence:
    mine = [answer for answer in answers if customer.tag in answer.question.path]
    theirs = [entry for entry in entries if customer.tag in entry["path"]]
    none: frozenset[str] = frozenset()
    rows, hourly = read_ledger(rig, customer)
    state = read_hash(rig, layout.counters(customer.id))
    last = max(mine, key=lambda answer: answer.answered_at, default=None)
    return Evidence(
        customer=customer,
        answered=frozenset(each.question.path for each in mine if 200 <= each.status < 300),
        hung_up=frozenset(each.question.path for each in mine if not each.question.is_patient),
        served={each["path"]: units_of(each["path"]) for each in theirs if 200 <= (each["status"] or 0) < 300},
        reached=frozenset(entry["path"] for entry in theirs),
        let_in=spools.let_in.get(customer.id, none),
        ended=spools.ended.get(customer.id, none),
        rows=rows,
        hourly=hourly,
        periods=_periods(rig, customer, state),
        held=open_holds(rig, customer),
        is_loaded=state.get("gen") == generation,
        is_full=last is not None and last.problem == "quota_exceeded",
        misnamed=sum(entry["headers"].get("x-farebox-customer") != customer.tag for entry in theirs),
    )


def read_ledger(rig: Rig, customer: Customer) -> tuple[tuple[Row, ...], int]:
    """The customer's rows, and the sum of the hourly sums."""
    whose = {"customer": customer.id, "subscription": customer.subscription_id, "meter": METER}
    with rig.ledger() as ledger:
        rows = ledger.execute(_ROWS, whose).all()
        hourly = int(ledger.execute(_HOURS, whose).scalar_one())
    return tuple(Row(rid, quantity, at, frozenset(flags.split(","))) for rid, quantity, at, flags in rows), hourly


def read_hash(rig: Rig, key: str) -> dict[str, str]:
    raw = cast(dict[bytes, bytes], rig.store.hgetall(key))
    return {name.decode(): value.decode() for name, value in raw.items()}


def open_holds(rig: Rig, customer: Customer) -> frozenset[str]:
    """Rids that are held; tombstones are none."""
    holds = read_hash(rig, layout.holds(customer.id))
    return frozenset(rid for rid, value in holds.items() if not value.startswith("!"))


def _periods(rig: Rig, customer: Customer, state: Mapping[str, str]) -> tuple[Period, ...]:
    """Every counter that the published document knows. One that stands in Valkey and is not among them is left out."""
    document = cast(bytes | None, rig.store.get(layout.account(customer.id)))
    if document is None:
        return ()
    found = []
    for subscription in Account.FromString(document).subscriptions:
        for quota in (each for each in subscription.quotas if each.meter == METER):
            for start, end in zip(quota.resets_ms, quota.resets_ms[1:], strict=False):
                committed = int(state.get(layout.counter_field(subscription.id, quota.id, start), 0))
                found.append(Period(quota.id, start, end, quota.limit if quota.hard else None, committed))
    return tuple(found)


def at_rest(rig: Rig, customers: Sequence[Customer]) -> bool:
    """Nothing is held, everything let in has ended, and the ledger has all that was settled."""
    if any(open_holds(rig, customer) for customer in customers):
        return False
    spools = read_spools(rig)
    none: frozenset[str] = frozenset()
    for customer in customers:
        if spools.let_in.get(customer.id, none) - spools.ended.get(customer.id, none):
            return False
        if spools.settled.get(customer.id, none) - {row.rid for row in read_ledger(rig, customer)[0]}:
            return False
    return True


def check(rig: Rig, experiment: str, customers: Sequence[Customer], answers: Sequence[Answer]) -> Report:
    """Compare everything. To be called at rest."""
    found = gather(rig, customers, answers)
    violations = [fault for each in found for fault in judge(each)]
    if strangers := [entry for entry in rig.upstream_server.entries() if STRANGER in entry["path"]]:
        violations.append(f"I11: {len(strangers)} requests of strangers reached the upstream")
    let = Tally(answer.status for answer in answers if STRANGER in answer.question.path and 200 <= answer.status < 300)
    if let:
        violations.append(f"I11: strangers were answered {dict(let)}")
    return Report(
        experiment=experiment,
        asked=len(answers),
        statuses=dict(sorted(Tally(answer.status for answer in answers).items())),
        served=sum(sum(each.served.values()) for each in found),
        billed=sum(each.billed for each in found),
        ambiguous=sum(each.ambiguous for each in found),
        violations=tuple(violations),
    )

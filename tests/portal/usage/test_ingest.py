"""The ledger counts each request once, whatever is delivered twice, late, out of order or broken."""

import json
import random
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, delete
from sqlmodel import Session, select

from builders.databases import Databases
from builders.portal import (
    NOW,
    a_batch,
    a_customer,
    a_feature,
    a_meter,
    an_account,
    an_event,
)
from farebox.v1.usage_pb2 import MeterQuantity, UsageBatch, UsageEvent
from farebox_portal.clock import to_ms
from farebox_portal.db import transaction
from farebox_portal.subscriptions.tables import Subscription
from farebox_portal.usage.book import HOUR_MS
from farebox_portal.usage.ingest import QUANTITY_MAX, apply_batch
from farebox_portal.usage.tables import QuarantinedEvent, SpoolCursor, UsageHour, UsageRow


class Ledger:
    """A database with one account, and what is in its ledger."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        with transaction(engine) as session:
            a_meter(session)
            a_feature(session, meter_slug="api_requests")
            _, self.subscription, _ = an_account(session)

    def apply(self, batch: UsageBatch, now: datetime = NOW) -> tuple[int, int, int]:
        """(accepted, duplicates, quarantined)"""
        with transaction(self.engine) as session:
            receipt = apply_batch(session, batch, now)
        return receipt.accepted, receipt.duplicates, receipt.quarantined

    def rows(self) -> list[tuple[str, str, int]]:
        with transaction(self.engine) as session:
            rows = session.exec(select(UsageRow.rid, UsageRow.meter, UsageRow.quantity)).all()
        return sorted(tuple(row) for row in rows)

    def hours(self) -> dict[tuple[str, str, int], int]:
        with transaction(self.engine) as session:
            return {
                (one.subscription_id, one.meter, one.hour_ms): one.quantity for one in session.exec(select(UsageHour))
            }

    def hours_of_rows(self) -> dict[tuple[str, str, int], int]:
        """What `hours` has to be."""
        sums: Counter[tuple[str, str, int]] = Counter()
        with transaction(self.engine) as session:
            for row in session.exec(select(UsageRow)):
                sums[row.subscription_id, row.meter, row.admitted_at_ms // HOUR_MS * HOUR_MS] += row.quantity
        return dict(sums)

    def put_aside(self) -> list[tuple[str, bytes]]:
        with transaction(self.engine) as session:
            return [(event.reason, event.payload) for event in session.exec(select(QuarantinedEvent))]

    def cursors(self) -> dict[str, int]:
        with transaction(self.engine) as session:
            return {cursor.spool: cursor.end for cursor in session.exec(select(SpoolCursor))}

    def empty(self) -> None:
        with transaction(self.engine) as session:
            for table in (UsageRow, UsageHour, QuarantinedEvent, SpoolCursor):
                session.exec(delete(table))


@pytest.fixture
def ledger(engine: Engine) -> Ledger:
    return Ledger(engine)


@pytest.fixture(scope="module")
def shared_ledger(databases: Databases) -> Iterator[Ledger]:
    with databases.migrated() as engine:
        yield Ledger(engine)


def test_an_event_becomes_a_row_for_each_of_its_meters(ledger: Ledger) -> None:
    event = an_event(ledger.subscription, "r1", api_requests=1, output_tokens=250, dimensions={"model": "gpt"})
    event.flags.append("estimated")
    assert ledger.apply(a_batch(event)) == (1, 0, 0)
    assert ledger.rows() == [("r1", "api_requests", 1), ("r1", "output_tokens", 250)]
    with transaction(ledger.engine) as session:
        row = session.exec(select(UsageRow).where(UsageRow.meter == "output_tokens")).one()
    assert row.customer_id == ledger.subscription.customer_id
    assert row.subscription_id == ledger.subscription.id
    assert (row.key_id, row.policy, row.status, row.flags) == ("key", "default", 200, "estimated")
    assert row.admitted_at_ms == event.admitted_at_ms
    assert row.dimensions == {"model": "gpt"}


def test_a_batch_sent_again_changes_nothing_and_says_so(ledger: Ledger) -> None:
    batch = a_batch(an_event(ledger.subscription, "r1", a=1, b=2), an_event(ledger.subscription, "r2"), b"\xff")
    assert ledger.apply(batch) == (2, 0, 1)
    before = ledger.rows(), ledger.hours(), ledger.put_aside(), ledger.cursors()
    assert ledger.apply(batch) == (0, 3, 0)
    assert (ledger.rows(), ledger.hours(), ledger.put_aside(), ledger.cursors()) == before


def test_an_event_twice_in_one_batch_counts_once(ledger: Ledger) -> None:
    event = an_event(ledger.subscription)
    assert ledger.apply(a_batch(event, event)) == (1, 1, 0)
    assert ledger.rows() == [("r1", "api_requests", 1)]


def test_the_same_event_with_its_meters_in_another_order_is_a_duplicate(ledger: Ledger) -> None:
    one, other = an_event(ledger.subscription, a=1, b=2), an_event(ledger.subscription, b=2, a=1)
    assert ledger.apply(a_batch(one)) == (1, 0, 0)
    assert ledger.apply(a_batch(other)) == (0, 1, 0)
    assert ledger.rows() == [("r1", "a", 1), ("r1", "b", 2)]


def test_a_meter_listed_twice_in_an_event_is_added_up(ledger: Ledger) -> None:
    event = an_event(ledger.subscription, tokens=3)
    event.meters.append(MeterQuantity(meter="tokens", quantity=4))
    ledger.apply(a_batch(event))
    assert ledger.rows() == [("r1", "tokens", 7)]


def test_an_event_that_is_not_billed_leaves_no_row(ledger: Ledger) -> None:
    event = an_event(ledger.subscription)
    del event.meters[:]
    assert ledger.apply(a_batch(event)) == (0, 0, 0)
    assert ledger.rows() == []


def test_an_event_that_is_not_billed_has_to_have_an_owner_all_the_same(ledger: Ledger) -> None:
    event = an_event(ledger.subscription)
    event.account_id = "nobody"
    del event.meters[:]
    assert ledger.apply(a_batch(event)) == (0, 0, 1)
    assert [reason for reason, _ in ledger.put_aside()] == ["unknown account"]


def test_events_of_one_request_with_other_meters_are_new_where_a_meter_is(ledger: Ledger) -> None:
    first, second = an_event(ledger.subscription, a=1, b=2), an_event(ledger.subscription, b=3, c=4, d=5)
    assert ledger.apply(a_batch(first)) == (1, 0, 0)
    assert ledger.apply(a_batch(second, first)) == (1, 1, 0)
    assert ledger.rows() == [("r1", "a", 1), ("r1", "b", 2), ("r1", "c", 4), ("r1", "d", 5)]
    assert ledger.hours() == ledger.hours_of_rows()


def test_texts_come_into_the_ledger_as_they_are(ledger: Ledger) -> None:
    """What separates columns and rows on the way to the database, what escapes there, and what stands for nothing."""
    rids = [
        "tab\there",
        "line\nfeed",
        "return\r",
        "back\\slash",
        "\\N",
        "\\.",
        '"quoted"',
        "'",
        "{,}",
        "\x1f",
        "ü€😀",
        " ",
    ]
    events = [an_event(ledger.subscription, rid, dimensions={rid: rid}) for rid in rids]
    for event in events:
        event.key_id, event.policy = event.rid, ""
    assert ledger.apply(a_batch(*events)) == (len(rids), 0, 0)
    with transaction(ledger.engine) as session:
        found = {row.rid: (row.key_id, row.policy, row.dimensions) for row in session.exec(select(UsageRow))}
    assert found == {rid: (rid, "", {rid: rid}) for rid in rids}


def test_each_delivery_of_one_transaction_counts_for_itself(ledger: Ledger) -> None:
    batches = [a_batch(an_event(ledger.subscription, f"r{n}"), an_event(ledger.subscription, "same")) for n in range(3)]
    with transaction(ledger.engine) as session:
        receipts = [apply_batch(session, batch, NOW) for batch in batches]
        session.exec(delete(UsageRow))
        again = apply_batch(session, batches[0], NOW)
    assert [(receipt.accepted, receipt.duplicates) for receipt in receipts] == [(2, 0), (1, 1), (1, 1)]
    assert (again.accepted, again.duplicates) == (2, 0)
    assert [rid for rid, _, _ in ledger.rows()] == ["r0", "same"]


def test_two_accounts_may_use_the_same_request_id(ledger: Ledger) -> None:
    with transaction(ledger.engine) as session:
        _, other, _ = an_account(session, "other")
    assert ledger.apply(a_batch(an_event(ledger.subscription, "same"), an_event(other, "same"))) == (2, 0, 0)
    assert len(ledger.rows()) == 2


def test_a_cursor_only_rises(ledger: Ledger) -> None:
    for end in (100, 40, 250, 250, 0):
        ledger.apply(a_batch(end=end))
    ledger.apply(a_batch(spool="host/1/7", end=5))
    assert ledger.cursors() == {"host/0/1": 250, "host/1/7": 5}


def test_the_receipt_tells_where_the_cursor_stands(ledger: Ledger) -> None:
    ledger.apply(a_batch(end=100))
    with transaction(ledger.engine) as session:
        receipt = apply_batch(session, a_batch(end=40), NOW)
    assert (receipt.spool, receipt.end) == ("host/0/1", 100)


def test_rows_and_cursor_are_committed_together_or_not_at_all(ledger: Ledger) -> None:
    def crash(session: Session) -> None:
        apply_batch(session, a_batch(an_event(ledger.subscription), b"\xff"), NOW)
        raise RuntimeError("killed before the commit")

    with pytest.raises(RuntimeError), transaction(ledger.engine) as session:
        crash(session)
    assert (ledger.rows(), ledger.hours(), ledger.put_aside(), ledger.cursors()) == ([], {}, [], {})


def test_an_event_of_several_requests_is_a_row_for_each_of_them(ledger: Ledger) -> None:
    event = an_event(ledger.subscription, "first", api_requests=1, tokens=7)
    an_hour_later = to_ms(NOW) + HOUR_MS
    event.alike.extend([f"{to_ms(NOW):x}-2", f"{an_hour_later:x}-3"])
    assert ledger.apply(a_batch(event)) == (3, 0, 0)
    assert ledger.apply(a_batch(event)) == (0, 3, 0)
    assert ledger.apply(a_batch(an_event(ledger.subscription, f"{to_ms(NOW):x}-2", tokens=9), end=200)) == (0, 1, 0)
    rids = sorted(["first", *event.alike])
    assert ledger.rows() == sorted((rid, *used) for rid in rids for used in (("api_requests", 1), ("tokens", 7)))
    hour_ms = to_ms(NOW) // HOUR_MS * HOUR_MS
    assert ledger.hours() == ledger.hours_of_rows()
    assert ledger.hours()[ledger.subscription.id, "tokens", hour_ms] == 14
    assert ledger.hours()[ledger.subscription.id, "tokens", hour_ms + HOUR_MS] == 7


def broken_events(good: UsageEvent, stranger: str) -> dict[str, UsageEvent]:
    """Each is a good event with one thing wrong, by the reason that must be given."""

    def but(**fields: object) -> UsageEvent:
        event = UsageEvent.FromString(good.SerializeToString())
        for name, value in fields.items():
            setattr(event, name, value)
        return event

    def using(quantity: int, meter: str = "api_requests") -> UsageEvent:
        event = but()
        event.meters[0].quantity, event.meters[0].meter = quantity, meter
        return event

    def several(rid: str) -> UsageEvent:
        event = but()
        event.alike.extend([f"{to_ms(NOW):x}-1", rid])
        return event

    tagged = but()
    tagged.dimensions["model"] = "a\0b"
    return {
        "no request id": but(rid=""),
        "unknown account": but(account_id="nobody"),
        "unknown subscription": but(subscription_id="nothing"),
        "unknown subscription ": but(account_id=stranger),
        "impossible instant of admission": but(admitted_at_ms=0),
        "impossible instant of admission ": but(admitted_at_ms=1 << 60),
        "negative quantity": using(-1),
        "quantity out of range": using(QUANTITY_MAX + 1),
        "name empty or too long": using(1, meter=""),
        "name empty or too long ": but(rid="r" * 300),
        "text with a NUL": but(key_id="a\0b"),
        "impossible instant of admission    ": several(""),
        "impossible instant of admission  ": several("no time"),
        "impossible instant of admission   ": several("ffffffffffffffff-1"),
        "name empty or too long  ": several(f"{to_ms(NOW):x}-" + "1" * 300),
        "text with a NUL  ": several(f"{to_ms(NOW):x}-\0"),
        "text with a NUL ": tagged,
    }


def test_what_cannot_be_booked_is_put_aside_with_the_reason_and_holds_up_nothing(ledger: Ledger) -> None:
    with transaction(ledger.engine) as session:
        stranger = a_customer(session, "stranger").id
    good = an_event(ledger.subscription, "good")
    broken = broken_events(good, stranger)
    batch = a_batch(*broken.values(), b"\xff\xff", good)
    assert ledger.apply(batch) == (1, 0, len(broken) + 1)
    assert ledger.rows() == [("good", "api_requests", 1)]
    expected = {event.SerializeToString(): reason.strip() for reason, event in broken.items()}
    expected[b"\xff\xff"] = "unreadable: not a UsageEvent"
    assert {payload: reason for reason, payload in ledger.put_aside()} == expected
    assert ledger.cursors() == {"host/0/1": 100}


def test_the_largest_quantity_is_booked(ledger: Ledger) -> None:
    ledger.apply(a_batch(an_event(ledger.subscription, tokens=QUANTITY_MAX)))
    assert ledger.rows() == [("r1", "tokens", QUANTITY_MAX)]


def test_many_accounts_in_one_batch_are_all_known(ledger: Ledger) -> None:
    with transaction(ledger.engine) as session:
        subscriptions = [an_account(session, f"customer_{n}")[1] for n in range(600)]
    events = [an_event(subscription) for subscription in subscriptions]
    assert ledger.apply(a_batch(*events)) == (600, 0, 0)


def test_sums_are_kept_for_each_subscription_meter_and_hour(ledger: Ledger) -> None:
    with transaction(ledger.engine) as session:
        _, other, _ = an_account(session, "other")
    hour = timedelta(hours=1)
    ledger.apply(a_batch(an_event(ledger.subscription, "r1", NOW, a=1, b=10)))
    ledger.apply(
        a_batch(
            an_event(ledger.subscription, "r1", NOW, a=1, b=10),
            an_event(ledger.subscription, "r2", NOW + hour - timedelta(milliseconds=1), a=2),
            an_event(ledger.subscription, "r3", NOW + hour, a=4),
            an_event(other, "r1", NOW, a=8),
        )
    )
    mine = ledger.subscription.id
    assert ledger.hours() == {
        (mine, "a", to_ms(NOW)): 3,
        (mine, "b", to_ms(NOW)): 10,
        (mine, "a", to_ms(NOW + hour)): 4,
        (other.id, "a", to_ms(NOW)): 8,
    }


def test_sums_beyond_64_bits_hold_up_nothing(ledger: Ledger) -> None:
    events = [an_event(ledger.subscription, f"r{n}", a=QUANTITY_MAX) for n in range(2200)]
    assert ledger.apply(a_batch(*events[:550])) == (550, 0, 0)
    assert ledger.apply(a_batch(*events[550:1100])) == (550, 0, 0), "the sum of both is too large"
    assert ledger.apply(a_batch(*events[1100:])) == (1100, 0, 0), "already the sum of these is"
    # SQLite goes on with a float there, which this number is exactly.
    assert ledger.hours() == {(ledger.subscription.id, "a", to_ms(NOW)): 2200 * QUANTITY_MAX}


@pytest.mark.parametrize("shippers", [2, 5])
def test_deliveries_at_the_same_time_count_each_event_once(ledger: Ledger, shippers: int) -> None:
    """Each ships the same events cut in other places, in other orders, with some that nobody else has."""
    with transaction(ledger.engine) as session:
        subscriptions = [ledger.subscription, *(an_account(session, f"other_{n}")[1] for n in range(3))]

    def event(number: int, rid: str) -> UsageEvent:
        at = NOW + timedelta(minutes=17 * (number % 9))
        meters = ({"a": 1, "b": 2}, {"b": 3}, {"a": 5, "c": 7}, {"B": 1, "a": 1})[number % 4]
        return an_event(subscriptions[number % 4], rid, at, **meters)

    shared = [event(number, f"shared{number}") for number in range(400)]
    together = threading.Barrier(shippers)

    def ship(shipper: int) -> int:
        events = shared + [event(number, f"own{shipper}.{number}") for number in range(40)]
        random.Random(shipper).shuffle(events)
        accepted = 0
        together.wait()
        for at in range(0, len(events), 50 + shipper):
            batch = a_batch(*events[at : at + 50 + shipper], b"\xff", spool=f"host/{shipper % 2}/1", end=at)
            accepted += ledger.apply(batch)[0]
        return accepted

    with ThreadPoolExecutor(shippers) as pool:
        accepted = sum(pool.map(ship, range(shippers)))
    assert accepted == 400 + 40 * shippers
    assert len({rid for rid, _, _ in ledger.rows()}) == accepted
    assert ledger.hours() == ledger.hours_of_rows()
    assert len(ledger.put_aside()) == 2, "one for each spool"


def events_of(subscription: Subscription) -> st.SearchStrategy[list[UsageEvent]]:
    used = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(0, 1000), max_size=3)
    instants = st.integers(-5, 5).map(lambda n: NOW + n * timedelta(minutes=25))
    return st.lists(st.tuples(instants, used), min_size=1, max_size=8).map(
        lambda every: [an_event(subscription, f"r{n}", at, **meters) for n, (at, meters) in enumerate(every)]
    )


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_order_and_repetition_of_deliveries_gives_the_same_ledger(
    shared_ledger: Ledger, data: st.DataObject
) -> None:
    ledger = shared_ledger
    ledger.empty()
    events = data.draw(events_of(ledger.subscription))
    again = data.draw(st.lists(st.sampled_from(events), max_size=8))
    delivered = data.draw(st.permutations(events + again))
    accepted = 0
    for at in range(0, len(delivered), 3):
        accepted += ledger.apply(a_batch(*delivered[at : at + 3], end=at))[0]
    expected = sorted((event.rid, used.meter, used.quantity) for event in events for used in event.meters)
    assert ledger.rows() == expected
    assert ledger.hours() == ledger.hours_of_rows()
    assert accepted == sum(1 for event in events if event.meters)
    assert ledger.cursors() == {"host/0/1": (len(delivered) - 1) // 3 * 3}


def test_dimensions_are_stored_as_json_that_sql_can_read(ledger: Ledger) -> None:
    ledger.apply(a_batch(an_event(ledger.subscription, dimensions={"model": "g\"p't", "tier": "ü"})))
    with transaction(ledger.engine) as session:
        raw = session.connection().exec_driver_sql("SELECT dimensions FROM usage_events").scalar_one()
    found = raw if isinstance(raw, dict) else json.loads(raw)  # PostgreSQL's driver reads JSON by itself
    assert found == {"model": "g\"p't", "tier": "ü"}

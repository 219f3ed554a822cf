"""What the plugin rebuilds admission from, and how it is asked for."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, delete
from sqlmodel import select

from builders.portal import (
    NOW,
    a_batch,
    a_card,
    a_customer,
    a_feature,
    a_key,
    a_meter,
    a_plan,
    a_subscription,
    an_account,
    an_event,
)
from builders.portal_http import Portal
from farebox.v1.entitlements_pb2 import Account
from farebox.v1.usage_pb2 import (
    AccountsQuestion,
    AccountState,
    AccountStates,
    Heartbeat,
    HeartbeatReceipt,
    Receipt,
    UsageBatch,
    UsageEvent,
)
from farebox_portal.clock import from_ms, to_ms
from farebox_portal.customers.tables import Customer
from farebox_portal.db import transaction
from farebox_portal.entitlements import state as state_of_accounts
from farebox_portal.entitlements.facts import AccountFacts
from farebox_portal.entitlements.routes import PROTOBUF, router
from farebox_portal.entitlements.state import account_states, covered
from farebox_portal.subscriptions.tables import Subscription
from farebox_portal.usage.gateways import hear
from farebox_portal.usage.ingest import apply_batch
from farebox_portal.usage.tables import UsageHour, UsageRow
from farebox_portal.usage.totals import meter_total

DAY = timedelta(days=1)
Counters = dict[tuple[str, datetime], int]


@pytest.fixture
def portal(tmp_path: Path, engine: Engine) -> Iterator[Portal]:
    with Portal(tmp_path, router, engine=engine) as portal:
        with transaction(portal.engine) as session:
            a_meter(session)
            a_meter(session, "tokens")
            a_feature(session, meter_slug="api_requests")
            a_feature(session, "tokens", "tokens")
        yield portal


@pytest.fixture
def subscription(portal: Portal) -> Subscription:
    """100 requests a month and 10 tokens a day; anchored at 31 January."""
    with transaction(portal.engine) as session:
        plan = a_plan(session, a_card(), a_card("tokens", limit=10, billingCadence="P1D"))
        return a_subscription(session, a_customer(session), plan)


def use(portal: Portal, *events: UsageEvent, end: int = 100) -> None:
    with transaction(portal.engine) as session:
        apply_batch(session, a_batch(*events, spool="host.1.w0", end=end), NOW)


def state(portal: Portal, account_id: str) -> AccountState:
    with transaction(portal.engine, read_only=True) as session:
        return account_states(session, [account_id], NOW, "host", NOW)[0]


def counters(found: AccountState) -> Counters:
    return {(counter.quota_id, from_ms(counter.period_start_ms)): counter.used for counter in found.counters}


def test_counters_are_the_totals_of_the_last_the_current_and_the_next_period(
    portal: Portal, subscription: Subscription
) -> None:
    instants = [datetime(2026, 1, 30, tzinfo=UTC), NOW - 30 * DAY, NOW - 11 * DAY, NOW - DAY, NOW, NOW + DAY]
    use(portal, *(an_event(subscription, f"r{n}", at, api_requests=1, tokens=10**n) for n, at in enumerate(instants)))
    assert counters(state(portal, subscription.customer_id)) == {
        ("api_requests.P1M", datetime(2026, 1, 31, tzinfo=UTC)): 2,
        ("api_requests.P1M", datetime(2026, 2, 28, tzinfo=UTC)): 3,
        ("tokens.P1D", datetime(2026, 3, 9, tzinfo=UTC)): 1000,
        ("tokens.P1D", datetime(2026, 3, 10, tzinfo=UTC)): 10_000,
        ("tokens.P1D", datetime(2026, 3, 11, tzinfo=UTC)): 100_000,
    }


def test_a_counter_covers_all_that_any_stage_counts_on_it() -> None:
    """A phase that begins anew in the middle, and a later plan that goes on with the whole period."""
    begin, anew, end, later = range(1000, 5000, 1000)
    for first, then in ([begin, anew, end], [begin, end, later]), ([begin, end, later], [begin, anew, end]):
        account = Account(id="acct1")
        sold = account.subscriptions.add(id="sub1")
        for quotas, resets in ((sold.quotas, first), (sold.stages.add().quotas, then)):
            quotas.add(id="q", meter="m", resets_ms=resets)
        spans = covered({"acct1": account}, now_ms=anew + 1)
        assert {(start, span.end_ms) for (*_, start), span in spans.items()} == {
            (begin, end), (anew, end), (end, later),
        }  # fmt: skip


def test_the_document_and_the_asker_s_cursors_come_with_the_counters(
    portal: Portal, subscription: Subscription
) -> None:
    with transaction(portal.engine) as session:
        session.get_one(Customer, subscription.customer_id).entitlements_version = 5
    use(portal, an_event(subscription), end=70)
    found = state(portal, subscription.customer_id)
    account = Account.FromString(found.account)
    assert (account.id, account.version) == (subscription.customer_id, 5)
    assert dict(found.cursors) == {"host.1.w0": 70}


def test_the_gateways_that_may_have_more_come_with_the_cursors_of_their_spools(
    portal: Portal, subscription: Subscription
) -> None:
    with transaction(portal.engine) as session:
        for spool in ("host.1.w0", "live.1.w0", "live.1.w1", "lost.1.w0", "left.1.w0", "livelier.1.w0", "never.1.w0"):
            apply_batch(session, a_batch(an_event(subscription, spool), spool=spool, end=7), NOW)
        for name in ("live", "lost", "left"):
            seen_at = NOW if name == "live" else NOW - DAY
            hear(session, Heartbeat(gateway=name, instance="i", boot="b", is_leaving=name == "left"), seen_at)
        [found] = account_states(session, [subscription.customer_id], NOW, "host", NOW)
    assert [(gateway.name, gateway.is_live) for gateway in found.gateways] == [("live", True), ("lost", False)]
    assert sorted(found.cursors) == ["host.1.w0", "live.1.w0", "live.1.w1", "lost.1.w0"]


def test_another_account_s_usage_is_not_in_it(portal: Portal, subscription: Subscription) -> None:
    with transaction(portal.engine) as session:
        _, other, _ = an_account(session, "other")
    use(portal, an_event(other, api_requests=9))
    assert counters(state(portal, subscription.customer_id)) == {}


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(used=st.lists(st.tuples(st.integers(0, 40 * 24), st.integers(0, 500)), max_size=12))
def test_counters_equal_the_ledger_s_totals_of_their_period(
    portal: Portal, subscription: Subscription, used: list[tuple[int, int]]
) -> None:
    with transaction(portal.engine) as session:
        for table in (UsageRow, UsageHour):
            session.exec(delete(table))
    events = [an_event(subscription, f"r{n}", NOW - timedelta(hours=at), tokens=q) for n, (at, q) in enumerate(used)]
    use(portal, *events)
    found = state(portal, subscription.customer_id)
    quotas = {quota.id: quota for quota in Account.FromString(found.account).subscriptions[0].quotas}
    resets = [from_ms(ms) for ms in quotas["tokens.P1D"].resets_ms[:4]]
    with transaction(portal.engine) as session:
        for start, end in pairwise(resets):
            total = meter_total(session, subscription.id, "tokens", start, end)
            assert counters(found).get(("tokens.P1D", start), 0) == total
            assert total == sum(q for at, q in used if start <= NOW - timedelta(hours=at) < end)


def test_totals_and_cursor_are_of_one_instant_although_a_batch_is_booked_in_between(
    portal: Portal, subscription: Subscription
) -> None:
    with transaction(portal.engine, read_only=True) as session:
        session.exec(select(Customer.id)).all()  # the first read fixes what this transaction sees
        use(portal, an_event(subscription, tokens=5), end=900)
        [found] = account_states(session, [subscription.customer_id], NOW, "host", NOW)
    assert counters(found) == {}
    assert dict(found.cursors) == {}


def test_a_reader_while_batches_are_booked_never_sees_totals_and_cursor_of_two_moments(
    portal: Portal, subscription: Subscription
) -> None:
    """Each batch is one unit, and its cursor the number of units so far: they must always be equal."""
    batches = 60
    done = threading.Event()

    def ship() -> None:
        try:
            for number in range(1, batches + 1):
                # Half-way through an hour and at its start: one is read from rows, one from the sums.
                at = NOW + timedelta(minutes=20 * (number % 3))
                use(portal, an_event(subscription, f"r{number}", at, tokens=1), end=number)
        finally:
            done.set()

    seen: set[int] = set()
    with ThreadPoolExecutor(1) as pool:
        shipping = pool.submit(ship)
        while not done.is_set():
            found = state(portal, subscription.customer_id)
            used = sum(counters(found).values())
            assert used == found.cursors.get("host.1.w0", 0)
            seen.add(used)
        shipping.result()
    assert len(seen) > 2, "the reader saw nothing of what was booked"
    assert sum(counters(state(portal, subscription.customer_id)).values()) == batches


def deliver(portal: Portal, batch: UsageBatch | bytes, content_type: str = PROTOBUF) -> object:
    body = batch if isinstance(batch, bytes) else batch.SerializeToString()
    headers = {"Content-Type": content_type}
    return portal.post("/internal/v1/usage", token=portal.plugin_token, content=body, headers=headers)


def test_a_delivered_batch_is_booked_before_the_receipt_is_sent(portal: Portal, subscription: Subscription) -> None:
    answer = deliver(portal, a_batch(an_event(subscription), b"\xff", end=42))
    assert answer.status_code == 200  # type: ignore[attr-defined]
    assert answer.headers["content-type"] == PROTOBUF  # type: ignore[attr-defined]
    expected = Receipt(spool="host/0/1", end=42, accepted=1, quarantined=1)
    assert Receipt.FromString(answer.content) == expected  # type: ignore[attr-defined]
    with transaction(portal.engine) as session:
        assert session.exec(select(UsageRow.rid)).all() == ["r1"]


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"\xff\xff", PROTOBUF, 400),
        (a_batch(spool=""), PROTOBUF, 400),
        (a_batch(spool="s" * 300), PROTOBUF, 400),
        (a_batch(spool="a\0b"), PROTOBUF, 400),
        (a_batch(end=-1), PROTOBUF, 400),
        (a_batch(), "application/json", 415),
        (a_batch(b"x" * (16 << 20)), PROTOBUF, 413),
    ],
)
def test_what_is_no_batch_is_refused_and_writes_nothing(
    portal: Portal, body: UsageBatch | bytes, content_type: str, status: int
) -> None:
    answer = deliver(portal, body, content_type)
    assert answer.status_code == status  # type: ignore[attr-defined]
    assert answer.headers["content-type"] == "application/problem+json"  # type: ignore[attr-defined]
    with transaction(portal.engine) as session:
        assert session.connection().exec_driver_sql("SELECT count(*) FROM spool_cursors").scalar_one() == 0


def ask(portal: Portal, *accounts: str, gateway: str = "") -> list[AccountState]:
    question = AccountsQuestion(accounts=accounts, gateway=gateway).SerializeToString()
    headers = {"Content-Type": PROTOBUF}
    path = "/internal/v1/accounts/states"
    answer: Any = portal.post(path, token=portal.plugin_token, content=question, headers=headers)
    assert answer.status_code == 200
    return list(AccountStates.FromString(answer.content).states)


@pytest.mark.parametrize("accounts", [0, 201])
def test_nothing_and_everything_cannot_be_asked_for(portal: Portal, accounts: int) -> None:
    question = AccountsQuestion(accounts=["a"] * accounts).SerializeToString()
    headers = {"Content-Type": PROTOBUF}
    path = "/internal/v1/accounts/states"
    answer: Any = portal.post(path, token=portal.plugin_token, content=question, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_question")


def test_many_accounts_are_asked_for_at_once_and_one_s_fault_is_its_own(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    with transaction(portal.engine) as session:
        sold = [an_account(session, f"customer-{number}")[1] for number in range(5)]
    for number, each in enumerate(sold):
        use(portal, an_event(each, f"r{number}", api_requests=number + 1), end=100 + number)
    original = state_of_accounts.compile_account

    def broken(facts: AccountFacts, now: datetime) -> Account:
        if facts.customer.id == sold[2].customer_id:
            raise ValueError("a plan that nobody understands")
        return original(facts, now)

    monkeypatch.setattr(state_of_accounts, "compile_account", broken)
    states = ask(portal, *(each.customer_id for each in sold))
    assert [sum(counter.used for counter in each.counters) for each in states] == [1, 2, 0, 4, 5]
    assert [bool(each.account) for each in states] == [True, True, False, True, True]


def test_the_state_is_sent_as_protobuf(portal: Portal, subscription: Subscription) -> None:
    with transaction(portal.engine) as session:
        key = a_key(session, session.get_one(Subscription, subscription.id))
    use(portal, an_event(subscription))
    found, unknown = ask(portal, subscription.customer_id, "nobody")
    assert [k.id for k in Account.FromString(found.account).keys] == [key.id]
    assert [(c.subscription_id, c.quota_id, c.period_start_ms, c.used) for c in found.counters] == [
        (subscription.id, "api_requests.P1M", to_ms(datetime(2026, 2, 28, tzinfo=UTC)), 1)
    ]
    assert (unknown.account, dict(unknown.cursors)) == (b"", {})


def beat(portal: Portal, **fields: object) -> Any:
    heartbeat = Heartbeat(**{"gateway": "g1", "instance": "i1", "boot": "b1", "is_first": True} | fields)  # type: ignore[arg-type]
    headers = {"Content-Type": PROTOBUF}
    body = heartbeat.SerializeToString()
    return portal.post("/internal/v1/gateways", token=portal.plugin_token, content=body, headers=headers)


def test_a_gateway_is_heard_and_listed_with_the_state(portal: Portal, subscription: Subscription) -> None:
    first, second = beat(portal), beat(portal, is_first=False)
    assert [HeartbeatReceipt.FromString(each.content).was_away for each in (first, second)] == [True, False]
    use(portal, an_event(subscription), end=5)
    [found] = ask(portal, subscription.customer_id, gateway="host")
    assert [(gateway.name, gateway.is_live) for gateway in found.gateways] == [("g1", True)]
    assert dict(found.cursors) == {"host.1.w0": 5}


def test_a_second_gateway_of_a_name_is_told_what_to_do(portal: Portal) -> None:
    beat(portal)
    answer = beat(portal, instance="i2")
    assert (answer.status_code, answer.json()["code"]) == (409, "gateway_name_taken")
    assert "FAREBOX_GATEWAY_NAME" in answer.json()["detail"]


@pytest.mark.parametrize("name", ["", "a.b", "a b", "x" * 65, "ü"])
def test_what_is_no_heartbeat_is_refused(portal: Portal, name: str) -> None:
    assert beat(portal, gateway=name).status_code == 400
    headers = {"Content-Type": PROTOBUF}
    nonsense = portal.post("/internal/v1/gateways", token=portal.plugin_token, content=b"\xff", headers=headers)
    assert nonsense.status_code == 400


def test_only_the_plugin_may_deliver_and_load(portal: Portal, subscription: Subscription) -> None:
    assert portal.client.post("/internal/v1/accounts/states").status_code == 401
    assert portal.post("/internal/v1/accounts/states").status_code == 403
    assert portal.client.post("/internal/v1/usage").status_code == 401
    assert portal.post("/internal/v1/usage").status_code == 403
    assert portal.client.post("/internal/v1/gateways").status_code == 401
    assert portal.post("/internal/v1/gateways").status_code == 403

"""Publishing, against a real Valkey."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import redis
from redis.client import Pipeline
from redis.crc import key_slot
from sqlalchemy import Engine, func
from sqlmodel import Session, select

from builders.portal import NOW, a_card, a_feature, a_key, a_meter, a_plan, a_subscription, an_account
from farebox.v1 import layout
from farebox.v1.entitlements_pb2 import Account, KeyRecord, Policies
from farebox_portal.catalog.tables import Plan, Policy
from farebox_portal.customers.tables import Customer
from farebox_portal.db import transaction
from farebox_portal.entitlements.publish import (
    Mark,
    ensure_directory,
    publish_pending,
    publish_policies,
)
from farebox_portal.entitlements.store import connect
from farebox_portal.entitlements.tables import Publication
from farebox_portal.subscriptions.tables import ApiKey, Subscription
from rig.valkey import Valkey

DAY = timedelta(days=1)
SLICE = 5  # accounts


@pytest.fixture(scope="module")
def valkey() -> Iterator[Valkey]:
    with TemporaryDirectory(prefix="fb-publish-") as folder, Valkey(Path(folder)) as server:
        yield server


@pytest.fixture
def store(valkey: Valkey) -> Iterator[redis.Redis]:
    with connect(valkey.url) as client:
        client.flushall()
        yield client


@pytest.fixture
def engine(engine: Engine) -> Engine:
    with transaction(engine) as session:
        a_meter(session)
        a_feature(session, meter_slug="api_requests")
    return engine


@pytest.fixture
def account(engine: Engine) -> tuple[str, str, str]:
    """Ids of a customer, its subscription and its key."""
    with transaction(engine) as session:
        customer, subscription, key = an_account(session)
    return customer.id, subscription.id, key.id


def change(engine: Engine, customer_id: str, row: type[Any] | None = None, row_id: str = "", **fields: Any) -> None:
    """Change a row as the portal does: and raise the customer's version in the same transaction."""
    with transaction(engine) as session:
        _touch(session, customer_id)
        if row is not None:
            found = session.get_one(row, row_id)
            for name, value in fields.items():
                setattr(found, name, value)


def _touch(session: Session, customer_id: str) -> None:
    session.get_one(Customer, customer_id).entitlements_version += 1


def published(store: redis.Redis, account_id: str) -> Account:
    raw = store.get(layout.account(account_id))
    assert isinstance(raw, bytes)
    return Account.FromString(raw)


def version(store: redis.Redis, account_id: str) -> bytes | None:
    return store.hget(layout.counters(account_id), "ver")  # type: ignore[return-value]


def versions(engine: Engine, customer_id: str) -> tuple[int, int]:
    with transaction(engine) as session:
        customer = session.get_one(Customer, customer_id)
    return customer.entitlements_version, customer.published_version


def load(store: redis.Redis, account_id: str) -> None:
    """What the plugin does: put the counters in place and mark them with the server's generation."""
    store.hset(layout.counters(account_id), "gen", "this-server")


def is_loaded(store: redis.Redis, account_id: str) -> bool:
    return bool(store.hexists(layout.counters(account_id), "gen"))


def server_generation(store: redis.Redis) -> bytes:
    return layout.generation(store.info()).encode()  # type: ignore[arg-type]


def test_a_new_account_is_published_with_its_version_and_its_keys(
    engine: Engine, store: redis.Redis, account: tuple[str, str, str]
) -> None:
    customer_id, subscription_id, key_id = account
    assert publish_pending(engine, store, NOW) == 1
    document = published(store, customer_id)
    assert (document.version, [sold.id for sold in document.subscriptions]) == (1, [subscription_id])
    assert version(store, customer_id) == b"1"
    with transaction(engine) as session:
        digest = session.get_one(ApiKey, key_id).digest
    record = store.get(layout.api_key(digest))
    assert KeyRecord.FromString(record) == KeyRecord(account_id=customer_id, key_id=key_id)  # type: ignore[arg-type]
    assert versions(engine, customer_id) == (1, 1)


def test_nothing_is_published_that_did_not_change(
    engine: Engine, store: redis.Redis, account: tuple[str, str, str]
) -> None:
    publish_pending(engine, store, NOW)
    store.flushall()
    assert publish_pending(engine, store, NOW) == 0
    assert store.keys() == []


def test_a_revoked_key_is_gone_from_the_account_while_its_record_stays(
    engine: Engine, store: redis.Redis, account: tuple[str, str, str]
) -> None:
    customer_id, _, key_id = account
    publish_pending(engine, store, NOW)
    change(engine, customer_id, ApiKey, key_id, revoked_at=NOW)
    assert publish_pending(engine, store, NOW) == 1
    assert list(published(store, customer_id).keys) == []
    assert version(store, customer_id) == b"2"
    with transaction(engine) as session:
        digest = session.get_one(ApiKey, key_id).digest
    assert store.exists(layout.api_key(digest)) == 1


def test_an_older_document_never_replaces_a_newer_one(
    engine: Engine, store: redis.Redis, account: tuple[str, str, str]
) -> None:
    customer_id, _, _ = account
    store.hset(layout.counters(customer_id), mapping={"ver": "10", "gen": "this-server"})
    store.set(layout.account(customer_id), b"newer")
    publish_pending(engine, store, NOW)
    assert store.get(layout.account(customer_id)) == b"newer"
    assert version(store, customer_id) == b"10"
    assert is_loaded(store, customer_id)


def test_counters_that_came_with_an_unpublished_document_are_not_taken_for_those_before(
    engine: Engine, store: redis.Redis, account: tuple[str, str, str]
) -> None:
    """A plan is changed and changed back before either is published, and a rebuild loads what was between."""
    customer_id, _, _ = account

    def at_version(number: int) -> None:
        with transaction(engine) as session:
            session.get_one(Customer, customer_id).entitlements_version = number

    publish_pending(engine, store, NOW)
    load(store, customer_id)
    at_version(2)
    publish_pending(engine, store, NOW)
    assert is_loaded(store, customer_id), "nothing about the counters has changed"
    store.hset(layout.counters(customer_id), "ver", "3")  # the rebuild of a document with other counters
    at_version(4)
    publish_pending(engine, store, NOW)
    assert version(store, customer_id) == b"4"
    assert not is_loaded(store, customer_id)
    load(store, customer_id)
    store.hset(layout.counters(customer_id), "ver", "5")  # the rebuild of the document that is published next
    at_version(5)
    publish_pending(engine, store, NOW)
    assert is_loaded(store, customer_id)


def test_versions_are_compared_as_numbers(engine: Engine, store: redis.Redis, account: tuple[str, str, str]) -> None:
    customer_id, _, _ = account
    store.hset(layout.counters(customer_id), "ver", "9")
    with transaction(engine) as session:
        session.get_one(Customer, customer_id).entitlements_version = 10
    publish_pending(engine, store, NOW)
    assert version(store, customer_id) == b"10"


def test_a_change_that_comes_while_publishing_is_published_next(
    engine: Engine, store: redis.Redis, account: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    customer_id, _, key_id = account
    pipeline = store.pipeline

    def meanwhile(*arguments: Any, **options: Any) -> Any:
        monkeypatch.undo()
        change(engine, customer_id, ApiKey, key_id, revoked_at=NOW)
        return pipeline(*arguments, **options)

    monkeypatch.setattr(store, "pipeline", meanwhile)
    publish_pending(engine, store, NOW)
    assert versions(engine, customer_id) == (2, 1)
    assert publish_pending(engine, store, NOW) == 1
    assert list(published(store, customer_id).keys) == []


def test_a_slow_publisher_does_not_take_back_what_a_quicker_one_noted(
    engine: Engine, store: redis.Redis, account: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    customer_id, _, key_id = account
    pipeline = store.pipeline

    def overtaken(*arguments: Any, **options: Any) -> Any:
        monkeypatch.undo()
        change(engine, customer_id, ApiKey, key_id, revoked_at=NOW)
        assert publish_pending(engine, store, NOW) == 1
        return pipeline(*arguments, **options)

    monkeypatch.setattr(store, "pipeline", overtaken)
    publish_pending(engine, store, NOW)
    assert versions(engine, customer_id) == (2, 2)
    assert list(published(store, customer_id).keys) == []


def test_a_crash_before_it_was_noted_publishes_again(
    engine: Engine, store: redis.Redis, account: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    customer_id, _, _ = account

    def crash(*_: Any) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("farebox_portal.entitlements.publish._note", crash)
        with pytest.raises(RuntimeError):
            publish_pending(engine, store, NOW)
    assert versions(engine, customer_id) == (1, 0)
    assert publish_pending(engine, store, NOW) == 1
    assert versions(engine, customer_id) == (1, 1)


def test_counters_are_rebuilt_when_other_counters_are_needed_and_only_then(
    engine: Engine, store: redis.Redis, account: tuple[str, str, str]
) -> None:
    customer_id, subscription_id, key_id = account
    publish_pending(engine, store, NOW)
    load(store, customer_id)
    change(engine, customer_id, ApiKey, key_id, name="renamed")
    publish_pending(engine, store, NOW)
    assert is_loaded(store, customer_id)
    with transaction(engine) as session:
        plan_id = a_plan(session, a_card(billingCadence="P1D"), key="daily").id
    change(engine, customer_id, Subscription, subscription_id, plan_id=plan_id)
    publish_pending(engine, store, NOW)
    assert not is_loaded(store, customer_id)


def test_an_account_that_runs_short_is_published_anew_under_a_new_version(
    engine: Engine, store: redis.Redis, account: tuple[str, str, str]
) -> None:
    customer_id, _, _ = account
    publish_pending(engine, store, NOW)
    load(store, customer_id)
    with transaction(engine) as session:
        due = session.get_one(Publication, customer_id).recompile_at
    assert due is not None
    assert publish_pending(engine, store, due - timedelta(seconds=1)) == 0
    assert publish_pending(engine, store, due) == 1
    assert publish_pending(engine, store, due) == 0
    assert versions(engine, customer_id) == (2, 2)
    assert version(store, customer_id) == b"2"
    assert is_loaded(store, customer_id), "the counters are the same, so nothing is rebuilt"
    with transaction(engine) as session:
        again = session.get_one(Publication, customer_id).recompile_at
    assert again is not None
    assert again > due


def test_an_account_that_runs_short_while_the_store_is_away_gets_one_new_version(
    engine: Engine, store: redis.Redis, account: tuple[str, str, str], tmp_path: Path
) -> None:
    customer_id, _, _ = account
    publish_pending(engine, store, NOW)
    with connect(f"unix://{tmp_path / 'nobody.sock'}") as away:
        for _ in range(2):
            with pytest.raises(redis.ConnectionError):
                publish_pending(engine, away, NOW + 60 * DAY)
    assert versions(engine, customer_id) == (2, 1)


def test_the_next_phase_of_a_plan_begins_on_time(engine: Engine, store: redis.Redis) -> None:
    phases = [
        {"key": "trial", "duration": "P7D", "rateCards": [a_card(limit=10)]},
        {"key": "full", "rateCards": [a_card(limit=1000)]},
    ]
    with transaction(engine) as session:
        customer, _, _ = an_account(session)
        plan = a_plan(session, key="trial", phases=phases)
        trial = a_subscription(session, customer, plan, active_from=NOW)
        a_key(session, trial)

    def limit() -> int:
        sold = {sold.id: sold for sold in published(store, customer.id).subscriptions}
        return sold[trial.id].quotas[0].limit

    publish_pending(engine, store, NOW)
    assert limit() == 10
    publish_pending(engine, store, NOW + 7 * DAY)
    assert limit() == 1000


def test_an_account_that_cannot_be_compiled_holds_up_no_other(engine: Engine, store: redis.Redis) -> None:
    with transaction(engine) as session:
        broken, broken_subscription, _ = an_account(session, "broken")
        fine, _, _ = an_account(session, "fine")
        session.get_one(Plan, broken_subscription.plan_id).phases = [{"key": "nothing"}]
    with pytest.raises(KeyError) as raised:
        publish_pending(engine, store, NOW)
    assert broken.id in raised.value.__notes__[0]
    assert versions(engine, fine.id) == (1, 1)
    assert versions(engine, broken.id) == (1, 0)
    assert version(store, fine.id) == b"1"


def test_more_accounts_than_travel_at_once_are_all_published(engine: Engine, store: redis.Redis) -> None:
    with transaction(engine) as session:
        ids = [an_account(session, f"customer_{n}")[0].id for n in range(450)]
    assert publish_pending(engine, store, NOW) == 450
    assert all(version(store, customer_id) == b"1" for customer_id in ids)
    store.flushall()
    assert ensure_directory(engine, store, NOW)
    assert all(version(store, customer_id) == b"1" for customer_id in ids)


def test_after_flushall_everything_comes_back(
    engine: Engine, store: redis.Redis, account: tuple[str, str, str]
) -> None:
    publish_policies(engine, store)
    publish_pending(engine, store, NOW)
    assert ensure_directory(engine, store, NOW)
    assert not ensure_directory(engine, store, NOW)
    before = {key: store.dump(key) for key in store.scan_iter()}
    assert len(before) == 5
    store.flushall()
    assert ensure_directory(engine, store, NOW)
    assert {key: store.dump(key) for key in store.scan_iter()} == before
    assert store.get(layout.DIRECTORY) == server_generation(store)


def test_a_restarted_server_gets_everything_again(
    engine: Engine, tmp_path: Path, account: tuple[str, str, str]
) -> None:
    customer_id, _, _ = account
    with Valkey(tmp_path / "own") as server, connect(server.url) as store:
        ensure_directory(engine, store, NOW)
        before = store.get(layout.DIRECTORY)
        store.delete(layout.account(customer_id))
        server.restart()
        assert ensure_directory(engine, store, NOW)
        assert store.get(layout.DIRECTORY) == server_generation(store) != before
        assert published(store, customer_id).version == 1


def test_republishing_leaves_loaded_counters_alone(
    engine: Engine, store: redis.Redis, account: tuple[str, str, str]
) -> None:
    customer_id, _, _ = account
    publish_pending(engine, store, NOW)
    load(store, customer_id)
    assert ensure_directory(engine, store, NOW)
    assert is_loaded(store, customer_id)


def test_a_server_emptied_while_everything_is_republished_is_not_declared_complete(
    engine: Engine, store: redis.Redis, account: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    customer_id, _, _ = account
    eval_script = store.eval

    def emptied_before(*arguments: Any) -> Any:
        monkeypatch.undo()
        store.flushall()
        return eval_script(*arguments)

    monkeypatch.setattr(store, "eval", emptied_before)
    ensure_directory(engine, store, NOW)
    assert store.get(layout.DIRECTORY) is None
    assert ensure_directory(engine, store, NOW)
    assert published(store, customer_id).version == 1
    assert store.get(layout.DIRECTORY) == server_generation(store)


def test_the_directory_is_not_complete_before_all_of_it_is_there(
    engine: Engine, store: redis.Redis, account: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    pipeline = store.pipeline

    def watched(*arguments: Any, **options: Any) -> Any:
        seen.append(store.get(layout.DIRECTORY))
        return pipeline(*arguments, **options)

    monkeypatch.setattr(store, "pipeline", watched)
    ensure_directory(engine, store, NOW)
    assert len(seen) == 1
    assert seen[0] is not None
    assert seen[0] != server_generation(store)


@pytest.fixture
def small_slices() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("farebox_portal.entitlements.publish._ACCOUNTS_IN_A_SLICE", SLICE)
        yield


def some_accounts(engine: Engine, count: int) -> list[str]:
    with transaction(engine) as session:
        return [an_account(session, f"customer_{n:03d}")[0].id for n in range(count)]


def documents(store: redis.Redis, ids: list[str]) -> int:
    return sum(store.exists(layout.account(customer_id)) == 1 for customer_id in ids)


@pytest.mark.usefixtures("small_slices")
def test_republishing_goes_on_where_its_time_ran_out(engine: Engine, store: redis.Redis) -> None:
    ids = some_accounts(engine, 3 * SLICE + 1)
    seen = []
    for _ in range(4):
        assert ensure_directory(engine, store, NOW, for_s=0)
        seen.append((documents(store, ids), store.get(layout.DIRECTORY) == server_generation(store)))
    assert seen == [(SLICE, False), (2 * SLICE, False), (3 * SLICE, False), (len(ids), False)]
    assert ensure_directory(engine, store, NOW, for_s=0)
    assert store.get(layout.DIRECTORY) == server_generation(store)
    assert not ensure_directory(engine, store, NOW, for_s=0)


@pytest.mark.usefixtures("small_slices")
def test_republishing_begins_anew_when_the_server_is_emptied_between_two_slices(
    engine: Engine, store: redis.Redis
) -> None:
    ids = some_accounts(engine, 2 * SLICE)
    ensure_directory(engine, store, NOW, for_s=0)
    store.flushall()
    while ensure_directory(engine, store, NOW, for_s=0):
        pass
    assert documents(store, ids) == len(ids)


@pytest.mark.usefixtures("small_slices")
def test_a_mark_of_another_incarnation_of_the_server_is_not_believed(engine: Engine, store: redis.Redis) -> None:
    """It came back with its append-only file: the mark survived, and perhaps not all that it speaks of."""
    ids = some_accounts(engine, 2 * SLICE)
    store.set(layout.DIRECTORY, str(Mark("another.server", "token", ids[-1])))
    while ensure_directory(engine, store, NOW, for_s=0):
        pass
    assert documents(store, ids) == len(ids)


@pytest.mark.usefixtures("small_slices")
def test_a_slice_that_was_wiped_out_is_not_counted_although_another_publisher_came_just_as_far(
    engine: Engine, store: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = some_accounts(engine, 3 * SLICE)
    ensure_directory(engine, store, NOW, for_s=0)
    eval_script = store.eval

    def wiped_out_and_begun_anew(*arguments: Any) -> Any:
        monkeypatch.undo()
        store.flushall()
        ensure_directory(engine, store, NOW, for_s=0)
        return eval_script(*arguments)

    monkeypatch.setattr(store, "eval", wiped_out_and_begun_anew)
    while ensure_directory(engine, store, NOW, for_s=0):
        pass
    assert documents(store, ids) == len(ids)


@pytest.mark.usefixtures("small_slices")
def test_two_publishers_share_the_work_and_leave_nothing_out(
    engine: Engine, store: redis.Redis, valkey: Valkey
) -> None:
    ids = some_accounts(engine, 4 * SLICE)

    def publish(_: int) -> None:
        with connect(valkey.url) as own:
            while ensure_directory(engine, own, NOW, for_s=0):
                pass

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(publish, range(2)))
    assert documents(store, ids) == len(ids)


@pytest.mark.usefixtures("small_slices")
def test_an_account_that_cannot_be_compiled_does_not_keep_the_directory_incomplete(
    engine: Engine, store: redis.Redis
) -> None:
    ids = some_accounts(engine, SLICE + 1)
    with transaction(engine) as session:
        plan_id = session.exec(select(Subscription.plan_id).where(Subscription.customer_id == ids[0])).one()
        session.get_one(Plan, plan_id).phases = [{"key": "nothing"}]
    with pytest.raises(KeyError):
        ensure_directory(engine, store, NOW)
    assert documents(store, ids) == len(ids) - 1
    assert not ensure_directory(engine, store, NOW)


def test_all_that_one_script_touches_lies_in_one_slot_of_a_cluster(
    engine: Engine, store: redis.Redis, account: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts: list[tuple[Any, ...]] = []
    execute = Pipeline.execute_command

    def watched(pipeline: Any, *command: Any, **options: Any) -> Any:
        scripts.append(command)
        return execute(pipeline, *command, **options)

    monkeypatch.setattr(Pipeline, "execute_command", watched)
    publish_pending(engine, store, NOW)
    evals = [command for command in scripts if command[0] == "EVAL"]
    assert evals
    for _, _, count, *rest in evals:
        assert len({key_slot(key.encode()) for key in rest[:count]}) == 1
    assert not any(command[0] == "MULTI" for command in scripts)


def test_policies_are_published_when_they_differ(engine: Engine, store: redis.Redis) -> None:
    assert publish_policies(engine, store)
    assert not publish_policies(engine, store)
    with transaction(engine) as session:
        session.add(Policy(key="login", document={"key": "login"}, created_at=NOW, updated_at=NOW))
    assert publish_policies(engine, store)
    document = store.get(layout.POLICIES)
    assert [policy.key for policy in Policies.FromString(document).policies] == ["default", "login"]  # type: ignore[arg-type]


def test_the_client_never_repeats_a_command_by_itself(store: redis.Redis) -> None:
    assert store.connection_pool.connection_kwargs["retry"].get_retries() == 0


def test_nothing_to_publish_takes_no_write_lock(
    engine: Engine, store: redis.Redis, account: tuple[str, str, str]
) -> None:
    publish_pending(engine, store, NOW)
    with transaction(engine) as session:  # holds SQLite's write lock; a second writer would wait 10 s and fail
        session.exec(select(func.count()).select_from(Customer)).one()
        assert publish_pending(engine, store, NOW) == 0

"""The loop that publishes: it survives what its jobs meet, and ends when it is told to."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from sqlalchemy import Engine
from structlog.testing import capture_logs

from builders.portal import NOW, a_database, a_feature, a_meter, an_account
from builders.portal_http import some_settings
from farebox.v1 import layout
from farebox.v1.entitlements_pb2 import Account
from farebox_portal.clock import FrozenClock
from farebox_portal.customers.tables import Customer
from farebox_portal.db import transaction
from farebox_portal.jobs import Job, run_jobs, run_until
from farebox_portal.settings import Settings
from farebox_portal.subscriptions.tables import ApiKey
from rig.valkey import Valkey

PATIENCE_S = 20.0


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = a_database(tmp_path)
    with transaction(engine) as session:
        a_meter(session)
        a_feature(session, meter_slug="api_requests")
    yield engine
    engine.dispose()


@contextmanager
def running(engine: Engine, settings: Settings) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=run_jobs, args=(engine, FrozenClock(NOW), settings, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_changes_are_published_and_what_the_server_lost_comes_back(engine: Engine, tmp_path: Path) -> None:
    with transaction(engine) as session:
        customer, _, key = an_account(session)
    with Valkey(tmp_path / "valkey") as server:
        settings = some_settings(tmp_path, FAREBOX_REDIS_URL=server.url)
        name = layout.account(customer.id)

        def keys_published() -> int | None:
            with redis.Redis.from_url(server.url) as store:
                raw = store.get(name)
                complete = store.get(layout.DIRECTORY) == layout.generation(store.info()).encode()  # type: ignore[arg-type]
            return len(Account.FromString(raw).keys) if isinstance(raw, bytes) and complete else None

        with running(engine, settings):
            eventually(lambda: keys_published() == 1)
            with redis.Redis.from_url(server.url) as store:
                store.flushall()
            eventually(lambda: keys_published() == 1)
            with transaction(engine) as session:
                session.get_one(ApiKey, key.id).revoked_at = NOW
                session.get_one(Customer, customer.id).entitlements_version += 1
            eventually(lambda: keys_published() == 0)
            server.stop()
            server.start()
            eventually(lambda: keys_published() == 0)


def test_without_a_store_nothing_runs_until_the_end(engine: Engine, tmp_path: Path) -> None:
    with running(engine, some_settings(tmp_path)):
        pass


def test_a_store_that_is_away_is_logged_once_for_each_job(engine: Engine, tmp_path: Path) -> None:
    gone = tmp_path / "nobody.sock"
    with capture_logs() as logs, running(engine, some_settings(tmp_path, FAREBOX_REDIS_URL=f"unix://{gone}")):
        eventually(lambda: len(logs) >= 2)
        time.sleep(1.2)  # time for two more rounds, which must say nothing
    assert sorted(line["job"] for line in logs) == ["ensure_directory", "publish_policies"]
    assert {line["event"] for line in logs} == {"job_failed"}
    assert not any(line["exc_info"] for line in logs), "an outage is no bug: its traceback tells nothing"


def test_a_job_that_fails_ends_neither_the_loop_nor_the_others() -> None:
    stop = threading.Event()
    done: list[str] = []

    def broken() -> None:
        done.append("broken")
        raise ValueError("always")

    def fine() -> None:
        done.append("fine")
        if done.count("fine") == 3:
            stop.set()

    with capture_logs() as logs:
        run_until(stop, [Job("broken", 0.0, broken), Job("fine", 0.0, fine)])
    assert done.count("fine") == 3
    assert [(line["event"], line["job"], line["error"]) for line in logs] == [
        ("job_failed", "broken", "ValueError: always")
    ]


def test_another_fault_and_the_recovery_are_logged_too() -> None:
    faults: list[Exception | None] = [ValueError("one"), ValueError("one"), ValueError("two"), None, None]

    def work() -> None:
        fault = faults.pop(0)
        if fault is not None:
            raise fault

    job = Job("job", 0.0, work)
    with capture_logs() as logs:
        while faults:
            job.due_s = 0.0
            job.run_if_due()
    assert [(line["event"], line.get("error")) for line in logs] == [
        ("job_failed", "ValueError: one"),
        ("job_failed", "ValueError: two"),
        ("job_recovered", None),
    ]


def test_a_job_waits_for_its_turn() -> None:
    runs: list[int] = []
    job = Job("job", 3600.0, lambda: runs.append(1))
    job.run_if_due()
    job.run_if_due()
    assert runs == [1]


def test_a_job_that_is_not_through_goes_on_after_whatever_else_is_due() -> None:
    stop = threading.Event()
    done: list[str] = []

    def long() -> bool:
        done.append("long")
        return done.count("long") < 3

    def short() -> None:
        done.append("short")
        if done.count("long") == 3:
            stop.set()

    run_until(stop, [Job("long", 3600.0, long), Job("short", 0.0, short)])
    assert done == ["long", "short"] * 3


def test_the_end_is_not_delayed_by_a_job_that_is_due_much_later() -> None:
    stop = threading.Event()
    thread = threading.Thread(target=run_until, args=(stop, [Job("rare", 3600.0, lambda: None)]))
    thread.start()
    stop.set()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()

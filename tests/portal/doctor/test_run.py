"""All checks on a shop that runs: real database, real Valkey, the stand-in; and what each of them being away does."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import text

from builders.payments import Shop
from farebox.v1.usage_pb2 import Heartbeat
from farebox_portal.catalog import policies
from farebox_portal.clock import SystemClock
from farebox_portal.db import make_engine, transaction
from farebox_portal.demo.envoy_config import source
from farebox_portal.doctor import commands, lifecycle, payments, quota, run
from farebox_portal.doctor.report import Check, document_of
from farebox_portal.entitlements.publish import publish_policies
from farebox_portal.errors import CannotStart
from farebox_portal.payments.tables import Collection, PaymentAccount, PaymentEvent
from farebox_portal.standin.keys import PERMISSIONS
from farebox_portal.usage import gateways
from rig.valkey import Valkey

NOW = datetime(2026, 4, 1, tzinfo=UTC)
KEYS = [
    *("authentication", "database", "catalog", "stripe", "billing_profile", "webhooks", "lifecycle", "grace", "books"),
    *("quota", "envoy"),
]


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey")) as valkey:
        yield valkey


def look(shop: Shop, envoy: run.EnvoyConfig | None = None, **settings: Any) -> dict[str, Check]:
    given = shop.settings.model_copy(update=settings)
    environ = {**os.environ, "FAREBOX_SPOOL_DIR": str(given.state_dir / "no spool")}
    patient = run.Patient(given, shop.engine, shop.gateway, shop.clock.now(), SystemClock().now(), environ)
    return {check.key: check for check in run.examine(patient, envoy)}


def details(check: Check) -> str:
    return " | ".join(finding.detail for finding in check.findings)


def test_a_shop_that_runs_is_well(shop: Shop, valkey: Valkey) -> None:
    shop.a_customer()
    shop.a_subscription()
    shop.work()
    shop.later(timedelta(days=31))
    with transaction(shop.engine) as session:
        policies.put(session, "default", {"meters": {"api_requests": 1, "tokens": 0}}, NOW)
        heard = Heartbeat(gateway="here", instance="i", boot="b", is_first=True)
        gateways.hear(session, heard, datetime.now(UTC))
    with redis.Redis.from_url(valkey.url) as store:
        publish_policies(shop.engine, store)
    found = look(shop, redis_url=valkey.url)
    assert list(found) == KEYS
    assert {key: check.status for key, check in found.items() if check.status == "fail"} == {}
    assert found["stripe"].summary == "test mode, account acct_standin"
    assert found["books"].summary.partition(" ")[0] != "0"
    assert (found["books"].status, found["lifecycle"].status) == ("pass", "warn")  # nobody has published
    assert "3 customers" not in details(found["lifecycle"])
    assert "no plugin keeps" in details(found["quota"])
    assert found["quota"].status == "warn"


def test_what_goes_wrong_at_the_provider_is_found(shop: Shop) -> None:
    lacking = [each for each in PERMISSIONS if each not in ("rak_invoice_write", "rak_tax_calculations_write")]
    shop.standin.control("keys", {"key": shop.settings.stripe_api_key.get_secret_value(), "permissions": lacking})
    found = look(shop)
    assert details(found["stripe"]).startswith(
        "the restricted key lacks 'Invoices: write' | the restricted key lacks 'Tax Calculations"
    )
    shop.standin.control("keys", {"key": shop.settings.stripe_api_key.get_secret_value(), "revoked": True})
    assert "The key is not valid." in details(look(shop)["stripe"])
    shop.standin.stop()
    assert "could not be reached" in details(look(shop)["stripe"])


def test_an_endpoint_that_is_gone_switched_off_or_elsewhere_is_found(shop: Shop) -> None:
    assert look(shop)["webhooks"].status == "pass"
    with transaction(shop.engine, read_only=True) as session:
        id_ = session.get_one(PaymentAccount, "stripe").webhook_id
    assert id_ is not None
    shop.gateway._v1.webhook_endpoints.update(id_, {"disabled": True, "enabled_events": ["invoice.paid"]})
    found = look(shop)["webhooks"]
    assert "switched off" in details(found)
    assert "does not tell of setup_intent.succeeded" in details(found)
    assert "registered as" in details(look(shop, public_url="http://127.0.0.1:10")["webhooks"])
    shop.gateway.remove_endpoint(id_)
    assert "not registered" in details(look(shop)["webhooks"])


def test_what_is_left_undone_is_found(shop: Shop) -> None:
    shop.a_customer()
    shop.a_subscription()
    shop.work()
    assert timedelta(days=40) > lifecycle.LATE
    shop.clock.advance(timedelta(days=40))  # and no job runs
    found = look(shop)
    assert "were due to be invoiced" in details(found["lifecycle"])
    with transaction(shop.engine) as session:
        session.connection().execute(text("UPDATE payment_collections SET state = 'stopped'"))
        now = shop.clock.now()
        for number, state in enumerate(("dead", "pending")):
            session.add(
                PaymentEvent(
                    id=f"evt_{number}", kind="invoice.paid", object_id="in_1", body=b"{}", state=state,
                    look_at=now, received_at=now - timedelta(hours=1),
                )
            )  # fmt: skip
    found = look(shop)
    assert "before somebody has looked" in details(found["lifecycle"])
    assert "1 events could not be applied" in details(found["webhooks"])
    assert "waited for more than 10 minutes" in details(found["webhooks"])


def test_money_that_does_not_add_up_is_found(shop: Shop) -> None:
    shop.a_customer()
    shop.a_subscription()
    assert look(shop)["books"].status == "pass"  # it is open
    with transaction(shop.engine) as session:
        session.connection().execute(text("UPDATE invoices SET paid_minor = paid_minor + 1"))
    assert "M3: what is owed by the ledger is what is owed by the invoice" in details(look(shop)["books"])


def test_a_valkey_that_may_forget_is_found(shop: Shop, valkey: Valkey) -> None:
    with redis.Redis.from_url(valkey.url) as store:
        store.config_set("maxmemory-policy", "allkeys-lru")
        try:
            assert "allkeys-lru" in details(look(shop, redis_url=valkey.url)["quota"])
        finally:
            store.config_set("maxmemory-policy", "noeviction")
    away = "redis://:secret@127.0.0.1:1"
    found = look(shop, redis_url=away)["quota"]
    assert "does not answer" in details(found)
    assert "secret" not in repr(found)


def test_routes_are_held_against_the_policies_that_there_are(shop: Shop) -> None:
    file = run.EnvoyConfig("envoy.yaml", source())
    assert "names the policy 'chat'" in details(look(shop, file)["envoy"])
    with transaction(shop.engine) as session:
        for document in (
            {"key": "chat", "meters": {"tokens": "usage.totalTokens"}},
            {"key": "capped", "meters": {"tokens": "usage.totalTokens"}, "cutOff": True},
            {"key": "bytes", "meters": {"tokens": "response.bytes"}},
            {"key": "premium", "meters": {"api_requests": 1}},
        ):
            policies.create(session, document, NOW)
    assert look(shop, file)["envoy"].status == "pass"
    assert "is not YAML" in details(look(shop, run.EnvoyConfig("-", "{"))["envoy"])


def test_without_a_database_the_rest_is_looked_at_all_the_same(shop: Shop, tmp_path: Path) -> None:
    shop.engine = make_engine(f"sqlite:///{tmp_path / 'empty.db'}")
    found = look(shop, run.EnvoyConfig("envoy.yaml", source()))
    assert list(found) == KEYS
    assert (found["database"].status, found["catalog"].status) == ("fail", "skip")
    assert found["envoy"].status == "pass"


def test_a_check_that_breaks_is_a_finding_and_the_others_go_on(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("sk_test_secret")

    monkeypatch.setattr(payments, "read", broken)
    found = look(shop)
    assert (found["stripe"].status, found["webhooks"].status, found["grace"].status) == ("fail", "fail", "pass")
    assert "sk_test" not in repr(found["stripe"])


def test_looking_changes_nothing(shop: Shop) -> None:
    shop.a_customer()
    shop.a_subscription()

    def everything() -> str:
        with shop.engine.connect() as connection:
            names = ("payment_collections", "payment_events", "payment_accounts", "invoices", "subscriptions", "plans")
            return repr([connection.execute(text(f"SELECT * FROM {name}")).all() for name in names])

    before, events = everything(), len(list(shop.standin.books.all("event")))
    look(shop, run.EnvoyConfig("envoy.yaml", source()))
    assert (everything(), len(list(shop.standin.books.all("event")))) == (before, events)


@pytest.mark.parametrize(
    ("output", "status", "found"),
    [
        (
            '{"account":"a","result":"right","drifts":[]}\n{"account":"b","result":"drift","drifts":[1]}\n',
            1,
            (2, ("b",)),
        ),
        ('{"account":"a","result":"busy","drifts":[]}\n', 0, (1, ())),
        ("", 0, (0, ())),
    ],
)
def test_what_reconcile_says_is_read(
    monkeypatch: pytest.MonkeyPatch, output: str, status: int, found: tuple[int, tuple[str, ...]]
) -> None:
    done = subprocess.CompletedProcess([], status, output, "")
    monkeypatch.setattr(quota.subprocess, "run", lambda *_, **__: done)
    said = quota.reconcile({})
    assert (said.accounts, said.differing) == found


def doctor(environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "farebox_portal", "doctor", *arguments]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FAREBOX_")}
    return subprocess.run(command, env=kept | environ, capture_output=True, text=True, timeout=60)


def test_the_command_prints_its_report_and_fails_when_a_check_does(tmp_path: Path) -> None:
    token = "a-token-nobody-may-see"
    environ = {"FAREBOX_ADMIN_TOKEN": token, "FAREBOX_PLUGIN_TOKEN": token, "FAREBOX_STATE_DIR": str(tmp_path)}
    file = tmp_path / "envoy.yaml"
    file.write_text(source().replace("failure_mode_allow: false  # a", "failure_mode_allow: true  # a"))
    shown = doctor(environ, "--json", "--envoy-config", str(file))
    assert (shown.returncode, token in shown.stdout + shown.stderr) == (1, False)
    document = json.loads(shown.stdout)
    assert (document["status"], document["environment"]) == ("fail", "test")
    assert [check["key"] for check in document["checks"]] == KEYS
    (guard,) = document["checks"][-1]["findings"]
    assert set(guard) == {"level", "detail", "remedy"}


def test_without_settings_a_configuration_of_envoy_is_looked_at_all_the_same(tmp_path: Path) -> None:
    file = tmp_path / "envoy.yaml"
    file.write_text(source().replace("farebox.policy: bytes", "farebox.policy: byts"))
    checks = commands._without_settings(
        "FAREBOX_ADMIN_TOKEN: is required; FAREBOX_X: is wrong", commands._read(file, frozenset())
    )
    assert [check.key for check in checks] == ["settings", "envoy"]
    assert [one.detail for one in checks[0].findings] == ["FAREBOX_ADMIN_TOKEN: is required", "FAREBOX_X: is wrong"]
    assert checks[1].status == "pass"  # which policies there are, nobody knows
    with pytest.raises(CannotStart, match="cannot read"):
        commands._read(tmp_path / "none", frozenset())


def test_a_report_passes_with_warnings_and_shows_them() -> None:
    from farebox_portal.doctor.report import check, skipped, warn

    checks = [check("a", "A", "seen", [warn("odd", "mend it")]), skipped("b", "B", "not there")]
    assert document_of(checks, "test").wire()["status"] == "pass"
    shown = commands.as_text(checks)
    assert "warn  A: seen" in shown
    assert "mend it" in shown
    assert "--    B: not there" in shown


def test_collections_are_leased_for_a_while_and_not_late_then(shop: Shop) -> None:
    shop.a_customer()
    shop.a_subscription()
    shop.till.enroll(shop.clock.now())
    shop.clock.advance(timedelta(minutes=11))
    assert "1 invoices were due to be collected" in details(look(shop)["lifecycle"])
    with transaction(shop.engine) as session:
        (row,) = shop.collections()
        session.get_one(Collection, row.invoice_id).look_at = shop.clock.now()
    assert "due to be collected" not in details(look(shop)["lifecycle"])

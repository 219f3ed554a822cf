"""The walk through the provider: it passes where all is well, names the step that fails, and cleans up after itself."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from builders.payments import Shop
from builders.stripe_client import KEY
from builders.stripe_contract import Contract
from farebox_portal.db import transaction
from farebox_portal.errors import CannotStart
from farebox_portal.payments import smoke as walk
from farebox_portal.payments.events import is_heard_of
from farebox_portal.payments.smoke import SmokeDocument, smoke
from farebox_portal.payments.stripe_gateway import StripeGateway
from farebox_portal.standin.keys import PERMISSIONS
from rig.standin import Receiver, Standin

STEPS = ["account", "permissions", "customer", "card", "checkout", "invoice", "lines", "finalize", "pay", "portal",
         "webhook", "clean up"]  # fmt: skip


def outcomes(done: SmokeDocument) -> dict[str, str]:
    return {step.name: step.status for step in done.steps}


def test_all_is_well_and_nothing_is_left_but_a_paid_invoice(bare: Shop) -> None:
    shown: list[str] = []
    done = smoke(bare.gateway, None, lambda step: shown.append(step.name))
    assert (done.status, done.account) == ("pass", "acct_standin")
    assert outcomes(done) == dict.fromkeys(STEPS, "pass") | {"webhook": "skip"}
    assert shown == STEPS
    assert bare.charges() == [5023]
    assert [one.get("deleted") for one in bare.standin.books.all("customer")] == [True]
    assert [one["status"] for one in bare.standin.books.all("invoice")] == ["paid"]
    with bare.engine.connect() as connection:
        for table in ("customers", "invoices", "payment_operations", "payment_payers"):
            assert connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one() == 0


def test_a_live_key_is_refused_before_anything_is_sent(bare: Shop) -> None:
    gateway = StripeGateway("sk_live_0123456789abcdef", bare.standin.url)
    with pytest.raises(CannotStart, match="live key"):
        smoke(gateway, None)
    assert bare.standin.log() == []


@pytest.fixture
def told(engine: Engine, tmp_path: Path, standin: Standin, contract: Contract) -> Iterator[tuple[Shop, Receiver]]:
    with Receiver() as receiver:
        base = receiver.url.removesuffix("/webhooks")
        shop = Shop(engine, tmp_path, standin, contract, FAREBOX_PUBLIC_URL=base)
        shop.connect()
        yield shop, receiver


def test_an_event_is_waited_for_and_is_none_of_the_portals(told: tuple[Shop, Receiver]) -> None:
    shop, receiver = told

    def inbox(object_id: str) -> bool:
        shop.standin.control("webhooks/settle", {})
        for signature, body in receiver.got:
            shop.client.post("/v1/webhooks/stripe", content=body, headers={"Stripe-Signature": signature})
        with transaction(shop.engine, read_only=True) as session:
            return is_heard_of(session, object_id)

    assert outcomes(smoke(shop.gateway, inbox)) == dict.fromkeys(STEPS, "pass")
    shop.work()
    items = shop.client.get("/v1/payment-events", params={"pageSize": 100}).json()["items"]
    assert {one["status"] for one in items} == {"ignored"}


def test_an_event_that_does_not_come_fails_and_cleans_up(bare: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "HEARD_WITHIN_S", 0.05)
    done = smoke(bare.gateway, lambda _: False, sleep=lambda _: None)
    assert (done.status, outcomes(done)["webhook"], outcomes(done)["clean up"]) == ("fail", "fail", "pass")


@pytest.mark.parametrize(
    ("match", "fails"),
    [
        ("POST /v1/customers", "customer"),
        ("POST /v1/checkout/sessions", "checkout"),
        ("POST /v1/invoices", "invoice"),
        ("POST /v1/invoiceitems", "lines"),
        ("POST /v1/invoices/*/finalize", "finalize"),
        ("POST /v1/invoices/*/pay", "pay"),
        ("POST /v1/billing_portal/sessions", "portal"),
    ],
)
def test_the_step_that_fails_is_named_and_what_was_made_is_gone(bare: Shop, match: str, fails: str) -> None:
    nth = 2 if match.startswith(("POST /v1/billing", "POST /v1/invoices/*/f")) else 1  # the first is the probe
    bare.standin.fault("stored_500", match, nth=nth, effect=False)
    done = smoke(bare.gateway, None)
    failed = [name for name, status in outcomes(done).items() if status == "fail"]
    assert (done.status, failed) == ("fail", [fails])
    assert [one for one in bare.standin.books.all("customer") if not one.get("deleted")] == []
    assert [one for one in bare.standin.books.all("invoice") if one["status"] == "draft"] == []


def test_a_key_that_may_not_attach_a_card_voids_the_invoice(bare: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    send = bare.gateway.send

    def refuses_cards(step: Any, request: Any, key: str) -> Any:
        if request.get("method") == walk.TEST_CARD:
            raise walk.Lacking("it may not", code="rak_payment_method_write")
        return send(step, request, key)

    monkeypatch.setattr(bare.gateway, "send", refuses_cards)
    done = smoke(bare.gateway, None)
    assert done.status == "pass"
    assert (outcomes(done)["card"], outcomes(done)["void"]) == ("skip", "pass")
    assert [one["status"] for one in bare.standin.books.all("invoice")] == ["void"]


def test_what_a_restricted_key_lacks_is_named(bare: Shop) -> None:
    bare.standin.control("keys", {"key": KEY, "permissions": [one for one in PERMISSIONS if "invoice" not in one]})
    done = smoke(bare.gateway, None)
    assert (done.status, [step.name for step in done.steps]) == ("fail", ["account", "permissions"])
    assert done.steps[-1].detail == "the key lacks Invoices: write"


def test_the_command(standin: Standin, tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FAREBOX_")}
    environ = kept | {
        "FAREBOX_ADMIN_TOKEN": "admin-token-of-the-tests",
        "FAREBOX_PLUGIN_TOKEN": "plugin-token-of-the-tests",
        "FAREBOX_STATE_DIR": str(tmp_path / "none"),
        "FAREBOX_STRIPE_API_KEY": KEY,
        "FAREBOX_STRIPE_API_BASE": standin.url,
    }

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "farebox_portal", "smoke", *arguments]
        return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)

    assert "say --test-mode" in run().stderr
    done = run("--test-mode", "--json")
    assert done.returncode == 0, done.stderr
    assert [step["name"] for step in json.loads(done.stdout)["steps"]] == STEPS
    assert KEY not in done.stdout + done.stderr
    assert not (tmp_path / "none").exists()

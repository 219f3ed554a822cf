"""The stand-in as users run it: a process, whose records outlive a kill -9."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import stripe

from builders.stripe_client import stripe_client
from builders.stripe_contract import Contract
from builders.stripe_flows import a_customer, a_draft, a_paid_invoice, a_session
from farebox_portal.clock import FrozenClock
from farebox_portal.errors import CannotStart
from farebox_portal.standin.books import Books
from farebox_portal.standin.clock import StandinClock
from farebox_portal.standin.journal import Journal
from rig.standin import Receiver, Standin, StandinProcess

SECRET = "whsec_of_the_tests"
KEYED: Any = {"idempotency_key": "am1:test:1"}


def test_a_restart_after_a_kill_keeps_everything_that_was_answered(tmp_path: Path, contract: Contract) -> None:
    with StandinProcess(tmp_path, "--state", str(tmp_path / "state" / "payments.jsonl")) as standin:
        v1 = stripe_client(standin.url, contract).v1
        customer = v1.customers.create({"email": "dev@example.com"}, KEYED)
        session = a_session(v1, customer.id)
        standin.act("complete_checkout", session=session.id)
        method = v1.customers.payment_methods.list(customer.id).data[0]
        v1.customers.update(customer.id, {"invoice_settings": {"default_payment_method": method.id}})
        paid = a_paid_invoice(v1, customer.id, 4900)
        open_ = v1.invoices.finalize_invoice(a_draft(v1, customer.id, 100).id)
        deleted = a_draft(v1, customer.id, 5).id
        standin.advance(3600)
        before = [each.to_dict() for each in v1.events.list({"limit": 100}).data]
        v1.invoices.delete(deleted)  # the last request of all, and without a key

        standin.stop(signal.SIGKILL)
        standin.start()

        (deletion, *older) = [each.to_dict() for each in v1.events.list({"limit": 100}).data]
        assert (deletion["type"], older) == ("invoice.deleted", before)
        assert v1.invoices.retrieve(paid.id).to_dict() == paid.to_dict()
        assert {each.id for each in v1.invoices.list({"customer": customer.id}).data} == {paid.id, open_.id}
        assert v1.customers.create({"email": "dev@example.com"}, KEYED).id == customer.id
        assert standin.control("clock")["ahead_s"] == 3600
        assert v1.invoices.pay(open_.id).number == f"{customer.invoice_prefix}-0002"


def test_it_ends_in_order_and_sends_webhooks_to_the_address_it_was_given(tmp_path: Path) -> None:
    with Receiver() as receiver:
        options = ("--webhook-url", receiver.url, "--webhook-secret", SECRET)
        with StandinProcess(tmp_path, *options) as standin:
            client = stripe_client(standin.url)
            a_customer(client.v1)
            standin.control("webhooks/settle", {})
            header, body = receiver.got[0]
            assert client.construct_event(body, header, SECRET).type == "customer.created"
            assert standin.stop(signal.SIGTERM) in (0, -signal.SIGTERM)
        assert "Traceback" not in standin.log_text


def test_a_webhook_that_was_on_its_way_is_sent_after_the_restart(tmp_path: Path) -> None:
    state = tmp_path / "payments.jsonl"
    with Receiver() as receiver:
        with Standin(state=state) as standin:
            standin.standin.add_webhook(receiver.url, SECRET)
            standin.control("webhooks", {"paused": True})
            a_customer(stripe_client(standin.url).v1)
        with Standin(state=state) as standin:
            standin.standin.add_webhook(receiver.url, SECRET)
            standin.control("webhooks/flush", {})
            assert [event["type"] for event in receiver.events()] == ["customer.created"]


def test_the_pages_move_with_the_port(tmp_path: Path) -> None:
    state = tmp_path / "payments.jsonl"
    with Standin(state=state) as standin:
        v1 = stripe_client(standin.url).v1
        session = a_session(v1, a_customer(v1).id)
    with Standin(state=state) as standin:
        moved = stripe_client(standin.url).v1.checkout.sessions.retrieve(session.id)
        assert moved.url == f"{standin.url}/pay/checkout/{session.id}"


def test_a_line_that_was_cut_off_was_never_answered_for(tmp_path: Path) -> None:
    state = tmp_path / "payments.jsonl"
    with Standin(state=state) as standin:
        customer = a_customer(stripe_client(standin.url).v1).id
    with state.open("a") as file:
        file.write('{"save":{"object":"customer","id":"cus_half","na')
    with Standin(state=state) as standin:
        assert [each.id for each in stripe_client(standin.url).v1.customers.list().data] == [customer]
    assert "cus_half" not in state.read_text()


def test_a_file_of_somebody_elses_is_left_alone(tmp_path: Path) -> None:
    state = tmp_path / "notes.txt"
    state.write_text("dear diary\n")
    with pytest.raises(CannotStart, match=r"notes\.txt, line 1"):
        Journal(state)
    assert state.read_text() == "dear diary\n"


def test_the_file_is_rewritten_without_what_is_past(tmp_path: Path, clock: FrozenClock) -> None:
    state = tmp_path / "payments.jsonl"
    books = Books(StandinClock(clock), Journal(state))
    first = books.add("customer", "cus", name="A")
    second = books.add("customer", "cus", name="B")
    books.commit()
    for number in range(5):
        first["name"] = str(number)
        books.save(first)
        books.commit()
    books.remove(second)
    books.commit()
    books.close()
    assert len(state.read_text().splitlines()) == 8
    journal = Journal(state)
    assert [json.loads(line)["save"]["name"] for line in state.read_text().splitlines()] == ["4"]
    again = Books(StandinClock(clock), journal)
    assert again.get("customer", first["id"]) == first
    assert again.find("customer", second["id"]) is None
    again.close()


def test_a_process_without_its_port_says_why(tmp_path: Path) -> None:
    with StandinProcess(tmp_path) as first:
        second = StandinProcess(tmp_path / "second", "--state", str(tmp_path / "x" / "y"))
        second.port = first.port
        second.launch()
        assert second.wait() != 0
        assert "address already in use" in second.log_text.lower()


def test_no_answer_and_no_log_line_has_a_key(tmp_path: Path) -> None:
    key = "sk_test_a_secret_that_must_not_leak"
    with StandinProcess(tmp_path, "--state", str(tmp_path / "state.jsonl")) as standin:
        v1 = stripe_client(standin.url, key=key).v1
        a_customer(v1)
        standin.control("keys", {"key": key, "revoked": True})
        with pytest.raises(stripe.AuthenticationError) as caught:
            v1.customers.list()
        assert key not in str(caught.value)
        assert key not in json.dumps(standin.log())
        assert key not in standin.log_text

import hashlib
import json
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine
from sqlmodel import select

from builders.documents import faults
from builders.invoices import TERMS, a_shelf
from builders.portal import a_batch, an_event
from builders.subscriptions import an_order
from farebox_portal.app import create_app
from farebox_portal.clock import FrozenClock
from farebox_portal.db import transaction
from farebox_portal.invoicing.close import close_due
from farebox_portal.invoicing.tables import Invoice, InvoiceLine
from farebox_portal.jobs import run_jobs
from farebox_portal.settings import Settings
from farebox_portal.testclock import TestClock as ClockAhead
from farebox_portal.usage.ingest import apply_batch

APRIL = datetime(2026, 4, 1, tzinfo=UTC)
MAY = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture
def sold(engine: Engine, clock: FrozenClock, client: TestClient) -> TestClient:
    """`acme` on `pro`, whose April is over: 1250 requests, of two keys; and `other` on `tokens`."""
    with transaction(engine) as session:
        a_shelf(session)
        row = an_order(session, "pro", APRIL)
        tokens = an_order(session, "tokens", APRIL, customer="other")
        events = [an_event(row, rid=f"r{day}", at=APRIL + timedelta(days=day), api_requests=625) for day in (3, 9)]
        events[1].key_id = "second"
        events.append(an_event(tokens, rid="t", at=APRIL, tokens=40, dimensions={"model": "large"}))
        apply_batch(session, a_batch(*events), APRIL)
    clock.instant = MAY + timedelta(hours=1)
    close_due(engine, clock.instant, TERMS)
    return client


def listed(client: TestClient, **asked: str) -> list[dict[str, Any]]:
    answer = client.get("/v1/invoices", params=asked)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["items"]
    return found


def the_period(client: TestClient) -> dict[str, Any]:
    (found,) = [one for one in listed(client, customerId="acme") if one["kind"] == "period"]
    answer: dict[str, Any] = client.get(f"/v1/invoices/{found['id']}").json()
    return answer


def test_invoices_are_listed_by_customer_subscription_and_status(sold: TestClient) -> None:
    period = the_period(sold)
    assert [one["kind"] for one in listed(sold)].count("start") == 1
    assert {one["kind"] for one in listed(sold, customerId="acme")} == {"start", "period"}
    assert {one["customerId"] for one in listed(sold, customerId=period["customerId"])} == {period["customerId"]}
    assert len(listed(sold, subscriptionId=period["subscriptionId"], status="issued")) == 2
    assert listed(sold, status="paid") == []
    assert listed(sold, customerId="other", subscriptionId=period["subscriptionId"]) == []
    for one in listed(sold):
        assert one["lines"] == sold.get(f"/v1/invoices/{one['id']}").json()["lines"], "those of this invoice, in order"
    assert sold.get("/v1/invoices?customerId=nobody").status_code == 404
    assert sold.get("/v1/invoices?status=lost").status_code == 422


def test_an_invoice_says_what_each_line_is_for(sold: TestClient) -> None:
    found = the_period(sold)
    assert (found["subtotal"], found["tax"], found["total"], found["amountDue"]) == ("31.50", "0.00", "31.50", "31.50")
    assert (found["status"], found["currency"], found["provider"]) == ("issued", "USD", {"name": "manual"})
    assert found["period"] == {"from": "2026-04-01T00:00:00Z", "to": "2026-05-01T00:00:00Z"}
    fee, free, over = found["lines"]
    assert (fee["kind"], fee["amount"], fee["period"]["from"]) == ("fee", "29.00", "2026-05-01T00:00:00Z")
    assert "usageUrl" not in fee
    assert (free["tier"], free["quantity"], free["amount"]) == (1, "1000", "0.00")
    assert (over["tier"], over["quantity"], over["unitAmount"], over["amount"]) == (2, "250", "0.01", "2.50")
    assert (over["meter"], over["plan"]["key"], over["plan"]["version"]) == ("api_requests", "pro", 1)
    assert over["period"] == found["period"]
    assert sold.get(f"/v1/invoices/{found['number']}").json() == found


def test_a_line_leads_to_the_usage_behind_it(sold: TestClient) -> None:
    found = the_period(sold)
    usage = sold.get(found["lines"][2]["usageUrl"]).json()
    assert (usage["meter"], usage["quantity"], usage["metered"]) == ("api_requests", "1250", "1250")
    assert [(day["from"], day["quantity"]) for day in usage["byDay"]] == [
        ("2026-04-04T00:00:00Z", 625),
        ("2026-04-10T00:00:00Z", 625),
    ]
    assert usage["byKey"] == [{"value": "key", "quantity": 625}, {"value": "second", "quantity": 625}]
    (tokens,) = listed(sold, customerId="other")
    line = sold.get(f"/v1/invoices/{tokens['id']}").json()["lines"][0]
    assert sold.get(line["usageUrl"]).json()["byDimension"] == {"model": [{"value": "large", "quantity": 40}]}
    nothing = sold.get(f"/v1/invoices/{found['id']}/lines/{found['lines'][0]['id']}/usage")
    assert (nothing.status_code, nothing.json()["code"]) == (404, "no_usage")
    assert sold.get(f"/v1/invoices/{tokens['id']}/lines/{found['lines'][2]['id']}/usage").status_code == 404


def test_the_document_is_canonical_and_has_the_hash_that_the_invoice_names(sold: TestClient) -> None:
    found = the_period(sold)
    document = sold.get(found["documentUrl"])
    assert hashlib.sha256(document.content).hexdigest() == found["sha256"]
    assert document.headers["etag"] == f'"{found["sha256"]}"'
    said = json.loads(document.content)
    assert json.dumps(said, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode() == document.content
    assert (said["total"], said["customer"]["name"], said["number"]) == ("31.50", "acme", found["number"])


def test_a_replay_is_identical_and_tells_what_came_late(sold: TestClient, engine: Engine) -> None:
    found = the_period(sold)
    assert sold.get(f"/v1/invoices/{found['id']}/replay").json() | {"lateUsage": []} == {
        "invoiceId": found["id"],
        "isIdentical": True,
        "issued": found["sha256"],
        "replayed": found["sha256"],
        "lateUsage": [],
    }
    with transaction(engine) as session:
        line = session.exec(select(InvoiceLine).where(InvoiceLine.id == found["lines"][2]["id"])).one()
        line.gross_minor += 1
        line.amount_minor += 1
        session.add(line)
    replayed = sold.get(f"/v1/invoices/{found['id']}/replay").json()
    assert replayed["isIdentical"], "the replay rates anew, and does not copy what is stored"


def test_paying_voiding_and_giving_up_are_steps_that_are_taken_once(sold: TestClient) -> None:
    found = the_period(sold)
    at = f"/v1/invoices/{found['id']}"
    paid = sold.post(f"{at}/pay", json={"reference": "bank 7"}, headers={"Idempotency-Key": "p"})
    assert (paid.json()["status"], paid.json()["amountPaid"], paid.json()["amountDue"]) == ("paid", "31.50", "0.00")
    assert sold.post(f"{at}/pay", json={"reference": "bank 7"}, headers={"Idempotency-Key": "p"}).json() == paid.json()
    refused = sold.post(f"{at}/void")
    assert (refused.status_code, refused.json()["code"]) == (409, "invoice_paid")
    (start,) = [one for one in listed(sold, customerId="acme") if one["kind"] == "start"]
    assert sold.post(f"/v1/invoices/{start['id']}/mark-uncollectible").json()["status"] == "uncollectible"
    assert sold.post(f"/v1/invoices/{start['id']}/void", json={}).json()["status"] == "void"
    assert sold.post(f"/v1/invoices/{start['id']}/finalize").json()["code"] == "invoice_void"
    assert sold.post("/v1/invoices/nothing/pay").json()["code"] == "invoice_not_found"
    logged = sold.get("/v1/audit", params={"objectType": "invoice"}).json()["items"]
    assert [one["action"] for one in logged] == ["invoice.void", "invoice.mark_uncollectible", "invoice.pay"]
    assert {one["actor"] for one in logged} == {"operator:admin"}


def test_a_credit_note_is_part_of_the_invoice(sold: TestClient) -> None:
    found = the_period(sold)
    at = f"/v1/invoices/{found['id']}"
    sold.post(f"{at}/pay")
    wanted = {"lines": [{"lineId": found["lines"][2]["id"], "amount": "1.00"}], "reason": "An outage"}
    note = sold.post(f"{at}/credit-notes", json=wanted)
    assert note.status_code == 201, note.text
    assert (note.json()["total"], note.json()["refunded"]) == ("1.00", "1.00")
    shown = sold.get(at).json()
    assert shown["creditNotes"] == [note.json()]
    assert (shown["amountCredited"], shown["amountRefunded"], shown["amountDue"]) == ("1.00", "1.00", "0.00")
    assert faults(sold.post(f"{at}/credit-notes", json={"reason": "?"})) == {"": "give either lines or amount"}


def test_nobody_sees_invoices_without_a_token(sold: TestClient) -> None:
    found = the_period(sold)
    for path in ("", f"/{found['id']}", f"/{found['id']}.html", f"/{found['id']}.pdf", f"/{found['id']}/document"):
        assert sold.get(f"/v1/invoices{path}", headers={"Authorization": ""}).status_code == 401


def test_the_test_clock_makes_the_invoices_of_the_time_that_it_passes_over(
    settings: Settings, engine: Engine, clock: FrozenClock
) -> None:
    ahead = create_app(settings, engine, ClockAhead(engine, clock))
    client = TestClient(ahead, headers={"Authorization": f"Bearer {settings.admin_token.get_secret_value()}"})
    with transaction(engine) as session:
        a_shelf(session)
        an_order(session, "flat", clock.instant)
    done = client.post("/v1/test-clock/advance", json={"by": "P3M"}).json()
    assert done["invoices"] == 4
    found = listed(client)
    assert [one["kind"] for one in found] == ["period", "period", "period", "start"]
    assert [one["period"]["to"][:10] for one in found] == ["2026-04-30", "2026-03-31", "2026-02-28", "2026-02-28"]


def test_the_job_makes_what_is_due_also_without_a_gateway(
    settings: Settings, engine: Engine, clock: FrozenClock
) -> None:
    with transaction(engine) as session:
        a_shelf(session)
        an_order(session, "flat", clock.instant)
    stop = threading.Event()
    jobs = threading.Thread(target=run_jobs, args=(engine, clock, settings, stop))
    jobs.start()
    try:
        deadline = time.monotonic() + 20
        while not _invoices(engine):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        stop.set()
        jobs.join(20)
    assert [(one.kind, one.status) for one in _invoices(engine)] == [("start", "issued")]


def _invoices(engine: Engine) -> Sequence[Invoice]:
    with transaction(engine, read_only=True) as session:
        return session.exec(select(Invoice)).all()

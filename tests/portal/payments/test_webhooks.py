"""Webhooks are hints: forged ones are refused, and what is lost, late, doubled or out of order changes nothing."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine

from builders.payments import DAY, Shop
from builders.stripe_contract import Contract
from builders.stripe_flows import DECLINED_WHEN_CHARGED
from builders.subscriptions import APRIL
from farebox_portal.db import transaction
from farebox_portal.payments import events
from farebox_portal.payments.tables import Checkout, PaymentAccount
from rig.standin import Receiver, Standin


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def told(engine: Engine, tmp_path: Path, standin: Standin, contract: Contract, receiver: Receiver) -> Iterator[Shop]:
    """Connected, and the provider delivers to `receiver`, from where a test takes it on."""
    base = receiver.url.removesuffix("/webhooks")
    shop = Shop(engine, tmp_path, standin, contract, FAREBOX_PUBLIC_URL=base)
    shop.connect()
    yield shop
    assert shop.http.faults == []


def deliver(shop: Shop, receiver: Receiver, at: int = 0) -> int:
    """Take on what has come since `at`; how much has come."""
    shop.standin.control("webhooks/settle", {})
    for signature, body in receiver.got[at:]:
        answer = shop.client.post("/v1/webhooks/stripe", content=body, headers={"Stripe-Signature": signature})
        assert answer.status_code == 200, answer.text
    return len(receiver.got)


def statuses(shop: Shop) -> dict[str, int]:
    items = shop.client.get("/v1/payment-events", params={"pageSize": 100}).json()["items"]
    found: dict[str, int] = {}
    for one in items:
        found[one["status"]] = found.get(one["status"], 0) + 1
    return found


def test_an_event_is_kept_once_and_applied_a_moment_later(told: Shop, receiver: Receiver) -> None:
    told.a_customer()
    told.a_subscription()
    told.work()
    came = deliver(told, receiver)
    deliver(told, receiver)  # all of it again
    assert statuses(told) == {"pending": came}
    told.work()
    assert set(statuses(told)) <= {"handled", "ignored"}
    assert told.charges() == [2900]


@pytest.mark.parametrize("change", ["body", "signature", "none", "secret", "late"])
def test_what_was_not_signed_with_our_secret_is_refused(told: Shop, receiver: Receiver, change: str) -> None:
    told.a_customer()
    told.standin.control("webhooks/settle", {})
    signature, body = receiver.got[0]
    if change == "body":
        body = body.replace(b"evt_", b"evt_1")
    elif change == "signature":
        signature = signature[:-4] + "0000"
    elif change == "none":
        signature = ""
    elif change == "late":
        signature = "t=1" + signature[signature.index(",") :]
    else:
        with transaction(told.engine) as session:
            row = session.get_one(PaymentAccount, "stripe")
            row.webhook_secrets = ["whsec_another"]
            session.add(row)
    answer = told.client.post("/v1/webhooks/stripe", content=body, headers={"Stripe-Signature": signature})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_signature")
    assert statuses(told) == {}


def test_without_a_secret_nothing_is_genuine(bare: Shop) -> None:
    answer = bare.client.post("/v1/webhooks/stripe", content=b"{}", headers={"Stripe-Signature": "t=1,v1=1"})
    assert answer.status_code == 404


def scenario(shop: Shop, receiver: Receiver, *, takes: bool) -> tuple[object, ...]:
    """Two customers, one of whom has to pay by hand; what is left in the end, without the ids of the run."""
    at = 0

    def go_on(by: timedelta) -> None:
        nonlocal at
        shop.clock.advance(by)
        shop.work()
        if takes:
            at = deliver(shop, receiver, at)
            shop.work()

    shop.a_customer("good")
    shop.a_customer("bad", DECLINED_WHEN_CHARGED)
    ids = [shop.a_subscription("good"), shop.a_subscription("bad")]
    go_on(timedelta(0))
    unpaid = next(one for one in shop.invoices() if one.status == "issued")
    shop.standin.act("pay_invoice", invoice=unpaid.provider_id, card="4242424242424242")
    for _ in range(3):
        go_on(timedelta(hours=9))
    return (
        [shop.standing(id_) for id_ in ids],
        sorted((one.status, one.paid_minor) for one in shop.invoices()),
        sorted(one[1:] for one in shop.there()),
        sorted(shop.charges()),
        sorted(one.state for one in shop.collections()),
    )


END = (
    [("paid", None), ("paid", None)],
    [("paid", 2900), ("paid", 2900)],
    [("paid", 2900, (2900,)), ("paid", 2900, (2900,))],
    [2900, 2900],
    ["done", "done"],
)


@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"duplicates": 5, "shuffle_seed": 1},
        {"duplicates": 5, "shuffle_seed": 2, "drop_share": 0.1},
        {"shuffle_seed": 3, "drop_share": 0.5, "delay_ms": 50},
        {"drop_share": 1},
    ],
)
def test_doubled_shuffled_delayed_and_lost_events_end_the_same(
    told: Shop, receiver: Receiver, switches: dict[str, object]
) -> None:
    told.standin.control("webhooks", switches)
    assert scenario(told, receiver, takes=True) == END


def test_a_payment_on_the_hosted_page_is_known_by_its_event_before_the_clock_looks(
    told: Shop, receiver: Receiver
) -> None:
    told.a_customer(card=DECLINED_WHEN_CHARGED)
    id_ = told.a_subscription()
    told.work()
    told.standin.act("pay_invoice", invoice=told.invoice().provider_id, card="4242424242424242")
    told.work()
    assert told.standing(id_)[0] == "failed"
    deliver(told, receiver)
    told.work()
    assert told.standing(id_) == ("paid", None)


def test_a_new_card_pays_what_is_open_at_once(told: Shop, receiver: Receiver) -> None:
    told.a_customer(card=DECLINED_WHEN_CHARGED)
    id_ = told.a_subscription()
    told.work()
    at = deliver(told, receiver)
    told.work()
    assert told.collection().pay_at == APRIL + DAY
    told.new_card("acme")
    deliver(told, receiver, at)
    told.work()
    assert told.standing(id_) == ("paid", None)


def test_an_event_that_cannot_be_applied_is_dead_and_seen_and_can_be_replayed(told: Shop, receiver: Receiver) -> None:
    told.a_customer(card=None)
    session_id = told.open_checkout(told.order().json()["checkoutUrl"])
    told.standin.act("complete_checkout", session=session_id)
    with transaction(told.engine) as session:  # as if the page had been made and the row not been written
        row = session.get_one(Checkout, session_id).model_dump()
        session.delete(session.get_one(Checkout, session_id))
    deliver(told, receiver)
    for _ in range(12):
        told.later(timedelta(minutes=10))
    dead = told.client.get("/v1/payment-events", params={"status": "dead"}).json()["items"]
    assert [(one["type"], one["objectId"]) for one in dead] == [("checkout.session.completed", session_id)]
    assert told.client.get("/v1/billing-readiness").json()["webhooks"]["dead"] == 1
    with transaction(told.engine) as session:
        session.add(Checkout(**row))
    assert told.client.post(f"/v1/payment-events/{dead[0]['id']}/replay").json()["status"] == "pending"
    told.work()
    assert told.client.get("/v1/payment-events", params={"status": "dead"}).json()["totalCount"] == 0
    assert told.client.post(f"/v1/payment-events/{dead[0]['id']}/replay").status_code == 200


def test_events_of_another_installation_on_the_same_account_are_left_alone(told: Shop, receiver: Receiver) -> None:
    v1 = told.gateway._v1
    customer = v1.customers.create({"name": "theirs", "metadata": {"fb_instance": "another"}})
    v1.invoices.create({"customer": customer.id, "metadata": {"fb_instance": "another", "fb_invoice_id": "theirs"}})
    v1.invoice_items.create({"customer": customer.id, "amount": 100, "currency": "usd"})
    done = v1.checkout.sessions.create(
        {"mode": "setup", "customer": customer.id, "currency": "usd", "success_url": "http://127.0.0.1:1/"}
    )
    told.standin.act("complete_checkout", session=done.id)
    assert deliver(told, receiver) > 0
    told.work()
    assert set(statuses(told)) == {"ignored"}


def test_an_event_of_a_kind_that_we_do_not_know_is_taken_and_ignored(told: Shop, receiver: Receiver) -> None:
    told.a_customer()
    deliver(told, receiver)
    _, body = receiver.got[0]
    event = json.loads(body) | {"id": "evt_new", "type": "unheard.of"}
    event["data"]["object"] = {"object": "unheard", "id": "uh_1"}
    with transaction(told.engine) as session:
        text = json.dumps(event).encode()
        assert events.store(session, told.gateway.hint(text), text, told.clock.now())
    told.work()
    items = told.client.get("/v1/payment-events", params={"status": "ignored"}).json()["items"]
    assert "evt_new" in [one["id"] for one in items]

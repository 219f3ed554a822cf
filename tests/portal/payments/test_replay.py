"""What went wrong is seen, and an operator can have it done once more; nothing is done twice by that."""

from datetime import timedelta
from typing import Any

from builders.payments import Shop
from builders.stripe_flows import DECLINED_WHEN_CHARGED
from farebox_portal.db import transaction
from farebox_portal.payments.operations import KEY_KEPT
from farebox_portal.payments.tables import Collection


def listed(shop: Shop, **params: str) -> list[dict[str, Any]]:
    answer = shop.client.get("/v1/payment-operations", params=params)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["items"])


def replayed(shop: Shop, key: str) -> Any:
    return shop.client.post(f"/v1/payment-operations/{key}/replay")


def test_what_was_asked_of_the_provider_is_listed(shop: Shop) -> None:
    shop.a_customer()
    shop.a_subscription()
    shop.work()
    steps = [one["step"].partition(":")[0] for one in listed(shop, objectId=shop.invoice().id)]
    assert sorted(steps) == ["finalize", "invoice", "line", "pay"]
    assert listed(shop, status="unknown") == []
    (pay,) = [one for one in listed(shop, status="done") if one["step"] == "pay"]
    assert (pay["attempt"], pay["key"].endswith(":pay:1")) == (1, True)
    again = replayed(shop, pay["key"])
    assert (again.status_code, again.json()["code"]) == (409, "payment_operation_done")


def test_what_nobody_was_told_of_is_found_out_and_not_done_twice(shop: Shop) -> None:
    shop.a_customer()
    shop.standin.fault("drop_after", "POST /v1/invoices/*/pay", times=1)
    shop.a_subscription()
    shop.work()
    (unknown,) = listed(shop, status="unknown")
    assert (unknown["step"], unknown["errorCode"]) == ("pay", "connection")
    shop.clock.advance(KEY_KEPT + timedelta(hours=1))
    answer = replayed(shop, unknown["key"])
    assert answer.status_code == 200, answer.text
    shop.work()
    assert shop.invoice().status == "paid"
    assert shop.charges() == [2900]
    entries = shop.client.get("/v1/audit", params={"pageSize": 100}).json()["items"]
    assert "payment.replay" in [one["action"] for one in entries]


def test_an_invoice_that_was_stopped_goes_on(shop: Shop) -> None:
    shop.a_customer()
    shop.standin.fault("drop_after", "POST /v1/invoices/*/finalize")
    shop.a_subscription()
    shop.work()
    (unknown,) = listed(shop, status="unknown")
    with transaction(shop.engine) as session:
        row = session.get_one(Collection, shop.invoice().id)
        row.state, row.fault, row.look_at = "stopped", "lines_differ", None
        session.add(row)
    shop.later(timedelta(hours=1))
    assert shop.collection().state == "stopped"
    assert replayed(shop, unknown["key"]).status_code == 200
    shop.work()
    assert (shop.invoice().status, shop.charges()) == ("paid", [2900])


def test_only_the_latest_attempt_is_replayed(shop: Shop) -> None:
    shop.a_customer()
    shop.standin.fault("stored_500", "POST /v1/invoices", effect=False)
    shop.a_subscription()
    shop.work()
    (first,) = listed(shop, status="failed")
    answer = replayed(shop, first["key"])
    assert (answer.status_code, answer.json()["code"]) == (409, "payment_operation_superseded")


def test_a_declined_card_is_tried_again_before_its_day(shop: Shop) -> None:
    shop.a_customer(card=DECLINED_WHEN_CHARGED)
    shop.a_subscription()
    shop.work()
    (failed,) = listed(shop, status="failed")
    assert failed["step"] == "pay"
    assert replayed(shop, failed["key"]).status_code == 200
    shop.work()
    assert sorted(one["attempt"] for one in listed(shop, status="failed")) == [1, 2]


def test_a_customer_that_was_made_and_not_told_of_is_found(shop: Shop) -> None:
    shop.a_customer(card=None)
    url = shop.order().json()["checkoutUrl"]
    shop.standin.fault("drop_after", "POST /v1/customers", times=2)  # the adapter asks twice
    assert shop.client.get(url.removeprefix(shop.settings.public_url)).status_code == 503
    (unknown,) = listed(shop, status="unknown")
    answer = replayed(shop, unknown["key"])
    assert (answer.status_code, answer.json()["status"]) == (200, "done")
    assert len(list(shop.standin.books.all("customer"))) == 1


def test_a_page_that_was_not_opened_is_opened_by_its_customer(shop: Shop) -> None:
    shop.a_customer(card=None)
    url = shop.order().json()["checkoutUrl"]
    shop.standin.fault("drop_after", "POST /v1/checkout/sessions", times=2)
    assert shop.client.get(url.removeprefix(shop.settings.public_url)).status_code == 503
    (unknown,) = listed(shop, status="unknown")
    answer = replayed(shop, unknown["key"])
    assert (answer.status_code, answer.json()["code"]) == (409, "payment_operation_not_needed")


def test_what_there_is_not_cannot_be_replayed(shop: Shop) -> None:
    assert replayed(shop, "fb1:no:such:key:1").status_code == 404


def test_dead_events_are_listed_and_replayed_until_they_apply(shop: Shop) -> None:
    listing = shop.client.get("/v1/payment-events", params={"status": "dead"})
    assert listing.json()["items"] == []
    assert shop.client.post("/v1/payment-events/evt_none/replay").status_code == 404

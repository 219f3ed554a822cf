"""Webhooks on their way: signed, repeated, shuffled, delayed, lost."""

from itertools import pairwise
from typing import Any

import pytest
import stripe

from builders.stripe_client import stripe_client
from builders.stripe_flows import a_customer, a_paid_invoice, a_paying_customer
from rig.standin import Receiver, Standin

SECRET = "whsec_of_the_tests"


def an_endpoint(v1: stripe.V1Services, url: str, *events: str) -> stripe.WebhookEndpoint:
    wanted: Any = list(events) or ["*"]
    return v1.webhook_endpoints.create({"url": url, "enabled_events": wanted})


def settle(standin: Standin) -> None:
    standin.control("webhooks/settle", {})


def states(standin: Standin) -> list[str]:
    return [each["state"] for each in standin.control("deliveries")["deliveries"]]


def test_an_endpoint_gets_what_it_asked_for(standin: Standin, stripe_v1: stripe.V1Services) -> None:
    with Receiver() as receiver:
        an_endpoint(stripe_v1, receiver.url, "invoice.paid", "customer.created")
        a_paid_invoice(stripe_v1, a_paying_customer(stripe_v1, standin).id, 1000)
        settle(standin)
        assert [event["type"] for event in receiver.events()] == ["customer.created", "invoice.paid"]


def test_an_event_names_the_request_that_it_comes_from(standin: Standin, stripe_v1: stripe.V1Services) -> None:
    made = stripe_v1.customers.create({}, {"idempotency_key": "am1:x"})
    event = stripe_v1.events.list({"type": "customer.created"}).data[0]
    assert made.last_response is not None
    assert event.request is not None
    assert (event.request.id, event.request.idempotency_key) == (made.last_response.headers["Request-Id"], "am1:x")


def test_an_update_says_what_was_before(standin: Standin, stripe_v1: stripe.V1Services) -> None:
    customer = a_customer(stripe_v1)
    stripe_v1.customers.update(customer.id, {"name": "Acme Ltd", "metadata": {"am_customer_id": "", "b": "2"}})
    event = stripe_v1.events.list({"type": "customer.updated"}).data[0]
    assert event.data.previous_attributes is not None
    assert event.data.previous_attributes["name"] == "Acme"
    assert event.data.object["metadata"].to_dict() == {"b": "2"}


def test_a_card_that_is_taken_away_is_told_with_whose_it_was(standin: Standin, stripe_v1: stripe.V1Services) -> None:
    customer = a_paying_customer(stripe_v1, standin)
    method = stripe_v1.customers.payment_methods.list(customer.id).data[0]
    standin.act("detach_card", payment_method=method.id)
    event = stripe_v1.events.list({"type": "payment_method.detached"}).data[0]
    assert event.data.object["customer"] is None
    assert event.data.previous_attributes is not None
    assert event.data.previous_attributes["customer"] == customer.id
    settings = stripe_v1.customers.retrieve(customer.id).invoice_settings
    assert settings is not None
    assert settings.default_payment_method is None


def test_twenty_deliveries_arrive_shuffled_and_all_of_them(standin: Standin, stripe_v1: stripe.V1Services) -> None:
    with Receiver() as receiver:
        an_endpoint(stripe_v1, receiver.url, "customer.created")
        standin.control("webhooks", {"paused": True, "shuffle_seed": 7})
        made = [a_customer(stripe_v1).id for _ in range(20)]
        assert receiver.got == []
        assert standin.control("webhooks/flush", {}) == {"pending": 0}
        arrived = [event["data"]["object"]["id"] for event in receiver.events()]
        assert sorted(arrived) == sorted(made)
        assert arrived != made
        assert sum(made.index(a) > made.index(b) for a, b in pairwise(arrived)) >= 5


def test_the_same_seed_shuffles_the_same_way(standin: Standin, stripe_v1: stripe.V1Services) -> None:
    with Receiver() as receiver:
        an_endpoint(stripe_v1, receiver.url, "customer.created")
        orders = []
        for _ in range(2):
            receiver.got.clear()
            standin.control("webhooks", {"paused": True, "shuffle_seed": 7})
            made = [a_customer(stripe_v1).id for _ in range(8)]
            standin.control("webhooks/flush", {})
            orders.append([made.index(event["data"]["object"]["id"]) for event in receiver.events()])
        assert orders[0] == orders[1]


def test_a_delivery_comes_as_often_as_it_is_duplicated_with_one_id(
    standin: Standin, stripe_v1: stripe.V1Services
) -> None:
    with Receiver() as receiver:
        an_endpoint(stripe_v1, receiver.url, "customer.created")
        standin.control("webhooks", {"duplicates": 5})
        a_customer(stripe_v1)
        settle(standin)
        assert len(receiver.got) == 5
        assert len({event["id"] for event in receiver.events()}) == 1


def test_a_share_of_the_deliveries_is_lost_for_good(standin: Standin, stripe_v1: stripe.V1Services) -> None:
    with Receiver() as receiver:
        an_endpoint(stripe_v1, receiver.url, "customer.created")
        standin.control("webhooks", {"shuffle_seed": 3, "drop_share": 0.5, "paused": True})
        for _ in range(20):
            a_customer(stripe_v1)
        standin.control("webhooks/flush", {})
        standin.advance(30 * 24 * 3600)
        settle(standin)
        assert 0 < len(receiver.got) < 20
        assert states(standin).count("dropped") == 20 - len(receiver.got)


def test_a_delayed_delivery_comes_when_its_time_has_come(standin: Standin, stripe_v1: stripe.V1Services) -> None:
    with Receiver() as receiver:
        an_endpoint(stripe_v1, receiver.url, "customer.created")
        standin.control("webhooks", {"delay_ms": 3 * 24 * 3600 * 1000})
        a_customer(stripe_v1)
        settle(standin)
        assert receiver.got == []
        standin.advance(3 * 24 * 3600)
        settle(standin)
        assert len(receiver.got) == 1


def test_a_failed_delivery_is_tried_again_until_it_succeeds(standin: Standin, stripe_v1: stripe.V1Services) -> None:
    with Receiver(answers=(500, 503)) as receiver:
        an_endpoint(stripe_v1, receiver.url, "customer.created")
        a_customer(stripe_v1)
        settle(standin)
        assert (len(receiver.got), states(standin)) == (1, ["pending"])
        for tries, state in ((2, "pending"), (3, "delivered")):
            standin.advance(3600)
            settle(standin)
            assert (len(receiver.got), states(standin)) == (tries, [state])


def test_a_receiver_that_is_not_there_is_given_up_in_the_end(standin: Standin, stripe_v1: stripe.V1Services) -> None:
    an_endpoint(stripe_v1, "http://127.0.0.1:1/", "customer.created")
    a_customer(stripe_v1)
    for _ in range(6):
        settle(standin)
        standin.advance(3600)
    settle(standin)
    (delivery,) = standin.control("deliveries")["deliveries"]
    assert (delivery["state"], len(delivery["attempts"])) == ("failed", 6)
    assert delivery["attempts"][0]["outcomes"] == ["ConnectError"]


def test_a_disabled_endpoint_gets_nothing(standin: Standin, stripe_v1: stripe.V1Services) -> None:
    with Receiver() as receiver:
        endpoint = an_endpoint(stripe_v1, receiver.url)
        stripe_v1.webhook_endpoints.update(endpoint.id, {"disabled": True})
        a_customer(stripe_v1)
        settle(standin)
        assert receiver.got == []


def test_an_event_can_be_sent_again(standin: Standin, stripe_v1: stripe.V1Services) -> None:
    with Receiver() as receiver:
        an_endpoint(stripe_v1, receiver.url, "customer.created")
        a_customer(stripe_v1)
        settle(standin)
        standin.act("send_again", event=receiver.events()[0]["id"])
        settle(standin)
        assert len({event["id"] for event in receiver.events()}) == 1
        assert len(receiver.got) == 2


# ---- signatures


def test_after_a_roll_both_secrets_sign_for_a_day(standin: Standin, stripe_v1: stripe.V1Services) -> None:
    with Receiver() as receiver:
        endpoint = an_endpoint(stripe_v1, receiver.url, "customer.created")
        new = standin.control("webhooks/roll", {"endpoint": endpoint.id})["secret"]
        assert endpoint.secret is not None
        a_customer(stripe_v1)
        settle(standin)
        header, body = receiver.got[0]
        assert header.count("v1=") == 2
        client = stripe_client(standin.url)
        for secret in (endpoint.secret, new):
            assert client.construct_event(body, header, secret).type == "customer.created"
        standin.advance(25 * 3600)
        a_customer(stripe_v1)
        settle(standin)
        header, body = receiver.got[1]
        assert header.count("v1=") == 1
        assert client.construct_event(body, header, new).type == "customer.created"


def test_a_signature_is_dated_by_the_world_outside_not_by_the_stand_ins_clock(
    standin: Standin, stripe_v1: stripe.V1Services
) -> None:
    with Receiver() as receiver:
        endpoint = an_endpoint(stripe_v1, receiver.url, "customer.created")
        standin.advance(40 * 24 * 3600)
        a_customer(stripe_v1)
        settle(standin)
        header, body = receiver.got[0]
        assert endpoint.secret is not None
        event = stripe_client(standin.url).construct_event(body, header, endpoint.secret)
        signed_at = int(header.partition(",")[0].removeprefix("t="))
        assert event.created - signed_at > 39 * 24 * 3600


def test_sixteen_endpoints_are_the_most(stripe_v1: stripe.V1Services) -> None:
    for number in range(16):
        an_endpoint(stripe_v1, f"http://127.0.0.1:1/{number}")
    with pytest.raises(stripe.InvalidRequestError, match="maximum of 16 test webhook endpoints"):
        an_endpoint(stripe_v1, "http://127.0.0.1:1/17")


def test_an_endpoint_of_another_version_is_refused(stripe_v1: stripe.V1Services) -> None:
    with pytest.raises(stripe.InvalidRequestError, match="speaks"):
        stripe_v1.webhook_endpoints.create(
            {"url": "http://127.0.0.1:1/", "enabled_events": ["*"], "api_version": "2020-08-27"}
        )


@pytest.mark.parametrize(
    "given", [{"delay": 1}, {"delay_ms": -1}, {"duplicates": 0}, {"drop_share": 2}, {"paused": "yes"}], ids=str
)
def test_a_switch_that_there_is_not_is_refused(standin: Standin, given: dict[str, Any]) -> None:
    before = standin.control("webhooks")
    with pytest.raises(RuntimeError):
        standin.control("webhooks", given)
    assert standin.control("webhooks") == before

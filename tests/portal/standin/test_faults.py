"""Idempotency, and everything that can go wrong between a client and its provider."""

import socket
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from typing import Any

import pytest
import stripe

from builders.stripe_client import KEY, stripe_client
from builders.stripe_flows import a_customer, a_draft, a_paying_customer
from rig.standin import Standin

CREATE = "POST /v1/customers"
KEYED: Any = {"idempotency_key": "am1:test:1"}


def customers(standin: Standin) -> int:
    return len(list(standin.books.all("customer")))


# ---- idempotency


def test_the_same_key_gets_the_same_answer_and_has_one_effect(standin: Standin, stripe_v1: stripe.V1Services) -> None:
    first = stripe_v1.customers.create({"name": "A"}, KEYED)
    again = stripe_v1.customers.create({"name": "A"}, KEYED)
    assert first.last_response is not None
    assert again.last_response is not None
    assert first.id == again.id
    assert "Idempotent-Replayed" not in first.last_response.headers
    assert again.last_response.headers["Idempotent-Replayed"] == "true"
    assert customers(standin) == 1


def test_a_key_is_for_one_request_only(standin: Standin, stripe_v1: stripe.V1Services) -> None:
    made = stripe_v1.customers.create({"name": "A"}, KEYED)
    for other in (
        lambda: stripe_v1.customers.create({"name": "B"}, KEYED),
        lambda: stripe_v1.customers.update(made.id, {"name": "A"}, KEYED),
    ):
        with pytest.raises(stripe.IdempotencyError) as caught:
            other()
        assert caught.value.http_status == 400
    assert stripe_v1.customers.retrieve(made.id).name == "A"


def test_a_key_is_forgotten_after_a_day(standin: Standin, stripe_v1: stripe.V1Services) -> None:
    first = stripe_v1.customers.create({"name": "A"}, KEYED)
    standin.advance(24 * 3600 - 60)
    assert stripe_v1.customers.create({"name": "A"}, KEYED).id == first.id
    standin.advance(120)
    assert stripe_v1.customers.create({"name": "A"}, KEYED).id != first.id


def test_a_refusal_of_the_operation_is_kept_and_one_of_the_parameters_is_not(
    standin: Standin, stripe_v1: stripe.V1Services
) -> None:
    draft = a_draft(stripe_v1, a_customer(stripe_v1).id)
    for _ in range(2):
        with pytest.raises(stripe.InvalidRequestError) as caught:
            stripe_v1.invoices.finalize_invoice(draft.id, options=KEYED)
    assert caught.value.headers["Idempotent-Replayed"] == "true"
    plain = stripe_client(standin.url).v1
    for _ in range(2):
        with pytest.raises(stripe.InvalidRequestError) as caught:
            plain.customers.create({"nick": "x"}, {"idempotency_key": "other"})  # type: ignore[typeddict-unknown-key]
        assert "Idempotent-Replayed" not in caught.value.headers
    assert plain.customers.create({"name": "x"}, {"idempotency_key": "other"}).id


def test_a_decline_is_kept_under_its_key(standin: Standin, stripe_v1: stripe.V1Services) -> None:
    draft = a_draft(stripe_v1, a_paying_customer(stripe_v1, standin).id, 1000)
    standin.act("fail_next", decline_code="insufficient_funds")
    for _ in range(2):
        with pytest.raises(stripe.CardError) as caught:
            stripe_v1.invoices.pay(draft.id, options=KEYED)
        assert caught.value.error is not None
        assert caught.value.error.decline_code == "insufficient_funds"
    assert stripe_v1.invoices.retrieve(draft.id).attempt_count == 1
    assert stripe_v1.invoices.pay(draft.id, options={"idempotency_key": "am1:test:2"}).status == "paid"


def test_who_comes_while_the_first_still_runs_is_told_so(standin: Standin, stripe_v1: stripe.V1Services) -> None:
    standin.fault("late", CREATE, ms=2500)
    first = threading.Thread(target=stripe_client(standin.url).v1.customers.create, args=({"name": "A"}, KEYED))
    first.start()
    while not standin.log():
        time.sleep(0.02)
    with pytest.raises(stripe.APIError) as caught:
        stripe_v1.customers.create({"name": "A"}, KEYED)
    assert caught.value.error is not None
    assert (caught.value.http_status, caught.value.error.code) == (409, "idempotency_key_in_use")
    first.join()
    stripe_v1.customers.create({"name": "A"}, KEYED)
    assert customers(standin) == 1


# ---- switches: what the client sees, whether there was an effect, what the same key gets afterwards


@pytest.mark.parametrize(
    ("mode", "given", "error", "status", "code", "effect"),
    [
        ("drop_before", {}, stripe.APIConnectionError, None, None, False),
        ("drop_after", {}, stripe.APIConnectionError, None, None, True),
        ("bad_gateway", {}, stripe.APIError, 502, None, True),
        ("bad_gateway", {"effect": False}, stripe.APIError, 502, None, False),
        ("rate_limit", {}, stripe.RateLimitError, 429, "rate_limit", False),
        ("conflict_409", {}, stripe.APIError, 409, "idempotency_key_in_use", False),
    ],
)
def test_an_unknown_outcome_is_cleared_up_by_the_same_key(
    standin: Standin,
    stripe_v1: stripe.V1Services,
    mode: str,
    given: dict[str, Any],
    error: type[stripe.StripeError],
    status: int | None,
    code: str | None,
    effect: bool,
) -> None:
    standin.fault(mode, CREATE, **given)
    with pytest.raises(error) as caught:
        stripe_v1.customers.create({"name": "A"}, KEYED)
    said = caught.value.error
    assert (caught.value.http_status, said.code if said else None) == (status, code)
    assert customers(standin) == int(effect)
    made = stripe_v1.customers.create({"name": "A"}, KEYED)
    assert customers(standin) == 1
    assert made.last_response is not None
    assert ("Idempotent-Replayed" in made.last_response.headers) == effect


@pytest.mark.parametrize(
    ("mode", "given", "status", "code", "effect"),
    [
        ("stored_500", {}, 500, None, True),
        ("stored_500", {"effect": False}, 500, None, False),
        ("lock_timeout", {}, 429, "lock_timeout", False),
    ],
)
def test_an_answer_that_is_kept_never_gets_better_under_its_key(
    standin: Standin,
    stripe_v1: stripe.V1Services,
    mode: str,
    given: dict[str, Any],
    status: int,
    code: str | None,
    effect: bool,
) -> None:
    standin.fault(mode, CREATE, **given)
    for _ in range(3):
        with pytest.raises(stripe.StripeError) as caught:
            stripe_v1.customers.create({"name": "A"}, KEYED)
        assert caught.value.error is not None
        assert (caught.value.http_status, caught.value.error.code) == (status, code)
    assert customers(standin) == int(effect)
    stripe_v1.customers.create({"name": "A"}, {"idempotency_key": "am1:test:2"})
    assert customers(standin) == int(effect) + 1


def test_a_slow_answer_has_its_effect_at_once(standin: Standin) -> None:
    standin.fault("slow", CREATE, ms=1500)
    with pytest.raises(stripe.APIConnectionError):
        stripe_client(standin.url, timeout_s=0.3).v1.customers.create({"name": "A"}, KEYED)
    assert customers(standin) == 1


def test_a_late_effect_comes_after_the_client_gave_up(standin: Standin, stripe_v1: stripe.V1Services) -> None:
    standin.fault("late", CREATE, ms=2500)
    with pytest.raises(stripe.APIConnectionError):
        stripe_client(standin.url, timeout_s=0.2).v1.customers.create({"name": "A"}, KEYED)
    assert customers(standin) == 0
    patient = stripe_client(standin.url, max_network_retries=5).v1  # 409 while it runs, and then its answer
    patient.customers.create({"name": "A"}, KEYED)
    assert customers(standin) == 1


def test_the_clients_own_retries_repeat_the_key_and_nothing_else(standin: Standin) -> None:
    standin.fault("drop_after", CREATE, times=2)
    stripe_client(standin.url, max_network_retries=2).v1.customers.create({"name": "A"})
    assert (len(standin.log()), customers(standin)) == (3, 1)
    assert len({entry["idempotencyKey"] for entry in standin.log()}) == 1


def test_a_lock_timeout_says_that_it_may_be_tried_again_and_the_rate_limiter_does_not(standin: Standin) -> None:
    for mode, tries in (("lock_timeout", 3), ("rate_limit", 1)):
        standin.control("log", method="DELETE")
        standin.fault(mode, CREATE, times=9)
        with pytest.raises(stripe.RateLimitError):
            stripe_client(standin.url, max_network_retries=2).v1.customers.create({"name": "A"})
        assert len(standin.log()) == tries
        standin.control("faults", method="DELETE")


@pytest.mark.parametrize("mode", ["drop_before", "drop_after"])
def test_a_dropped_connection_is_closed_without_a_byte(standin: Standin, mode: str) -> None:
    standin.fault(mode, CREATE)
    host, port = standin.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(f"POST /v1/customers HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n".encode())
        connection.sendall(b"Content-Length: 0\r\n\r\n")
        with suppress(ConnectionResetError):
            assert connection.recv(1) == b""
    assert customers(standin) == int(mode == "drop_after")


def test_a_switch_waits_for_its_request_and_serves_as_often_as_it_says(
    standin: Standin, stripe_v1: stripe.V1Services
) -> None:
    standin.fault("rate_limit", "POST /v1/invoices/*/finalize", nth=2, times=2)
    customer = a_customer(stripe_v1).id
    outcomes = []
    for _ in range(4):
        draft = a_draft(stripe_v1, customer, 100)
        try:
            outcomes.append(stripe_v1.invoices.finalize_invoice(draft.id).status)
        except stripe.RateLimitError:
            outcomes.append("limited")
    assert outcomes == ["open", "limited", "limited", "open"]
    assert standin.control("faults") == {"faults": []}


@pytest.mark.parametrize(
    "given",
    [{"mode": "explode"}, {"mode": "slow", "ms": -1}, {"mode": "slow", "x": 1}, []],
    ids=str,
)
def test_a_switch_that_there_is_not_is_refused(standin: Standin, given: Any) -> None:
    with pytest.raises(RuntimeError):
        standin.control("faults", given)


def test_a_request_that_was_dropped_is_in_the_log(standin: Standin, stripe_v1: stripe.V1Services) -> None:
    standin.fault("drop_before", CREATE)
    with pytest.raises(stripe.APIConnectionError):
        stripe_v1.customers.create({"name": "A"}, KEYED)
    (entry,) = standin.log()
    seen = [entry[name] for name in ("method", "path", "params", "idempotencyKey", "fault", "status")]
    assert seen == ["POST", "/v1/customers", {"name": "A"}, "am1:test:1", "drop_before", None]
    assert KEY not in str(entry)


# ---- the wire itself


@pytest.mark.parametrize(
    ("headers", "body", "status", "message"),
    [
        ({"Stripe-Version": "2020-08-27"}, b"", 400, "Invalid Stripe API version"),
        ({"Idempotency-Key": "k" * 256}, b"", 400, "at most 255"),
        ({}, b"name=%ff", 400, "cannot be decoded"),
        ({}, b"\xff", 400, "not UTF-8"),
        ({}, b"name=" + b"x" * (1 << 20), 413, "too large"),
        ({"Authorization": ""}, b"", 401, "did not provide an API key"),
        ({"Authorization": "Basic !!"}, b"", 401, "did not provide an API key"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_request_that_is_none_is_refused(
    standin: Standin, headers: dict[str, str], body: bytes, status: int, message: str
) -> None:
    request = urllib.request.Request(
        f"{standin.url}/v1/customers", body, {"Authorization": f"Bearer {KEY}"} | headers, method="POST"
    )
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=20)
    with caught.value as error:
        assert (error.code, message in error.read().decode()) == (status, True)
        assert error.headers["Farebox-Standin"] == "Demo payments: no money moves"
        assert error.headers["Request-Id"].startswith("req_")
    assert customers(standin) == 0

"""Where events go: looked after, made anew where it does not do, and its secret replaced without losing one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import stripe
from sqlalchemy import Engine

from builders.invoices import TERMS
from builders.payments import Shop
from builders.stripe_contract import Contract
from farebox_portal.db import transaction
from farebox_portal.payments import account
from farebox_portal.payments.work import Till
from rig.standin import Standin


@pytest.fixture
def reached(engine: Engine, tmp_path: Path, standin: Standin, contract: Contract) -> Shop:
    """A shop that the provider can reach; it is only not there."""
    shop = Shop(engine, tmp_path, standin, contract, FAREBOX_PUBLIC_URL="http://127.0.0.1:1")
    shop.till = Till(engine, shop.gateway, TERMS, settings=shop.settings)
    shop.connect()
    return shop


def endpoint(shop: Shop) -> dict[str, Any]:
    (found,) = shop.standin.books.all("webhook_endpoint")
    return dict(found)


def secrets(shop: Shop) -> list[str]:
    with transaction(shop.engine, read_only=True) as session:
        row = account.connected(session)
        assert row is not None
        assert row.webhook_id == endpoint(shop)["id"]
        return list(row.webhook_secrets)


def told(shop: Shop, secret: str, id_: str = "evt_1") -> int:
    thing = {"id": "cus_1", "object": "customer"}
    body = json.dumps({"id": id_, "object": "event", "type": "customer.updated", "data": {"object": thing}})
    signature = stripe.WebhookSignature.generate_signature_header(body, secret)
    answer = shop.client.post("/v1/webhooks/stripe", content=body, headers={"Stripe-Signature": signature})
    return answer.status_code


def test_a_secret_is_replaced_and_what_was_signed_before_is_still_taken(reached: Shop) -> None:
    (first,) = secrets(reached)
    before = endpoint(reached)
    assert reached.client.post("/v1/setup/stripe/webhook/rotate").status_code == 200
    second = secrets(reached)
    assert (second[1], endpoint(reached)["id"] != before["id"]) == (first, True)
    assert endpoint(reached)["api_version"] == stripe.api_version
    assert [told(reached, one, f"evt_{place}") for place, one in enumerate(second)] == [200, 200]
    assert told(reached, second[0], "evt_0") == 200, "told twice, by both"
    assert reached.client.get("/v1/payment-events").json()["totalCount"] == 2

    assert reached.client.post("/v1/setup/stripe/webhook/rotate").status_code == 200
    assert (told(reached, first), told(reached, second[0])) == (400, 200)


def disabled(one: dict[str, Any]) -> None:
    one["status"] = "disabled"


def silent(one: dict[str, Any]) -> None:
    one["enabled_events"] = ["invoice.paid"]


def old(one: dict[str, Any]) -> None:
    one["api_version"] = "2024-06-20"


@pytest.mark.parametrize("spoil", [disabled, silent, old])
def test_an_endpoint_that_does_not_do_any_more_is_noticed_and_made_anew(
    reached: Shop, spoil: Callable[[dict[str, Any]], None]
) -> None:
    reached.till.look_after_webhooks(reached.clock.now())
    before = endpoint(reached)
    assert len(secrets(reached)) == 1, "one that does is left alone"
    spoil(before)
    reached.standin.books.save(before)
    reached.till.look_after_webhooks(reached.clock.now())
    after = endpoint(reached)
    assert after["id"] != before["id"]
    assert (after["status"], after["api_version"]) == ("enabled", stripe.api_version)
    assert len(secrets(reached)) == 2


def test_an_endpoint_that_somebody_has_deleted_is_made_anew(reached: Shop) -> None:
    reached.standin.books.remove(endpoint(reached))
    reached.till.look_after_webhooks(reached.clock.now())
    assert len(secrets(reached)) == 2


def test_an_endpoint_of_somebody_elses_is_left_alone(shop: Shop) -> None:
    answer = shop.client.post("/v1/setup/stripe/webhook/rotate")
    assert (answer.status_code, answer.json()["code"]) == (409, "webhook_not_ours")
    assert list(shop.standin.books.all("webhook_endpoint")) == []

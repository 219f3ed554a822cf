"""Money in the running product: a card is left on a page, the first fee is paid, and then the key works at the gateway.

Everything is real but the bank: Envoy, plugin, portal with its jobs, webhooks over HTTP, and the stand-in for Stripe.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from builders.provider import Provider, unique
from builders.stripe_flows import DECLINED_WHEN_CHARGED, PAYS
from rig.demo import Demo

PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def bank(demo: Demo) -> Iterator["Bank"]:
    with httpx2.Client(base_url=demo.document["payments"], timeout=20, trust_env=False) as client:
        yield Bank(client)


class Bank:
    """What people do on the stand-in's pages."""

    def __init__(self, client: httpx2.Client) -> None:
        self.client = client

    def act(self, name: str, **given: Any) -> dict[str, Any]:
        answer = self.client.post(f"/__standin/actions/{name}", json=given)
        assert answer.is_success, answer.text
        return dict(answer.json())

    def log(self) -> list[dict[str, Any]]:
        return list(self.client.get("/__standin/log").json()["requests"])


def eventually(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def a_fee_plan(provider: Provider) -> str:
    fee = {
        "type": "flat_fee", "key": "fee", "name": "Fee", "billingCadence": "P1M",
        "price": {"type": "flat", "amount": "19.00", "paymentTerm": "in_advance"},
    }  # fmt: skip
    access = {
        "type": "usage_based", "key": "api_requests", "name": "Requests", "featureKey": "api_requests",
        "billingCadence": "P1M",
        "entitlementTemplate": {"type": "metered", "issueAfterReset": 1000, "isSoftLimit": False},
    }  # fmt: skip
    key = unique("paid")
    phases = [{"key": "default", "name": "Default", "rateCards": [fee, access]}]
    plan = provider.post(
        "/v1/plans", {"key": key, "name": key, "currency": "USD", "billingCadence": "P1M", "phases": phases}
    )
    provider.post(f"/v1/plans/{plan['id']}/publish")
    return key


def a_payer(provider: Provider, bank: Bank, plan: str, card: str) -> dict[str, Any]:
    """The order of a customer who left this card on the page that the refusal leads to."""
    customer = provider.post("/v1/customers", {"key": unique("payer"), "name": "A payer"})
    order = {"plan": {"key": plan}, "customerId": customer["id"]}
    refused = provider.rest.post("/v1/subscriptions", json=order)
    assert (refused.status_code, refused.json()["code"]) == (409, "payment_method_required")
    page = httpx2.get(refused.json()["checkoutUrl"], trust_env=False, follow_redirects=False)
    assert page.status_code == 303, page.text
    done = bank.act("complete_checkout", session=page.headers["location"].rpartition("/")[2], card=card)
    back = httpx2.get(done["redirect"], trust_env=False)
    assert "Your payment method is saved" in back.text
    return provider.post("/v1/subscriptions", order)


def status_of(provider: Provider, subscription: dict[str, Any]) -> str:
    return str(provider.get(f"/v1/subscriptions/{subscription['id']}")["paymentStatus"])


def test_a_card_a_fee_and_then_the_key_works(provider: Provider, bank: Bank) -> None:
    subscription = a_payer(provider, bank, a_fee_plan(provider), PAYS)
    bearer = {"authorization": f"Bearer {subscription['apiKey']['key']}"}
    eventually(lambda: provider.gateway.get("/v1/echo", headers=bearer).status_code == 200, "the key never worked")
    assert status_of(provider, subscription) == "paid"
    (invoice,) = provider.get(f"/v1/invoices?subscriptionId={subscription['id']}")["items"]
    assert (invoice["status"], invoice["amountPaid"], invoice["provider"]["name"]) == ("paid", "19.00", "stripe")


def test_an_unpaid_first_fee_is_refused_at_the_gateway_until_it_is_paid_on_the_hosted_page(
    provider: Provider, bank: Bank
) -> None:
    subscription = a_payer(provider, bank, a_fee_plan(provider), DECLINED_WHEN_CHARGED)
    eventually(lambda: status_of(provider, subscription) == "failed", "the payment never failed")
    bearer = {"authorization": f"Bearer {subscription['apiKey']['key']}"}

    def refusal() -> tuple[int, str]:
        answer = provider.gateway.get("/v1/echo", headers=bearer)
        return answer.status_code, answer.json().get("code", "")

    eventually(lambda: refusal() == (403, "payment_required"), "it was never refused for the payment")
    (invoice,) = provider.get(f"/v1/invoices?subscriptionId={subscription['id']}")["items"]
    done = bank.act("pay_invoice", invoice=invoice["provider"]["id"], card=PAYS)
    assert done["error"] is None
    # Nothing here looks for it within ten minutes: it is the webhook that brings it.
    eventually(lambda: refusal()[0] == 200, "the payment never restored access")
    assert status_of(provider, subscription) == "paid"


def test_the_seeded_customers_of_paid_plans_have_a_card_that_pays(provider: Provider, demo: Demo) -> None:
    subscription = demo.document["customers"]["pro"]["subscriptionId"]
    eventually(lambda: status_of(provider, {"id": subscription}) == "paid", "pro was never paid")
    (invoice,) = provider.get(f"/v1/invoices?subscriptionId={subscription}")["items"]
    assert (invoice["status"], invoice["amountPaid"]) == ("paid", "49.00")
    page = provider.post("/v1/customers/ai/payment-page", {"returnUrl": demo.portal})
    assert page["url"].startswith(demo.document["payments"])
    readiness = provider.get("/v1/billing-readiness")
    assert (readiness["provider"], readiness["isReady"], readiness["webhooks"]["mode"]) == ("stripe", True, "events")


def test_what_the_gateway_decides_asks_nobody_for_money(provider: Provider, demo: Demo, bank: Bank) -> None:
    eventually(
        lambda: status_of(provider, {"id": demo.document["customers"]["pro"]["subscriptionId"]}) == "paid", "never paid"
    )
    for _ in range(20):
        assert provider.gateway.get("/v1/echo", headers=demo.bearer("pro")).status_code == 200
    paths = [entry["path"] for entry in bank.log()]
    assert not [path for path in paths if any(word in path for word in ("product", "price", "subscription", "plan"))]
    assert "/v1/echo" not in str(paths)

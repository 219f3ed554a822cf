from typing import Any

from fastapi.testclient import TestClient

from builders.documents import a_plan, faults
from builders.subscriptions import a_fee


def test_the_upcoming_invoice_is_decimal_strings_and_404_for_a_stranger(shop: TestClient) -> None:
    plan = shop.post("/v1/plans", json=a_plan(key="paid", phases=[_paid_phase()])).json()
    shop.post(f"/v1/plans/{plan['id']}/publish")
    bought = shop.post("/v1/subscriptions", json={"plan": {"key": "paid"}, "customerKey": "acme"}).json()
    found = shop.get(f"/v1/subscriptions/{bought['id']}/invoices/upcoming").json()
    assert (found["total"], found["isEstimate"], found["subscriptionId"]) == ("8.00", True, bought["id"])
    assert found["period"]["to"] == found["invoiceAt"] == bought["currentPeriod"]["to"]
    assert found["lines"][0]["reductions"] == [{"kind": "discount", "description": "20 % off", "amount": "2.00"}]
    missing = shop.get("/v1/subscriptions/none/invoices/upcoming")
    assert (missing.status_code, missing.json()["code"]) == (404, "subscription_not_found")


def _paid_phase() -> dict[str, Any]:
    price = {"type": "flat", "amount": "10.00"}
    fee = {"type": "flat_fee", "key": "fee", "name": "Fee", "billingCadence": "P1M", "price": price}
    return {"key": "default", "name": "Default", "rateCards": [fee | {"discounts": {"percentage": {"percentage": 20}}}]}


def test_a_simulation_is_decimal_strings_and_faults_have_places(shop: TestClient) -> None:
    shop.post("/v1/subscriptions", json={"plan": {"key": "free"}, "customerKey": "acme"})
    plan = a_plan(a_fee("5"))
    body = {"plan": plan, "from": "2026-01-01T00:00:00Z", "to": "2026-02-01T00:00:00Z"}
    found = shop.post("/v1/pricing/simulations", json=body).json()
    assert (found["before"], found["after"], found["customersPayingMore"]) == ("0.00", "5.00", 1)
    answer = shop.post("/v1/pricing/simulations", json={"plan": a_plan(currency="X"), "from": "now", "to": 3})
    assert {"/from", "/to"} & set(faults(answer))


def test_nothing_of_it_is_for_strangers(client: TestClient) -> None:
    for method, path in (
        ("POST", "/v1/pricing/preview"),
        ("POST", "/v1/pricing/simulations"),
        ("GET", "/v1/subscriptions/x/invoices/upcoming"),
    ):
        assert client.request(method, path, headers={"Authorization": "Bearer nobody"}).status_code == 401

"""An operator at work over REST: every test sells its own plan to its own customer, so that tests share one demo."""

import time
import uuid
from dataclasses import dataclass
from typing import Any

import httpx2

from rig.demo import Demo

PUBLISHED_WITHIN_S = 20.0


@dataclass(frozen=True)
class Buyer:
    """A customer with one subscription and its first key."""

    customer_id: str
    customer_key: str
    subscription_id: str
    plan_key: str
    key_id: str
    api_key: str

    @property
    def bearer(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.api_key}"}


def unique(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex[:10]}"


class Provider:
    """The operator of one demo."""

    def __init__(self, demo: Demo) -> None:
        self.demo = demo
        self.rest = httpx2.Client(base_url=demo.portal, headers=demo.admin, timeout=20, trust_env=False)
        self.gateway = httpx2.Client(base_url=demo.gateway, timeout=30, trust_env=False)
        self._upstream = httpx2.Client(base_url=demo.upstream, timeout=20, trust_env=False)

    def close(self) -> None:
        for client in (self.rest, self.gateway, self._upstream):
            client.close()

    def post(self, path: str, document: dict[str, Any] | None = None) -> dict[str, Any]:
        response = self.rest.post(path, json=document or {})
        assert response.is_success, response.text
        return dict(response.json()) if response.content else {}

    def get(self, path: str) -> dict[str, Any]:
        response = self.rest.get(path)
        assert response.is_success, response.text
        return dict(response.json())

    def a_plan(self, limits: dict[str, int], *, features: tuple[str, ...] = (), **fields: Any) -> str:
        """Publish a plan with hard monthly limits by meter; its key."""
        cards: list[dict[str, Any]] = [
            {"type": "usage_based", "key": meter, "name": meter, "featureKey": meter, "billingCadence": "P1M",
             "entitlementTemplate": {"type": "metered", "issueAfterReset": units, "isSoftLimit": False}}
            for meter, units in limits.items()
        ]  # fmt: skip
        cards += [
            {"type": "flat_fee", "key": key, "name": key, "featureKey": key, "entitlementTemplate": {"type": "boolean"}}
            for key in features
        ]
        key = unique("plan")
        plan = self.post(
            "/v1/plans",
            {"key": key, "name": key, "currency": "USD", "billingCadence": "P1M",
             "phases": [{"key": "default", "name": "Default", "rateCards": cards}]} | fields,
        )  # fmt: skip
        self.post(f"/v1/plans/{plan['id']}/publish")
        return key

    def a_buyer(self, plan_key: str, *, wait: bool = True, **fields: Any) -> Buyer:
        """Subscribe a new customer, and wait until the gateway knows the key."""
        customer = self.post("/v1/customers", {"key": unique("customer"), "name": "A buyer"})
        subscription = self.post(
            "/v1/subscriptions", {"plan": {"key": plan_key}, "customerId": customer["id"]} | fields
        )
        api_key = subscription["apiKey"]
        buyer = Buyer(customer["id"], customer["key"], subscription["id"], plan_key, api_key["id"], api_key["key"])
        if wait:
            self.wait_until_known(buyer.api_key)
        return buyer

    def wait_until_known(self, api_key: str) -> None:
        """A key works within a second of its issue. Asks a policy that costs nothing and refuses: no unit is used."""
        deadline = time.monotonic() + PUBLISHED_WITHIN_S
        while True:
            answer = self.gateway.get("/v1/premium/probe", headers={"authorization": f"Bearer {api_key}"})
            if answer.status_code not in (401, 503):  # 503: the key directory is just being published anew
                return
            assert time.monotonic() < deadline, f"the gateway does not know the key: {answer.text}"
            time.sleep(0.05)

    def call(self, buyer: Buyer, path: str = "/v1/echo", **arguments: Any) -> httpx2.Response:
        method = arguments.pop("method", "GET")
        headers = buyer.bearer | arguments.pop("headers", {})
        return self.gateway.request(method, path, headers=headers, **arguments)

    def served(self, tag: str) -> list[dict[str, Any]]:
        """What the upstream itself says it got, of the requests whose path names the tag."""
        return [entry for entry in self._upstream.get("/__log").json() if tag in entry["path"]]

    def usage(self, buyer: Buyer) -> dict[str, int]:
        """Units by entitlement, as the portal's usage document has them."""
        entitlements = self.get(f"/v1/subscriptions/{buyer.subscription_id}/usage")["entitlements"]
        return {key: int(each["usage"]) for key, each in entitlements.items() if "usage" in each}

    def usage_within(self, buyer: Buyer, expected: dict[str, int], seconds: float) -> None:
        """Wait until the usage document says this; fail when it does not in time."""
        deadline = time.monotonic() + seconds
        while (found := self.usage(buyer)) != expected:
            assert time.monotonic() < deadline, f"usage is {found}, not {expected}"
            time.sleep(0.05)

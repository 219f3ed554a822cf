"""The same questions to two who answer: the stand-in, always; and Stripe itself, when a test key is in the environment.

    FAREBOX_STRIPE_TEST_KEY              sk_test_…: makes customers, invoices and a webhook endpoint in test mode, and
                                         removes what can be removed
    FAREBOX_STRIPE_TEST_RESTRICTED_KEY   rk_test_… of the same account that has "Accounts: read" and nothing else

What differs between the two is what the stand-in has wrong. Run with `pytest -rs tests/stripe_live`.
"""

import os
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import stripe

from builders.stripe_client import KEY, Checked
from builders.stripe_contract import Contract
from farebox_portal.payments.gateway import Done, GatewayFailure, Step
from farebox_portal.payments.stripe_gateway import StripeGateway
from farebox_portal.settings import STRIPE_API_BASE
from rig.standin import Standin

VARIABLE, RESTRICTED = "FAREBOX_STRIPE_TEST_KEY", "FAREBOX_STRIPE_TEST_RESTRICTED_KEY"


@dataclass
class Asked:
    """Somebody who answers as Stripe. `raw`: Stripe's own client, for what the adapter never does."""

    gateway: StripeGateway
    raw: stripe.StripeClient
    is_stripe: bool
    instance: str = field(default_factory=lambda: f"live-{uuid.uuid4().hex[:12]}")
    customers: list[str] = field(default_factory=list)

    def send(self, step: Step, request: dict[str, Any], part: str = "") -> Done:
        return self.gateway.send(step, request, f"fb1:{self.instance}:{step}{part}:1")

    def customer(self, method: str | None = None) -> str:
        number = str(len(self.customers))
        request = {"instance": self.instance, "customer": number, "name": "Farebox live test",
                   "email": "live@example.com", "method": method}  # fmt: skip
        self.customers.append(self.send("customer", request, number).id)
        if method is not None:
            card = self.gateway.methods(self.customers[-1])[0].id
            self.send("method", {"id": self.customers[-1], "method": card}, number)
        return self.customers[-1]

    def draft(self, customer: str, *amounts: int, name: str = "i1") -> str:
        request = {"instance": self.instance, "invoice": name, "customer": customer, "currency": "USD",
                   "description": "Farebox live test"}  # fmt: skip
        id_ = self.send("invoice", request, name).id
        for number, amount in enumerate(amounts):
            line = {"instance": self.instance, "id": id_, "customer": customer, "currency": "USD",
                    "line": f"l{number}", "amount_minor": amount, "description": "Line", "start_s": 1_790_000_000,
                    "end_s": 1_792_000_000}  # fmt: skip
            self.send("line", line, f"{name}-{number}")
        return id_

    def finalized(self, customer: str, *amounts: int) -> str:
        id_ = self.draft(customer, *amounts)
        self.send("finalize", {"id": id_})
        return id_


def key_of(variable: str) -> str:
    """Skips, saying so, without one. Fails for a live key: no test may move money."""
    key = os.environ.get(variable, "")
    if not key:
        pytest.skip(f"NOT RUN AGAINST STRIPE: {variable} is not set, so what we assume of Stripe here stays assumed")
    assert re.fullmatch(r"(sk|rk)_test_\w+", key), f"{variable} must be a test key"
    return key


@pytest.fixture(scope="session")
def contract() -> Contract:
    return Contract()


@pytest.fixture(params=["stand-in", "stripe"])
def asked(request: pytest.FixtureRequest, contract: Contract) -> Iterator[Asked]:
    if request.param == "stripe":
        found = an_asked(key_of(VARIABLE), STRIPE_API_BASE, contract, is_stripe=True)
        yield found
        clean_up(found)
        return
    with Standin() as standin:
        yield an_asked(KEY, standin.url, contract, is_stripe=False)


@pytest.fixture
def stripe_itself(contract: Contract) -> Iterator[Asked]:
    """For what the stand-in does not model."""
    found = an_asked(key_of(VARIABLE), STRIPE_API_BASE, contract, is_stripe=True)
    yield found
    clean_up(found)


def an_asked(key: str, url: str, contract: Contract, *, is_stripe: bool) -> Asked:
    http = Checked(contract)
    raw = stripe.StripeClient(key, base_addresses={"api": url}, max_network_retries=2 if is_stripe else 0)
    return Asked(StripeGateway(key, url, retries=2 if is_stripe else 0, http_client=http), raw, is_stripe)


def clean_up(found: Asked) -> None:
    for customer in found.customers:
        try:
            found.gateway.remove_customer(customer)
        except GatewayFailure:
            continue
    for endpoint in found.gateway.endpoints(found.instance):
        if endpoint.is_ours:
            found.gateway.remove_endpoint(endpoint.id)

"""A stand-in of its own for each test, and the real Stripe client, checked against the contract."""

import pytest
import stripe

from builders.stripe_client import stripe_client
from builders.stripe_contract import Contract
from rig.standin import Standin


@pytest.fixture
def stripe_v1(standin: Standin, contract: Contract) -> stripe.V1Services:
    return stripe_client(standin.url, contract).v1

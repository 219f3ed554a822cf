"""A card that declines when it is charged, on the test clock: the days of grace, the very second, and back."""

import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import httpx2
import pytest

from builders.provider import Provider
from builders.stripe_flows import DECLINED_WHEN_CHARGED, PAYS
from e2e.test_payments import Bank, a_fee_plan, a_payer, eventually, status_of
from rig.demo import Demo

GRACE = timedelta(days=3)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """One of its own, as its clock is put forward."""
    with Demo(tmp_path_factory.mktemp("grace")) as running:
        yield running


def test_a_card_that_declines_is_borne_for_the_days_of_grace_refused_to_the_second_and_paid_is_let_in_at_once(
    alone: Demo,
) -> None:
    provider = Provider(alone)
    with httpx2.Client(base_url=alone.document["payments"], timeout=20, trust_env=False) as client:
        bank = Bank(client)
        subscription = a_payer(provider, bank, a_fee_plan(provider), PAYS)
        bearer = {"authorization": f"Bearer {subscription['apiKey']['key']}"}

        def refusal() -> str:
            answer = provider.gateway.get("/v1/echo", headers=bearer)
            return "" if answer.status_code == 200 else str(answer.json()["code"])

        def now() -> datetime:
            return datetime.fromisoformat(provider.get("/v1/test-clock")["now"])

        def to(instant: datetime) -> None:
            provider.post("/v1/test-clock/advance", {"to": instant.isoformat()})

        eventually(lambda: refusal() == "", "the key never worked")
        page = provider.post(f"/v1/customers/{subscription['customerId']}/payment-page", {"returnUrl": alone.portal})
        bank.act("update_card", session=page["url"].rpartition("/")[2], card=DECLINED_WHEN_CHARGED)
        renewal = datetime.fromisoformat(subscription["currentPeriod"]["to"])
        to(renewal + timedelta(hours=1, minutes=1))
        eventually(lambda: status_of(provider, subscription) == "failed", "the renewal never failed")
        assert refusal() == "", "it is borne for three days"
        invoice = _renewal(provider, subscription)
        ends = datetime.fromisoformat(invoice["payment"]["failedAt"]) + GRACE

        to(ends - timedelta(seconds=6))
        assert refusal() == "", "six seconds are left"
        before = now()
        while refusal() == "":
            before = now()
            assert before < ends + timedelta(seconds=10), "it was never refused"
            time.sleep(0.05)
        after = now()
        assert refusal() == "payment_required"
        second = timedelta(seconds=1)
        assert before - second <= ends <= after + second, (before, ends, after)

        paid = bank.act("pay_invoice", invoice=invoice["provider"]["id"], card=PAYS)
        assert paid["error"] is None
        eventually(lambda: refusal() == "", "the payment never restored access")
        assert status_of(provider, subscription) == "paid"
    provider.close()


def _renewal(provider: Provider, subscription: dict[str, Any]) -> dict[str, Any]:
    items = provider.get(f"/v1/invoices?subscriptionId={subscription['id']}")["items"]
    return next(one for one in items if one["status"] != "paid")

"""What is paid is disputed: flagged, and the money where it is; access as configured."""

from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlmodel import col, select

from builders.invoices import TERMS
from builders.payments import Shop
from builders.stripe_contract import Contract
from builders.subscriptions import APRIL
from farebox_portal.db import transaction
from farebox_portal.invoicing.ledger import balances
from farebox_portal.invoicing.tables import LedgerEntry
from farebox_portal.invoicing.terms import terms_of
from farebox_portal.payments.work import Till
from rig.standin import Standin

EVENTS = ("charge.dispute.created", "charge.dispute.closed")


def money(shop: Shop) -> dict[str, int]:
    with transaction(shop.engine, read_only=True) as session:
        found = balances(session.exec(select(LedgerEntry).order_by(col(LedgerEntry.number))))
    return {account.partition(":")[0]: amount for (account, _), amount in found.items() if amount}


@pytest.fixture
def paid(shop: Shop) -> Shop:
    shop.a_customer()
    shop.a_subscription()
    shop.work()
    return shop


def dispute(shop: Shop, *, inquiry: bool = False) -> str:
    return str(shop.standin.act("dispute", invoice=shop.invoice().provider_id, inquiry=inquiry)["id"])


def test_a_dispute_takes_the_money_and_whoever_wins_it_has_it(paid: Shop) -> None:
    assert money(paid) == {"cash": 2900, "revenue": -2900}
    id_ = dispute(paid)
    paid.hear("charge.dispute.created")
    shown = paid.client.get(f"/v1/invoices/{paid.invoice().id}").json()
    assert (shown["status"], shown["dispute"]) == ("paid", {"status": "open", "isRefused": False})
    assert money(paid) == {"disputed": 2900, "revenue": -2900}
    assert paid.standing(paid.invoice().subscription_id) == ("paid", None)

    paid.standin.act("close_dispute", dispute=id_, outcome="won")
    paid.hear("charge.dispute.closed")
    assert paid.invoice().dispute_status == "won"
    assert money(paid) == {"cash": 2900, "revenue": -2900}


@pytest.mark.parametrize("order", [EVENTS, EVENTS[::-1], (*EVENTS, *EVENTS, EVENTS[0])])
def test_what_is_lost_is_lost_once_in_whatever_order_it_is_told(paid: Shop, order: tuple[str, ...]) -> None:
    paid.standin.act("close_dispute", dispute=dispute(paid), outcome="lost")
    for kind in order:
        paid.hear(kind)
        for event in paid.client.get("/v1/payment-events").json()["items"]:
            paid.client.post(f"/v1/payment-events/{event['id']}/replay")
        paid.work()
    assert (paid.invoice().status, paid.invoice().dispute_status) == ("paid", "lost")
    assert money(paid) == {"loss": 2900, "revenue": -2900}
    told = paid.client.get("/v1/audit", params={"objectId": paid.invoice().id}).json()["items"]
    assert "invoice.dispute" in {one["action"] for one in told}


def test_an_inquiry_moves_no_money(paid: Shop) -> None:
    id_ = dispute(paid, inquiry=True)
    paid.hear("charge.dispute.created")
    assert (paid.invoice().dispute_status, money(paid)["cash"]) == ("inquiry", 2900)
    paid.standin.act("close_dispute", dispute=id_, outcome="won")
    paid.hear("charge.dispute.closed")
    assert money(paid) == {"cash": 2900, "revenue": -2900}


def test_where_disputes_are_to_count_access_ends_with_one_and_comes_back_when_it_is_won_or_waived(
    engine: Engine, tmp_path: Path, standin: Standin, contract: Contract
) -> None:
    shop = Shop(engine, tmp_path, standin, contract, FAREBOX_DISPUTED_ACCESS="refuse")
    shop.till = Till(engine, shop.gateway, terms_of(shop.settings))
    assert terms_of(shop.settings).refuses_disputed
    assert not TERMS.refuses_disputed
    shop.connect()
    shop.a_customer()
    id_ = shop.a_subscription()
    shop.work()
    disputed = dispute(shop)
    shop.hear("charge.dispute.created")
    assert shop.standing(id_) == ("uncollectible", APRIL)
    shop.standin.act("close_dispute", dispute=disputed, outcome="lost")
    shop.hear("charge.dispute.closed")
    assert shop.standing(id_) == ("uncollectible", APRIL)
    waived = shop.client.post(f"/v1/invoices/{shop.invoice().id}/waive-dispute")
    assert waived.json()["dispute"] == {"status": "lost", "isRefused": False}
    assert shop.standing(id_) == ("paid", None)
    again = shop.client.post(f"/v1/invoices/{shop.invoice().id}/waive-dispute")
    assert (again.status_code, again.json()["code"]) == (409, "no_disputed_access")


def test_a_dispute_of_somebody_elses_payment_is_none_of_ours(paid: Shop) -> None:
    dispute(paid)
    with transaction(paid.engine) as session:
        (row,) = paid.collections()
        row.provider_id = "in_another"
        session.merge(row)
    paid.hear("charge.dispute.created")
    assert paid.invoice().dispute_status is None
    assert {one["status"] for one in paid.client.get("/v1/payment-events").json()["items"]} == {"ignored"}

"""Over the wire and into the database: read as Stripe tells it, written once, billed from the right day on."""

import csv
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from builders.payments import Shop
from builders.stripe_billing import (
    BillingServer,
    a_billed_customer,
    a_billed_subscription,
    a_billing_meter,
    a_price,
    a_product,
    an_item,
    at,
    tiers,
)
from builders.stripe_client import KEY, Checked
from builders.stripe_contract import Contract
from farebox_portal.catalog import configuration
from farebox_portal.catalog.tables import Plan
from farebox_portal.db import transaction
from farebox_portal.errors import CannotStart
from farebox_portal.payments import open as opening
from farebox_portal.payments.account import connected
from farebox_portal.payments.payers import payer_of
from farebox_portal.payments.stripe_gateway import StripeGateway
from farebox_portal.stripe_import import commands
from farebox_portal.stripe_import.fetch import fetch
from farebox_portal.stripe_import.prices import key_of
from farebox_portal.stripe_import.proposal import Proposal, propose
from farebox_portal.stripe_import.write import read_known, write
from farebox_portal.subscriptions.tables import Subscription

END = at(2026, 4, 20)
PRO = a_price("price_1Pro", "prod_api")
TIERED = a_price("price_1Tiered", "prod_api", None, meter="mtr_1", **tiers("graduated", (100, "0", 0), (None, "5", 0)))


@pytest.fixture
def billing(shop: Shop) -> Iterator[BillingServer]:
    """Two customers: one pays with a card of the customer's, the other with one of the subscription's own."""
    v1 = shop.gateway._v1
    methods, ids = [], []
    for name in ("Acme", "Bolt"):
        customer = v1.customers.create({"name": name, "payment_method": "pm_card_visa"})
        ids.append(customer.id)
        methods.append(v1.customers.payment_methods.list(customer.id).data[0].id)
    v1.customers.update(ids[0], {"invoice_settings": {"default_payment_method": methods[0]}})
    lists = {
        "/v1/products": [a_product("prod_api", "API"), a_product("prod_1", "One"), a_product("prod_2", "Two")],
        "/v1/prices": [PRO, TIERED],
        "/v1/billing/meters": [a_billing_meter("mtr_1", "api_calls")],
        "/v1/customers": [
            a_billed_customer(ids[0], "Acme", method=methods[0]),
            a_billed_customer(ids[1], "Bolt"),
            a_billed_customer("cus_noone", "Noone", email=None, currency=None),
        ],
        "/v1/subscriptions": [
            a_billed_subscription("sub_1", ids[0], an_item(PRO, END), anchor_s=END),
            a_billed_subscription(
                "sub_2", ids[1], an_item(PRO, END, 2), an_item(TIERED, END, None), anchor_s=END,
                default_payment_method=methods[1],
            ),
            a_billed_subscription("sub_3", "cus_noone", an_item(PRO, END), anchor_s=END, status="unpaid"),
        ],
    }  # fmt: skip
    account = {
        "id": "acct_standin", "object": "account", "business_profile": None, "business_type": None,
        "capabilities": {}, "charges_enabled": True, "controller": {"type": "account"}, "country": "DE",
        "default_currency": "eur", "details_submitted": True, "email": None, "external_accounts": None,
        "metadata": {}, "payouts_enabled": True, "type": "standard", "created": 1_700_000_000,
        "settings": None, "tos_acceptance": {},
    }  # fmt: skip
    with BillingServer(lists, account) as server:
        yield server


@pytest.fixture
def reader(billing: BillingServer, contract: Contract) -> StripeGateway:
    return StripeGateway(KEY, billing.url, http_client=Checked(contract))


def proposed(shop: Shop, reader: StripeGateway) -> Proposal:
    with transaction(shop.engine, read_only=True) as session:
        known = read_known(session)
    return propose(fetch(reader), known, shop.clock.now())


def imported(shop: Shop, reader: StripeGateway) -> Any:
    proposal = proposed(shop, reader)
    with transaction(shop.engine, read_only=True) as session:
        account = connected(session)
    assert account is not None
    return proposal, write(shop.engine, shop.gateway, account, proposal, shop.clock.now())


def subscriptions(shop: Shop) -> dict[str, Subscription]:
    with transaction(shop.engine, read_only=True) as session:
        rows = list(session.exec(select(Subscription)))
    return {str(row.metadata_.get("stripe_subscription")): row for row in rows}


def test_all_pages_are_read_and_everything_read_is_as_stripe_has_it(
    reader: StripeGateway, billing: BillingServer
) -> None:
    found = fetch(reader)
    assert [len(each) for each in (found.products, found.prices, found.customers, found.subscriptions)] == [3, 2, 3, 3]
    assert found.prices[1].tiers != ()
    assert {path.partition("?")[0] for path in billing.asked} == set(billing.lists)  # and nothing else


def test_it_is_written_once_with_cards_and_calendars_as_they_were(shop: Shop, reader: StripeGateway) -> None:
    proposal, refused = imported(shop, reader)
    assert refused == []
    rows = subscriptions(shop)
    assert set(rows) == {"sub_1", "sub_2"}
    assert rows["sub_1"].active_from == rows["sub_1"].billing_anchor == datetime(2026, 4, 20, tzinfo=UTC)
    acme = shop.payer(rows["sub_1"].customer_id)
    bolt = shop.payer(rows["sub_2"].customer_id)
    assert acme.method_id == proposal.customers[0].method
    assert bolt.method_id == proposal.subscriptions[1].method
    there = {one["id"]: one for one in shop.standin.books.all("customer")}
    assert there[bolt.provider_id]["invoice_settings"]["default_payment_method"] == bolt.method_id
    before = shop.client.get("/v1/customers", params={"pageSize": 100}).json()["totalCount"]
    again, refused = imported(shop, reader)
    assert refused == []
    assert (again.plans, again.customers, again.subscriptions) == ([], [], [])
    assert shop.client.get("/v1/customers", params={"pageSize": 100}).json()["totalCount"] == before
    assert set(subscriptions(shop)) == {"sub_1", "sub_2"}
    assert [one.subscription for one in again.cancellations] == ["sub_1", "sub_2"]
    assert len(list(shop.standin.books.all("customer"))) == 2  # nobody was made anew there


def test_nobody_is_charged_before_the_period_at_stripe_is_over_and_everybody_then(
    shop: Shop, reader: StripeGateway
) -> None:
    imported(shop, reader)
    shop.later(timedelta(days=18, hours=23))
    assert (shop.invoices(), shop.charges()) == ([], [])
    shop.later(timedelta(hours=2))
    assert sorted(shop.charges()) == [1900, 3800]
    assert {row.payment_status for row in subscriptions(shop).values()} == {"paid"}
    shop.later(timedelta(days=31))
    assert sorted(shop.charges()) == [1900, 1900, 3800, 3800]


def test_an_import_that_was_broken_off_is_finished_by_the_next(shop: Shop, reader: StripeGateway) -> None:
    shop.standin.fault("drop_before", "POST /v1/customers/*", times=9)  # the card of sub_2 cannot be made the default
    _, refused = imported(shop, reader)
    assert [left.id for left in refused] == ["sub_2"]
    assert set(subscriptions(shop)) == {"sub_1"}
    shop.standin.control("faults", method="DELETE")
    imported(shop, reader)
    bolt = shop.payer(subscriptions(shop)["sub_2"].customer_id)
    assert bolt.method_id is not None


def test_a_customer_who_is_here_already_by_stripes_id_is_the_same(shop: Shop, reader: StripeGateway) -> None:
    first = proposed(shop, reader).customers[0]
    ours = shop.a_customer("acme", card=None)
    with transaction(shop.engine) as session:
        payer_of(session, ours, shop.clock.now()).provider_id = first.stripe_id
    imported(shop, reader)
    assert subscriptions(shop)["sub_1"].customer_id == ours


def test_a_customer_who_comes_by_checkout_meanwhile_is_not_made_twice(shop: Shop, reader: StripeGateway) -> None:
    proposal = proposed(shop, reader)
    ours = shop.a_customer("acme", card=None)
    with transaction(shop.engine) as session:
        account = connected(session)
        payer_of(session, ours, shop.clock.now()).provider_id = proposal.customers[0].stripe_id
    assert account is not None
    assert write(shop.engine, shop.gateway, account, proposal, shop.clock.now()) == []
    assert subscriptions(shop)["sub_1"].customer_id == ours


def test_a_customer_who_has_a_subscription_here_is_refused_and_the_others_are_not(
    shop: Shop, reader: StripeGateway
) -> None:
    first = proposed(shop, reader).customers[0]
    ours = shop.a_customer("acme", card=None)
    shop.a_subscription("acme", "free")
    with transaction(shop.engine) as session:
        payer_of(session, ours, shop.clock.now()).provider_id = first.stripe_id
    _, refused = imported(shop, reader)
    assert [(left.id, left.reason) for left in refused] == [("sub_1", "This customer has a subscription already.")]
    assert "sub_2" in subscriptions(shop)


def test_a_catalog_that_cannot_be_written_writes_nothing(shop: Shop, reader: StripeGateway) -> None:
    proposal = proposed(shop, reader)
    proposal.plans[-1]["phases"][0]["rateCards"][0]["billingCadence"] = "P2M"
    with transaction(shop.engine, read_only=True) as session:
        account = connected(session)
        before = len(session.exec(select(Plan)).all())
    assert account is not None
    with pytest.raises(Exception, match="billingCadence"):
        write(shop.engine, shop.gateway, account, proposal, shop.clock.now())
    with transaction(shop.engine, read_only=True) as session:
        assert len(session.exec(select(Plan)).all()) == before
    assert subscriptions(shop) == {}


def test_what_the_key_may_not_read_is_said(reader: StripeGateway, billing: BillingServer) -> None:
    billing.refuses["/v1/subscriptions"] = "rak_subscription_read"
    with pytest.raises(CannotStart, match=r"rak_subscription_read.*Products, Prices"):
        fetch(reader)


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def at_the_command(shop: Shop, reader: StripeGateway, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """The command in this process, on this shop's database, asking this server."""
    given = {
        "FAREBOX_STATE_DIR": str(shop.settings.state_dir),
        "FAREBOX_ADMIN_TOKEN": shop.settings.admin_token.get_secret_value(),
        "FAREBOX_PLUGIN_TOKEN": shop.settings.plugin_token.get_secret_value(),
        "FAREBOX_DATABASE_URL": shop.engine.url.render_as_string(hide_password=False),
        "FAREBOX_STRIPE_API_KEY": KEY,
        "FAREBOX_STRIPE_API_BASE": shop.standin.url,
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("farebox_portal.logs.configure_logs", lambda: None)  # pytest's output is not the process's
    monkeypatch.setattr(opening, "open_reader", lambda *_: reader)
    monkeypatch.setattr("farebox_portal.testclock.portal_clock", lambda *_: shop.clock)
    return shop


def run(capsys: pytest.CaptureFixture[str], **options: Any) -> tuple[int, str]:
    given: dict[str, Any] = {"apply": False, "grant": None, "key_file": None, "cancellations": None, "as_json": False}
    with pytest.raises(SystemExit) as ended:
        commands.import_stripe(**(given | options))
    return int(ended.value.code or 0), capsys.readouterr().out


def test_the_command_shows_first_and_writes_when_told(
    at_the_command: Shop, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status, shown = run(capsys)
    assert (status, subscriptions(at_the_command)) == (0, {})
    assert "Nothing was written (--apply does)." in shown
    assert "subscription sub_3: it is unpaid" in shown
    status, shown = run(capsys, apply=True, as_json=True, cancellations=tmp_path / "cancel.csv")
    document = json.loads(shown.splitlines()[-1])
    assert (status, document["applied"]) == (0, True)
    assert [one["stripeId"] for one in document["subscriptions"]] == ["sub_1", "sub_2"]
    assert set(subscriptions(at_the_command)) == {"sub_1", "sub_2"}
    with (tmp_path / "cancel.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["subscription"] for row in rows] == ["sub_1", "sub_2"]
    assert rows[0]["period_end"] == "2026-04-20T00:00:00+00:00"
    assert "cancel_at_period_end=true" in rows[0]["command"]
    entries = at_the_command.client.get("/v1/audit", params={"pageSize": 200}).json()["items"]
    assert "command:import-stripe" in {one["actor"] for one in entries}


def test_a_grant_has_to_be_a_feature_and_goes_into_each_plan(
    at_the_command: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    given: dict[str, Any] = {"apply": True, "key_file": None, "cancellations": None, "as_json": False}
    with pytest.raises(CannotStart, match="no feature 'nothing'"):
        commands.import_stripe(grant=["nothing"], **given)
    run(capsys, apply=True, grant=["api_requests"])
    plan = at_the_command.client.get(f"/v1/plans/{key_of('price_1Pro')}").json()
    assert "api_requests" in [card["key"] for card in plan["phases"][0]["rateCards"]]


def test_a_key_of_another_account_is_refused(
    at_the_command: Shop, billing: BillingServer, capsys: pytest.CaptureFixture[str]
) -> None:
    billing.account["id"] = "acct_other"
    with pytest.raises(CannotStart, match="is of the account acct_other"):
        commands.import_stripe(apply=False, grant=None, key_file=None, cancellations=None, as_json=False)


def test_several_subscriptions_of_one_customer_may_come_where_several_may_be(
    shop: Shop, billing: BillingServer, reader: StripeGateway
) -> None:
    first = billing.lists["/v1/customers"][0]["id"]
    second = a_billed_subscription("sub_4", first, an_item(PRO, END, 5), anchor_s=END)
    billing.lists["/v1/subscriptions"].append(second)
    with transaction(shop.engine) as session:
        configuration.change(session, {"multipleSubscriptionsEnabled": True}, shop.clock.now())
    _, refused = imported(shop, reader)
    assert refused == []
    assert set(subscriptions(shop)) == {"sub_1", "sub_2", "sub_4"}

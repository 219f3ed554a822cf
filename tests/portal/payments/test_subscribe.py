"""Ordering a paid plan: a card first, and the first fee before the first request."""

from datetime import timedelta

import pytest

from builders.payments import DAY, Shop
from builders.stripe_flows import ASKS, DECLINED_WHEN_CHARGED, PAYS
from builders.subscriptions import APRIL


def test_a_paid_plan_is_refused_with_a_link_until_a_card_is_left_there(shop: Shop) -> None:
    shop.a_customer(card=None)
    refused = shop.order()
    assert refused.status_code == 409
    assert refused.json()["code"] == "payment_method_required"
    assert refused.json()["checkoutUrl"].startswith(f"{shop.settings.public_url}/checkout/")
    assert shop.client.get("/v1/subscriptions").json()["totalCount"] == 0
    assert shop.invoices() == []
    shop.leave_card("acme")
    assert shop.order().status_code == 201


def test_the_first_fee_is_collected_before_the_first_request_and_then_the_key_works(shop: Shop) -> None:
    shop.a_customer()
    id_ = shop.a_subscription()
    assert shop.standing(id_) == ("pending", APRIL)
    assert not shop.client.get(f"/v1/subscriptions/{id_}/access").json()["entitlements"]["api_requests"]["hasAccess"]
    shop.work()
    assert shop.standing(id_) == ("paid", None)
    assert shop.client.get(f"/v1/subscriptions/{id_}/access").json()["entitlements"]["api_requests"]["hasAccess"]
    assert (shop.invoice().status, shop.invoice().paid_minor, shop.charges()) == ("paid", 2900, [2900])
    shown = shop.client.get(f"/v1/invoices/{shop.invoice().id}").json()["provider"]
    assert shown["name"] == "stripe"
    assert shown["url"].startswith(shop.standin.url)


def test_a_free_plan_needs_no_card_and_is_never_told_to_the_provider(shop: Shop) -> None:
    customer = shop.a_customer(card=None)
    id_ = shop.a_subscription(plan="free")
    shop.work()
    assert shop.standing(id_) == ("not_required", None)
    assert shop.operations() == []
    assert customer not in str(shop.standin.log())


def test_a_plan_by_usage_alone_needs_a_card_and_nothing_is_charged_at_the_start(shop: Shop) -> None:
    shop.a_customer(card=None)
    assert shop.order(plan="cents").status_code == 409
    shop.leave_card("acme")
    id_ = shop.a_subscription(plan="cents")
    shop.work()
    assert (shop.standing(id_), shop.charges()) == (("not_required", None), [])


def test_a_card_that_is_declined_leaves_the_first_fee_open_and_the_key_refused(shop: Shop) -> None:
    shop.a_customer(card=DECLINED_WHEN_CHARGED)
    id_ = shop.a_subscription()
    shop.work()
    assert shop.standing(id_) == ("failed", APRIL)
    assert (shop.collection().fault, shop.collection().pay_at) == ("generic_decline", APRIL + DAY)
    shop.new_card("acme")
    shop.later(DAY)  # the clock finds the new card when it tries again
    assert shop.standing(id_) == ("paid", None)


def test_a_card_that_asks_for_authentication_leads_to_the_hosted_page_and_is_not_tried_again(shop: Shop) -> None:
    shop.a_customer(card=ASKS)
    id_ = shop.a_subscription()
    shop.work()
    assert (shop.collection().state, shop.collection().pay_at) == ("action_required", None)
    assert shop.standing(id_) == ("failed", APRIL)
    invoice = shop.invoice()
    assert invoice.provider_url is not None
    shop.standin.act("pay_invoice", invoice=invoice.provider_id, card=ASKS, authenticated=True)
    shop.later(timedelta(minutes=11))
    assert shop.standing(id_) == ("paid", None)
    assert [one.attempt for one in shop.operations() if one.step == "pay"] == [1]


def test_a_customer_who_pays_by_transfer_is_not_asked_for_a_card(shop: Shop) -> None:
    shop.a_customer(card=None, metadata={"payment_provider": "manual"})
    id_ = shop.a_subscription()
    shop.work()
    assert shop.standing(id_)[1] is None
    assert shop.invoice().provider == "manual"
    assert shop.there() == []


def test_without_a_connected_account_everything_is_as_it_was(bare: Shop) -> None:
    bare.a_customer(card=None)
    bare.a_subscription()
    bare.work()
    assert (bare.invoice().provider, bare.invoice().status) == ("manual", "issued")
    assert bare.standin.log() == []


def test_invoices_of_before_the_account_was_connected_are_not_collected(bare: Shop) -> None:
    bare.a_customer(card=None)
    bare.a_subscription()
    bare.work()
    bare.clock.advance(DAY)
    bare.connect()
    bare.work()
    assert (bare.collections(), bare.there()) == ([], [])


@pytest.mark.parametrize("change", ["forged", "late", "empty"])
def test_a_link_that_we_did_not_sign_or_that_is_old_leads_nowhere(shop: Shop, change: str) -> None:
    shop.a_customer(card=None)
    url = shop.order().json()["checkoutUrl"].removeprefix(shop.settings.public_url)
    if change == "forged":
        url = url[: len("/checkout/")] + "A" + url[len("/checkout/") + 1 :]
    elif change == "late":
        shop.clock.advance(DAY)
    else:
        url = "/checkout/."
    assert shop.client.get(url).status_code == 404


def test_a_page_that_is_still_open_is_used_again_and_one_that_is_over_is_not(shop: Shop) -> None:
    shop.a_customer(card=None)
    link = shop.order().json()["checkoutUrl"]
    first = shop.open_checkout(link)
    assert shop.open_checkout(link) == first
    shop.standin.act("expire_session", session=first)
    assert shop.open_checkout(link) != first


def test_coming_back_with_the_session_of_somebody_else_gives_no_card(shop: Shop) -> None:
    shop.a_customer("acme", card=None)
    other = shop.a_customer("other", card=None)
    session = shop.open_checkout(shop.order("acme").json()["checkoutUrl"])
    shop.standin.act("complete_checkout", session=session, card=PAYS)
    shop.client.get("/checkout/done", params={"session": session})
    assert shop.order("other").status_code == 409
    assert other not in [one["metadata"].get("fb_customer_id") for one in shop.standin.books.all("customer")]
    assert shop.client.get("/checkout/done", params={"session": "cs_test_unknown"}).status_code == 404


def test_nobody_who_comes_back_is_needed_for_the_card_to_be_found(shop: Shop) -> None:
    customer = shop.a_customer(card=None)
    session = shop.open_checkout(shop.order().json()["checkoutUrl"])
    shop.standin.act("complete_checkout", session=session, card=PAYS)
    shop.later(timedelta(minutes=1))
    assert shop.payer(customer).method_label == "visa 4242"
    assert shop.order().status_code == 201


def test_a_change_from_a_free_plan_to_a_paid_one_needs_a_card_and_is_collected(shop: Shop) -> None:
    shop.a_customer(card=None)
    id_ = shop.a_subscription(plan="free")
    wanted = {"plan": {"key": "pro"}, "timing": "immediate"}
    refused = shop.client.post(f"/v1/subscriptions/{id_}/change", json=wanted)
    assert (refused.status_code, refused.json()["code"]) == (409, "payment_method_required")
    assert shop.client.get(f"/v1/subscriptions/{id_}").json()["plan"]["key"] == "free"
    session = shop.open_checkout(refused.json()["checkoutUrl"])
    shop.standin.act("complete_checkout", session=session)
    shop.client.get("/checkout/done", params={"session": session})
    assert shop.client.post(f"/v1/subscriptions/{id_}/change", json=wanted).status_code == 200
    shop.work()
    assert (shop.standing(id_), shop.charges()) == (("paid", None), [2900])

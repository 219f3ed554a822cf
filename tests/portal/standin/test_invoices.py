"""Invoices: which amounts, which states, whose balance."""

from typing import Any

import pytest
import stripe
from hypothesis import given
from hypothesis import strategies as st

from builders.stripe_client import stripe_client
from builders.stripe_contract import Contract
from builders.stripe_flows import DECLINED_WHEN_CHARGED, a_customer, a_draft, a_paid_invoice, a_paying_customer
from farebox_portal.pricing import money
from farebox_portal.standin import amounts
from farebox_portal.standin.tax import Assessment, assess
from farebox_portal.standin.wire import Refused
from rig.standin import Standin

DAY_S = 24 * 3600

# ---- currencies


@pytest.mark.parametrize(
    ("currency", "amount"),
    [("usd", 4999), ("jpy", 500), ("kwd", 1230), ("isk", 500), ("ugx", 25_000), ("mga", 777)],
)
def test_an_amount_that_the_currency_has_is_charged(
    standin: Standin, stripe_v1: stripe.V1Services, currency: str, amount: int
) -> None:
    customer = a_paying_customer(stripe_v1, standin)
    assert a_paid_invoice(stripe_v1, customer.id, amount, currency=currency).amount_paid == amount


@pytest.mark.parametrize(("currency", "amount"), [("kwd", 1235), ("tnd", 1001), ("isk", 550), ("ugx", 25_010)])
def test_an_amount_that_the_currency_does_not_have_is_refused_and_the_draft_stays(
    standin: Standin, stripe_v1: stripe.V1Services, currency: str, amount: int
) -> None:
    draft = a_draft(stripe_v1, a_paying_customer(stripe_v1, standin).id, amount, currency=currency)
    with pytest.raises(stripe.InvalidRequestError, match="no multiple of"):
        stripe_v1.invoices.finalize_invoice(draft.id)
    assert stripe_v1.invoices.retrieve(draft.id).status == "draft"


def test_a_currency_that_stripe_does_not_charge_is_refused(stripe_v1: stripe.V1Services) -> None:
    with pytest.raises(stripe.InvalidRequestError, match="Invalid currency: iqd"):
        stripe_v1.invoices.create({"customer": a_customer(stripe_v1).id, "currency": "iqd"})


def test_what_we_sell_in_the_stand_in_charges_with_as_many_decimals() -> None:
    """Two tables, written down apart, of what an amount means at Stripe."""
    ours = {code.lower(): each.stripe_exponent for code, each in money.CURRENCIES.items()}
    charged = {code: exponent for code, exponent in ours.items() if exponent is not None}
    assert charged.keys() <= amounts.CURRENCIES
    assert charged == {code: amounts.exponent(code) for code in charged}


def test_less_than_the_least_charge_goes_to_the_balance_and_comes_with_the_next_invoice(
    standin: Standin, stripe_v1: stripe.V1Services
) -> None:
    customer = a_paying_customer(stripe_v1, standin)
    small = stripe_v1.invoices.finalize_invoice(a_draft(stripe_v1, customer.id, 20).id)
    assert (small.status, small.amount_due, small.amount_paid, small.ending_balance) == ("paid", 0, 0, 20)
    assert stripe_v1.customers.retrieve(customer.id).balance == 20
    following = a_paid_invoice(stripe_v1, customer.id, 100)
    assert (following.total, following.amount_paid, following.starting_balance) == (100, 120, 20)
    assert stripe_v1.customers.retrieve(customer.id).balance == 0


def test_a_balance_is_kept_for_each_currency_apart(standin: Standin, stripe_v1: stripe.V1Services) -> None:
    customer = a_paying_customer(stripe_v1, standin)
    stripe_v1.invoices.finalize_invoice(a_draft(stripe_v1, customer.id, 20).id)
    assert a_paid_invoice(stripe_v1, customer.id, 1000, currency="eur").amount_paid == 1000
    assert stripe_v1.customers.retrieve(customer.id).balance == 20


def test_a_negative_total_becomes_credit(standin: Standin, stripe_v1: stripe.V1Services) -> None:
    customer = a_paying_customer(stripe_v1, standin)
    negative = stripe_v1.invoices.finalize_invoice(a_draft(stripe_v1, customer.id, 100, -400).id)
    assert (negative.status, negative.total, negative.ending_balance) == ("paid", -300, -300)
    assert a_paid_invoice(stripe_v1, customer.id, 1000).amount_paid == 700


def test_voiding_gives_back_the_balance_that_was_used(standin: Standin, stripe_v1: stripe.V1Services) -> None:
    customer = a_paying_customer(stripe_v1, standin)
    stripe_v1.invoices.finalize_invoice(a_draft(stripe_v1, customer.id, -300).id)
    final = stripe_v1.invoices.finalize_invoice(a_draft(stripe_v1, customer.id, 1000).id)
    assert (final.amount_due, stripe_v1.customers.retrieve(customer.id).balance) == (700, 0)
    stripe_v1.invoices.void_invoice(final.id)
    assert stripe_v1.customers.retrieve(customer.id).balance == -300


# ---- states


def test_a_final_invoice_is_no_longer_editable(standin: Standin, stripe_v1: stripe.V1Services) -> None:
    customer = a_paying_customer(stripe_v1, standin)
    draft = a_draft(stripe_v1, customer.id, 1000)
    stripe_v1.invoices.finalize_invoice(draft.id)
    item: Any = {"customer": customer.id, "invoice": draft.id, "amount": 1, "currency": "usd"}
    for attempt in (
        lambda: stripe_v1.invoice_items.create(item),
        lambda: stripe_v1.invoices.add_lines(draft.id, {"lines": [{"amount": 1}]}),
        lambda: stripe_v1.invoices.update(draft.id, {"description": "x"}),
        lambda: stripe_v1.invoices.finalize_invoice(draft.id),
        lambda: stripe_v1.invoices.delete(draft.id),
    ):
        with pytest.raises(stripe.InvalidRequestError) as caught:
            attempt()
        assert caught.value.code == "invoice_not_editable"
    assert stripe_v1.invoices.retrieve(draft.id).total == 1000
    assert stripe_v1.invoices.update(draft.id, {"metadata": {"a": "b"}}).status == "open"


def test_an_invoice_without_lines_cannot_become_final(stripe_v1: stripe.V1Services) -> None:
    draft = a_draft(stripe_v1, a_customer(stripe_v1).id)
    with pytest.raises(stripe.InvalidRequestError) as caught:
        stripe_v1.invoices.finalize_invoice(draft.id)
    assert caught.value.code == "invoice_no_customer_line_items"


def test_pending_items_are_swept_only_when_asked_for(standin: Standin, stripe_v1: stripe.V1Services) -> None:
    customer = a_customer(stripe_v1).id
    stripe_v1.invoice_items.create({"customer": customer, "amount": 5, "currency": "usd"})
    assert a_draft(stripe_v1, customer).total == 0
    assert a_draft(stripe_v1, customer, pending_invoice_items_behavior="include").total == 5
    assert a_draft(stripe_v1, customer, pending_invoice_items_behavior="include").total == 0


def test_deleting_a_draft_deletes_its_items(stripe_v1: stripe.V1Services) -> None:
    customer = a_customer(stripe_v1).id
    stripe_v1.invoices.delete(a_draft(stripe_v1, customer, 5, 6).id)
    assert stripe_v1.invoice_items.list({"customer": customer}).data == []
    assert stripe_v1.invoices.list({"customer": customer}).data == []


def test_more_than_ten_lines_come_in_pages(stripe_v1: stripe.V1Services) -> None:
    draft = a_draft(stripe_v1, a_customer(stripe_v1).id)
    invoice = stripe_v1.invoices.add_lines(draft.id, {"lines": [{"amount": n} for n in range(1, 26)]})
    assert (len(invoice.lines.data), invoice.lines.has_more, invoice.total) == (10, True, 325)
    first = stripe_v1.invoices.line_items.list(draft.id, {"limit": 20})
    assert [line.amount for line in first.auto_paging_iter()] == list(range(1, 26))


def test_a_unit_price_below_a_cent_is_rounded_once_for_the_line(stripe_v1: stripe.V1Services) -> None:
    item = stripe_v1.invoice_items.create(
        {"customer": a_customer(stripe_v1).id, "currency": "usd", "unit_amount_decimal": "0.08", "quantity": 12345}  # type: ignore[typeddict-item]
    )
    assert item.amount == 988  # 987.6


def test_a_draft_with_auto_advance_becomes_final_after_an_hour_and_is_paid(
    standin: Standin, stripe_v1: stripe.V1Services
) -> None:
    draft = a_draft(stripe_v1, a_paying_customer(stripe_v1, standin).id, 1000, auto_advance=True)
    standin.advance(3599 - 30)
    assert stripe_v1.invoices.retrieve(draft.id).status == "draft"
    standin.advance(60)
    assert stripe_v1.invoices.retrieve(draft.id).status == "paid"


def test_a_draft_of_ours_waits_for_us(standin: Standin, stripe_v1: stripe.V1Services) -> None:
    draft = a_draft(stripe_v1, a_paying_customer(stripe_v1, standin).id, 1000)
    standin.advance(40 * DAY_S)
    assert stripe_v1.invoices.retrieve(draft.id).status == "draft"


def test_auto_advance_tries_again_and_then_leaves_the_invoice_open(
    standin: Standin, stripe_v1: stripe.V1Services
) -> None:
    customer = a_paying_customer(stripe_v1, standin, DECLINED_WHEN_CHARGED)
    draft = a_draft(stripe_v1, customer.id, 1000, auto_advance=True)
    attempts = []
    for days in (1, 3, 5, 7, 30):
        standin.advance(days * DAY_S)
        attempts.append(stripe_v1.invoices.retrieve(draft.id).attempt_count)
    invoice = stripe_v1.invoices.retrieve(draft.id)
    assert (attempts, invoice.status, invoice.next_payment_attempt) == ([1, 2, 3, 4, 4], "open", None)


def test_numbers_count_for_each_customer_without_a_gap(standin: Standin, stripe_v1: stripe.V1Services) -> None:
    customer = a_paying_customer(stripe_v1, standin)
    a_draft(stripe_v1, customer.id, 1)  # a draft takes no number
    numbers = [a_paid_invoice(stripe_v1, customer.id, 100).number for _ in range(3)]
    assert numbers == [f"{customer.invoice_prefix}-{n:04d}" for n in (1, 2, 3)]


def test_an_invoice_that_is_sent_is_due_after_its_days_and_may_be_paid_out_of_band(
    standin: Standin, stripe_v1: stripe.V1Services
) -> None:
    customer = a_customer(stripe_v1)
    draft = a_draft(stripe_v1, customer.id, 1000, collection_method="send_invoice", days_until_due=30)
    sent = stripe_v1.invoices.send_invoice(draft.id)
    assert sent.due_date is not None
    assert sent.due_date - sent.created in range(30 * DAY_S, 30 * DAY_S + 60)
    assert sent.next_payment_attempt is None
    paid = stripe_v1.invoices.pay(draft.id, {"paid_out_of_band": True})
    assert (paid.status, paid.attempt_count) == ("paid", 0)
    assert stripe_v1.invoice_payments.list({"invoice": draft.id}).data[0].status == "canceled"
    told = [event.type for event in stripe_v1.events.list().data]
    assert "invoice.paid" in told
    assert "invoice.payment_succeeded" not in told


@pytest.mark.parametrize(
    "given",
    [
        {"customer": "cus_none"},
        {"collection_method": "send_invoice"},
        {"days_until_due": 5},
        {"default_payment_method": "pm_none"},
        {"currency": "xxx"},
        {"description": "x" * 1501},
    ],
    ids=str,
)
def test_an_invoice_that_is_refused_leaves_nothing_behind(stripe_v1: stripe.V1Services, given: Any) -> None:
    customer = a_customer(stripe_v1).id
    with pytest.raises(stripe.InvalidRequestError):
        stripe_v1.invoices.create({"customer": customer} | given)
    assert stripe_v1.invoices.list().data == []


def test_lines_are_added_all_or_none(stripe_v1: stripe.V1Services) -> None:
    draft = a_draft(stripe_v1, a_customer(stripe_v1).id, 1)
    with pytest.raises(stripe.InvalidRequestError, match="amount"):
        stripe_v1.invoices.add_lines(draft.id, {"lines": [{"amount": 5}, {"description": "no amount"}]})
    with pytest.raises(stripe.InvalidRequestError, match="250"):
        stripe_v1.invoices.add_lines(draft.id, {"lines": [{"amount": 1}] * 250})
    assert [line.amount for line in stripe_v1.invoices.line_items.list(draft.id).data] == [1]
    assert stripe_v1.invoices.add_lines(draft.id, {"lines": [{"amount": 1}] * 249}).total == 250


# ---- tax


@pytest.mark.parametrize(
    ("behavior", "amount", "country", "exempt", "totals"),
    [
        ("exclusive", 1000, "DE", "none", (1000, 1190, 1000)),
        ("inclusive", 1190, "DE", "none", (1190, 1190, 1000)),
        ("exclusive", 1000, "CH", "none", (1000, 1081, 1000)),
        ("exclusive", 1000, "DE", "exempt", (1000, 1000, 1000)),
        ("exclusive", 1000, "DE", "reverse", (1000, 1000, 1000)),
        ("exclusive", 1000, "BR", "none", (1000, 1000, 1000)),
    ],
)
def test_tax_is_added_or_found_within(
    stripe_v1: stripe.V1Services, behavior: Any, amount: int, country: str, exempt: Any, totals: tuple[int, int, int]
) -> None:
    customer = a_customer(stripe_v1, address={"country": country}, tax_exempt=exempt).id
    draft = a_draft(stripe_v1, customer, automatic_tax={"enabled": True})
    stripe_v1.invoice_items.create(
        {"customer": customer, "invoice": draft.id, "amount": amount, "currency": "usd", "tax_behavior": behavior}
    )
    final = stripe_v1.invoices.finalize_invoice(draft.id)
    assert (final.subtotal, final.total, final.total_excluding_tax) == totals


def test_automatic_tax_refuses_what_it_cannot_tax_and_changes_nothing(stripe_v1: stripe.V1Services) -> None:
    customer = a_customer(stripe_v1, address={"country": "DE"}).id
    taxed = a_draft(stripe_v1, customer, 100, automatic_tax={"enabled": True})
    with pytest.raises(stripe.InvalidRequestError, match="tax_behavior"):
        stripe_v1.invoices.add_lines(taxed.id, {"lines": [{"amount": 100}]})
    with pytest.raises(stripe.InvalidRequestError, match="Negative amounts"):
        stripe_v1.invoice_items.create(
            {"customer": customer, "invoice": taxed.id, "amount": -1, "currency": "usd", "tax_behavior": "exclusive"}
        )
    assert stripe_v1.invoices.retrieve(taxed.id).total == 119
    plain = a_draft(stripe_v1, customer)
    stripe_v1.invoices.add_lines(plain.id, {"lines": [{"amount": 100}]})
    with pytest.raises(stripe.InvalidRequestError, match="tax_behavior"):
        stripe_v1.invoices.update(plain.id, {"automatic_tax": {"enabled": True}, "description": "x"})
    kept = stripe_v1.invoices.retrieve(plain.id)
    assert (kept.automatic_tax.enabled, kept.description) == (False, None)


def test_an_account_without_tax_set_up_is_told_so(standin: Standin, stripe_v1: stripe.V1Services) -> None:
    standin.control("account", {"tax": "pending"})
    customer = a_customer(stripe_v1, address={"country": "DE"}).id
    draft = a_draft(stripe_v1, customer, 100, automatic_tax={"enabled": True})
    with pytest.raises(stripe.InvalidRequestError) as caught:
        stripe_v1.invoices.finalize_invoice(draft.id)
    assert caught.value.code == "stripe_tax_inactive"


@pytest.mark.parametrize("address", [None, {}, {"country": None}, {"country": "US", "postal_code": None}])
def test_an_address_that_does_not_say_where_is_no_location(address: Any) -> None:
    with pytest.raises(Refused) as caught:
        assess(address, "none")
    assert caught.value.code == "customer_tax_location_invalid"


@given(st.integers(0, 10**9), st.sampled_from(["DE", "CH", "FI", "BR"]))
def test_inclusive_tax_and_what_it_is_on_add_up_to_the_price(amount: int, country: str) -> None:
    found: Assessment = assess({"country": country}, "none")
    line = found.on_line(amount, "inclusive", "eur")
    assert line["amount"] + line["taxable_amount"] == amount
    assert abs(found.tax(line["taxable_amount"], "exclusive", "eur") - line["amount"]) <= 1


# ---- credit notes


def test_a_credit_note_on_an_open_invoice_lowers_what_is_left(standin: Standin, stripe_v1: stripe.V1Services) -> None:
    customer = a_paying_customer(stripe_v1, standin)
    final = stripe_v1.invoices.finalize_invoice(a_draft(stripe_v1, customer.id, 1000).id)
    note = stripe_v1.credit_notes.create({"invoice": final.id, "amount": 400})
    assert (note.type, note.pre_payment_amount) == ("pre_payment", 400)
    paid = stripe_v1.invoices.pay(final.id)
    assert (paid.amount_paid, paid.pre_payment_credit_notes_amount) == (600, 400)


def test_a_credit_note_over_all_of_an_open_invoice_settles_it(stripe_v1: stripe.V1Services) -> None:
    final = stripe_v1.invoices.finalize_invoice(a_draft(stripe_v1, a_customer(stripe_v1).id, 1000).id)
    stripe_v1.credit_notes.create({"invoice": final.id, "amount": 1000})
    assert stripe_v1.invoices.retrieve(final.id).status == "paid"


def test_on_a_paid_invoice_it_says_where_the_money_goes(standin: Standin, stripe_v1: stripe.V1Services) -> None:
    customer = a_paying_customer(stripe_v1, standin)
    paid = a_paid_invoice(stripe_v1, customer.id, 1000)
    with pytest.raises(stripe.InvalidRequestError, match="add up to 500"):
        stripe_v1.credit_notes.create({"invoice": paid.id, "amount": 500, "refund_amount": 100})
    note = stripe_v1.credit_notes.create(
        {"invoice": paid.id, "amount": 500, "refund_amount": 100, "credit_amount": 300, "out_of_band_amount": 100}
    )
    assert note.refunds[0].amount_refunded == 100
    assert stripe_v1.customers.retrieve(customer.id).balance == -300
    with pytest.raises(stripe.InvalidRequestError, match="left: 500"):
        stripe_v1.credit_notes.create({"invoice": paid.id, "amount": 501, "credit_amount": 501})


def test_a_preview_changes_nothing(standin: Standin, stripe_v1: stripe.V1Services) -> None:
    final = stripe_v1.invoices.finalize_invoice(a_draft(stripe_v1, a_customer(stripe_v1).id, 1000).id)
    assert stripe_v1.credit_notes.preview({"invoice": final.id, "amount": 400}).amount == 400
    assert stripe_v1.credit_notes.list().data == []
    assert stripe_v1.invoices.retrieve(final.id).amount_remaining == 1000


def test_cursors_that_lead_nowhere_are_refused(standin: Standin, contract: Contract) -> None:
    v1 = stripe_client(standin.url, contract).v1
    with pytest.raises(stripe.InvalidRequestError) as caught:
        v1.invoices.list({"starting_after": "in_none"})
    assert (caught.value.http_status, caught.value.param) == (400, "starting_after")


def test_pages_lead_forward_and_back(stripe_v1: stripe.V1Services) -> None:
    ids = [a_customer(stripe_v1).id for _ in range(5)][::-1]
    assert [each.id for each in stripe_v1.customers.list({"limit": 2, "starting_after": ids[1]}).data] == ids[2:4]
    back = stripe_v1.customers.list({"limit": 2, "ending_before": ids[3]})
    assert ([each.id for each in back.data], back.has_more) == (ids[1:3], True)

"""The stand-in against Stripe's own types, as the installed SDK has them; and the contract itself, that it bites."""

from collections.abc import Mapping
from typing import Any

import pytest
import stripe

from builders.stripe_client import nested, stripe_client
from builders.stripe_contract import Contract, Operation, operations
from builders.stripe_types import Type, is_required, item_of, literals_of, record_of
from farebox_portal.standin import operation, shapes
from farebox_portal.standin.app import OPERATIONS
from farebox_portal.standin.blanks import BLANKS
from farebox_portal.standin.wire import API_VERSION
from rig.standin import Standin

INVOICEITEM = {"customer": "cus_1", "amount": "500", "period": {"start": "1", "end": "2"}, "tax_behavior": "exclusive"}


@pytest.fixture(scope="session")
def contract() -> Contract:
    return Contract()


def test_the_stand_in_speaks_the_version_that_the_sdk_pins() -> None:
    assert stripe.api_version == API_VERSION


# ---- the contract bites


def test_a_right_request_has_no_faults(contract: Contract) -> None:
    assert contract.request_faults("POST", "/v1/invoiceitems", INVOICEITEM) == []


@pytest.mark.parametrize(
    ("params", "fault"),
    [
        ({"unit_amount": "5"}, "unit_amount"),
        ({"period": {"begin": "1", "end": "2"}}, "period.begin"),
        ({"period": {"start": "1"}}, "period.end: is missing"),
        ({"tax_behavior": "exclusiv"}, "'exclusiv' is none of exclusive"),
        ({"amount": "4.99"}, "amount: '4.99' is no int"),
        ({"discountable": "yes"}, "discountable: 'yes' is no bool"),
        ({"unit_amount_decimal": "1E-7"}, "unit_amount_decimal: '1E-7' is no Decimal"),
        ({"discounts": "none"}, "discounts"),
    ],
    ids=str,
)
def test_a_wrong_parameter_is_found(contract: Contract, params: dict[str, Any], fault: str) -> None:
    assert any(fault in found for found in contract.request_faults("POST", "/v1/invoiceitems", INVOICEITEM | params))


@pytest.mark.parametrize(
    ("method", "path", "params", "fault"),
    [
        ("POST", "/v1/checkout/sessions", {"payment_method_types": {"0": "card"}}, "payment_method_types"),
        ("POST", "/v1/invoices/in_1/add_lines", {"lines": {"0": {"tax_behavior": "exclusive"}}}, "tax_behavior"),
        ("POST", "/v1/webhook_endpoints", {"url": "https://x"}, "enabled_events: is missing"),
        ("POST", "/v1/webhook_endpoints", {"url": "x", "enabled_events": {"0": "invoice.payd"}}, "invoice.payd"),
        ("POST", "/v1/webhook_endpoints/we_1", {"api_version": API_VERSION}, "api_version"),
        ("GET", "/v1/invoices", {"status": "closed"}, "'closed'"),
        ("POST", "/v1/bills", {}, "no operation"),
    ],
    ids=str,
)  # fmt: skip
def test_what_stripe_took_away_is_found(
    contract: Contract, method: str, path: str, params: dict[str, Any], fault: str
) -> None:
    assert any(fault in found for found in contract.request_faults(method, path, params))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"balance": "0"}, "balance"),
        ({"tax_exempt": "maybe"}, "tax_exempt"),
        ({"paid": True}, "paid"),
        ({"metadata": {"n": 1}}, "metadata.n"),
        ({"created": None}, "created"),
        ({"invoice_settings": {"default_payment_method": 5}}, "default_payment_method"),
    ],
    ids=str,
)
def test_a_wrong_answer_is_found(contract: Contract, change: dict[str, Any], fault: str) -> None:
    customer = BLANKS["customer"] | {"id": "cus_1", "object": "customer"}
    assert contract.answer_faults("GET", "/v1/customers/cus_1", 200, customer) == []
    assert any(fault in found for found in contract.answer_faults("GET", "/v1/customers/cus_1", 200, customer | change))


@pytest.mark.parametrize("field", ["id", "object", "livemode", "created"])
def test_a_missing_field_of_an_answer_is_found(contract: Contract, field: str) -> None:
    customer = BLANKS["customer"] | {"id": "cus_1", "object": "customer"}
    del customer[field]
    assert contract.answer_faults("GET", "/v1/customers/cus_1", 200, customer) == [f"{field}: is missing"]


def test_the_checked_client_stops_what_stripe_would_refuse(contract: Contract) -> None:
    with Standin() as standin:
        v1 = stripe_client(standin.url, contract).v1
        with pytest.raises(AssertionError, match="nonsense"):
            v1.customers.create({"nonsense": "x"})  # type: ignore[typeddict-unknown-key]
        assert standin.log() == []


def test_a_form_is_nested_by_its_brackets() -> None:
    assert nested("a=1&b[c]=2&d[0][e]=3&d[1][e]=4") == {
        "a": "1",
        "b": {"c": "2"},
        "d": {"0": {"e": "3"}, "1": {"e": "4"}},
    }


# ---- the stand-in accepts nothing that Stripe would refuse


@pytest.mark.parametrize("ours", OPERATIONS, ids=lambda each: f"{each.method} {each.path}")
def test_every_operation_and_parameter_of_the_stand_in_is_stripes(
    contract: Contract, ours: operation.Operation
) -> None:
    theirs = contract.operation(ours.method, ours.path.replace("{", "").replace("}", ""))
    assert theirs is not None
    assert sorted(unknown_to_stripe(ours.accepts, theirs)) == []


def unknown_to_stripe(accepted: Mapping[str, shapes.Shape], theirs: Operation) -> list[str]:
    return [] if theirs.params is None and not accepted else differences(accepted, theirs.params, "")


def differences(shape: shapes.Shape, theirs: Type | None, at: str) -> list[str]:
    """What the shape accepts and the type does not, and what the type requires and the shape does not."""
    if theirs is None:
        return [f"{at}: is unknown"]
    match shape:
        case shapes.Needed():
            return differences(shape.shape, theirs, at)
        case shapes.Choice():
            return [f"{at}: {each} is unknown" for each in shape.values if each not in literals_of(theirs)]
        case shapes.Each():
            return differences(shape.item, item_of(theirs), f"{at}[]")
        case shapes.Range():
            return differences(dict.fromkeys(("gt", "gte", "lt", "lte"), shapes.MOMENT), theirs, at)
        case Mapping():
            record = record_of(theirs)
            fields = record.fields() if record else {}
            found = [each for name in shape for each in differences(shape[name], fields.get(name), f"{at}.{name}")]
            needed = [name for name, each in fields.items() if is_required(each, is_params=True)]
            return found + [
                f"{at}.{name}: is required" for name in needed if not isinstance(shape.get(name), shapes.Needed)
            ]
        case _:
            return []


def test_a_parameter_that_stripe_does_not_know_would_be_found(contract: Contract) -> None:
    """The test above can fail."""
    theirs = contract.operation("POST", "/v1/customers")
    assert theirs is not None
    wrong: dict[str, shapes.Shape] = {
        "email": shapes.Text(),
        "tax_exempt": shapes.Choice("none", "half"),
        "nick": shapes.Text(),
    }
    assert differences(wrong, theirs.params, "") == [".tax_exempt: half is unknown", ".nick: is unknown"]


def test_the_contract_knows_every_operation_of_version_one() -> None:
    known = operations()
    assert ("post", "/v1/invoices/{invoice}/finalize") in known
    assert ("get", "/v1/credit_notes/preview") in known
    assert not any(path.startswith("/v2") for _, path in known)

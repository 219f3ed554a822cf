"""`/v1/billing/profiles`."""

from typing import Any

import pytest

from builders.payments import Shop


def profiles(shop: Shop) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = shop.client.get("/v1/billing/profiles").json()["items"]
    return found


def test_an_account_comes_with_a_profile_that_says_what_was_asked_for(bare: Shop) -> None:
    assert profiles(bare) == []
    said = {"name": "Ours", "taxEnabled": True, "taxEnforced": True, "country": "DE"}
    ready = bare.client.post("/v1/setup/stripe", json=said).json()
    (profile,) = profiles(bare)
    assert ready["defaultBillingProfileId"] == profile["id"]
    assert (profile["name"], profile["default"]) == ("Ours", True)
    assert profile["supplier"] == {"addresses": [{"country": "DE"}]}
    assert profile["workflow"] == {
        "collection": {"alignment": {"type": "subscription"}, "interval": "PT3600S"},
        "invoicing": {"autoAdvance": True, "draftPeriod": "P0D", "dueAfter": "P30D", "progressiveBilling": True},
        "payment": {"collectionMethod": "charge_automatically"},
        "tax": {"enabled": True, "enforced": True},
    }
    assert profile["apps"]["tax"]["id"] == ready["stripeAppId"]


def test_zuplos_own_profile_may_be_sent_and_one_is_the_default_at_a_time(shop: Shop) -> None:
    zuplos = {
        "name": "Stripe Billing Profile", "default": True, "supplier": {"name": "Acme GmbH", "addresses": [
            {"country": "AT", "line1": "Ring 1", "postalCode": "1010", "city": "Wien"}]},
        "workflow": {
            "collection": {"alignment": {"type": "subscription"}, "interval": "P0D"},
            "invoicing": {"autoAdvance": True, "draftPeriod": "P0D", "dueAfter": "P0D", "progressiveBilling": True,
                          "defaultTaxConfig": {"behavior": "exclusive", "stripe": {"code": "txcd_10103001"}}},
            "payment": {"collectionMethod": "charge_automatically"}, "tax": {"enabled": False, "enforced": False},
        },
    }  # fmt: skip
    made = shop.client.post("/v1/billing/profiles", json=zuplos)
    assert made.status_code == 201, made.text
    assert [(one["id"] == made.json()["id"], one["default"]) for one in profiles(shop)] == [
        (True, True),
        (False, False),
    ]
    shop.a_customer()
    shop.a_subscription()
    page = shop.client.get(f"/v1/invoices/{shop.invoice().id}/document").json()
    assert page["seller"] == {"name": "Acme GmbH", "address": "Ring 1\\n1010 Wien\\nAT"}
    again = shop.client.put(f"/v1/billing/profiles/{made.json()['id']}", json=made.json() | {"default": False})
    assert again.json()["default"] is True, "there is always one"


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"workflow": {"tax": {"enabled": False, "enforced": True}}}, "/workflow/tax"),
        ({"workflow": {"payment": {"collectionMethod": "send_invoice"}}}, "/workflow/payment/collectionMethod"),
        ({"workflow": {"collection": {"alignment": {"type": "anchored"}}}}, "/workflow/collection/alignment/type"),
        ({"workflow": {"invoicing": {"autoAdvance": False}}}, "/workflow/invoicing/autoAdvance"),
        (
            {"workflow": {"invoicing": {"defaultTaxConfig": {"stripe": {"code": "10103001"}}}}},
            "/workflow/invoicing/defaultTaxConfig/stripe/code",
        ),
        ({"supplier": {"addresses": [{"country": "Austria"}]}}, "/supplier/addresses/0/country"),
        ({"suplier": {}}, "/suplier"),
    ],
)
def test_what_is_not_followed_is_refused_at_its_place(bare: Shop, change: dict[str, Any], pointer: str) -> None:
    answer = bare.client.post("/v1/billing/profiles", json={"name": "Ours"} | change)
    assert answer.status_code == 422
    assert pointer in [one["pointer"] for one in answer.json()["errors"]]
    assert profiles(bare) == []

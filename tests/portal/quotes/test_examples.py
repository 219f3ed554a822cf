"""Every file in examples/ is applied to a portal as it is, and costs what its first lines say."""

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from farebox_portal.catalog_files.files import read_catalog

EXAMPLES = Path(__file__).parents[3] / "examples"
MILLION = 1_000_000

PRICES = [
    ("fixed-quota", "starter", {}, "0", "29.00"),
    ("fixed-quota", "starter", {}, "10000", "29.00"),
    ("quota-overage", "growth", {}, "500", "9.99"),
    ("quota-overage", "growth", {}, "1500", "14.99"),
    ("quota-overage", "growth", {}, "5000", "49.99"),
    ("pay-as-you-go", "pay_as_you_go", {}, "0", "0.00"),
    ("pay-as-you-go", "pay_as_you_go", {}, "100000", "100.00"),
    ("pay-as-you-go", "pay_as_you_go", {}, "9000000", "500.00"),
    ("prepaid-credits", "credit_pack", {}, {"credits": "50000"}, "100.00"),
    ("hybrid", "business", {}, {"api_requests": "100000", "egress_bytes": "50000000000"}, "199.00"),
    # 900 000 × 0.0008 + 500 000 × 0.0004, and the two started gigabytes beyond 50
    ("hybrid", "business", {}, {"api_requests": "1500000", "egress_bytes": "51000000001"}, "1119.18"),
    ("freemium", "free", {}, "3000", "0.00"),
    ("freemium", "plus", {}, "100000", "19.00"),
    ("trial", "team", {}, "500", "0.00"),
    ("trial", "team", {"phase": "full"}, "500", "49.00"),
    ("ramp", "enterprise", {}, "100000", "700.00"),  # 500 + 200
    ("ramp", "enterprise", {"phase": "growth"}, "100000", "1250.00"),  # 160 is less than the minimum
    ("ramp", "enterprise", {"phase": "growth"}, "1000000", "2600.00"),  # 1000 + 2000 less 20 %
    ("ramp", "enterprise", {"phase": "list"}, "100000", "1200.00"),
    ("per-model-tokens", "tokens", {}, {"large_input": MILLION, "large_output": 500_000}, "7.50"),
    ("per-model-tokens", "tokens", {}, {"small_input": MILLION, "small_output": MILLION}, "0.75"),
    ("addons-and-coupons", "studio", {}, {}, "39.00"),
    ("addons-and-coupons", "studio", {"addons": [{"addon": {"key": "seats"}, "quantity": 3}]}, {}, "75.00"),
    ("addons-and-coupons", "studio", {"addons": [{"addon": {"key": "request_pack"}}]}, {}, "45.00"),
]


@pytest.mark.parametrize(("name", "plan", "more", "usage", "total"), PRICES)
def test_an_example_is_applied_and_costs_what_it_says(
    client: TestClient, name: str, plan: str, more: dict[str, Any], usage: Any, total: str
) -> None:
    document = read_catalog([str(EXAMPLES / f"{name}.yaml")]).document
    applied = client.post("/v1/catalog/apply", json={**document, "publish": True})
    assert applied.status_code == 200, applied.text
    assert client.get(f"/v1/plans/{plan}").json()["status"] == "active"
    quoted = client.post("/v1/pricing/preview", json={"planKey": plan, "usage": usage, **more})
    assert quoted.status_code == 200, quoted.text
    assert quoted.json()["total"] == total


def test_no_example_is_without_a_price() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.yaml")} == {name for name, *_ in PRICES}


def test_all_examples_fit_into_one_portal(client: TestClient) -> None:
    """They name the same things alike. `default` is replaced by the credits' one, so that one is applied last."""
    for path in sorted(EXAMPLES.glob("*.yaml")):
        answer = client.post("/v1/catalog/apply", json=read_catalog([str(path)]).document)
        assert answer.status_code == 200, answer.text
